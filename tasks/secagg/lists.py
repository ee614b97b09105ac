"""Lists of survivors: which may be summed at all, and who has signed one.

What a site binds itself to when it signs or opens a list: onesum.py, whole.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.errors import SecureSumError
from tasks.secagg.messages import Cohort, Consent, SumTerms, Survivors
from tasks.secagg.setup import Verify, signed


def survivors_of(cohort: Cohort, sum_: SumTerms, masked: Mapping[str, str]) -> Survivors:
    """Hub: the list to open, or to ask consent for. `masked`: digest of each site's vector that arrived whole.

    A group of which fewer than `min_cohort` arrived is left out with all of its sites.

    Raises:
        SecureSumError: too few vectors; nothing can be opened. Try another attempt.
    """
    whole = {
        site for part in _alive(cohort, sum_, masked) if len(part) >= cohort.terms.min_cohort for site in part
    }
    masked = {site: digest for site, digest in sorted(masked.items()) if site in whole or not sum_.groups}
    survivors = Survivors(sum_sha256=sum_.sha256, masked=masked)
    check_list(cohort, survivors)
    return survivors


def is_whole(cohort: Cohort, survivors: Survivors) -> bool:
    """True where a list names every site of the cohort: it is opened without signatures (whole.py)."""
    return set(survivors.masked) == set(cohort.dealt)


def consenting(
    cohort: Cohort, survivors: Survivors, consents: Iterable[Consent], verify: Verify
) -> frozenset[str]:
    """Both: the survivors that signed this very list."""
    check_list(cohort, survivors)
    return frozenset(
        c.site
        for c in consents
        if c.site in survivors.masked
        and c.survivors_sha256 == survivors.sha256
        and signed(c, c.site, c.signature, verify)
    )


def check_list(cohort: Cohort, survivors: Survivors) -> None:
    """Raises SecureSumError where a list names strangers, or too few sites to be summed."""
    terms = cohort.terms
    if not set(survivors.masked) <= set(cohort.dealt):
        raise SecureSumError("the list of survivors names a site outside the cohort")
    least = max(terms.threshold, terms.min_cohort)
    if len(survivors.masked) < least:
        raise SecureSumError(
            f"{len(survivors.masked)} vectors arrived and a sum needs {least}; try again later"
        )


def check_parts(cohort: Cohort, sum_: SumTerms, survivors: Survivors) -> None:
    """Raises SecureSumError where the sum of a group would be of some, but fewer than `min_cohort`, sites."""
    for part in _alive(cohort, sum_, survivors.masked):
        if 0 < len(part) < cohort.terms.min_cohort:
            raise SecureSumError(
                f"the list has {len(part)} sites of a group, and its sum needs {cohort.terms.min_cohort}: it shows "
                f"too much of each; leave that group out"
            )


def _alive(cohort: Cohort, sum_: SumTerms, masked: Iterable[str]) -> list[tuple[str, ...]]:
    """Of each part of a sum, the sites whose vectors arrived."""
    there = set(masked)
    return [tuple(site for site in part if site in there) for part in sum_.parts(cohort)]
