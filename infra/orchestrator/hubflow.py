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
from prefect.settings import PREFECT_API_URL

from infra.orchestrator.context import inside
from infra.servers import answers

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class _Call:
    """How far one call of a flow came, whatever Prefect's engine made of it."""

    done = False
    value: Any = None
    error: BaseException | None = None


_call: ContextVar[_Call | None] = ContextVar("fedrounds_flow_call", default=None)


class HubFlow(Flow[P, R]):
    """A flow that is a plain function where `wanted` says so of its arguments, or while Prefect is away."""

    def __init__(self, function: Callable[P, R], wanted: Callable[P, bool], **options: Any):
        super().__init__(_watched(function), persist_result=False, log_prints=False, **options)
        self._plain = function
        self._wanted = wanted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._wanted(*args, **kwargs) or (inside() and not answers(f"{PREFECT_API_URL.value()}/health")):
            return self._plain(*args, **kwargs)
        call = _Call()
        token = _call.set(call)
        try:
            return super().__call__(*args, **kwargs)
        except Exception as exc:
            if call.error is not None:
                raise call.error from None
            if not isinstance(exc, HTTPError):
                raise
            log.warning("Prefect does not answer (%s); flow %s goes on without it", type(exc).__name__, self.name)
            return call.value if call.done else self._plain(*args, **kwargs)  # not done, no error: not begun
        finally:
            _call.reset(token)


def _watched(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        call = _call.get() or _Call()
        try:
            call.value = value = function(*args, **kwargs)
        except BaseException as exc:
            call.error = exc
            raise
        call.done = True
        return value

    # Prefect looks for the names of the annotations where this wrapper was written; so they are resolved here.
    watched.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return watched
