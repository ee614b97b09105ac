"""Opening one secure sum: what survivors give, and what the hub makes of it.

A site gives shares only for the list that it has agreed to, and only against
`threshold` signatures under it; for the list of all without any (whole.py). The hub checks every secret that it puts
together against what its owner announced at the setup, so that a wrong share
is found, named and left out where enough right ones are there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from tasks.contracts import Name
from tasks.errors import SecureSumError
from tasks.secagg import keys
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.lists import check_list, check_parts, consenting
from tasks.secagg.messages import Announcement, Cohort, Consent, SumTerms, Survivors, Terms, Unmasking
from tasks.secagg.onesum import Pledges, number_of, public_of
from tasks.secagg.setup import Member, Verify, member_share
from tasks.secagg.shamir import PRIME, combine, from_bytes, to_bytes, weights

_MOST_TRIES = 2000  # subsets of shares tried before a sum with wrong shares is given up: some seconds
_weights = lru_cache(maxsize=256)(weights)  # the same sites open all secrets of a sum


class Recovered(NamedTuple):
    """What the hub takes from each sum, by the survivors in it, and the sites whose shares were wrong."""

    parts: dict[tuple[Name, ...], MaskSeeds]
    wrong: frozenset[Name]

    @property
    def seeds(self) -> MaskSeeds:
        """What it takes from the sum of all of them."""
        every = self.parts.values()
        return MaskSeeds(tuple(s for p in every for s in p.plus), tuple(s for p in every for s in p.minus))


def unmask(
    member: Member,
    pledges: Pledges,
    sum_: SumTerms,
    survivors: Survivors,
    consents: Iterable[Consent],
    verify: Verify,
) -> Unmasking:
    """Site: this site's shares of what opens the sum, and nothing else. Safe to repeat.

    Raises:
        SecureSumError: this site has not agreed to the list, or too few others have.
    """
    newest = pledges.sums[-1] if pledges.sums else None
    agreed = newest is not None and newest.survivors_sha256 == survivors.sha256
    if not agreed or survivors.sum_sha256 != sum_.sha256:
        raise SecureSumError(f"{member.seat.site!r} has not agreed to this list; it opens nothing")
    given, needed = consenting(member.cohort, survivors, consents, verify), member.seat.terms.threshold
    if len(given) < needed:
        raise SecureSumError(
            f"{len(given)} survivors agreed to this list, {needed} are needed; wait for more"
        )
    return shares_of(member, sum_, survivors)


def shares_of(member: Member, sum_: SumTerms, survivors: Survivors) -> Unmasking:
    """What opens the sum of a list. Whether this site may give it, `unmask` and whole.py say."""
    number = number_of(member.seat.terms, sum_)
    shares = {}
    for site in sorted(member.cohort.dealt):
        kind: keys.Kind = "self" if site in survivors.masked else "pair"
        shares[site] = to_bytes(member_share(member, site, number, kind)).hex()
    return Unmasking(survivors_sha256=survivors.sha256, site=member.seat.site, shares=shares)


def recover(
    cohort: Cohort,
    announcements: Mapping[str, Announcement],
    sum_: SumTerms,
    survivors: Survivors,
    unmaskings: Iterable[Unmasking],
) -> Recovered:
    """Hub: the masks that are left in the sum of the survivors' vectors, from `threshold` right answers.

    Raises:
        SecureSumError: too few right shares; wait for more answers, or try another attempt.
    """
    check_list(cohort, survivors)
    check_parts(cohort, sum_, survivors)
    number = number_of(cohort.terms, sum_)
    answers = {
        u.site: u
        for u in unmaskings
        if u.site in survivors.masked
        and u.survivors_sha256 == survivors.sha256
        and set(u.shares) == set(cohort.dealt)
    }
    wrong: set[str] = set()
    parts: dict[tuple[Name, ...], MaskSeeds] = {}
    for part in sum_.parts(cohort):
        alive = tuple(site for site in part if site in survivors.masked)
        plus, minus = list[bytes](), list[bytes]()
        for site in part if alive else ():
            announced, own = announcements[site], site in alive
            secret, liars = _secret(cohort.terms, answers, announced, number, own=own, last=wrong)
            wrong |= liars
            if own:
                minus.append(keys.self_seed(secret, sum_.sha256, site))
                continue
            for peer in alive:
                public = public_of(announcements[peer], number)
                seed = keys.pair_seed(to_bytes(secret), public, sum_.sha256, (site, peer))
                (minus if peer < site else plus).append(seed)
        if alive:
            parts[alive] = MaskSeeds(tuple(plus), tuple(minus))
    return Recovered(parts, frozenset(wrong))


def _secret(
    terms: Terms,
    answers: Mapping[str, Unmasking],
    owner: Announcement,
    number: int,
    *,
    own: bool,
    last: set[str],
) -> tuple[int, set[str]]:
    """A secret of `owner` that fits what it announced, and the sites whose shares are not on its polynomial.

    A share that is not was falsified by its sender, or dealt wrongly by the owner. Sites in `last` have
    been wrong before and are asked last.
    """
    shares = {site: from_bytes(bytes.fromhex(u.shares[owner.site])) % PRIME for site, u in answers.items()}
    for subset in _subsets(sorted(shares, key=lambda s: (s in last, s)), terms.threshold):
        xs, values = tuple(terms.position(s) for s in subset), [shares[s] for s in subset]
        secret = combine(values, _weights(xs))
        if _right(terms, owner, number, to_bytes(secret), own=own):
            rest = set(shares) - set(subset)
            on = {s: combine(values, _weights(xs, terms.position(s))) for s in rest}
            return secret, {s for s in rest if shares[s] != on[s]}
    raise SecureSumError(
        f"{len(shares)} answers do not open the sum: {terms.threshold} right shares of {owner.site!r} are "
        f"needed. Wait for more answers, or try another attempt."
    )


def _subsets(sites: list[str], size: int) -> Iterator[tuple[str, ...]]:
    """The first `size` sites, then others by chance: one of a few liars is soon not among them."""
    if len(sites) < size:
        return
    yield tuple(sites[:size])
    if len(sites) > size:
        chance = random.Random(0)  # noqa: S311 - a search order, nothing secret
        for _ in range(_MOST_TRIES):
            yield tuple(sorted(chance.sample(sites, size)))


def _right(terms: Terms, owner: Announcement, number: int, secret: bytes, *, own: bool) -> bool:
    """Whether the owner announced this secret: by its commitment, or by its public key."""
    if own:
        expected = owner.self_commitments[64 * number : 64 * number + 64]
        return keys.commitment(secret, terms.sha256, number).hex() == expected
    return keys.public_key(secret) == public_of(owner, number)
