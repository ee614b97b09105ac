"""Prefect's states against the store: what a killed process left Running is set right.

Done where people look (`up`, `status`, `run list`), when a run begins and when one is cancelled.
"""

from __future__ import annotations

from contextlib import suppress

from infra.errors import InfraError
from infra.hub import Hub
from infra.orchestrator import reconcile
from tasks import layout
from tasks.lease import holder
from tasks.records import RunEnd

ENDING_S = 10.0  # a flow that has given its lease back may take so long to say that it is done


def set_prefect_right(hub: Hub) -> list[str]:
    """The runs whose flow runs were set right; none where store or Prefect are away."""

    def ended(run: str) -> str | None:
        end = hub.read(layout.ended_key(run), RunEnd)
        return None if end is None else end.state

    with suppress(InfraError):  # a command that looks says itself that the store is away
        return reconcile(hub, lambda study: holder(hub, study, ENDING_S), ended)
    return []
