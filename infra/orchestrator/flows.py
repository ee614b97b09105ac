"""Flow runs: a run of a study, its rounds as subflows, and which Prefect server sees them."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from infra.errors import ServiceError
from infra.hub import Hub
from infra.orchestrator.context import inside
from infra.serverfiles import PREFECT, environment
from infra.servers import HEALTH, answers

P = ParamSpec("P")
R = TypeVar("R")


def run_flow(name: str, run_name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a flow where its argument `hub` has a Prefect server; elsewhere it stays a plain function.

    Args:
        name: the flow's.
        run_name: each run's; `{argument.attribute}` stands for an argument's attribute.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        def wanted(*args: P.args, **kwargs: P.kwargs) -> bool:
            hub: Hub = signature.bind(*args, **kwargs).arguments["hub"]
            if not inside() and hub.prefect_url is not None:
                use(hub)
            return inside() or hub.prefect_url is not None

        return _maybe_flow(function, name, run_name, wanted)

    return decorate


def subflow(name: str, run_name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a nested flow inside flow runs; elsewhere it stays a plain function."""
    return lambda function: _maybe_flow(function, name, run_name, lambda *_, **__: inside())


def use(hub: Hub) -> None:
    """Let this process's flows run against the hub's servers. Safe to repeat, before or after Prefect is imported.

    Raises:
        ServiceError: the hub's Prefect server does not answer.
    """
    if hub.prefect_url is not None and not answers(hub.prefect_url + HEALTH[PREFECT]):
        raise ServiceError(
            f"the hub's Prefect server does not answer at {hub.prefect_url}; "
            f"start it: fedrounds up --dir {hub.directory}"
        )
    os.environ.update(environment(hub))
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    for logger in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logger).propagate = False  # to Prefect's pages; a terminal gets our own words


@contextmanager
def quiet_subflows() -> Iterator[None]:
    """No heartbeats of the subflows that start in the block: their parent's are enough.

    Each ends with a wait of up to a second otherwise, for a thread that sleeps.
    Once around a loop and not once a round: new settings mean new connections.
    """
    if not inside():
        yield
        return
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _maybe_flow(
    function: Callable[P, R], name: str, run_name: str, wanted: Callable[P, bool]
) -> Callable[P, R]:
    """A function that is a flow when it is wanted.

    Where Prefect is imported already it may be Prefect that loads the flow, to
    run or deploy it, and looks for its own type; else Prefect stays unimported.
    """

    @functools.cache
    def flow() -> Callable[P, R]:
        from infra.orchestrator.hubflow import HubFlow

        return HubFlow(function, wanted, name=name, flow_run_name=run_name)

    if "prefect" in sys.modules:
        return flow()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return flow()(*args, **kwargs) if wanted(*args, **kwargs) else function(*args, **kwargs)

    call.flow = flow  # type: ignore[attr-defined]  # for deployments.py
    return call
