"""Task runs: the steps of a round, and one run per site that mirrors what the site says.

Elsewhere than in a flow run a step is a plain call, and sites are followed one
after another. Prefect sees names, times and states; arguments and results pass
by it: nothing is hashed, copied, cached or stored. Nothing reads a state back.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from infra.errors import RunCancelledError
from infra.orchestrator.context import inside

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_timings: deque[tuple[str, float]] = deque(maxlen=100_000)


class Outcome(NamedTuple, Generic[R]):
    """A value, and how the task run that made it ends: `Delivered`, or `Refused` with a code as message.

    Not ok shows as a failed task run. The value reaches the flow in either case.
    """

    value: R
    ok: bool
    state: str
    message: str


def step(
    name: str, run_name: str | None = None, retries: int = 0, retry_delay_s: float = 1.0
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a task inside flow runs.

    Args:
        name: what the task is called.
        run_name: what each run is called; `{argument}` stands for an argument. The name by default.
        retries: how often it is tried again; only where a repeat is harmless.
        retry_delay_s: seconds between two tries.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        def clocked(*args: P.args, **kwargs: P.kwargs) -> R:
            with timed(name):
                return function(*args, **kwargs)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not inside():
                return clocked(*args, **kwargs)
            title = (run_name or name).format(**signature.bind(*args, **kwargs).arguments)
            result: R = _task(name, title, retries, retry_delay_s)(lambda: clocked(*args, **kwargs))
            return result

        return call

    return decorate


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Keep how long the block took, under `name`."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _timings.append((name, time.perf_counter() - began))


def timings() -> list[tuple[str, float]]:
    """Name and seconds of each step of this process, in order of their ends; Prefect's own share is not in them."""
    return list(_timings)


def gather(
    function: Callable[[T], Outcome[R] | None],
    items: Iterable[T],
    name: Callable[[T], str],
    wait: Callable[[], None] = lambda: None,
) -> list[R]:
    """Call `function` for each item until it has an outcome, in a flow run each as a task run of its own.

    Args:
        function: its outcome says how the task run ends; None where it is to be called again after `wait`.
        items: n items; a thread each, so hundreds, not millions.
        name: of an item's task run, as `train · cleveland`.
        wait: between two calls; elsewhere than in a flow run, between two rounds through all items.

    Returns:
        n values in the order of the items.

    Raises:
        Whatever `function` raised for the first item that failed, after all items are done.
    """
    if not inside():
        return _in_turn(function, list(items), wait)
    watches = [_Watch(functools.partial(function, item), name(item), wait) for item in items]
    for watch in watches:
        watch.start()
    for watch in watches:
        watch.join()
    return [watch.value() for watch in watches]


def _in_turn(function: Callable[[T], Outcome[R] | None], items: list[T], wait: Callable[[], None]) -> list[R]:
    found: dict[int, R] = {}
    while True:
        for i, item in enumerate(items):
            outcome = None if i in found else function(item)
            if outcome is not None:
                found[i] = outcome.value
        if len(found) == len(items):
            return [found[i] for i in range(len(items))]
        wait()


def show(state: str, message: str = "") -> None:
    """Show what goes on in the task run that calls: a running state of its own name. The caller limits the rate.

    Prefect has no call for this, since tasks report to the server by events; so
    does this, in the form of Prefect's own engine.
    """
    if not inside():
        return
    from prefect.context import TaskRunContext
    from prefect.states import Running
    from prefect.utilities.engine import emit_task_run_state_change_event

    context = TaskRunContext.get()
    if context is None or context.task_run.state is None:
        return
    run, before = context.task_run, context.task_run.state
    if (before.name, before.message or "") == (state, message):
        return
    now: State[Any] = Running(name=state, message=message)
    now.state_details.task_run_id, now.state_details.flow_run_id = run.id, run.flow_run_id
    run.total_run_time += now.timestamp - before.timestamp
    run.state, run.state_id, run.state_type, run.state_name = now, now.id, now.type, now.name
    emit_task_run_state_change_event(run, initial_state=before, validated_state=now)


class _Watch(threading.Thread, Generic[R]):
    """One item's task run. A daemon thread: Ctrl-C in the flow does not wait for a silent site's deadline."""

    def __init__(self, function: Callable[[], Outcome[R] | None], name: str, wait: Callable[[], None]):
        super().__init__(name=name, daemon=True)
        self._function, self._wait = function, wait
        self._context = contextvars.copy_context()
        self._outcome: Outcome[R] | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        task = _task(self.name.partition(" ")[0], self.name)
        try:
            self._context.run(task, self._call, return_state=True)
        except BaseException as exc:  # noqa: BLE001 - raised again in the flow's own thread
            self._error = self._error or exc

    def value(self) -> R:
        if self._error is not None:
            raise self._error
        assert self._outcome is not None  # noqa: S101 - without an error the call came to its end
        return self._outcome.value

    def _call(self) -> Any:
        from prefect.states import Cancelled, Completed, Failed

        try:
            while (outcome := self._function()) is None:
                self._wait()
            self._outcome = outcome
        except RunCancelledError as exc:
            self._error = exc
            return Cancelled(message=str(exc))
        except BaseException as exc:
            self._error = exc
            raise
        return (Completed if outcome.ok else Failed)(name=outcome.state, message=outcome.message)


def _task(name: str, run_name: str, retries: int = 0, retry_delay_s: float = 1.0) -> Callable[..., Any]:
    """A Prefect task that calls what it is given."""
    return _task_of(name, retries, retry_delay_s).with_options(task_run_name=run_name)


@functools.cache
def _task_of(name: str, retries: int, retry_delay_s: float) -> Task[[Callable[[], Any]], Any]:
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    return Task(
        _play,
        name=name,
        retries=retries,
        retry_delay_seconds=retry_delay_s if retries else None,
        cache_policy=NO_CACHE,
        persist_result=False,
        log_prints=False,
    )


def _play(call: Callable[[], R]) -> R:
    return call()
