"""Published vectors: what another implementation must reproduce, and what this one may never change unseen.

The numbers in tests/vectors/secagg were made by this library and are recomputed by the slow reference.
`python -m tests.tasks.secagg.test_vectors` writes them again after a change of the protocol's version.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.secagg import onesum
from tests.tasks.secagg import reference
from tests.tasks.secagg.people import World

FOLDER = Path(__file__).parents[2] / "vectors" / "secagg"
LOST = "site-02"
NUMBER = 2  # of the keys of the update of round 2: two sums a round


def made(bits):
    """A sum of four sites, one of them lost, as the library does it."""
    world = World(sites=4, bits=bits, rounds=2, attempts=1, seed="vectors")
    values = {n: [0.5 - i / 2, 1 / 3, -2.0 + i, 1e-9 * i, 2.0] for i, n in enumerate(world.sites)}
    sum_ = world.a_sum(length=5, round=2, parameters="ab" * 32)
    seeds = {n: onesum.mask_seeds(s.member, s.pledges, sum_) for n, s in world.sites.items()}
    masked = world.mask_all(sum_, values, [n for n in world.sites if n != LOST])
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors)
    answers = [world.sites[n].unmask(sum_, survivors, consents) for n in masked]
    recovered = world.recover(sum_, survivors, answers)
    return {
        "terms": world.terms.model_dump(mode="json"),
        "terms_sha256": world.terms.sha256,
        "run_secrets": {n: s.seat.run_secret for n, s in world.sites.items()},
        "announcements": {n: a.model_dump(mode="json") for n, a in world.announcements.items()},
        "dealings": {n: d.model_dump(mode="json") for n, d in world.dealings.items()},
        "shares": {n: s.member.shares for n, s in world.sites.items()},
        "cohort_sha256": world.cohort.sha256,
        "sum": sum_.model_dump(mode="json"),
        "sum_sha256": sum_.sha256,
        "seeds": {n: {k: [s.hex() for s in v] for k, v in p._asdict().items()} for n, p in seeds.items()},
        "values": values,
        "masked": {n: raw.hex() for n, raw in masked.items()},
        "survivors": survivors.model_dump(mode="json"),
        "consents": [c.model_dump(mode="json") for c in consents],
        "unmaskings": [a.model_dump(mode="json") for a in answers],
        "recovered": {k: [s.hex() for s in v] for k, v in recovered.seeds._asdict().items()},
        "sum_values": world.open(sum_, masked, recovered).tolist(),
    }


def vector(bits):
    return json.loads((FOLDER / f"four-sites-{bits}.json").read_text())


@pytest.mark.parametrize("bits", [32, 64])
def test_the_library_reproduces_the_published_vectors(bits):
    """Keys, shares, masks and sums of today open the runs of tomorrow."""
    assert json.loads(json.dumps(made(bits))) == vector(bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_the_reference_derives_the_same_keys_and_shares(bits):
    """From the run secrets alone: digests, public keys, commitments, shares."""
    v = vector(bits)
    terms, sha, sites = v["terms"], v["terms_sha256"], v["terms"]["sites"]
    assert reference.digest_of("Terms", terms) == sha
    assert reference.digest_of("SumTerms", v["sum"]) == v["sum_sha256"]
    for dealer, secret_hex in v["run_secrets"].items():
        secret, announced = bytes.fromhex(secret_hex), v["announcements"][dealer]
        sealing = reference.derive(secret, sha, "sealing")
        assert reference.x25519(sealing, reference.BASE).hex() == announced["sealing_key"]
        for number in range(4):
            here = slice(64 * number, 64 * number + 64)
            pair, own = (reference.polynomial(secret, sha, kind, number, 3) for kind in ("pair", "self"))
            public = reference.x25519(pair[0].to_bytes(32, "little"), reference.BASE)
            assert public.hex() == announced["pair_keys"][here]
            committed = (
                reference.DOMAIN + b"commitment" + bytes.fromhex(sha) + number.to_bytes(4, "big")
            ) + own[0].to_bytes(32, "little")
            assert reference.hashlib.sha256(committed).hexdigest() == announced["self_commitments"][here]
            for x, holder in enumerate(sites, start=1):
                both = b"".join(reference.share(p, x).to_bytes(32, "little") for p in (pair, own))
                assert both.hex() == v["shares"][holder][dealer][128 * number : 128 * number + 128]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_reference_masks_and_opens_to_the_same_sum(bits):
    """Every pair on its own, from the definition of the sum; then the opening, from shares alone."""
    v = vector(bits)
    names, sha, modulus = v["terms"]["sites"], v["sum_sha256"], 2**bits
    pairs, own = {}, {}
    for n in names:
        secret = bytes.fromhex(v["run_secrets"][n])
        pairs[n] = reference.polynomial(secret, v["terms_sha256"], "pair", NUMBER, 3)[0].to_bytes(
            32, "little"
        )
        own[n] = reference.polynomial(secret, v["terms_sha256"], "self", NUMBER, 3)[0].to_bytes(32, "little")

    def pair_mask(i, j, key):
        public = bytes.fromhex(v["announcements"][j]["pair_keys"][64 * NUMBER : 64 * NUMBER + 64])
        agreed = reference.x25519(key, public)
        return reference.mask(reference.derive(agreed, sha, "pair mask", *sorted((i, j))), 5, bits)

    def own_mask(i, secret):
        return reference.mask(reference.derive(secret, sha, "self mask", i), 5, bits)

    total = [0] * 5
    for i in v["masked"]:
        words = [round(x * 2 ** v["sum"]["scale_bits"]) for x in v["values"][i]]
        masks = [(1, own_mask(i, own[i]))]
        masks += [(1 if i < j else -1, pair_mask(i, j, pairs[i])) for j in names if j != i]
        for sign, mask in masks:
            words = [(w + sign * m) % modulus for w, m in zip(words, mask, strict=True)]
        assert b"".join(w.to_bytes(bits // 8, "little") for w in words).hex() == v["masked"][i]
        total = [(t + w) % modulus for t, w in zip(total, words, strict=True)]

    def opened(site):
        points = [
            (names.index(u["site"]) + 1, int.from_bytes(bytes.fromhex(u["shares"][site]), "little"))
            for u in v["unmaskings"]
        ]
        return reference.combine(points).to_bytes(32, "little")

    left = [(-1, own_mask(i, opened(i))) for i in v["masked"]]
    left += [(-1 if i < LOST else 1, pair_mask(LOST, i, opened(LOST))) for i in v["masked"]]
    for sign, mask in left:
        total = [(t + sign * m) % modulus for t, m in zip(total, mask, strict=True)]
    signed = [t - modulus if t >= modulus // 2 else t for t in total]
    assert [float(t) / 2.0 ** v["sum"]["scale_bits"] for t in signed] == v["sum_values"]
    expected = np.sum([v["values"][i] for i in v["masked"]], axis=0)
    assert np.allclose(v["sum_values"], expected, atol=2.0 ** -v["sum"]["scale_bits"] * 2, rtol=1e-15)


def test_the_reference_is_right_by_the_standards_own_vectors():
    """RFC 7748 section 5.2, FIPS 197 appendix C.3, RFC 5869 appendix A.1."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    agreed = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert reference.x25519(scalar, point).hex() == agreed
    plain, key = bytes.fromhex("00112233445566778899aabbccddeeff"), bytes(range(32))
    assert reference.aes256(key, plain).hex() == "8ea2b7ca516745bfeafc49904b496089"
    okm = reference.hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex().startswith("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")


if __name__ == "__main__":
    for bits in (32, 64):
        (FOLDER / f"four-sites-{bits}.json").write_text(json.dumps(made(bits), indent=1) + "\n")
