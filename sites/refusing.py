"""Whatever goes wrong with one ticket is a refusal, but for a store that is away: the agent's loop outlives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from infra.errors import InfraError, StoreError
from sites.runner import where
from tasks.codes import Code
from tasks.errors import RefusedError

R = TypeVar("R")


def refusing(work: Callable[[], R]) -> R:
    """What `work` returns.

    Raises:
        RefusedError: it failed; the text is for the site's own log.
        StoreError: the store is away.
    """
    try:
        return work()
    except (RefusedError, StoreError):
        raise
    except InfraError as exc:  # the site's own files, such as a broken ledger: our text, no row's
        raise RefusedError(Code.TRAINING_FAILED, str(exc)) from exc
    except Exception as exc:
        raise RefusedError(Code.TRAINING_FAILED, where(exc)) from exc
