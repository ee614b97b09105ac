"""Which site is in the odd group again and again: from sums of groups alone, over many rounds.

Where groups are drawn anew each round (privacy mode local), an honest site is in odd groups as often
as chance has it, and a wrong one always. The ranks of a site's groups have mean
1/2 and variance 1/12 where nobody is odd. A site whose ranks are too high counts
less, and from SUSPECT on it is named to the operator, who may ask its people, or
end its membership.

It names who is unlike the others, not who is guilty: a hospital whose patients are
different is found in the same way.

Source: after FedGT (Xhemrishi, Östman, Wachter-Zeh and Graell i Amat 2023,
arXiv:2305.05506), which decodes one round's test results on a validation set; here
the evidence is distances, added up over rounds, and no validation set is needed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tasks.records import GroupSeen

DOUBT = 2.0  # standard deviations above the mean, from which on a site counts less
SUSPECT = 4.0  # from which on it is named: by chance one honest site in 30,000 looks
LEAST = 0.1  # weight of a suspect: never nothing, an error of ours must not silence a site
FEWEST = 6  # observations; of fewer nobody is judged


class Standing(NamedTuple):
    """weight: in [LEAST, 1]. oddness: in standard deviations. observed: groups it was in."""

    weight: float
    oddness: float
    observed: int

    @property
    def suspect(self) -> bool:
        return self.oddness >= SUSPECT


def reputation(rounds: Iterable[Sequence[GroupSeen]]) -> dict[str, Standing]:
    """The standing of every site that was in a group, from all rounds so far."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for groups in rounds:
        for group in groups:
            for site in group.sites:
                ranks[site].append(group.rank)
    return {site: _standing(values) for site, values in sorted(ranks.items())}


def _standing(ranks: list[float]) -> Standing:
    n = len(ranks)
    oddness = (math.fsum(ranks) / n - 0.5) * math.sqrt(12 * n) if n >= FEWEST else 0.0
    doubt = min(max((oddness - DOUBT) / (SUSPECT - DOUBT), 0.0), 1.0)
    return Standing(1 - (1 - LEAST) * doubt, oddness, n)
