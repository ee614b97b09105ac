"""Weights by records in a real run: the sum's own word divides it, and nothing of one site is told."""

from __future__ import annotations

import numpy as np
import pytest

from flows.cli import main
from infra.store import open_store
from simulation.federation import Federation
from sites.settings import load_site
from tasks import layout, parameters
from tasks.aggregation.bound import bounded
from tasks.begin import load_manifest
from tasks.collect import load_parameters
from tasks.weights import RecordWeights
from tests.federation import FOUR, Tampering, plain_update, write_site
from tests.flows.test_secure import last, secure, weights

SIZES = dict(zip(FOUR, (60, 120, 300, 900), strict=True))
WEIGHTS = RecordWeights(per=100, most=4.0)
BOUND = 0.3


def four(folder, rule=None):
    extra = "testing: {seeded_noise: true}\nprivacy_none: [toy]\n"
    files = [write_site(folder / "files", site, n=n, extra=extra) for site, n in SIZES.items()]
    store = open_store((folder / "federation" / "store").absolute().as_uri())
    return Federation(
        folder / "federation", [load_site(f) for f in files], Tampering(store, rule) if rule else store
    )


def test_the_model_moves_by_the_mean_in_which_sites_count_by_their_records(tmp_path):
    """Against the updates of the same run in the open: four sites of which the largest counts four, not seven."""
    seen = {}

    def listen(key, data):
        if key.endswith("update.safetensors"):
            seen[key] = data
        return data

    plain = four(tmp_path / "open", listen)
    none = {"rounds": 1, "privacy": {"mode": "none"}}
    plain.run(secure(secure_aggregation={"on": False}, **none), "toy-1")
    updates = {
        key.split("/")[1]: bounded(parameters.from_bytes(plain_update(plain, key, raw)), BOUND)
        for key, raw in seen.items()
    }
    federation = four(tmp_path / "secure")
    study = secure(aggregation={"update_norm": BOUND, "weights": WEIGHTS.model_dump()}, **none)
    record = last(federation.hub, federation.run(study, "toy-1"))

    trained = {"east": 48, "north": 96, "south": 240, "west": 720}  # a fifth is held out, more or less
    counts = {site: WEIGHTS.of(n) for site, n in trained.items()}
    manifest = load_manifest(federation.hub, "toy-1")
    first = manifest.initial_parameters_sha256
    raw = load_parameters(federation.hub, manifest, layout.parameters_key("toy-1", 0, first), first)
    total = sum(counts[s] * parameters.flat(u) for s, u in updates.items()) / sum(counts.values())
    moved = weights(federation.hub, record) - parameters.flat(parameters.from_bytes(raw))

    assert counts["west"] == 4.0 and counts["east"] == 0.48
    assert np.abs(moved - total).max() < 1e-6
    assert record.counted == pytest.approx(sum(counts.values()), abs=1e-4)
    assert np.abs(moved - np.mean([parameters.flat(u) for u in updates.values()], axis=0)).max() > 1e-3
    assert all(site.records is None for site in record.sites.values())


def test_study_check_says_what_a_site_counts(tmp_path, capsys):
    """And what becomes known of it."""
    file = tmp_path / "study.yaml"
    file.write_text(
        secure(aggregation={"update_norm": BOUND, "weights": WEIGHTS.model_dump()}).model_dump_json(
            exclude_none=True
        )
    )

    assert main(["study", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "a site counts one for every 100 records, by their band, and 4 at most" in said
