"""One secure sum: masks, and what a site binds itself to. Which lists may be summed: lists.py; opening it: opening.py.

    site  mask_seeds -> MaskSeeds     a fresh mask with each peer, and one of its own
    site  pledge -> Pledges           kept on disk with the masked bytes BEFORE these leave
    hub   survivors_of -> Survivors   whose vectors arrived; if all did, whole.py goes on with one exchange less
    site  consent -> Consent          one list per round; kept on disk before it leaves
    site  unmask -> Unmasking         only against `threshold` consents to the same list
    hub   recover -> Recovered        what to take from the sum of the survivors' vectors

Site i of the cohort sends x_i + own_i + sum of pair_ij (j after i) - sum of
pair_ij (j before i). The pair masks of survivors cancel. For each survivor its
self-mask secret is opened, for each lost site its pair key of this one sum:
never both for one site, because a site unmasks one list and a list says of each
site either that it survived or that it is lost.

What keeps a hub from learning one vector out of several sums: a site masks one
vector per attempt (of each step, where a round has several), agrees to one list
for it, only to the newest sum it has masked, and never to two that start from the same parameters. These hold
for updates and for scores, each by themselves: vectors of the two have nothing
in common that a difference would show. Lists need
`threshold` (more than half) signatures, so two lists of one round cannot both
pass unless the hub has 2 * threshold - sites of the sites on its side.

Source: Bonawitz et al. 2017, doi:10.1145/3133956.3133982, figure 4, with keys
of all rounds dealt in one setup. docs/secure-aggregation.md has the argument.
"""

from __future__ import annotations

from pydantic import Field

from tasks.contracts import Message, Sha256
from tasks.errors import SecureSumError
from tasks.secagg import keys
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.lists import check_list, check_parts
from tasks.secagg.messages import Announcement, Consent, SumTerms, Survivors, Terms, What
from tasks.secagg.setup import Member, Sign
from tasks.secagg.shamir import to_bytes


class Pledge(Message):
    """What a site has bound itself to in one sum."""

    round: int
    attempt: int
    what: What = "update"
    parameters_sha256: Sha256
    sum_sha256: Sha256
    masked_sha256: Sha256
    survivors_sha256: Sha256 | None = None  # the one list that it signs or opens
    step: int = Field(default=1, ge=1, exclude_if=lambda step: step == 1)
    whole: bool = Field(default=False, exclude_if=lambda whole: not whole)  # see whole.py
    # of a whole one: whether this site has given shares for it; None: its version did not note that
    opened: bool | None = Field(default=None, exclude_if=lambda opened: opened is None)

    @property
    def place(self) -> tuple[int, int, int]:
        """Where in a run the sum stands."""
        return self.round, self.attempt, self.step

    @property
    def may_be_open(self) -> bool:
        """True where this site may have helped to open the sum, or still may."""
        return self.whole or self.survivors_sha256 is not None

    @property
    def may_be_open_to_all(self) -> bool:
        """True where it may have given shares for the list of all."""
        return self.whole and self.opened is not False


class Pledges(Message):
    """All of a site in one run, oldest first, across blocks. Kept on disk; forgetting it breaks the protection."""

    sums: tuple[Pledge, ...] = ()


def number_of(terms: Terms, sum_: SumTerms) -> int:
    """Which of the block's keys a sum uses: one for each attempt at each round and what it adds in which step.

    Raises:
        SecureSumError: the block has no keys for this round, attempt and step.
    """
    offset = sum_.round - terms.first_round
    if sum_.step > (terms.steps if sum_.what == "update" else 1):
        raise SecureSumError(f"step {sum_.step} of a round of {terms.steps}: the setup has no keys for it")
    if not (0 <= offset < terms.rounds and sum_.attempt <= terms.attempts):
        raise SecureSumError(
            f"round {sum_.round} attempt {sum_.attempt} is outside the setup: rounds {terms.first_round} to "
            f"{terms.first_round + terms.rounds - 1}, {terms.attempts} attempts each. Set up the next block."
        )
    before = (offset * terms.attempts + sum_.attempt - 1) * terms.sums_of_an_attempt
    return before + (sum_.step - 1 if sum_.what == "update" else terms.steps)


def mask_seeds(member: Member, pledges: Pledges, sum_: SumTerms) -> MaskSeeds:
    """Site: the streams that hide one vector. Only for a vector that no other mask has hidden.

    Raises:
        SecureSumError: this sum's keys are used, or its result could be subtracted from an earlier one.
    """
    number = _check_new(member, pledges, sum_)
    seat = member.seat
    pair_key = to_bytes(keys.polynomial(seat.secret, seat.terms, "pair", number)[0])
    own = keys.polynomial(seat.secret, seat.terms, "self", number)[0]
    plus, minus = [keys.self_seed(own, sum_.sha256, seat.site)], list[bytes]()
    for peer in sum_.peers(member.cohort, seat.site):
        public = public_of(member.announcements[peer], number)
        seed = keys.pair_seed(pair_key, public, sum_.sha256, (seat.site, peer))
        (plus if seat.site < peer else minus).append(seed)
    return MaskSeeds(tuple(plus), tuple(minus))


def pledge(
    member: Member, pledges: Pledges, sum_: SumTerms, masked_sha256: str, whole: bool = False
) -> Pledges:
    """Site: bind itself to the masked bytes. A retry sends these bytes, or is another attempt.

    With `whole` it opens this sum for the list of all sites at once (whole.py), or for another list instead.
    """
    _check_new(member, pledges, sum_)
    new = Pledge(
        round=sum_.round,
        attempt=sum_.attempt,
        what=sum_.what,
        parameters_sha256=sum_.parameters_sha256,
        sum_sha256=sum_.sha256,
        masked_sha256=masked_sha256,
        step=sum_.step,
        whole=whole,
        opened=False if whole else None,
    )
    return Pledges(sums=(*pledges.sums, new))


def consent(
    member: Member, pledges: Pledges, sum_: SumTerms, survivors: Survivors, sign: Sign
) -> tuple[Pledges, Consent]:
    """Site: agree to a list. Keep the new pledges on disk before the consent leaves.

    Raises:
        SecureSumError: as for `bound_to`, or the sum of all may have been opened.
    """
    kept, site, digest = bound_to(member, pledges, sum_, survivors), member.seat.site, survivors.sha256
    if pledges.sums[-1].may_be_open_to_all:
        raise SecureSumError(f"{site!r} may have opened the sum of all; it agrees to no other list")
    draft = Consent(survivors_sha256=digest, site=site, signature="0" * 128)
    return kept, draft.model_copy(update={"signature": sign(draft.canonical).hex()})


def bound_to(member: Member, pledges: Pledges, sum_: SumTerms, survivors: Survivors) -> Pledges:
    """Site: its pledges with the newest sum bound to a list, the only one that it ever signs or opens.

    Raises:
        SecureSumError: not the newest sum, it is bound to another list, the list has not this site's bytes, or is
            too short.
    """
    site, digest = member.seat.site, survivors.sha256
    check_list(member.cohort, survivors)
    check_parts(member.cohort, sum_, survivors)
    newest = pledges.sums[-1] if pledges.sums else None
    if newest is None or {newest.sum_sha256, survivors.sum_sha256} != {sum_.sha256}:
        raise SecureSumError(f"the newest sum of {site!r} is another one; an older sum stays closed")
    if newest.survivors_sha256 not in (None, digest):
        raise SecureSumError(f"{site!r} has agreed to another list of survivors; the hub shows two")
    if survivors.masked.get(site) != newest.masked_sha256:
        raise SecureSumError(f"the list does not hold the vector that {site!r} sent")
    bound = newest.model_copy(update={"survivors_sha256": digest, "whole": False, "opened": None})
    return Pledges(sums=(*pledges.sums[:-1], bound))


def _check_new(member: Member, pledges: Pledges, sum_: SumTerms) -> int:
    """The number of the sum's keys, where nothing forbids to use them."""
    terms = member.seat.terms
    number = number_of(terms, sum_)
    if (sum_.run, sum_.cohort_sha256) != (terms.run, member.cohort.sha256):
        raise SecureSumError("the sum is for another run or cohort than this site joined")
    _check_parted(member, sum_)
    for old in (pledge for pledge in pledges.sums if pledge.what == sum_.what):
        if old.place >= (sum_.round, sum_.attempt, sum_.step):
            raise SecureSumError(
                f"round {old.round} attempt {old.attempt} step {old.step} is masked; a retry sends the same bytes "
                f"again, and a new vector needs a later attempt than this"
            )
        if not old.may_be_open:
            continue
        same = (old.round, old.step) == (sum_.round, sum_.step)
        if same or old.parameters_sha256 == sum_.parameters_sha256:
            raise SecureSumError(
                f"attempt {old.attempt} of round {old.round} step {old.step} started from the same model and may have "
                f"been opened; the difference of two such sums can be one site's vector"
            )
    return number


def _check_parted(member: Member, sum_: SumTerms) -> None:
    """Raises SecureSumError where groups overlap, have strangers or not this site, or are too small to be summed."""
    cohort, placed = member.cohort, [site for group in sum_.groups for site in group]
    if len(set(placed)) < len(placed) or not set(placed) <= cohort.dealt.keys():
        raise SecureSumError("the groups of the sum are not sites of the cohort, each in one group")
    if placed and member.seat.site not in placed:
        raise SecureSumError("too few sites of this one's group are here, and it joins no other")
    if any(len(group) < cohort.terms.min_cohort for group in sum_.groups):
        raise SecureSumError(f"a group of the sum has fewer than {cohort.terms.min_cohort} sites")


def public_of(announcement: Announcement, number: int) -> bytes:
    """A site's public pair key of one sum."""
    return bytes.fromhex(announcement.pair_keys[64 * number : 64 * number + 64])
