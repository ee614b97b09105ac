"""Prefect as the hub's flows and tasks see it: words that do nothing where no flow runs.

A simulation, a test or a site plays the same code without Prefect, which is not
even imported then. Inside a flow run the same words make task runs, states,
events and presence that a person reads in Prefect's pages. Nothing here decides
anything: the truth is in the object store, and where Prefect is away the show
is missing, not the round.
"""

from infra.orchestrator.artifacts import page
from infra.orchestrator.deployments import deploy
from infra.orchestrator.events import emit
from infra.orchestrator.farewell import drain
from infra.orchestrator.flows import quiet_subflows, run_flow, subflow, use
from infra.orchestrator.presence import heartbeat, paused
from infra.orchestrator.steps import Outcome, gather, show, step, timed, timings
from infra.orchestrator.zombies import claim, reconcile

__all__ = [
    "Outcome",
    "claim",
    "deploy",
    "drain",
    "emit",
    "gather",
    "heartbeat",
    "page",
    "paused",
    "quiet_subflows",
    "reconcile",
    "run_flow",
    "show",
    "step",
    "subflow",
    "timed",
    "timings",
    "use",
]
