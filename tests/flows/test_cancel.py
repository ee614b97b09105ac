"""A run that is taken back: its flow ends, its sites stop, its ledgers keep their word, nothing continues it."""

from __future__ import annotations

import pytest

from flows.cli import main
from flows.results import results
from infra.errors import RunCancelledError, StoreError
from infra.signing import SigningKey
from infra.store import open_store
from sites.job import JOB, TrainJob, any_job
from sites.ledger import Ledger
from sites.runner import InlineRunner
from tasks import layout
from tasks.begin import begin, load_manifest, load_study
from tasks.cancel import cancel
from tasks.card import publish_card
from tasks.codes import Code, Operation
from tasks.commit import load_records
from tasks.contracts import Cancel, Ticket
from tasks.errors import StudyError
from tasks.lease import holder
from tasks.records import RunEnd
from tests.federation import SITES, Tampering, a_federation, a_study


def take_back(federation, run: str = "toy-1") -> None:
    manifest = load_manifest(federation.hub, run)
    cancel(federation.hub, manifest, load_study(federation.hub, manifest))


class Interrupted(InlineRunner):
    """Cancels the run while the job of round 2 runs, then beats as a long training does."""

    def __init__(self, federation):
        self.federation = federation

    def run(self, folder, watch) -> None:
        job = any_job.validate_json((folder / JOB).read_bytes())
        if isinstance(job, TrainJob) and job.round == 2:
            take_back(self.federation)
            for _ in range(100):
                self.federation._ahead += 0.5  # time passes, nothing else
                watch(None)
            pytest.fail("the job went on for 50 s after the run was cancelled")
        super().run(folder, watch)


def states(federation, site: str) -> list[tuple[int, str]]:
    ledger = Ledger(federation.agents[site].site.state, site=site, read_only=True)
    rows = [(row.entry.round, row.state) for row in ledger.rows()]
    ledger.close()
    return rows


@pytest.fixture
def cancelled(tmp_path):
    """A federation whose run was cancelled while `north` trained in round 2."""
    federation = a_federation(tmp_path)
    federation.agents["north"].runner = Interrupted(federation)
    with pytest.raises(RunCancelledError, match=r"'toy-1' was cancelled on .* after 1 committed rounds"):
        federation.run(a_study(rounds=3), "toy-1")
    federation.agents["north"].runner = InlineRunner()
    return federation


def test_a_running_job_is_ended_and_the_flow_leaves_a_clean_state(cancelled):
    """Within seconds of simulated time: refusal, no ticket left, lease given back, the end written once."""
    hub = cancelled.hub
    for agent in cancelled.agents.values():
        agent.step()

    end = hub.read(layout.ended_key("toy-1"), RunEnd)
    assert (end.state, end.rounds) == ("cancelled", 1)
    assert results(hub, "toy-1")["state"] == "cancelled"
    assert [r.round for r in load_records(hub, "toy-1")] == [1]
    assert not [key for site in SITES for key in hub.store.list(layout.inbox(site))]
    assert holder(hub, "toy") is None
    receipt = cancelled.agents["north"].outbox.find("toy-1/00002-01-train").receipt
    assert receipt.refusal == Code.CANCELLED


def test_what_was_reserved_stays_counted_and_nothing_is_charged_twice(cancelled):
    """The ledger's rule for every attempt without an update."""
    assert states(cancelled, "north") == [(1, "charged"), (2, "reserved")]


def test_a_cancelled_run_is_not_resumed_and_another_one_begins(cancelled):
    """In plain words, by any machine, and again after it was asked for again."""
    take_back(cancelled)  # twice is once
    with pytest.raises(RunCancelledError, match="start a new one: fedrounds study run"):
        cancelled.run(a_study(rounds=3), "toy-1")

    assert len(load_records(cancelled.hub, cancelled.run(a_study(rounds=2), "toy-2"))) == 2


def test_a_site_that_was_away_refuses_though_the_store_hides_the_word_later(cancelled):
    """What a site has seen it does not forget: the store hands out tickets again and the word no more."""
    hub, south = cancelled.hub, cancelled.agents["south"]
    manifest, base = load_manifest(hub, "toy-1"), load_records(hub, "toy-1")[0]
    before = states(cancelled, "south")
    for attempt in (7, 8):
        ticket = Ticket(
            run="toy-1",
            study="toy",
            study_sha256=manifest.study_sha256,
            recipe_sha256=manifest.recipe_sha256,
            site="south",
            round=2,
            attempt=attempt,
            operation=Operation.TRAIN,
            parameters_key=base.parameters_key,
            parameters_sha256=base.parameters_sha256,
            nonce="0" * 32,
            issued_at=hub.now(),
            expires_at=hub.now() + 600,
        )
        hub.write(layout.ticket_key(ticket), ticket)
        cancelled._ahead += 60
        south.step()
        assert south.outbox.find(layout.ticket_name(ticket)).receipt.refusal == Code.CANCELLED
        hub.store.delete(layout.cancel_key("south", "toy-1"))

    assert states(cancelled, "south") == before


@pytest.mark.parametrize("forged", ["stranger", "other run"])
def test_nobody_but_the_hub_cancels_and_only_the_run_that_it_names(tmp_path, forged):
    """The store may write what it likes into a mailbox: the run goes on to its end."""
    federation = a_federation(tmp_path)
    publish_card(federation.hub)
    key = SigningKey.create("hub") if forged == "stranger" else federation.hub.key
    word = Cancel(run="toy-1" if forged == "stranger" else "toy-9", at=0.0)
    for site in SITES:
        federation.hub.store.put(layout.cancel_key(site, "toy-1"), key.seal(word))

    run = federation.run(a_study(), "toy-1")

    assert [len(r.cohort) for r in load_records(federation.hub, run)] == [3, 3]


def test_a_round_whose_commit_was_under_way_is_not_begun_anew(tmp_path):
    """Cancelled after the last site's word on round 2: the hub looks once more before it commits."""
    federation = a_federation(tmp_path)

    class LastMoment(Tampering):
        def list(self, prefix: str) -> list[str]:
            scores = [f"sites/{site}/out/toy-1/00002-01-evaluate/receipt.json" for site in SITES]
            if prefix == layout.lease_prefix("toy") and all(self.inner.get(key) for key in scores):
                take_back(federation)
            return super().list(prefix)

    federation.hub.__dict__["store"] = LastMoment(open_store(federation.hub.store_url), lambda _, data: data)
    with pytest.raises(RunCancelledError):
        federation.run(a_study(), "toy-1")

    assert [r.round for r in load_records(federation.hub, "toy-1")] == [1]


def test_a_cancel_just_before_the_last_word_of_a_run_counts(tmp_path):
    """All rounds are committed and the end is not written yet: exactly one of the two words holds."""
    federation = a_federation(tmp_path)

    class LastMoment(Tampering):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            if key == layout.ended_key("toy-1") and not told:
                told.append(key)
                take_back(federation)
            return super().put_if_absent(key, data)

    told: list[str] = []
    federation.hub.__dict__["store"] = LastMoment(open_store(federation.hub.store_url), lambda _, data: data)
    with pytest.raises(RunCancelledError):
        federation.run(a_study(rounds=1), "toy-1")

    assert results(federation.hub, "toy-1")["state"] == "cancelled"


def test_an_update_that_never_left_stays_where_it_is(tmp_path):
    """The network was cut when it was ready; when it is back, the run is no more."""
    federation = a_federation(tmp_path)
    hub, south = federation.hub, federation.agents["south"]
    publish_card(hub)
    lost: list[str] = []

    class Cut(Tampering):
        def put(self, key: str, data: bytes) -> None:
            if key.endswith("update.safetensors"):
                lost.append(key)
                raise StoreError("cut", passing=True)
            self.inner.put(key, data)

    south.home.delivery._store = Cut(federation.store, lambda _, data: data)
    with pytest.raises(StoreError):
        federation.run(a_study(), "toy-1")
    take_back(federation)
    south.home.delivery._store = federation.store
    federation._ahead += 60
    south.step()

    assert lost
    assert federation.store.get(lost[0]) is None
    assert states(federation, "south") == [(1, "charged")]


def test_a_finished_run_cannot_be_cancelled(tmp_path):
    """What is done is done."""
    federation = a_federation(tmp_path)
    federation.run(a_study(rounds=1), "toy-1")

    with pytest.raises(StudyError, match="has finished all its rounds"):
        take_back(federation)


def test_the_command_cancels_a_run_that_nobody_plays(tmp_path, capsys):
    """The hub's machine was lost: the command alone leaves the clean state."""
    federation = a_federation(tmp_path)
    publish_card(federation.hub)
    begin(federation.hub, a_study(), "toy-1")
    federation.hub.save()
    words = ["--dir", str(federation.hub.directory)]

    assert main(["run", "cancel", "toy-1", *words, "--wait", "1"]) == 0
    assert "run toy-1 is cancelled; 0 committed rounds stay" in capsys.readouterr().out
    assert main(["run", "resume", "toy-1", *words]) == 7
    assert "was cancelled on" in capsys.readouterr().err
