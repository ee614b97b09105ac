"""Whole runs in one process: what the hub does with what the sites say."""

from __future__ import annotations

import numpy as np
import pytest

from flows.results import list_runs, results
from infra.errors import SealError
from infra.signing import SigningKey
from infra.store.base import MESSAGE_BYTES
from tasks import parameters
from tasks.errors import QuorumError, StudyError
from tests.federation import SITES, Tampering, a_federation, a_study, plain_update


def test_a_run_goes_through_all_rounds_and_every_round_is_committed(tmp_path):
    """The main job: every site delivers, metrics are pooled, epsilon grows to at most the study's."""
    federation = a_federation(tmp_path)

    result = results(federation.hub, federation.run(a_study()))

    assert [r["round"] for r in result["rounds"]] == [1, 2]
    assert all(r["cohort"] == sorted(SITES) for r in result["rounds"])
    assert result["final"]["metrics"]["auroc"] > 0.6
    spent = [r["sites"]["north"]["epsilon"] for r in result["rounds"]]
    assert 0 < spent[0] < spent[1] <= 3.0
    assert spent[1] > 2.9


def test_the_same_seed_gives_the_same_parameters(tmp_path):
    """A simulation is reproducible bit for bit; another seed is another result."""
    digests = []
    for i, seed in enumerate((0, 0, 1)):
        federation = a_federation(tmp_path / str(i))
        result = results(federation.hub, federation.run(a_study(seed=seed)))
        digests.append(result["final"]["parameters_sha256"])

    assert digests[0] == digests[1] != digests[2]


def test_a_site_that_refuses_is_named_and_the_run_goes_on(tmp_path):
    """Too few records at one site: the quorum still holds."""
    federation = a_federation(tmp_path, south={"n": 10})

    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][1]["cohort"] == ["east", "north"]
    assert result["rounds"][1]["sites"]["south"]["code"] == "too_few_records"


def test_below_the_quorum_nothing_is_combined(tmp_path):
    """The run stops with the reason of each site, and no round is committed."""
    federation = a_federation(tmp_path, south={"n": 10}, east={"epsilon": 0.5})

    with pytest.raises(
        QuorumError, match=r"1 of 3 sites.*east: budget_exhausted.*south: too_few_records.*run resume"
    ):
        federation.run(a_study(), run="toy-1")

    assert results(federation.hub, "toy-1")["rounds"] == []


def test_a_run_resumes_after_the_last_committed_round_and_nobody_trains_twice(tmp_path):
    """Interrupted between two rounds, it ends with the parameters of an undisturbed run."""
    whole = a_federation(tmp_path / "whole")
    undisturbed = results(whole.hub, whole.run(a_study()))["final"]["parameters_sha256"]
    commits: list[str] = []

    def fall(key: str, data: bytes) -> bytes:
        if "/rounds/" in key and key.startswith("hub/"):
            commits.append(key)
            if len(commits) == 2:
                raise KeyboardInterrupt
        return data

    federation = a_federation(tmp_path / "falls")
    hostile = a_federation(tmp_path / "falls", rule=fall)
    hostile.hub.__dict__["store"] = hostile.store  # the hub's own writes go through the rule too
    with pytest.raises(KeyboardInterrupt):
        hostile.run(a_study(), run="toy-1")
    assert len(results(federation.hub, "toy-1")["rounds"]) == 1

    federation._ahead = 3600.0  # the fallen hub's lease is over
    result = results(federation.hub, federation.run(a_study(), run="toy-1"))

    assert result["final"]["parameters_sha256"] == undisturbed
    assert result["final"]["sites"]["north"]["epsilon"] <= 3.0


def test_a_corrupt_update_is_left_out(tmp_path):
    """One flipped byte: the digest in the signed receipt does not fit."""

    def flip(key: str, data: bytes) -> bytes:
        if key.startswith("sites/south/out/") and key.endswith("update.safetensors"):
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    federation = a_federation(tmp_path, rule=flip)
    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "bad_update"
    assert result["rounds"][0]["cohort"] == ["east", "north"]


def test_an_answer_signed_by_another_key_is_left_out(tmp_path):
    """Whoever writes into a site's mailbox without its key says nothing."""
    stranger = SigningKey.create("south")

    def forge(key: str, data: bytes) -> bytes:
        if key.startswith("sites/south/out/") and key.endswith("receipt.json"):
            return stranger.seal(federation.agents["south"].home.delivery._own_receipt(data))
        return data

    federation = a_federation(tmp_path, rule=forge)
    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "bad_signature"


def test_an_update_with_nan_is_left_out(tmp_path):
    """A site that signs NaN (broken code there) does not poison the sum."""
    federation = a_federation(tmp_path)
    south = federation.agents["south"]

    def poison(key: str, data: bytes) -> bytes:
        if key.startswith("sites/south/out/") and key.endswith("update.safetensors"):
            arrays = {
                k: np.full_like(v, np.nan)
                for k, v in parameters.from_bytes(plain_update(federation, key, data)).items()
            }
            poisoned["sha"] = parameters.sha256(parameters.to_bytes(arrays))
            return parameters.to_bytes(arrays)
        if key.startswith("sites/south/out/") and key.endswith("receipt.json") and "train" in key:
            receipt = south.home.delivery._own_receipt(data)
            update = receipt.update.model_copy(update={"payload_sha256": poisoned["sha"]})
            return south.home.identity.signing.seal(receipt.model_copy(update={"update": update}))
        return data

    poisoned: dict[str, str] = {}
    federation = a_federation(tmp_path, rule=poison)
    south = federation.agents["south"]
    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "update_not_finite"
    assert result["final"]["metrics"]["auroc"] is not None


def test_a_silent_site_costs_one_deadline_and_is_named(tmp_path):
    """A lost ticket: the round ends at the deadline with those who answered."""

    def lose(key: str, data: bytes) -> bytes | None:
        return None if key.startswith("sites/south/out/0") or "sites/south/out/toy" in key else data

    federation = a_federation(tmp_path, rule=lose)
    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "no_answer"


def test_a_run_keeps_the_study_it_began_with(tmp_path):
    """Resuming under changed terms would mix two agreements."""
    federation = a_federation(tmp_path)
    federation.run(a_study(), run="toy-1")

    with pytest.raises(StudyError, match="another version"):
        federation.run(a_study(rounds=3), run="toy-1")


def test_runs_are_listed_with_their_state(tmp_path):
    """`fedrounds run list` shows what is finished."""
    federation = a_federation(tmp_path)
    federation.run(a_study(), run="toy-1")

    listed = list_runs(federation.hub)

    assert [(r["run"], r["rounds"], r["state"]) for r in listed] == [("toy-1", 2, "finished")]


def test_an_older_ticket_of_our_own_under_a_new_key_stops_the_run(tmp_path):
    """The store may hold out what the hub did sign, at another place: that is tampering, not an answer."""
    federation = a_federation(tmp_path)
    honest = federation.store

    class Stale(Tampering):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            return False if self._is_second(key) else self.inner.put_if_absent(key, data)

        def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
            return honest.get(key.replace("/00002-", "/00001-") if self._is_second(key) else key, limit)

        @staticmethod
        def _is_second(key: str) -> bool:
            return "/in/tickets/" in key and "/00002-" in key

    stale = Stale(honest, lambda key, data: data)
    keep = honest.delete
    honest.delete = lambda key: None if "/00001-" in key else keep(key)  # the store forgets nothing
    federation.hub.__dict__["store"] = stale

    with pytest.raises(SealError, match="wrote this for east"):
        federation.run(a_study(), run="toy-1")

    assert len(results(federation.hub, "toy-1")["rounds"]) == 1


def test_a_number_that_would_make_the_sum_infinite_is_left_out(tmp_path):
    """3e38 is finite, and twice of it is not."""
    federation = a_federation(tmp_path)
    poisoned: dict[str, str] = {}

    def poison(key: str, data: bytes) -> bytes:
        if key.startswith("sites/south/out/") and key.endswith("update.safetensors"):
            raw = parameters.to_bytes(
                {
                    k: np.full_like(v, 3e38)
                    for k, v in parameters.from_bytes(plain_update(federation, key, data)).items()
                }
            )
            poisoned["sha"] = parameters.sha256(raw)
            return raw
        if key.startswith("sites/south/out/") and key.endswith("receipt.json") and "train" in key:
            receipt = south.home.delivery._own_receipt(data)
            update = receipt.update.model_copy(update={"payload_sha256": poisoned["sha"]})
            return south.home.identity.signing.seal(receipt.model_copy(update={"update": update}))
        return data

    federation = a_federation(tmp_path, rule=poison)
    south = federation.agents["south"]
    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "update_not_finite"
