"""Published vectors of sums that are opened for all sites at once: in groups with a bound that adapts, and in steps.

As in test_vectors.py: the library reproduces them, the slow reference recomputes them from the run secrets.
`python -m tests.tasks.secagg.test_vectors_whole` writes them again after a change of the protocol's version.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from tasks.secagg.masks import summed_chunks
from tests.tasks.secagg import reference
from tests.tasks.secagg.people import World

FOLDER = Path(__file__).parents[2] / "vectors" / "secagg"
CASES = ["groups", "steps"]
NUMBER = {
    "groups": 2,
    "steps": 5,
}  # of the keys of round 2: two sums a round; four, of which this is the second
LENGTH = 3


def made(case):
    """A sum with all sites there, as the library does it."""
    if case == "groups":
        world = World(sites=6, threshold=4, rounds=2, attempts=1, seed="whole vectors")
        plain = world.a_sum(length=LENGTH, round=2, parameters="cd" * 32)
        names = list(world.sites)
        parted = {"groups": (tuple(names[::2]), tuple(names[1::2])), "update_norm": 0.5}
        sum_ = plain.model_copy(update=parted)
    else:
        world = World(sites=4, rounds=2, attempts=1, seed="whole vectors", steps=3)
        sum_ = world.a_sum(length=LENGTH, round=2, parameters="cd" * 32, step=2)
    values = {n: [0.5 - i / 4, 1e-9 * i, 2.0 - i / 3] for i, n in enumerate(world.sites)}
    masked = world.mask_all(sum_, values, whole=case == "steps")
    survivors = world.survivors(sum_, masked)
    unmaskings = [site.open_whole(sum_, survivors) for site in world.sites.values()]
    recovered = world.recover(sum_, survivors, unmaskings)
    sums = {}
    for part, seeds in recovered.parts.items():
        readers = [io.BytesIO(masked[n]) for n in part]
        words = np.concatenate(list(summed_chunks(readers, seeds, LENGTH, 64)))
        sums[" ".join(part)] = world.codec.decode(words).tolist()
    return {
        "terms": world.terms.model_dump(mode="json"),
        "run_secrets": {n: s.seat.run_secret for n, s in world.sites.items()},
        "cohort_sha256": world.cohort.sha256,
        "sum": sum_.model_dump(mode="json"),
        "sum_sha256": sum_.sha256,
        "values": values,
        "masked": {n: raw.hex() for n, raw in masked.items()},
        "survivors": survivors.model_dump(mode="json"),
        "survivors_sha256": survivors.sha256,
        "unmaskings": [u.model_dump(mode="json") for u in unmaskings],
        "sums": sums,
    }


def vector(case):
    return json.loads((FOLDER / f"whole-{case}-64.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_library_reproduces_the_published_vectors(case):
    """Sums of today are opened by the sites of tomorrow."""
    assert json.loads(json.dumps(made(case))) == vector(case)


@pytest.mark.parametrize("case", CASES)
def test_the_reference_masks_and_opens_the_same_sums(case):
    """From the run secrets and the definition alone; each sum from the shares of `threshold` sites, of self masks only."""
    v = vector(case)
    names, threshold, number = v["terms"]["sites"], v["terms"]["threshold"], NUMBER[case]
    terms_sha = reference.digest_of("Terms", v["terms"])
    sha = reference.digest_of("SumTerms", v["sum"])
    assert sha == v["sum_sha256"]
    assert reference.digest_of("Survivors", v["survivors"]) == v["survivors_sha256"]
    secrets = {
        (n, kind): reference.polynomial(
            bytes.fromhex(v["run_secrets"][n]), terms_sha, kind, number, threshold
        )
        for n in names
        for kind in ("pair", "self")
    }

    def pair_mask(i, j):
        private, other = (secrets[n, "pair"][0].to_bytes(32, "little") for n in (i, j))
        agreed = reference.x25519(private, reference.x25519(other, reference.BASE))
        return reference.mask(reference.derive(agreed, sha, "pair mask", *sorted((i, j))), LENGTH, 64)

    def own_mask(i, secret):
        return reference.mask(
            reference.derive(secret.to_bytes(32, "little"), sha, "self mask", i), LENGTH, 64
        )

    for part in v["sum"].get("groups", [names]):
        total = [0] * LENGTH
        for i in part:
            words = [round(x * 2 ** v["sum"]["scale_bits"]) for x in v["values"][i]]
            masks = [(1, own_mask(i, secrets[i, "self"][0]))]
            masks += [(1 if i < j else -1, pair_mask(i, j)) for j in part if j != i]
            for sign, mask in masks:
                words = [(w + sign * m) % 2**64 for w, m in zip(words, mask, strict=True)]
            assert b"".join(w.to_bytes(8, "little") for w in words).hex() == v["masked"][i]
            total = [(t + w) % 2**64 for t, w in zip(total, words, strict=True)]
        for i in part:
            points = []
            for answer in v["unmaskings"][-threshold:]:
                x = names.index(answer["site"]) + 1
                points.append((x, int.from_bytes(bytes.fromhex(answer["shares"][i]), "little")))
                assert points[-1][1] == reference.share(secrets[i, "self"], x)
            mask = own_mask(i, reference.combine(points))
            total = [(t - m) % 2**64 for t, m in zip(total, mask, strict=True)]
        signed = [t - 2**64 if t >= 2**63 else t for t in total]
        assert [t / 2.0 ** v["sum"]["scale_bits"] for t in signed] == v["sums"][" ".join(part)]


if __name__ == "__main__":
    for each in CASES:
        (FOLDER / f"whole-{each}-64.json").write_text(json.dumps(made(each), indent=1) + "\n")
