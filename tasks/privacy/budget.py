"""May this be spent? A pure question of values, asked before rows are read.

The history comes from the site's ledger, the limits from the site's own file;
sites/ledger.py keeps, this decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tasks.privacy.accountant import epsilon as epsilon_of_events
from tasks.privacy.events import GaussianEvent


class Affordable(NamedTuple):
    """epsilon_after: of history and plan together, at the limit's delta. ok: it stays within the limit."""

    epsilon_after: float
    ok: bool


def afford(
    history: Sequence[GaussianEvent], planned: Sequence[GaussianEvent], epsilon: float, delta: float
) -> Affordable:
    """Whether `planned` fits under the limit (epsilon, delta) on top of `history`.

    Args:
        history: everything already reserved or charged on the data set, of all studies.
        planned: this round and the rest of its run: a run that cannot be finished is not begun.
        epsilon: the site's limit, >= 0.
        delta: the site's delta, in (0, 1); not the study's.

    Raises:
        PrivacyError: delta outside (0, 1).
    """
    after = epsilon_of_events([*history, *planned], delta)
    return Affordable(after, after <= epsilon)
