"""Every way to work on a secure round once more: the same bytes, or a new attempt with a debit of its own."""

from __future__ import annotations

import numpy as np
import pytest

import flows.repeat
from sites.job import MaskJob, TrainJob
from sites.runner import InlineRunner
from sites.workplace import Staying
from tasks import layout
from tasks.codes import Code, Operation
from tasks.errors import RefusedError
from tests.federation import FOUR
from tests.flows import test_distributed, test_lockstep
from tests.flows.test_secure import four, last, secure, trained, weights


class Dying(InlineRunner):
    """The first job of a kind dies: before its work, or when it is done and before anything of it is kept."""

    def __init__(self, kind, after: bool = False):
        self._kind, self._after, self.died = kind, after, 0

    def run(self, folder, watch):
        if self.died or f'"kind":"{self._kind.model_fields["kind"].default}"' not in _text(folder):
            super().run(folder, watch)
            return
        self.died += 1
        if self._after:
            super().run(folder, watch)
        raise RefusedError(Code.TRAINING_FAILED, "the job's process is gone")


def _text(folder) -> str:
    return (folder / "job.json").read_text().replace('": ', '":')


@pytest.mark.parametrize(
    ("job", "after"),
    [
        (TrainJob, True),
        (MaskJob, True),
        pytest.param(TrainJob, False, marks=pytest.mark.long),
        pytest.param(MaskJob, False, marks=pytest.mark.long),
    ],
)
def test_a_job_that_dies_is_a_new_attempt_with_a_new_debit(tmp_path, job, after):
    """Whatever it had made is gone and has not left; fresh noise is drawn, and paid for, under seeds that hid nothing."""
    federation = four(tmp_path)
    runner = federation.agents["south"].runner = Dying(job, after)

    federation.run(secure(rounds=1), "toy-1")
    record, outbox = last(federation.hub, "toy-1"), federation.agents["south"].outbox

    assert runner.died == 1
    assert (record.cohort, record.sites["south"].attempts) == (FOUR, 2)
    assert trained(federation)["south"] == ((1, "reserved"), (1, "charged"))
    (pledge, _) = outbox.pledges("toy-1").sums  # of the update, and of the scores
    assert (pledge.what, pledge.attempt) == ("update", 1)  # of the sum: one vector has left under its seeds
    answers = [outbox.find(f"toy-1/00001-{attempt:02d}-train") for attempt in (1, 2)]
    assert [answer.receipt.update is not None for answer in answers] == [False, True]
    assert [ticket.attempt for ticket in outbox.answered("toy-1", 1, Operation.TRAIN)] == [2]


@pytest.mark.parametrize("lost", [pytest.param("before the list", marks=pytest.mark.long), "after the list"])
def test_a_round_below_its_threshold_is_repeated_by_itself(tmp_path, monkeypatch, lost):
    """`on_low_quorum: repeat`: with the vectors that arrived, and with the list that was shown; nobody pays twice."""
    gone: list[bool] = [True] if lost == "before the list" else []

    def rule(key, data):
        return None if gone and key.startswith(("sites/west/out/", "sites/south/out/")) else data

    federation = four(tmp_path, rule)
    hub, waits, rests, rest = federation.hub, federation.wait, [], flows.repeat._rest

    def wait(seconds):
        if (
            lost == "after the list"
            and not rests
            and hub.store.list(f"{layout.sums_prefix('toy-1')}00001-list")
        ):
            gone.append(True)
        waits(seconds)

    def back(*args):
        rests.append(args)
        gone.clear()
        rest(*args)

    monkeypatch.setattr("flows.repeat._rest", back)
    federation.hub = hub.with_clock(federation.now, wait)
    federation.run(secure(rounds=1, on_low_quorum="repeat"), "toy-1")
    record = last(hub, "toy-1")

    assert len(rests) == 1
    assert record.cohort == FOUR
    assert trained(federation) == dict.fromkeys(FOUR, ((1, "charged"),))


def test_words_of_32_bits_give_the_same_model_in_half_the_bytes(tmp_path):
    """From the study's file to the record: half the bytes, an error that its scale says."""
    found = {}
    for bits in (64, 32):
        federation = four(tmp_path / str(bits))
        terms = {"on": True, "bits": bits, "bound": 64.0}
        federation.run(secure(rounds=2, secure_aggregation=terms), "toy-1")
        record = last(federation.hub, "toy-1")
        found[bits] = record, weights(federation.hub, record)
    (wide, expected), (narrow, got) = found[64], found[32]

    assert (wide.summed.bits, narrow.summed.bits) == (64, 32)
    sizes = [record.sites["north"].payload_bytes for record in (wide, narrow)]
    assert sizes[0] == 2 * sizes[1]
    assert 0 < np.abs(got - expected).max() < 2 * 2**-23  # half a word's step for each site, in two rounds
    assert narrow.metrics.auroc == pytest.approx(wide.metrics.auroc, abs=1e-3)  # scores have 64 bits always


def test_a_job_that_dies_in_a_step_of_lockstep_is_begun_again(tmp_path, monkeypatch):
    """The steps that were taken stay taken, and are in the ledger once."""
    ask, died = Staying.ask, []

    def dying(self, step, raw):
        if step == 2 and not died:
            died.append(step)
            raise RefusedError(Code.TRAINING_FAILED, "the job's process is gone")
        return ask(self, step, raw)

    monkeypatch.setattr(Staying, "ask", dying)
    world = test_distributed.federation(tmp_path)
    world.run(test_lockstep.in_steps(), "toy-1")
    record = last(world.hub, "toy-1")

    assert died and sorted(site.attempts for site in record.sites.values()) == [1, 1, 1, 2]
    assert record.lockstep.sites == (4,) * test_lockstep.STEPS
    assert test_lockstep.debits(world) == {
        site: [(1, 1, test_lockstep.STEPS, "charged")] for site in test_distributed.FOUR
    }
