"""The agent between two tickets: who it is, what it keeps, what it does when the store is away."""

from __future__ import annotations

import json

import pytest

from infra.errors import FileError, StoreError
from infra.store.base import MESSAGE_BYTES, Store, Versioned
from sites.agent import LIST_EVERY_S, PRESENCE_EVERY_S, Agent
from sites.identity import HUB, KEY
from sites.runner import InlineRunner
from tasks import layout
from tasks.contracts import Presence
from tests.sites.builders import ToyHub, a_study, an_agent


class Flaky:
    """A store whose calls fail while `away`, and whose objects can be lost or broken by key."""

    def __init__(self, inner: Store):
        self.inner, self.away, self.broken = inner, False, ""

    def _check(self, key: str) -> None:
        if self.away or (self.broken and self.broken in key):
            raise StoreError("the store is away")

    def put(self, key: str, data: bytes) -> None:
        self._check(key)
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._check(key)
        return self.inner.put_if_absent(key, data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        self._check(key)
        return self.inner.get(key, limit)

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        self._check(key)
        return self.inner.get_if_changed(key, tag)

    def list(self, prefix: str) -> list[str]:
        self._check(prefix)
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._check(key)
        self.inner.delete(key)


class Clock:
    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


def with_clock(agent: Agent) -> tuple[Agent, Clock]:
    """The same site, on a clock of the test's."""
    clock = Clock()
    return Agent(agent.site, agent.mailbox.store, InlineRunner(), now=clock), clock


def test_the_first_step_shows_the_card(tmp_path):
    """Each side learns the other's key once; the site's stays in its state folder."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)

    assert agent.step() is False

    assert hub.site_card().public_key == agent.home.identity.public.public_key
    assert json.loads((agent.site.state / HUB).read_text())["public_key"] == hub.key.public_hex
    assert (agent.site.state / KEY).stat().st_mode & 0o777 == 0o600


def test_without_a_hub_there_is_no_agent(tmp_path):
    """Nothing is pinned because it was seen first."""
    with pytest.raises(FileError, match="fedrounds-site enrol"):
        an_agent(tmp_path)


def test_a_hub_with_other_keys_in_the_same_store_is_not_obeyed(tmp_path, caplog):
    """The site's hub is the one of its kit, whatever the store shows."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    stranger = ToyHub(tmp_path)
    study = a_study()
    ticket = stranger.send(stranger.ticket(study, stranger.publish(study)))

    assert agent.step() is False

    assert stranger.store.get(layout.answer_key(ticket, "receipt.json")) is None
    assert "another hub" in caplog.text
    assert json.loads((agent.site.state / HUB).read_text())["public_key"] == hub.key.public_hex


def test_the_key_survives_a_restart(tmp_path):
    """A new key would be a stranger to the hub."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)

    assert (
        Agent(agent.site, agent.mailbox.store, InlineRunner()).home.identity.public.public_key
        == agent.home.identity.public.public_key
    )


def test_presence_is_shown_now_and_then(tmp_path):
    """The hub sees the last contact; the store is not flooded."""
    hub = ToyHub(tmp_path)
    agent, clock = with_clock(an_agent(tmp_path))

    def shown_at() -> float:
        key = layout.presence_key("north")
        return hub.open(hub.store.get(key), Presence, key).at

    agent.step()
    first = shown_at()
    clock.time += PRESENCE_EVERY_S / 2
    agent.step()
    assert shown_at() == first
    clock.time += PRESENCE_EVERY_S
    agent.step()
    assert shown_at() == clock.time


def test_an_idle_step_is_one_read(tmp_path):
    """The bell alone is polled; listing a mailbox costs more."""
    ToyHub(tmp_path)
    agent, clock = with_clock(an_agent(tmp_path))
    agent.step()
    asked: list[str] = []

    class Watched(Flaky):
        def _check(self, key: str) -> None:
            asked.append(key)

    agent.mailbox.store = Watched(agent.mailbox.store)
    clock.time += 1
    agent.step()

    assert asked == [layout.bell_key("north")]


def test_a_ticket_whose_bell_was_lost_is_found(tmp_path):
    """The mailbox is listed every half minute."""
    hub, study = ToyHub(tmp_path), a_study()
    agent, clock = with_clock(an_agent(tmp_path))
    agent.step()
    ticket = hub.ticket(study, hub.publish(study), issued_at=clock.time, expires_at=clock.time + 600)
    hub.store.put(layout.ticket_key(ticket), hub.key.seal(ticket))

    assert agent.step() is False
    clock.time += LIST_EVERY_S
    assert agent.step() is True
    assert hub.receipt(ticket).update is not None


def test_an_answer_that_the_store_lost_is_sent_again_byte_for_byte(tmp_path):
    """Nobody trains twice."""
    hub, study = ToyHub(tmp_path), a_study()
    agent, clock = with_clock(an_agent(tmp_path, extra=""))
    ticket = hub.ticket(study, hub.publish(study), issued_at=clock.time, expires_at=clock.time + 600)
    hub.ask(agent, ticket)
    keys = [layout.answer_key(ticket, part) for part in ("receipt.json", "update.safetensors")]
    before = [hub.store.get(key) for key in keys]
    for key in keys:
        hub.store.delete(key)

    clock.time += LIST_EVERY_S
    agent.step()

    assert [hub.store.get(key) for key in keys] == before


def test_an_answer_made_while_the_store_was_away_is_sent_when_it_is_back(tmp_path):
    """The update is kept before the first upload; training is not repeated, not even after a restart."""
    hub, study, plain = ToyHub(tmp_path), a_study(), an_agent(tmp_path, extra="")
    store = Flaky(hub.store)
    store.broken = "update.safetensors"
    agent = Agent(plain.site, store, InlineRunner())
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    with pytest.raises(StoreError):
        agent.step()
    kept = agent.outbox.find(layout.ticket_name(ticket))

    store.broken = ""
    restarted = Agent(plain.site, store, InlineRunner())

    assert restarted.step() is True
    assert hub.receipt(ticket) == kept.receipt


def test_a_bell_that_rang_before_an_outage_is_not_forgotten(tmp_path):
    """The bell was read, and then the list failed."""
    hub, study, plain = ToyHub(tmp_path), a_study(), an_agent(tmp_path)
    store = Flaky(hub.store)
    agent = Agent(plain.site, store, InlineRunner())
    agent.step()
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    store.broken = layout.inbox("north")
    with pytest.raises(StoreError):
        agent.step()
    store.broken = ""

    assert agent.step() is True
    assert hub.receipt(ticket) is not None


def test_one_unreadable_ticket_does_not_hide_the_others(tmp_path):
    """Somebody puts a broken object first into the list."""
    hub, study, plain = ToyHub(tmp_path), a_study(), an_agent(tmp_path)
    store = Flaky(hub.store)
    agent = Agent(plain.site, store, InlineRunner())
    hub.store.put(layout.inbox("north") + "0/broken.json", b"x")
    store.broken = "broken"
    ticket = hub.send(hub.ticket(study, hub.publish(study)))

    with pytest.raises(StoreError):
        agent.step()

    assert hub.receipt(ticket).update is not None


def test_an_outage_during_the_work_does_not_disturb_it(tmp_path):
    """Progress is a courtesy."""
    hub, study, plain = ToyHub(tmp_path), a_study(), an_agent(tmp_path)
    store = Flaky(hub.store)
    store.broken = "progress.json"
    agent = Agent(plain.site, store, InlineRunner())
    ticket = hub.send(hub.ticket(study, hub.publish(study)))

    agent.step()

    assert hub.receipt(ticket).update is not None
    assert hub.progress(ticket) is None


def test_a_job_that_takes_twice_its_time_is_ended(tmp_path):
    """A hanging child does not hold the site for ever."""
    hub, study = ToyHub(tmp_path), a_study()

    class Hanging(InlineRunner):
        def run(self, folder, watch):
            while True:
                clock.time += 10
                watch(None)

    plain = an_agent(tmp_path)
    clock = Clock()
    agent = Agent(plain.site, hub.store, Hanging(), now=clock)
    ticket = hub.ticket(study, hub.publish(study), issued_at=clock.time, expires_at=clock.time + 60)

    assert hub.ask(agent, ticket).refusal == "training_failed"
    assert clock.time - ticket.issued_at < 140


def test_payloads_of_older_rounds_are_removed_and_their_receipts_kept(tmp_path):
    """The state folder holds one update per run."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    for r in (1, 2):
        hub.ask(agent, hub.ticket(study, given, round=r))

    names = sorted(p.name for p in (agent.site.state / "outbox" / "toy-1").iterdir())

    assert names == [
        "00001-01-train.delivered",
        "00001-01-train.json",
        "00002-01-train.delivered",
        "00002-01-train.json",
        "00002-01-train.safetensors",
    ]


def test_no_value_of_a_record_is_logged(tmp_path, caplog):
    """Not even when the recipe meets a value that it cannot read."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    path = tmp_path / "north.csv"
    path.write_text(path.read_text().replace("p1\n", "p1\nSECRETVALUE,1,a,yes,p1\n", 1))

    with caplog.at_level("DEBUG"):
        receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert receipt.refusal == "unreadable_data"
    assert "SECRETVALUE" not in caplog.text
