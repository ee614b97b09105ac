"""What happened, for people and automations: Prefect events `fedrounds.*`, and pages of text beside a run."""

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


def markdown(key: str, text: str) -> None:
    """Keep a page of text with the flow run, under Artifacts. The newest of a key is the one shown first.

    Args:
        key: lower-case letters, digits and dashes.
        text: markdown.
    """
    if not inside():
        return
    from httpx import HTTPError
    from prefect.artifacts import create_markdown_artifact

    try:
        create_markdown_artifact(text, key=key)
    except HTTPError as exc:  # a page less; the run goes on
        log.warning("Prefect does not take the page %s: %s", key, type(exc).__name__)
