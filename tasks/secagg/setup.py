"""Setup, once per block of rounds: each site announces keys, then deals shares of its secrets.

    site  announce -> Announcement    signed public keys, one pair per sum
    hub   directory_of -> Directory   whose keys are here
    site  deal -> Dealing             Shamir shares of each sum's two secrets, sealed to each peer
    hub   cohort_of -> Cohort         who dealt; every mask is between these
    site  join -> Member              opens what it was dealt

The hub only relays. Announcements are signed by the identities that the site's
own institution has approved (`verify`), shares open only between the two sites,
and every later key depends on the cohort's digest: a hub that shows different
cohorts to different sites gets vectors that do not add up and consents that do
not count. Each function gives the same bytes when repeated.

The site's state is `Seat` before the cohort is known and `Member` after it.
The caller keeps a seat on disk before its announcement leaves; a site that has
lost it sits out the rest of the block.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping

from pydantic import Field

from tasks.contracts import Message, Name
from tasks.errors import SecureSumError
from tasks.secagg import keys
from tasks.secagg.messages import (
    Announcement,
    Cohort,
    Dealing,
    Digested,
    Directory,
    Hex32,
    HexBlob,
    Terms,
)
from tasks.secagg.shamir import from_bytes, share, to_bytes

Sign = Callable[[bytes], bytes]
"""This site's Ed25519 signature of some bytes."""
Verify = Callable[[Name, bytes, bytes], bool]
"""Whether a site, by the key that was approved for it, signed these bytes: (site, bytes, signature)."""

_BOTH = 64  # bytes of shares per sum: of the pair key, then of the self-mask secret


class Seat(Message):
    """Secret: what a site keeps from its announcement on."""

    terms: Terms
    site: Name
    run_secret: Hex32 = Field(repr=False)

    @property
    def secret(self) -> bytes:
        return bytes.fromhex(self.run_secret)


class Member(Message):
    """Secret: what a site keeps from joining a cohort to the end of the block."""

    seat: Seat
    cohort: Cohort
    announcements: dict[Name, Announcement]  # of the cohort
    shares: dict[Name, HexBlob] = Field(
        repr=False
    )  # by dealer: per sum, of the pair key and of the self mask


def take_seat(terms: Terms, site: str, run_secret: bytes | None = None) -> Seat:
    """A new seat with a secret from the operating system; `run_secret` is for published vectors only.

    Raises:
        SecureSumError: the terms do not name this site.
    """
    if site not in terms.sites:
        raise SecureSumError(f"the terms of run {terms.run!r} do not name {site!r}; its sites: {terms.sites}")
    return Seat(terms=terms, site=site, run_secret=(run_secret or os.urandom(32)).hex())


def signed(message: Digested, site: str, signature: str, verify: Verify) -> bool:
    """Whether `site` signed the message."""
    return verify(site, message.canonical, bytes.fromhex(signature))


def announce(seat: Seat, sign: Sign) -> Announcement:
    """The site's public keys for the whole block."""
    terms = seat.terms
    pair_keys, commitments = bytearray(), bytearray()
    for number in range(terms.sums):
        pair = keys.polynomial(seat.secret, terms, "pair", number)[0]
        own = keys.polynomial(seat.secret, terms, "self", number)[0]
        pair_keys += keys.public_key(to_bytes(pair))
        commitments += keys.commitment(to_bytes(own), terms.sha256, number)
    draft = Announcement(
        terms_sha256=terms.sha256,
        site=seat.site,
        sealing_key=keys.public_key(keys.sealing_key(seat.secret, terms)).hex(),
        pair_keys=pair_keys.hex(),
        self_commitments=commitments.hex(),
        signature="0" * 128,
    )
    return draft.model_copy(update={"signature": sign(draft.canonical).hex()})


def directory_of(terms: Terms, announcements: Iterable[Announcement], verify: Verify) -> Directory:
    """Hub: whose keys are here and rightly signed. Others are left out."""
    good = {a.site: a.sha256 for a in announcements if _fits(a, terms, verify)}
    _enough(len(good), terms)
    return Directory(terms_sha256=terms.sha256, announced=good)


def deal(
    seat: Seat, directory: Directory, announcements: Mapping[str, Announcement], verify: Verify
) -> Dealing:
    """Seal to each peer its shares of this site's secrets.

    `announcements` are at least those that the directory names, by site.

    Raises:
        SecureSumError: the directory is not for these terms, or names keys that their owner did not sign.
    """
    _check_directory(seat, directory, announcements, verify)
    terms, private = seat.terms, keys.sealing_key(seat.secret, seat.terms)
    polynomials = [
        keys.polynomial(seat.secret, terms, kind, number)
        for number in range(terms.sums)
        for kind in ("pair", "self")
    ]
    sealed = {}
    for peer in directory.announced:
        if peer == seat.site:
            continue
        body = b"".join(to_bytes(share(p, terms.position(peer))) for p in polynomials)
        key = bytes.fromhex(announcements[peer].sealing_key)
        box = keys.seal(private, key, directory.sha256, (seat.site, peer), body)
        sealed[peer] = b64encode(box).decode()
    return Dealing(directory_sha256=directory.sha256, site=seat.site, sealed=sealed)


def cohort_of(terms: Terms, directory: Directory, dealings: Iterable[Dealing]) -> Cohort:
    """Hub: the sites that dealt to everybody in the directory. Others are left out."""
    dealt = {
        d.site: d.sha256
        for d in dealings
        if d.site in directory.announced
        and d.directory_sha256 == directory.sha256
        and set(d.sealed) == set(directory.announced) - {d.site}
    }
    _enough(len(dealt), terms)
    return Cohort(terms=terms, directory=directory, dealt=dealt)


def join(
    seat: Seat,
    cohort: Cohort,
    announcements: Mapping[str, Announcement],
    dealings: Mapping[str, Dealing],
    verify: Verify,
) -> Member:
    """Open the shares that every peer of the cohort dealt to this site.

    Raises:
        SecureSumError: the cohort is too small or without this site, or a peer's dealing is missing, altered
            or does not open; the text names the peer. Set up again without it.
    """
    terms = seat.terms
    if cohort.terms != terms or seat.site not in cohort.dealt:
        raise SecureSumError(f"the cohort is not one that {seat.site!r} agreed to; set up the run again")
    _enough(len(cohort.dealt), terms)
    _check_directory(seat, cohort.directory, announcements, verify)
    shares = {seat.site: _own_shares(seat)}
    for peer, digest in cohort.dealt.items():
        if peer == seat.site:
            continue
        if peer not in dealings or dealings[peer].sha256 != digest or peer not in cohort.directory.announced:
            raise SecureSumError(f"the shares of {peer!r} are missing or altered; set up the run again")
        shares[peer] = _open(seat, cohort, announcements[peer], dealings[peer]).hex()
    return Member(
        seat=seat, cohort=cohort, announcements={s: announcements[s] for s in cohort.dealt}, shares=shares
    )


def _own_shares(seat: Seat) -> str:
    x = seat.terms.position(seat.site)
    both = (
        keys.polynomial(seat.secret, seat.terms, kind, number)
        for number in range(seat.terms.sums)
        for kind in ("pair", "self")
    )
    return b"".join(to_bytes(share(p, x)) for p in both).hex()


def _open(seat: Seat, cohort: Cohort, dealer: Announcement, dealing: Dealing) -> bytes:
    box = b64decode(dealing.sealed.get(seat.site, ""))
    private = keys.sealing_key(seat.secret, seat.terms)
    route = (dealer.site, seat.site)
    body = keys.unseal(private, bytes.fromhex(dealer.sealing_key), cohort.directory.sha256, route, box)
    if len(body) != _BOTH * seat.terms.sums:
        raise SecureSumError(f"{dealer.site!r} dealt {len(body)} bytes of shares, set up again without it")
    return body


def _check_directory(
    seat: Seat, directory: Directory, announcements: Mapping[str, Announcement], verify: Verify
) -> None:
    if directory.terms_sha256 != seat.terms.sha256 or seat.site not in directory.announced:
        raise SecureSumError(f"the directory is not one that {seat.site!r} announced itself to")
    for site, digest in directory.announced.items():
        found = announcements.get(site)
        if found is None or found.site != site or found.sha256 != digest:
            raise SecureSumError(f"the announcement of {site!r} is missing or altered")
        if not _fits(found, seat.terms, verify):
            raise SecureSumError(f"the announcement of {site!r} is not signed by that site for these terms")
    _enough(len(directory.announced), seat.terms)


def _fits(announcement: Announcement, terms: Terms, verify: Verify) -> bool:
    return (
        announcement.terms_sha256 == terms.sha256
        and announcement.site in terms.sites
        and len(announcement.pair_keys) == len(announcement.self_commitments) == 64 * terms.sums
        and signed(announcement, announcement.site, announcement.signature, verify)
        and all(map(keys.is_sound, _public_keys(announcement)))
    )


def _public_keys(announcement: Announcement) -> Iterator[bytes]:
    yield bytes.fromhex(announcement.sealing_key)
    for start in range(0, len(announcement.pair_keys), 64):
        yield bytes.fromhex(announcement.pair_keys[start : start + 64])


def _enough(sites: int, terms: Terms) -> None:
    least = max(terms.threshold, terms.min_cohort)
    if sites < least:
        raise SecureSumError(f"{sites} of {len(terms.sites)} sites have given theirs, a sum needs {least}")


def member_share(member: Member, dealer: str, number: int, kind: keys.Kind) -> int:
    """The share of one secret that `dealer` gave to this site."""
    raw = bytes.fromhex(member.shares[dealer])
    start = _BOTH * number + (0 if kind == "pair" else 32)
    return from_bytes(raw[start : start + 32])
