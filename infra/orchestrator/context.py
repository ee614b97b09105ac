"""Does a flow run here? The question that all other modules of this package ask first."""

from __future__ import annotations

import sys


def inside() -> bool:
    """True in a Prefect flow or one of its tasks. Does not import Prefect: without it no flow can be running."""
    if "prefect.context" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None
