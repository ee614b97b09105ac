"""Groups of sites whose sums are opened: drawn so that anybody can repeat it, and safe against differencing.

One sum over all sites cannot be robust, and single updates cannot be secret. In
between, each round's sites are drawn into groups; each group's sum is opened,
and a robust rule combines the groups (aggregation/grouped.py). Light: sites draw here as well.

**Overlaps.** Sums of the same vectors can be subtracted: from the sums of
{a, b, c} and {a, b, d} follows c - d. Whoever opens the sums of a design knows
every combination of its rows, and nothing else. So a design is only used if no
combination, however cunning, is about fewer sites than `min_cohort`: the least
weight of the code that the groups span must not be below it. That is the promise
of one sum over `min_cohort` sites, no more and no less: a hub that works with m
sites knows theirs, and sees combinations of at least min_cohort - m others.
(Last bits aside: whether a sum is odd tells whether part of it is.)

**Rounds.** Vectors of two rounds are different vectors, with noise of their own.
Where there is no noise and they hardly change, sums of different groups can be
compared over rounds (So et al. 2023, arXiv:2106.03328); noise and the ledger are
the answer, as with one sum.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from tasks.errors import SecureSumError

LEAST_SITES = 8  # below, every design either shows sums of two or has no honest majority of groups
OVERLAP_FROM = 12  # sites, from which on every site is in two groups: one wrong site is then where they meet
_TRIES = 200  # draws until one is safe
_PRIME = 2**61 - 1
_MOST_CHECKS = 5_000  # sets of columns that a design's check may look at
# Eight sites have no three disjoint groups of three. In these five, found by search, every combination is about
# three sites or more, and with these weights each site is in at most three sevenths.
_OF_EIGHT = (((0, 1, 2), 2), ((0, 3, 4), 1), ((1, 4, 5), 1), ((2, 4, 6), 1), ((3, 5, 7), 2))


class Group(NamedTuple):
    """Sites whose vectors are summed together, sorted, and how much their mean counts among the groups."""

    sites: tuple[str, ...]
    weight: int


Groups = tuple[Group, ...]


def draw_groups(sites: Sequence[str], min_cohort: int, seed: int, run: str, round_: int) -> Groups:
    """The groups of a round, sorted.

    Disjoint ones, from OVERLAP_FROM sites on drawn twice, so that every site is in two; of eight sites five
    that overlap.

    Args:
        sites: of the round, each name once.
        min_cohort: fewest sites that any combination of opened sums may be about, >= 3.
        seed: of the study.
        run: the run's name.
        round_: from 1.

    Raises:
        SecureSumError: too few sites for groups of this size.
    """
    names = sorted(sites)
    n, words = len(names), f"{seed}|{run}|{round_}"
    if not can_group(n, min_cohort):
        raise SecureSumError(
            f"{n} sites cannot be drawn into groups of {min_cohort} of which most are right if one site is wrong; "
            f"that takes {sites_needed(min_cohort)} sites. Use one sum with update_norm"
        )
    if n < 3 * min_cohort:
        order = _shuffled(names, words)
        return tuple(sorted(Group(tuple(sorted(order[i] for i in g)), weight) for g, weight in _OF_EIGHT))
    if n >= OVERLAP_FROM and checkable(n, min_cohort):
        for attempt in range(_TRIES):
            layers = [_parted(names, n // min_cohort, f"{words}|{attempt}|{i}") for i in (0, 1)]
            both = tuple(sorted(group for layer in layers for group in layer))
            if len(set(both)) == len(both) and least_seen(both, min_cohort) >= min_cohort:
                return both
    return tuple(sorted(_parted(names, n // min_cohort, words)))


def disjoint_groups(
    sites: Sequence[str], min_cohort: int, seed: int, run: str, round_: int
) -> tuple[tuple[str, ...], ...]:
    """The groups of a round whose sites send one vector each: disjoint, sorted.

    Of one site more than `min_cohort` where that leaves three groups, so that a group bears the loss of one.

    Raises:
        SecureSumError: too few sites for three groups.
    """
    names, count = sorted(sites), max(3, len(sites) // (min_cohort + 1))
    if len(names) < 3 * min_cohort:
        raise SecureSumError(
            f"{len(names)} sites have keys for this round and three groups of {min_cohort} need {3 * min_cohort}; "
            f"wait for more"
        )
    return tuple(sorted(group.sites for group in _parted(names, count, f"{seed}|{run}|{round_}")))


def sites_needed(min_cohort: int) -> int:
    """From how many sites on groups have an honest majority around one wrong site."""
    return LEAST_SITES if min_cohort == 3 else 3 * min_cohort


def can_group(sites: int, min_cohort: int) -> bool:
    """Whether so many sites can be drawn into groups."""
    return min_cohort >= 3 and sites >= sites_needed(min_cohort)


def checkable(sites: int, min_cohort: int) -> bool:
    """Whether every set of min_cohort - 1 sites can be looked at."""
    return math.comb(sites, min_cohort - 1) <= _MOST_CHECKS


def check_groups(groups: Groups, sites: Sequence[str], min_cohort: int) -> None:
    """Refuse a design that is not safe, whoever drew it. Rounds use disjoint groups, which need no such check.

    Raises:
        SecureSumError: a site that is not of the round, in no group or in one twice, or a combination of sums
            about fewer than `min_cohort` sites.
    """
    placed = {name for group in groups for name in group.sites}
    if placed != set(sites) or any(len(set(group.sites)) != len(group.sites) for group in groups):
        raise SecureSumError("the groups are not made of the round's sites, each at most once in a group")
    if len({frozenset(group.sites) for group in groups}) != len(groups):
        raise SecureSumError("a group stands twice")
    seen = least_seen(groups, min_cohort)
    if seen < min_cohort:
        raise SecureSumError(
            f"sums of these groups can be combined into one about {seen} sites; at least {min_cohort} are promised"
        )


def least_seen(groups: Groups, min_cohort: int) -> int:
    """Fewest sites that a combination of the groups' sums is about, counted up to `min_cohort`.

    The groups span a code over the rationals; its least weight is the least number of linearly dependent
    columns of a matrix whose rows span the orthogonal space (MacWilliams and Sloane 1977, chapter 1, theorem 10).
    Never too large: the matrix is exact, and columns that are independent modulo a prime are so in fractions.
    Disjoint groups need no search.

    Raises:
        SecureSumError: too many sets of sites to look at.
    """
    sites = sorted({name for group in groups for name in group.sites})
    if len(sites) == sum(len(group.sites) for group in groups):
        return min(min_cohort, *(len(group.sites) for group in groups))
    if not checkable(len(sites), min_cohort):
        raise SecureSumError(
            f"{len(sites)} sites in overlapping groups are too many to check for min_cohort {min_cohort}; draw "
            f"disjoint groups"
        )
    columns = _orthogonal([[Fraction(name in group.sites) for name in sites] for group in groups])
    for size in range(1, min_cohort):
        if any(_dependent([columns[i] for i in chosen]) for chosen in combinations(range(len(sites)), size)):
            return size
    return min_cohort


def _parted(names: Sequence[str], count: int, words: str) -> list[Group]:
    """Disjoint groups of nearly equal size, which count by their sites."""
    order = _shuffled(names, words)
    return [Group(tuple(sorted(part)), len(part)) for part in (order[i::count] for i in range(count))]


def _shuffled(names: Sequence[str], words: str) -> list[str]:
    """An order that anybody can repeat."""
    return sorted(
        names, key=lambda name: hashlib.sha256(f"fedrounds groups|{words}|{name}".encode()).digest()
    )


def _orthogonal(rows: list[list[Fraction]]) -> list[list[int]]:
    """Columns, modulo _PRIME, of a matrix whose rows span what is orthogonal to the given rows."""
    reduced, pivots = _reduced(rows)
    free = [i for i in range(len(rows[0])) if i not in pivots]
    columns = [[int(i == k) for k in free] for i in range(len(rows[0]))]
    for row, pivot in zip(reduced, pivots, strict=True):
        columns[pivot] = [-row[k].numerator * pow(row[k].denominator, -1, _PRIME) % _PRIME for k in free]
    return columns


def _reduced(rows: list[list[Fraction]]) -> tuple[list[list[Fraction]], list[int]]:
    """Reduced row echelon form without its empty rows, and the columns of its leading ones."""
    left, done, pivots = [row[:] for row in rows], list[list[Fraction]](), list[int]()
    for column in range(len(rows[0])):
        lead = next((row for row in left if row[column]), None)
        if lead is None:
            continue
        left = [row for row in left if row is not lead]
        lead = [value / lead[column] for value in lead]
        left = [_without(row, lead, column) for row in left]
        done = [*(_without(row, lead, column) for row in done), lead]
        pivots.append(column)
    return done, pivots


def _without(row: list[Fraction], lead: list[Fraction], column: int) -> list[Fraction]:
    factor = row[column]
    return row if not factor else [a - factor * b for a, b in zip(row, lead, strict=True)]


def _dependent(vectors: Sequence[list[int]]) -> bool:
    """Whether some of them add up to nothing, modulo _PRIME."""
    left = list(vectors)
    while left:
        lead = left.pop()
        column = next((i for i, value in enumerate(lead) if value), None)
        if column is None:
            return True
        inverse = pow(lead[column], -1, _PRIME)
        for k, row in enumerate(left):
            if row[column]:
                factor = row[column] * inverse
                left[k] = [(a - factor * b) % _PRIME for a, b in zip(row, lead, strict=True)]
    return False
