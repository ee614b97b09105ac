"""Somebody who wants one site's vector, and has the stored objects of a real run, and some keys and state folders.

Not a test: it tries in earnest, with all that it is given. tests/attacks/test_reconstruct.py says when it succeeds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from sites.seats import Seats
from tasks.contracts import Receipt
from tasks.registry import site_card
from tasks.relay import find_relayed, read_relayed
from tasks.sealed import open_from_site
from tasks.secagg import keys
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import MaskStream
from tasks.secagg.messages import SumTerms, Survivors, Unmasking
from tasks.secagg.onesum import number_of, public_of
from tasks.secagg.relayed import Dealt, Listed
from tasks.secagg.setup import Member, member_share
from tasks.secagg.shamir import combine, from_bytes, to_bytes, weights

RUN = "toy-1"
LARGEST = {"update": 100.0, "scores": 2.0**55}  # of a number; of some words that are masked one is larger


class Intruder:
    """All that somebody knows of the sum of one kind in the run's first round.

    Args:
        hub: the store, and the hub's keys where `reads_receipts`.
        folders: state folders of sites that work with it.
    """

    def __init__(self, hub: Hub, sum_: SumTerms, folders: dict[str, Path], reads_receipts: bool):
        self._hub, self._sum = hub, sum_
        where = find_relayed(hub, RUN, 1, "seated")
        listed = find_relayed(hub, RUN, 1, f"list-{sum_.what}")
        assert where is not None and listed is not None
        self._dealt = read_relayed(hub, where, Dealt)
        self.survivors: Survivors = read_relayed(hub, listed, Listed).survivors
        self._terms = self._dealt.cohort.terms
        self._number = number_of(self._terms, sum_)
        self._members: dict[str, Member] = {}
        for site, folder in folders.items():
            member = Seats(folder, RUN).member(self._dealt.cohort.sha256)
            assert member is not None
            self._members[site] = member
        self._given = self._unmaskings() if reads_receipts else []

    def _unmaskings(self) -> list[Unmasking]:
        """Shares that sites have given to the hub, of this sum."""
        found = []
        for key in self._hub.store.list("sites/"):
            if "/out/" not in key or not key.endswith("/receipt.json") or f"/{RUN}/00001-" not in key:
                continue
            raw, card = self._hub.store.get(key), site_card(self._hub, key.split("/")[1])
            receipt = raw and open_from_site(self._hub, raw, Receipt, card, key)
            if receipt and receipt.said and '"shares"' in receipt.said:
                found.append(Unmasking.model_validate_json(receipt.said))
        return [u for u in found if u.survivors_sha256 == self.survivors.sha256]

    def _secret(self, owner: str, kind: keys.Kind) -> bytes | None:
        """A site's secret of this sum: from its own folder, or from shares if they are enough. Checked."""
        if owner in self._members:
            return to_bytes(
                keys.polynomial(self._members[owner].seat.secret, self._terms, kind, self._number)[0]
            )
        shares = {s: member_share(m, owner, self._number, kind) for s, m in self._members.items()}
        opened: keys.Kind = "self" if owner in self.survivors.masked else "pair"
        if kind == opened:
            shares |= {u.site: from_bytes(bytes.fromhex(u.shares[owner])) for u in self._given}
        sites = sorted(shares)
        secret = to_bytes(
            combine([shares[s] for s in sites], weights([self._terms.position(s) for s in sites]))
        )
        return secret if self._is_right(owner, kind, secret) else None

    def _is_right(self, owner: str, kind: keys.Kind, secret: bytes) -> bool:
        announced = self._dealt.announcements[owner]
        if kind == "pair":
            return keys.public_key(secret) == public_of(announced, self._number)
        expected = announced.self_commitments[64 * self._number : 64 * self._number + 64]
        return keys.commitment(secret, self._terms.sha256, self._number).hex() == expected

    def _pair(self, site: str, peer: str) -> bytes | None:
        """The seed between two sites, by the secret of either."""
        for one, other in ((site, peer), (peer, site)):
            secret = self._secret(one, "pair")
            if secret is not None:
                public = public_of(self._dealt.announcements[other], self._number)
                return keys.pair_seed(secret, public, self._sum.sha256, (one, other))
        return None

    def stripped(self, sites: tuple[str, ...]) -> NDArray[np.float64]:
        """The sum of some sites' vectors, without every mask that can be had."""
        kind = "<u8" if self._sum.bits == 64 else "<u4"
        total = np.zeros(self._sum.length, dtype=kind)
        for site in sites:
            total += np.frombuffer(self._vector(site), dtype=kind)
            own = self._secret(site, "self")
            minus = [] if own is None else [keys.self_seed(from_bytes(own), self._sum.sha256, site)]
            plus = []
            for peer in self._sum.peers(self._dealt.cohort, site):
                seed = None if peer in sites else self._pair(site, peer)  # inside the sum they cancel
                if seed is not None:
                    (minus if site < peer else plus).append(seed)
            MaskStream(MaskSeeds(tuple(plus), tuple(minus)), self._sum.bits).apply(total)
        return np.asarray(total.view(kind.replace("u", "i")) * 2.0**-self._sum.scale_bits)

    def _vector(self, site: str) -> bytes:
        """A site's masked vector, which the hub reads. An outsider gets it here as a gift: it would not help."""
        operation = "train" if self._sum.what == "update" else "evaluate"
        key = f"sites/{site}/out/{RUN}/00001-01-{operation}/receipt.json"
        raw, card = self._hub.store.get(key), site_card(self._hub, site)
        receipt = raw and open_from_site(self._hub, raw, Receipt, card, key)
        assert receipt and receipt.update and receipt.update.inside
        return receipt.update.inside

    def comes_out(self, *sites: str) -> bool:
        """Whether what is left are numbers that a site could have sent, and not uniform words."""
        return bool(np.abs(self.stripped(sites)).max() < LARGEST[self._sum.what])
