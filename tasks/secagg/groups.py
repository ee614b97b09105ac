"""Groups of sites whose sums are opened: drawn so that anybody can repeat it.

One sum over all sites cannot be robust, and single updates cannot be secret. In
between, sites are drawn into disjoint groups; each group's sum is opened, and a
robust rule combines the groups (aggregation/grouped.py). Light: sites draw here as well.

**Rounds.** In one round nobody learns more than sums of `min_cohort` sites or more. Over
rounds it depends on the noise. Where each update has noise of its own (privacy
mode local), groups are drawn anew each round, which tells sites apart by the
company they keep (aggregation/reputation.py). Where each group's sum has all the
noise of its own (mode distributed) they are drawn anew as well: a site's records are
seen in one such sum a round, and what a hub makes of the sums of all rounds is
post-processing (docs/privacy.md has the argument). Where there is none, updates of
neighbouring rounds are nearly alike, and sums of changing groups are equations
for them: after ten rounds they give every site's update away to a few percent
(So et al. 2023, arXiv:2106.03328). So without noise the groups of a study never change:
then no combination over rounds is about fewer sites than a group has, however
alike updates are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from tasks.errors import SecureSumError

LEAST_GROUPS = 3  # of two nobody can say which one is wrong, but where sites score both (`least` 2)


Part = tuple[str, ...]
"""Sites whose vectors are summed together, sorted."""
Parts = tuple[Part, ...]


def disjoint_groups(
    sites: Collection[str], min_cohort: int, seed: int, run: str, round_: int, least: int = LEAST_GROUPS
) -> Parts:
    """The groups of one round: disjoint, sorted.

    Of one site more than `min_cohort` where that leaves three groups, so that a group bears the loss of one.

    Args:
        sites: with keys for the round, each name once.
        min_cohort: fewest sites of a group, >= 3.
        seed: of the study.
        run: the run's name.
        round_: from 1.
        least: fewest groups; there are three or more wherever there are sites for three.

    Raises:
        SecureSumError: too few sites for so many groups.
    """
    parts = _parted(sites, min_cohort, f"{seed}|{run}|{round_}", least)
    return _enough(parts, len(sites), min_cohort, least)


def fixed_groups(
    sites: Collection[str],
    present: Collection[str],
    min_cohort: int,
    seed: int,
    study: str,
    least: int = LEAST_GROUPS,
) -> Parts:
    """The groups of every round of every run of a study: disjoint, sorted.

    A site that is away leaves a hole, and all others stay where they are. A group that has become too small
    is left out of the round: in another group its sites would stand out from those that were there before.

    Args:
        sites: of the study.
        present: those with keys for the round.
        min_cohort: fewest sites of a group, >= 3.
        seed: of the study.
        study: its name.
        least: fewest groups, as above.

    Raises:
        SecureSumError: too few sites are left for so many groups.
    """
    whole = _parted(sites, min_cohort, f"{seed}|{study}|every round", least)
    left = (tuple(site for site in part if site in present) for part in whole)
    return _enough([part for part in left if len(part) >= min_cohort], len(present), min_cohort, least)


def group_sizes(sites: int, min_cohort: int, least: int = LEAST_GROUPS) -> tuple[int, ...]:
    """How many sites each group of `sites` has, smallest first; none has twice `min_cohort`.

    A smaller number of sites can have smaller groups, but none below `min_cohort` (`disjoint_groups`).
    """
    count = _count(sites, min_cohort, least)
    return tuple((sites + i) // count for i in range(count))


def _enough(parts: Sequence[tuple[str, ...]], sites: int, min_cohort: int, least: int) -> Parts:
    if len(parts) < least or min(map(len, parts)) < min_cohort:
        raise SecureSumError(
            f"{sites} sites have keys for this round and {least} groups of {min_cohort} need {least * min_cohort}; "
            f"wait for more"
        )
    return tuple(sorted(parts))


def _parted(names: Collection[str], min_cohort: int, words: str, least: int) -> list[tuple[str, ...]]:
    """Disjoint groups of nearly equal size, in an order that anybody can repeat."""
    count = _count(len(names), min_cohort, least)
    order = sorted(
        names, key=lambda name: hashlib.sha256(f"fedrounds groups|{words}|{name}".encode()).digest()
    )
    return [tuple(sorted(order[i::count])) for i in range(count)]


def _count(sites: int, min_cohort: int, least: int) -> int:
    three = min(LEAST_GROUPS, sites // min_cohort)
    return max(least, three, sites // (min_cohort + 1))
