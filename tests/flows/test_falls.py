"""Two hubs, a hub that slept, a failing site, a store that goes away: what a run does then; in one process."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable

import pytest

from flows.commands.foreground import polite_end
from flows.results import results
from flows.training import training
from infra.errors import SealError, ServiceError, StoreError
from infra.hub import Hub
from infra.store import open_store
from infra.store.base import Store
from sites.job import JOB, TrainJob, any_job
from sites.ledger import Ledger
from sites.runner import InlineRunner
from tasks import layout
from tasks.card import publish_card
from tasks.codes import Code
from tasks.commit import load_records
from tasks.dispatch import ATTEMPTS
from tasks.errors import LeaseError, RefusedError
from tasks.records import Lease
from tests.federation import SITES, Tampering, a_federation, a_study

OTHER = "0" * 32  # another hub


def lease_of_another(hub, number: int, seconds: float) -> None:
    held = Lease(study="toy", number=number, holder=OTHER, expires_at=hub.now() + seconds)
    hub.write_once(f"{layout.lease_prefix('toy')}{number:012d}.json", held)


def ledger_of(federation, site: str) -> list[tuple[int, int, str]]:
    ledger = Ledger(federation.agents[site].site.state, site=site, read_only=True)
    rows = [(row.entry.round, row.entry.attempt, row.state) for row in ledger.rows()]
    ledger.close()
    return rows


class Failing(InlineRunner):
    """Fails the training of chosen (round, attempt) pairs."""

    def __init__(self, chosen: Callable[[int, int], bool]):
        self.chosen = chosen

    def run(self, folder, watch) -> None:
        job = any_job.validate_json((folder / JOB).read_bytes())
        if isinstance(job, TrainJob) and self.chosen(job.round, job.attempt):
            raise RefusedError(Code.TRAINING_FAILED, "a test wants it")
        super().run(folder, watch)


def test_a_second_hub_leaves_when_the_first_one_is_alive(tmp_path):
    """It waits and looks: a lease that is renewed belongs to a living hub."""
    federation = a_federation(tmp_path)
    hub = federation.hub
    lease_of_another(hub, 1, 30)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            lease_of_another(hub, 2, 60)

    with pytest.raises(LeaseError, match=r"another run of study 'toy' is going on \(lease 2\)"):
        training(hub=hub.with_clock(federation.now, wait), study=a_study(), run="toy-1")

    assert load_records(hub, "toy-1") == []


def test_a_run_waits_for_the_lease_of_a_dead_hub_and_goes_on(tmp_path, caplog):
    """Nobody renews: after the lease's lifetime the study is free, and the operator was told how long it takes."""
    federation = a_federation(tmp_path)
    lease_of_another(federation.hub, 1, 30)
    began = federation.now()

    run = federation.run(a_study())

    assert len(load_records(federation.hub, run)) == 2
    assert federation.now() - began >= 29
    assert "if that one is dead, this run begins in 30 s" in caplog.text.lower()


def test_a_hub_that_lost_its_lease_does_not_commit(tmp_path):
    """It slept past its lease before the commit: the lease number in the store is another's, and it stops."""
    stolen: list[str] = []

    def steal(key: str, data: bytes) -> bytes:
        if "/parameters/00002-" in key and not stolen:
            stolen.append(key)
            lease_of_another(federation.hub, 2, 60)
        return data

    federation = a_federation(tmp_path)
    hub = federation.hub
    hub.__dict__["store"] = Tampering(open_store(hub.store_url), steal)

    with pytest.raises(LeaseError, match="another hub took study 'toy'"):
        federation.run(a_study(), run="toy-1")

    assert [r.round for r in load_records(hub, "toy-1")] == [1]
    assert hub.store.list(layout.lease_prefix("toy"))[-1].endswith("2.json")  # the successor's is untouched


def test_a_hub_that_finds_its_round_committed_by_another_stops(tmp_path):
    """Between the last look at the lease and the write: put-if-absent decides, and the loser notices."""

    class Overtaken(Tampering):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            if key == layout.commit_key("toy-1", 2):
                theirs = load_records(federation.hub, "toy-1")[0].model_copy(update={"round": 2, "fence": 9})
                self.inner.put_if_absent(key, federation.hub.key.seal(theirs))
            return super().put_if_absent(key, data)

    federation = a_federation(tmp_path)
    federation.hub.__dict__["store"] = Overtaken(open_store(federation.hub.store_url), lambda _, data: data)

    with pytest.raises(
        LeaseError, match=r"round 2 .* was committed by another hub \(lease 9, this one had 1\)"
    ):
        federation.run(a_study(), run="toy-1")


def test_a_failed_site_is_asked_again_within_the_round_and_pays_for_each_attempt(tmp_path):
    """One more reservation in its own ledger, and not more epsilon for the study: nothing had left."""
    federation = a_federation(tmp_path)
    federation.agents["south"].runner = Failing(lambda round_, attempt: (round_, attempt) == (1, 1))

    result = results(federation.hub, federation.run(a_study()))

    assert [r["cohort"] for r in result["rounds"]] == [sorted(SITES)] * 2
    assert ledger_of(federation, "south") == [(1, 1, "reserved"), (1, 2, "charged"), (2, 1, "charged")]
    assert result["final"]["sites"]["south"]["epsilon"] == result["final"]["sites"]["north"]["epsilon"] <= 3.0
    assert federation.store.list("sites/south/in/tickets/") == []


def test_a_site_that_fails_always_is_asked_a_fixed_number_of_times(tmp_path):
    """Then the round goes on without it."""
    federation = a_federation(tmp_path)
    federation.agents["south"].runner = Failing(lambda *_: True)

    result = results(federation.hub, federation.run(a_study(rounds=1)))

    assert result["rounds"][0]["cohort"] == ["east", "north"]
    assert ledger_of(federation, "south") == [(1, n, "reserved") for n in range(1, ATTEMPTS + 1)]


def test_retries_never_pass_the_limit_that_the_site_has_set(tmp_path):
    """Its own limit counts every reservation, whatever became of it; what still fits is done."""
    federation = a_federation(tmp_path, south={"epsilon": 3.1})
    federation.agents["south"].runner = Failing(lambda round_, attempt: (round_, attempt) == (1, 1))

    result = results(federation.hub, federation.run(a_study()))

    assert result["rounds"][0]["sites"]["south"]["code"] == "budget_exhausted"
    assert ledger_of(federation, "south") == [(1, 1, "reserved"), (2, 1, "charged")]


def test_tickets_of_a_hub_that_fell_after_its_commit_are_swept(tmp_path):
    """Killed between commit and sweep: the next start tidies up."""
    federation = a_federation(tmp_path)
    federation.run(a_study(), run="toy-1")
    left = "sites/north/in/tickets/toy-1/00002-01-train.json"
    federation.store.put(left, b"left behind")

    federation.run(a_study(), run="toy-1")

    assert federation.store.get(left) is None


class Flickering:
    """A store that is away for the first calls on each key; put_if_absent is done all the same.

    Not on leases: who begins while the store is away is told so.
    """

    def __init__(self, inner: Store, fails: int, passing: bool = True):
        self.inner, self.fails, self.passing, self.left = inner, fails, passing, {}

    def __getattr__(self, name: str):
        def call(*args):
            left = self.left.setdefault((name, args[0]), self.fails)
            self.left[name, args[0]] = left - 1
            if left > 0 and not args[0].startswith("hub/leases/"):
                if name == "put_if_absent":
                    self.inner.put_if_absent(*args)
                raise StoreError("away", passing=self.passing)
            return getattr(self.inner, name)(*args)

        return call


def test_a_run_outlives_a_store_that_goes_away_at_every_call(tmp_path):
    """Every first call on every key fails, writes after they were done: same result, no second lease, no lost commit."""
    whole = a_federation(tmp_path / "whole")
    undisturbed = results(whole.hub, whole.run(a_study()))["final"]["parameters_sha256"]
    federation = a_federation(tmp_path / "falls")
    federation.hub.__dict__["store"] = Flickering(open_store(federation.hub.store_url), 1)

    publish_card(federation.hub.patient())
    training(hub=federation.hub, study=a_study(), run="toy-1")

    federation.hub.__dict__["store"] = open_store(federation.hub.store_url)
    assert results(federation.hub, "toy-1")["final"]["parameters_sha256"] == undisturbed


def test_a_lasting_fault_of_the_store_is_said_at_once(tmp_path):
    """Wrong credentials do not mend themselves."""
    federation = a_federation(tmp_path)
    federation.hub.__dict__["store"] = Flickering(open_store(federation.hub.store_url), 1, passing=False)

    with pytest.raises(StoreError):
        training(hub=federation.hub.with_clock(federation.now, pytest.fail), study=a_study(), run="toy-1")


def test_without_mlflow_all_rounds_are_played_and_the_end_says_what_is_missing(tmp_path):
    """MLflow shows rounds, it does not hold them: nothing of the run is lost, and resuming registers the rest."""
    federation = a_federation(tmp_path)
    federation.hub.mlflow_url = "http://127.0.0.1:9"

    with pytest.raises(ServiceError):
        federation.run(a_study(), run="toy-1")

    assert [r.round for r in load_records(federation.hub, "toy-1")] == [1, 2]
    federation.hub.mlflow_url = None
    assert federation.run(a_study(), run="toy-1") == "toy-1"


def test_sigterm_ends_a_run_as_ctrl_c_does():
    """systemd and Kubernetes send SIGTERM; the lease must be given back on the way out."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), polite_end():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_goes_on_on_another_machine_with_the_store_and_the_hubs_key(tmp_path):
    """Nothing else of the dead machine is needed; without the key nothing in the store is believed."""
    whole = a_federation(tmp_path / "whole")
    undisturbed = results(whole.hub, whole.run(a_study()))["final"]["parameters_sha256"]
    federation = a_federation(tmp_path / "falls")

    def fall(key: str, data: bytes) -> bytes:
        if key == layout.commit_key("toy-1", 2):
            raise KeyboardInterrupt
        return data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), fall)
    with pytest.raises(KeyboardInterrupt):
        federation.run(a_study(), run="toy-1")

    facts = {"store_url": federation.hub.store_url}
    stranger = Hub(directory=tmp_path / "stranger", **facts)
    with pytest.raises(SealError):
        training(hub=stranger.with_clock(federation.now, federation.wait), study=a_study(), run="toy-1")

    shutil.copytree(federation.hub.directory / "keys", tmp_path / "other" / "keys")
    other = Hub(directory=tmp_path / "other", **facts).with_clock(federation.now, federation.wait)
    training(hub=other, study=a_study(), run="toy-1")

    assert results(other, "toy-1")["final"]["parameters_sha256"] == undisturbed
