"""Before a process or its Prefect server ends: hand over what is still queued."""

from __future__ import annotations

import sys

PATIENCE_S = 5.0


def drain() -> None:
    """Wait until queued logs and events have reached the Prefect server; at most some seconds.

    Prefect would do it when the process ends; a server that is stopped before
    then makes it try again for a minute.
    """
    if "prefect.context" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=PATIENCE_S)
