"""Views may be away: a round does not wait for those who only look on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import ServiceError

log = logging.getLogger(__name__)


@contextmanager
def unless_away(view: str) -> Iterator[None]:
    """Do the block; where the view's server is away, say so and go on: the store has what it will show later."""
    try:
        yield
    except ServiceError as exc:
        log.warning("%s is away, it catches up later: %s", view, exc)
