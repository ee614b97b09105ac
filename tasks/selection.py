"""Which sites a round asks: a draw that anybody can repeat.

Pure: study, run, round and the committed rounds before it in, names out. The
draw hangs on seed, run and round alone, is made before anybody answers and
stands in the round's record, so that a hub that starts anew draws the same and
nobody is chosen after the fact. It is public: privacy is not amplified by it,
and no account claims that it were.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

from tasks.codes import Code
from tasks.records import RoundRecord
from tasks.study import Study

# What is no failing of the site: it was not asked, was slow (and not silent), or is closed on purpose.
NO_FAULT = frozenset(
    {
        Code.PAUSED_BY_HUB,
        Code.PAUSED_BY_SITE,
        Code.OUTSIDE_HOURS,
        Code.COOLING_DOWN,
        Code.TOO_LATE,
        Code.NOT_APPROVED,
    }
)


def draw(study: Study, run: str, round_: int, resting: Collection[str] = ()) -> tuple[str, ...]:
    """The sites of a round, sorted by name.

    Those of `cohort.always` first, then a weighted sample without replacement among the others: each site
    waits an exponential time with its weight as rate, and the earliest are taken.

    Args:
        study: its sites, cohort and seed.
        run: the run's name.
        round_: from 1.
        resting: sites that cool down; they are not drawn.

    Source: Efraimidis and Spirakis 2006, weighted random sampling with a reservoir (algorithm A-Res, whose
    keys u^(1/w) are ordered as -ln(u)/w is).
    """
    eligible = [site for site in study.sites if site not in resting]
    cohort = study.cohort
    if cohort.is_all:
        return tuple(sorted(eligible))

    def waits(site: str) -> tuple[bool, float, str]:
        time = -math.log(_uniform(study.seed, run, round_, site)) / cohort.weights.get(site, 1.0)
        return site not in cohort.always, time, site

    return tuple(sorted(sorted(eligible, key=waits)[: cohort.asked(len(study.sites))]))


def resting(study: Study, records: Sequence[RoundRecord], round_: int) -> tuple[str, ...]:
    """Sites that failed so often in a row that round `round_` does not ask them; none where the quorum needs them.

    Args:
        study: without `cool_down` nobody rests.
        records: committed rounds before `round_`, in order; older ones than `lookback` change nothing.
        round_: the round to come.
    """
    terms = study.cool_down
    if terms is None:
        return ()
    found = []
    for site in sorted(study.sites):
        failed, last = _streak(site, records)
        if failed >= terms.after and round_ <= last + terms.rounds:
            found.append(site)
    return tuple(found) if len(study.sites) - len(found) >= study.needed else ()


def lookback(study: Study) -> int:
    """How many rounds before a round `resting` has to see."""
    return 0 if study.cool_down is None else 4 * (study.cool_down.after + study.cool_down.rounds)


def _streak(site: str, records: Sequence[RoundRecord]) -> tuple[int, int]:
    """Failures in a row up to now, and the round of the last one."""
    failed, last = 0, 0
    for record in records:
        said = record.sites.get(site)
        if said is None or (said.code in NO_FAULT and not said.gave_no_sign):
            continue
        failed, last = (failed + 1, record.round) if said.code else (0, last)
    return failed, last


def _uniform(seed: int, run: str, round_: int, site: str) -> float:
    """In (0, 1), from 53 bits of a digest."""
    digest = hashlib.sha256(f"fedrounds cohort|{seed}|{run}|{round_}|{site}".encode()).digest()
    return ((int.from_bytes(digest[:8], "big") >> 11) + 0.5) / 2**53
