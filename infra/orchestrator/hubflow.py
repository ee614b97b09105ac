"""Prefect's flow type, made to do without Prefect. Imports Prefect: load it late.

A flow run talks to the server when it begins and when it ends. Where the server
is away, the run is played all the same and Prefect merely does not show it.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from httpx import HTTPError
from prefect import Flow
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled

from infra.errors import RunCancelledError
from infra.orchestrator.context import inside, without_prefect
from infra.servers import answers

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class HubFlow(Flow[P, R]):
    """A flow that is a plain function where `wanted` says so of its arguments, or while Prefect is away."""

    def __init__(self, function: Callable[P, R], wanted: Callable[P, bool], name: str, flow_run_name: str):
        super().__init__(
            _watched(function),
            name=name,
            flow_run_name=flow_run_name,
            log_prints=False,
            persist_result=False,
            result_serializer="json",  # Prefect keeps errors all the same: not as pickle
        )
        self._function = function
        self._wanted = wanted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._wanted(*args, **kwargs):
            return self._function(*args, **kwargs)
        if inside() and not answers(f"{PREFECT_API_URL.value()}/health"):
            return self._play(*args, **kwargs)
        _lose_events_quickly()
        call = _Call()
        token = _call.set(call)
        try:
            return super().__call__(*args, **kwargs)
        except Exception as exc:
            if call.error is not None:
                raise call.error from None
            if call.begun and not isinstance(exc, HTTPError):
                raise  # else it is Prefect's own, whatever it wraps it in: our function has not begun
            log.warning("Prefect does not answer (%s); %s goes on without it", type(exc).__name__, self.name)
            return call.value if call.done else self._play(*args, **kwargs)
        finally:
            _call.reset(token)

    def _play(self, *args: Any, **kwargs: Any) -> Any:
        with without_prefect():
            return self._function(*args, **kwargs)


class _Call:
    """How far one call of a flow came, whatever Prefect's engine made of it."""

    begun = False
    done = False
    value: Any = None
    error: BaseException | None = None


_call: ContextVar[_Call | None] = ContextVar("fedrounds_flow_call", default=None)


def _watched(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> Any:
        call = _call.get() or _Call()  # none where a worker's engine began the flow
        call.begun = True
        try:
            call.value = value = function(*args, **kwargs)
        except RunCancelledError as exc:
            call.error = exc
            return Cancelled(message=str(exc))  # the run page's state; the caller gets the error
        except BaseException as exc:
            call.error = exc
            raise
        call.done = True
        return value

    # Prefect looks for the names of the annotations where this wrapper was written; so they are resolved here.
    watched.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return watched


def _lose_events_quickly() -> None:
    """With its default of ten attempts Prefect holds a process at its end for 7 s an event when the server is gone."""
    EventsWorker.set_client_override(
        PrefectEventsClient, api_url=PREFECT_API_URL.value(), reconnection_attempts=2
    )
    logging.getLogger("prefect.events").setLevel(logging.ERROR)  # it would warn of each event
