"""Sites and a hub that play the protocol in one process, with real signatures and a record of what the hub saw.

Every step can be done by hand instead, so that an attack test changes exactly one of them.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tasks.secagg import lists, onesum, opening, setup, whole
from tasks.secagg.fixedpoint import FixedPoint
from tasks.secagg.masks import MaskStream, masked_chunks, summed_chunks
from tasks.secagg.messages import SumTerms, Terms, default_threshold
from tasks.secagg.onesum import Pledges

BOUND = 2.0


class Site:
    def __init__(self, name, terms, roster, seed):
        self.name, self._roster = name, roster
        self._key = Ed25519PrivateKey.from_private_bytes(
            hashlib.sha256(f"id {name} {seed}".encode()).digest()
        )
        roster[name] = self._key.public_key().public_bytes_raw()
        secret = hashlib.sha256(f"run {name} {seed}".encode()).digest()
        self.seat = setup.take_seat(terms, name, secret)
        self.pledges = Pledges()

    def sign(self, raw):
        return self._key.sign(raw)

    def verify(self, site, raw, signature):
        try:
            Ed25519PublicKey.from_public_bytes(self._roster[site]).verify(signature, raw)
        except (InvalidSignature, KeyError):
            return False
        return True

    def mask(self, sum_, values, codec, whole=False):
        seeds = onesum.mask_seeds(self.member, self.pledges, sum_)
        words = np.concatenate(
            [block.copy() for block in masked_chunks([np.asarray(values, dtype=np.float64)], codec, seeds)]
        )
        raw = words.tobytes()
        self.pledges = onesum.pledge(self.member, self.pledges, sum_, hashlib.sha256(raw).hexdigest(), whole)
        return raw

    def consent(self, sum_, survivors):
        self.pledges, given = onesum.consent(self.member, self.pledges, sum_, survivors, self.sign)
        return given

    def open_whole(self, sum_, survivors):
        self.pledges, given = whole.open_whole(self.member, self.pledges, sum_, survivors)
        return given

    def unmask(self, sum_, survivors, consents):
        return opening.unmask(self.member, self.pledges, sum_, survivors, consents, self.verify)


class World:
    """Sites that have set up a run together."""

    def __init__(self, sites=4, threshold=None, rounds=3, bits=64, attempts=2, seed=0, min_cohort=3, steps=1):
        names = [f"site-{i:02d}" for i in range(sites)]
        self.terms = Terms(
            run="run-1",
            study_sha256="5" * 64,
            sites=tuple(names),
            threshold=threshold or default_threshold(sites),
            min_cohort=min_cohort,
            bits=bits,
            rounds=rounds,
            attempts=attempts,
            steps=steps,
        )
        self.roster = {}
        self.sites = {name: Site(name, self.terms, self.roster, seed) for name in names}
        self.verify = self.sites[names[0]].verify
        self.codec = FixedPoint.fitting(BOUND, sites, bits)
        self.set_up()

    def set_up(self):
        self.announcements = {s.name: setup.announce(s.seat, s.sign) for s in self.sites.values()}
        self.directory = setup.directory_of(self.terms, self.announcements.values(), self.verify)
        self.dealings = {
            s.name: setup.deal(s.seat, self.directory, self.announcements, s.verify)
            for s in self.sites.values()
        }
        self.cohort = setup.cohort_of(self.terms, self.directory, self.dealings.values())
        for site in self.sites.values():
            site.member = setup.join(site.seat, self.cohort, self.announcements, self.dealings, site.verify)

    def a_sum(self, length=5, round=1, attempt=1, parameters=None, what="update", step=1):
        return SumTerms(
            run="run-1",
            cohort_sha256=self.cohort.sha256,
            round=round,
            attempt=attempt,
            step=step,
            what=what,
            parameters_sha256=parameters or f"{step:032x}{round:032x}",
            length=length,
            bits=self.terms.bits,
            scale_bits=self.codec.scale_bits,
        )

    def mask_all(self, sum_, values, names=None, whole=False):
        return {n: self.sites[n].mask(sum_, values[n], self.codec, whole) for n in names or self.sites}

    def survivors(self, sum_, masked):
        return lists.survivors_of(
            self.cohort, sum_, {n: hashlib.sha256(m).hexdigest() for n, m in masked.items()}
        )

    def agree(self, sum_, survivors, names=None):
        return [self.sites[n].consent(sum_, survivors) for n in names or survivors.masked]

    def recover(self, sum_, survivors, unmaskings):
        return opening.recover(self.cohort, self.announcements, sum_, survivors, unmaskings)

    def open(self, sum_, masked, recovered):
        readers = [io.BytesIO(m) for m in masked.values()]
        words = np.concatenate(list(summed_chunks(readers, recovered.seeds, sum_.length, self.terms.bits)))
        return self.codec.decode(words)

    def play(self, values, lost=(), silent=(), **terms):
        """A whole sum: `lost` sites never upload, `silent` ones upload and agree but give no shares."""
        sum_ = self.a_sum(length=len(next(iter(values.values()))), **terms)
        masked = self.mask_all(sum_, values, [n for n in self.sites if n not in lost])
        survivors = self.survivors(sum_, masked)
        consents = self.agree(sum_, survivors)
        answers = [self.sites[n].unmask(sum_, survivors, consents) for n in masked if n not in silent]
        return self.open(sum_, masked, self.recover(sum_, survivors, answers))


def some_values(world, length=5, seed=1):
    chance = np.random.default_rng(seed)
    return {n: chance.uniform(-BOUND, BOUND, length) for n in world.sites}


def stripped(raw, seeds, bits=64):
    """A masked vector without these masks."""
    words = np.frombuffer(raw, dtype="<u8" if bits == 64 else "<u4").copy()
    MaskStream(seeds, bits).apply(words)
    return words
