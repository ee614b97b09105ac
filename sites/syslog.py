"""Audit lines to the institution's own syslog, where its site.yaml names one. Best effort.

The file is the log; this is a copy that somebody else keeps. Datagrams only, so
that a collector which is away, slow or full costs the agent nothing.
"""

from __future__ import annotations

import logging
import socket
from logging.handlers import SysLogHandler

from sites.settings import SyslogAddress

log = logging.getLogger(__name__)

NAME = "fedrounds-site"


class Syslog:
    """Sends each line as one datagram, and forgets it where that cannot be done."""

    def __init__(self, address: SyslogAddress):
        self._handler: SysLogHandler | None = None
        try:
            self._handler = _Quiet(_resolved(address), facility=SysLogHandler.LOG_LOCAL0)
        except OSError as exc:
            log.warning("audit lines are not forwarded: %s cannot be reached (%s)", address, exc.strerror)
            return
        self._handler.ident = f"{NAME}: "
        self._handler.append_nul = False

    def __call__(self, line: str) -> None:
        if self._handler is not None:
            self._handler.emit(logging.LogRecord(NAME, logging.INFO, "", 0, "%s", (line,), None))


class _Quiet(SysLogHandler):
    """Never waits for a full buffer, never prints a traceback."""

    def createSocket(self) -> None:  # noqa: N802 - the base class's name
        super().createSocket()
        self.socket.setblocking(False)  # type: ignore[attr-defined]

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - the base class's form
        log.debug("one audit line was not forwarded")


def _resolved(address: SyslogAddress) -> str | tuple[str, int]:
    """The name is looked up once, so that no line waits for a name server."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return rest
    host, _, port = rest.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    ip: tuple[str, int] = (str(found[0][4][0]), int(found[0][4][1]))
    return ip
