"""Opening a sum that every site is in, without asking for signatures first: one exchange instead of two.

    site  pledge(whole=True)          kept on disk with the masked bytes, BEFORE these leave
    hub   survivors_of -> Survivors   all vectors arrived, or the list has to be agreed to (onesum.py)
    site  open_whole -> Pledges       that it has given them: kept on disk BEFORE these leave
                     -> Unmasking     shares of every site's self mask; of no pair key
    hub   recover -> Recovered        opening.py, as for any other list

Why that is safe. t sites' shares open a secret, of n sites with m on the hub's
side, and 2t > n + m. Each other site either gives shares for the list of all, or
signs one other list, and never both, in none of its lives. For before the first
share leaves, `opened` is on its disk, and before the signature leaves, the list's
digest is; with the one there the other is refused for good. (Both come from one
process that holds the journal, one after the other; a line that a fall has torn
is of something that has not left; a site whose version did not note `opened` has
given shares.) Would both lists open, t - m sites would have done the one and t - m
others the other: 2t - 2m <= n - m, a contradiction. So no site's self mask and pair keys are both opened, and
there is one sum. It matters that the secrets are opened by *shares*: a site that
published its own self mask on seeing the list of all would be undressed by the
others, who were shown a list without it.

What other sites' digests the list names does not matter to this site: it has
hidden one vector under this sum's mask, and the sum is of all or of nobody.
"""

from __future__ import annotations

from tasks.errors import SecureSumError
from tasks.secagg.messages import Cohort, SumTerms, Survivors, Unmasking
from tasks.secagg.onesum import Pledges, check_list
from tasks.secagg.opening import shares_of
from tasks.secagg.setup import Member


def is_whole(cohort: Cohort, survivors: Survivors) -> bool:
    """True where a list names every site of the cohort."""
    return set(survivors.masked) == set(cohort.dealt)


def open_whole(
    member: Member, pledges: Pledges, sum_: SumTerms, survivors: Survivors
) -> tuple[Pledges, Unmasking]:
    """Site: this site's shares of what opens the sum of all. Keep the new pledges on disk before they leave.

    Safe to repeat.

    Raises:
        SecureSumError: not the newest sum, it was not pledged to be opened so, the list lacks a site, or has not
            this site's bytes.
    """
    site = member.seat.site
    check_list(member.cohort, survivors)
    newest = pledges.sums[-1] if pledges.sums else None
    if newest is None or {newest.sum_sha256, survivors.sum_sha256} != {sum_.sha256}:
        raise SecureSumError(f"the newest sum of {site!r} is another one; an older sum stays closed")
    if not newest.whole:
        raise SecureSumError(f"{site!r} opens this sum only for a list that is agreed to")
    if not is_whole(member.cohort, survivors):
        raise SecureSumError(
            "the list lacks a site of the cohort; it has to be agreed to before it is opened"
        )
    if survivors.masked[site] != newest.masked_sha256:
        raise SecureSumError(f"the list does not hold the vector that {site!r} sent")
    opened = newest.model_copy(update={"opened": True})
    return Pledges(sums=(*pledges.sums[:-1], opened)), shares_of(member, sum_, survivors)
