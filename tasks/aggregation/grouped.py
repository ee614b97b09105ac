"""From the sums of groups to one update, and what the sums say about the groups.

Only sums come in. A group whose mean is longer than the study's bound has a
member that did not keep to it, since a mean of shorter vectors is not longer:
it is left out. The others are combined by a robust rule. How far each group's
mean lies from what came out is ranked; reputation.py reads the ranks of many
rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tasks.aggregation import robust
from tasks.aggregation.stack import Floats, Stack
from tasks.contracts import GroupSeen
from tasks.errors import AggregationError
from tasks.parameters import Parameters
from tasks.secagg.groups import Group

RULES = {
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
    "geometric_median": robust.geometric_median,
}
_SLACK = 1e-6  # relative: fixed point and float32 may lengthen a mean


class Combined(NamedTuple):
    update: Parameters
    groups: tuple[GroupSeen, ...]


def combine_groups(
    sums: Iterable[tuple[Group, Parameters]],
    bound: float | None,
    rule: str = "median",
    standing: Mapping[str, float] | None = None,
) -> Combined:
    """The update of a round from its groups' sums.

    Args:
        sums: each group with the sum of its sites' updates; taken one by one.
        bound: norm that no update of an honest site passes; None: there is none.
        rule: a name in RULES.
        standing: weight of a site in (0, 1], from reputation.py; a group counts as its least trusted site.

    Raises:
        AggregationError: no group is left, or forms that differ.
    """
    groups = list[Group]()
    with Stack(_means(sums, groups)) as stack:
        beyond = robust.norms(stack) > (np.inf if bound is None else bound * (1 + _SLACK))
        if beyond.all():
            raise AggregationError(
                f"all {len(groups)} groups passed update_norm {bound}: sites of every group run other code, or the "
                f"bound is not the one that sites were given. Nothing was combined"
            )
        trust = [min((standing or {}).get(site, 1.0) for site in group.sites) for group in groups]
        weights = [len(g.sites) * t * (not out) for g, t, out in zip(groups, trust, beyond, strict=True)]
        update = RULES[rule](stack, weights)
        # a mean of n vectors differs from the whole by about 1/sqrt(n)
        far = robust.distances(stack, update) * np.sqrt([len(group.sites) for group in groups])
    far[beyond] = np.inf
    ranks = (_ranks(far) - 0.5) / len(groups)
    said = zip(groups, ranks, beyond, strict=True)
    seen = (GroupSeen(sites=g.sites, rank=float(rank), beyond=bool(out)) for g, rank, out in said)
    return Combined(update, tuple(seen))


def _means(sums: Iterable[tuple[Group, Parameters]], groups: list[Group]) -> Iterator[Parameters]:
    """The groups' means one by one; `groups` grows along."""
    for group, total in sums:
        groups.append(group)
        count = np.float32(len(group.sites))
        yield {name: (array / count).astype(np.float32) for name, array in total.items()}


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the middle of their places."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    ranks: Floats = below + (equal + 1) / 2
    return ranks
