"""Prefect's own command line, with one repair for servers on SQLite: `python -m infra.prefect_server server start`.

Prefect 3.8 begins a transaction that will write as DEFERRED, so that one which
reads first fails at once with "database is locked" when any other wrote in
between; the client then pauses 2 s. IMMEDIATE ones wait for their turn, some
milliseconds. Prefect says so itself (server/database/configurations.py,
setup_sqlite) and uses IMMEDIATE in a few places; here all of them do.
Reads stay outside transactions, as before. On PostgreSQL nothing changes.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any


def begin_writes_immediately() -> None:
    """Repair this process's Prefect."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    original = AioSqliteConfiguration.begin_transaction

    def begin(self: Any, session: Any, with_for_update: bool = True) -> AbstractAsyncContextManager[Any]:
        del with_for_update
        return original(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    begin_writes_immediately()
    from prefect.cli import app

    app()
