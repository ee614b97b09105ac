"""The agent's log: one line per thing, on stderr and in the state folder. It never leaves the site."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE = "agent.log"
BYTES, KEPT = 5_000_000, 4


def start_logging(state: Path, verbose: bool = False) -> None:
    """Send all loggers of this process to stderr and to `state`/agent.log."""
    form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        RotatingFileHandler(state / FILE, maxBytes=BYTES, backupCount=KEPT, encoding="utf-8"),
    ]
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for handler in handlers:
        handler.setFormatter(form)
        root.addHandler(handler)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # a warning may quote an address with its signature
