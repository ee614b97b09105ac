"""Does a flow run here? The question that all other modules of this package ask first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_away: ContextVar[bool] = ContextVar("fedrounds_prefect_away", default=False)


def inside() -> bool:
    """True in a Prefect flow or one of its tasks. Does not import Prefect: without it no flow can be running."""
    if "prefect.context" not in sys.modules or _away.get():
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


@contextmanager
def without_prefect() -> Iterator[None]:
    """Play the block as if no flow ran."""
    token = _away.set(True)
    try:
        yield
    finally:
        _away.reset(token)
