"""Run the training flow in the foreground and show how it goes on: what run, resume, simulate and demo share."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flows.commands.options import print_json
from flows.results import results
from flows.views import unless_away
from infra.errors import InfraError
from infra.hub import Hub
from tasks.errors import FederationError
from tasks.recent import new_records
from tasks.study import Study


def run_training(hub: Hub, study: Study, run: str, live: bool) -> None:
    """Run the training flow in this process, against the hub's own Prefect server, and show how it goes on."""
    from infra.orchestrator import drain, use

    use(hub)
    from flows.training import training

    try:
        with polite_end(), view(hub, run, live):
            training(hub=hub, study=study, run=run)
    finally:
        drain()


@contextmanager
def polite_end() -> Iterator[None]:
    """While the block runs, SIGTERM ends it as Ctrl-C does: the study's lease is given back on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(hub: Hub, run: str, as_json: bool) -> int:
    """Print what the run came to."""
    result = results(hub, run)
    if as_json:
        print_json(result)
        return 0
    from rich.console import Console

    from flows.show import result_table

    Console().print(result_table(result))
    print(f"all rounds: {hub.command('run', 'show', run)}")
    for view, page in pages(hub, result["study"], run):
        print(f"in {view + ':':<9} {page}")
    return 0


def pages(hub: Hub, study: str, run: str) -> Iterator[tuple[str, str]]:
    """Where a person looks at the run: the view's name and its address."""
    if not hub.mlflow_url:
        return
    from infra.tracking import Tracking

    with unless_away("MLflow"):
        yield "MLflow", Tracking(hub.mlflow_url).page(study, {"run": run})
    yield "Prefect", f"{hub.prefect_url}/runs"


@contextmanager
def view(hub: Hub, run: str, live: bool) -> Iterator[None]:
    """While the block runs: a live table on a terminal, else a line for each committed round."""
    stop = threading.Event()
    draw = _LiveTable(hub, run) if live and sys.stderr.isatty() else _Lines(hub, run)

    def loop() -> None:
        while not stop.wait(1.0 if hub.remote else 0.25):  # each look is a way to the store
            draw()

    thread = threading.Thread(target=loop, daemon=True)
    with draw:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=5)
            draw()


class _LiveTable:
    """Draws the run's table in place."""

    def __init__(self, hub: Hub, run: str):
        from rich.console import Console
        from rich.live import Live

        self._hub, self._run = hub, run
        self._live = Live(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self) -> None:
        from flows.show import live_table

        with suppress(FederationError, InfraError):  # not begun yet; the flow itself reports trouble
            self._live.update(live_table(self._hub, self._run))


class _Lines:
    """Prints what has been committed since the last look."""

    def __init__(self, hub: Hub, run: str):
        self._hub, self._run, self._shown = hub, run, 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self) -> None:
        from flows.show import round_line

        with suppress(FederationError, InfraError):
            for record in new_records(self._hub, self._run, self._shown):
                print(round_line(record), file=sys.stderr, flush=True)
                self._shown = record.round
