"""From the sums of groups to one update, and what the sums say about the groups.

Only sums come in. A group whose mean is longer than the study's bound has a
member that did not keep to it, since a mean of shorter vectors is not longer:
it is left out. The others are combined by a robust rule; of two nobody can say
which one is wrong, and they are averaged. How far each group's mean lies from
what came out is ranked; reputation.py reads the ranks of many rounds. Where
sites vote on the groups (tasks/validation.py) the update is also made without each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation import robust
from tasks.aggregation.stack import Floats, Stack
from tasks.errors import AggregationError
from tasks.parameters import Parameters
from tasks.records import GroupSeen
from tasks.secagg.groups import LEAST_GROUPS, Part

RULES = {
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
    "geometric_median": robust.geometric_median,
}
_SLACK = 1e-6  # relative: fixed point and float32 may lengthen a mean


class Combined(NamedTuple):
    """`without`: the same but for one group, for each group that counts, by its place in `groups`."""

    update: Parameters
    groups: tuple[GroupSeen, ...]
    without: dict[int, Combined]


def combine_groups(
    sums: Iterable[tuple[Part, Parameters]],
    bound: float | None,
    rule: str = "median",
    standing: Mapping[str, float] | None = None,
    validated: bool = False,
) -> Combined:
    """The update of a round from its groups' sums.

    Args:
        sums: each group with the sum of its sites' updates; taken one by one.
        bound: norm that no update of an honest site passes; None: there is none.
        rule: a name in RULES.
        standing: weight of a site in (0, 1], from reputation.py; a group counts as its least trusted site.
        validated: combine also without each group, where two or more count.

    Raises:
        AggregationError: no group is left, or forms that differ.
    """
    groups = list[Part]()
    with Stack(_means(sums, groups)) as stack:
        beyond = robust.norms(stack) > (np.inf if bound is None else bound * (1 + _SLACK))
        if beyond.all():
            raise AggregationError(
                f"all {len(groups)} groups passed update_norm {bound}: sites of every group run other code, or the "
                f"bound is not the one that sites were given. Nothing was combined"
            )
        trust = [min((standing or {}).get(site, 1.0) for site in group) for group in groups]
        weights = np.array([len(g) * t for g, t in zip(groups, trust, strict=True)])
        update, seen = _combined(stack, groups, weights, beyond, rule)
        counted = np.flatnonzero(~beyond) if validated and (~beyond).sum() > 1 else ()
        without = {int(i): _combined(stack, groups, weights, beyond, rule, int(i)) for i in counted}
    return Combined(update, seen, {i: Combined(*found, without={}) for i, found in without.items()})


def _combined(
    stack: Stack,
    groups: list[Part],
    weights: Floats,
    beyond: NDArray[np.bool_],
    rule: str,
    dropped: int | None = None,
) -> tuple[Parameters, tuple[GroupSeen, ...]]:
    """The update of those groups that are neither beyond the bound nor dropped, and what is said of all."""
    counts = ~beyond
    if dropped is not None:
        counts[dropped] = False
    shares = weights * counts
    if counts.sum() < LEAST_GROUPS:
        update = robust.weighted_mean(stack, shares, float(shares.sum()))
        far = np.zeros(len(groups))  # as far as each other
    else:
        update = RULES[rule](stack, shares.tolist())
        # a mean of n vectors differs from the whole by about 1/sqrt(n)
        far = robust.distances(stack, update) * np.sqrt([len(group) for group in groups])
    far[~counts] = np.inf
    ranks = (_ranks(far) - 0.5) / len(groups)
    seen = (
        GroupSeen(sites=g, rank=float(ranks[i]), beyond=bool(beyond[i]), dropped=i == dropped)
        for i, g in enumerate(groups)
    )
    return update, tuple(seen)


def _means(sums: Iterable[tuple[Part, Parameters]], groups: list[Part]) -> Iterator[Parameters]:
    """The groups' means one by one; `groups` grows along."""
    for group, total in sums:
        groups.append(group)
        count = np.float32(len(group))
        yield {name: (array / count).astype(np.float32) for name, array in total.items()}


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the middle of their places."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    ranks: Floats = below + (equal + 1) / 2
    return ranks
