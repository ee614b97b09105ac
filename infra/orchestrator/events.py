"""What happened, for people and automations: Prefect events `fedrounds.*`."""

from __future__ import annotations

import logging
from typing import Any

from infra.orchestrator.context import inside

log = logging.getLogger(__name__)


def emit(
    event: str, *, site: str | None = None, run: str | None = None, payload: dict[str, Any] | None = None
) -> None:
    """Say that something happened to a site or a run. Prefect adds the flow run, in the background.

    Args:
        event: as `fedrounds.site.delivered`.
        site: whose; the resource is `fedrounds.site.<site>`.
        run: which; the resource is `fedrounds.run.<run>`, or one related to the site's.
        payload: small JSON; names, numbers and codes.
    """
    if not inside():
        return
    from prefect.events import emit_event

    named = [(f"fedrounds.site.{site}", site)] if site else []
    named += [(f"fedrounds.run.{run}", run)] if run else []
    if not named:
        raise ValueError(f"event {event!r} is about no site and no run; name one")
    resources = [{"prefect.resource.id": id_, "prefect.resource.name": str(name)} for id_, name in named]
    related = [{**resource, "prefect.resource.role": "run"} for resource in resources[1:]]
    emit_event(event, resource=resources[0], related=related, payload=payload or {})
