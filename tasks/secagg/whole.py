"""Opening a sum that every site is in, without asking for signatures first: one exchange instead of two.

    site  pledge                      kept on disk with the masked bytes, BEFORE these leave
    hub   survivors_of -> Survivors   all vectors arrived, or the list has to be agreed to (onesum.py)
    site  open_whole -> Pledges       that it gives its shares: kept on disk BEFORE these leave
                     -> Unmasking     shares of every site's self mask; of no pair key
    hub   recover -> Recovered        opening.py, as for any other list

In a round of one step the new pledges stand in the very file of the answer that
holds the shares, and name the list. A step of a round in lockstep is pledged to
be opened `whole`, and its journal notes that it was `opened`.

Why that is safe. t sites' shares open a secret, of n sites with m on the hub's
side, and 2t > n + m. Each other site either gives shares for the list of all, or
signs one other list, and never both, in none of its lives: which one is on its
disk before the first share or the signature leaves, and with the one there the
other is refused for good. (One process at a time answers; what a fall has torn
is of something that has not left; a site whose version did not note `opened` has
given shares.) Would both lists open, t - m sites would have done the one and
t - m others the other: 2t - 2m <= n - m, a contradiction. So no site's self mask
and pair keys are both opened, and there is one sum. It matters that the secrets
are opened by *shares*: a site that published its own self mask on seeing the list
of all would be undressed by the others, who were shown a list without it.

What other sites' digests the list names does not matter to this site: it has
hidden one vector under this sum's mask, and the sum is of all or of nobody.
"""

from __future__ import annotations

from tasks.errors import SecureSumError
from tasks.secagg.lists import is_whole
from tasks.secagg.messages import SumTerms, Survivors, Unmasking
from tasks.secagg.onesum import Pledges, bound_to
from tasks.secagg.opening import shares_of
from tasks.secagg.setup import Member


def open_whole(
    member: Member, pledges: Pledges, sum_: SumTerms, survivors: Survivors
) -> tuple[Pledges, Unmasking]:
    """Site: this site's shares of what opens the sum of all. Keep the new pledges on disk before these leave.

    Safe to repeat.

    Raises:
        SecureSumError: the list lacks a site, is of another sum than the newest, has not this site's bytes, or this
            site is bound to another list.
    """
    if not is_whole(member.cohort, survivors):
        raise SecureSumError(
            "the list lacks a site of the cohort; it has to be agreed to before it is opened"
        )
    kept, newest = bound_to(member, pledges, sum_, survivors), pledges.sums[-1]
    if newest.whole:
        kept = Pledges(sums=(*pledges.sums[:-1], newest.model_copy(update={"opened": True})))
    return kept, shares_of(member, sum_, survivors)
