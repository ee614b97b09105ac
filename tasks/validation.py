"""Leave one group out: sites score the model also without each group, and vote the one out that spoils it.

A site compares two models on its own held-out records (`is_better`), and says one
bit for each group. The hub counts (`voted_out`). Bits are signed and not summed in
secret: in a secret sum a site that lies could add a hundred votes, or take
away everybody's, and nobody could tell. What a bit gives away is in
docs/robustness.md.

What is compared is the mean log loss and the mean logistic loss of pairs of a
positive and a negative record. The first sees any harm; but hospitals differ in how
many of their patients are ill, and each likes the group that is like it. The second
does not look at that. Both together have cost least, by measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.metrics import CLIP

SHARE = 0.5  # of all sites of the round must vote against a group; more than half would let more attacks pass
FEWEST = 2  # votes that can suffice: one site alone decides nothing
MARGIN = 5e-4  # of the loss: a larger one hides attacks that take many small steps
MOST_PAIRED = 1000  # records of one class that are paired; of more, evenly spread ones

Floats = NDArray[np.float64]


class Verdict(NamedTuple):
    """`counts`: votes against each group. `dropped`: the group that is voted out."""

    counts: tuple[int, ...]
    dropped: int | None


def voted_out(votes: Mapping[str, Sequence[bool]], groups: int, sites: int) -> Verdict:
    """What the sites decide: the one group that most votes are against, if these are of half of the sites or more.

    Those that do not vote are content, or a few that do could leave out whom they like.

    Args:
        votes: of each site that has voted, one for each group.
        groups: how many there are to choose from, >= 2: one is left whatever is decided.
        sites: whose updates are in the groups, whether they vote or not.
    """
    counts = tuple(sum(said[i] for said in votes.values()) for i in range(groups))
    most = max(counts, default=0)
    decided = most >= max(SHARE * sites, FEWEST) and counts.count(most) == 1
    return Verdict(counts, counts.index(most) if decided else None)


def is_better(without: Floats, whole: Floats, labels: NDArray[np.float32]) -> bool:
    """Whether a model does better on some records without a group than with all.

    Args:
        without: its scores without, shape (n,), probabilities of the positive class. Not finite: it is not better.
        whole: the scores with all groups. Not finite: whatever is finite is better.
        labels: shape (n,), 0 or 1; n >= 1.
    """
    if not np.isfinite(without).all():
        return False
    if not np.isfinite(whole).all():
        return True
    return badness(whole, labels) - badness(without, labels) > MARGIN


def badness(scores: Floats, labels: NDArray[np.float32]) -> float:
    """Mean log loss, plus the mean logistic loss of pairs where both classes are there."""
    p, positive = np.clip(scores, CLIP, 1 - CLIP), np.asarray(labels) > 0.5
    logits = np.log(p) - np.log1p(-p)
    single = float(np.logaddexp(0, np.where(positive, -logits, logits)).mean())
    if positive.all() or not positive.any():
        return single
    above, below = _spread(logits[positive]), _spread(logits[~positive])
    return single + float(np.logaddexp(0, below[None, :] - above[:, None]).mean())


def _spread(values: Floats) -> Floats:
    """At most MOST_PAIRED of the values, from the least to the largest."""
    if len(values) <= MOST_PAIRED:
        return values
    chosen = np.linspace(0, len(values) - 1, MOST_PAIRED).round().astype(int)
    found: Floats = np.sort(values)[chosen]
    return found
