"""What an agent fetches once: by digest, after its check, bounded, and for its own life only."""

from __future__ import annotations

from infra.store.base import MESSAGE_BYTES
from infra.store.through import Through
from sites.agent import Agent
from sites.memory import Memory
from tasks import layout
from tasks.codes import Code
from tests.sites.builders import ToyHub, a_study, an_agent


class Watched(Through):
    """Which keys were read."""

    def __init__(self, inner):
        super().__init__(inner)
        self.read: list[str] = []

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        self.read.append(key)
        return self.inner.get(key, limit)


def test_a_study_and_parameters_are_fetched_once_in_an_agents_life(tmp_path):
    """A ticket names both by digest; the next agent of the site fetches them again."""
    hub = ToyHub(tmp_path)
    agent, study = an_agent(tmp_path), a_study(rounds=3)
    store = agent.mailbox.store = Watched(agent.mailbox.store)
    given = hub.publish(study)
    tickets = [hub.ticket(study, given, round=round_) for round_ in (1, 2, 3)]
    terms = layout.study_key(study.name, study.sha256)

    for ticket in tickets[:2]:
        assert hub.ask(agent, ticket).update is not None
    assert named(store) == [tickets[0].parameters_key, terms]

    store.read.clear()
    agent.close()
    again = Agent(agent.site, store, agent.runner)
    assert hub.ask(again, tickets[2]).update is not None
    assert named(store) == [tickets[2].parameters_key, terms]


def named(store: Watched) -> list[str]:
    """The keys that were read of what tickets name by digest."""
    return sorted(key for key in store.read if key.startswith("shared/") and key != layout.HUB_CARD)


def test_a_store_that_changes_what_was_read_changes_nothing(tmp_path):
    """Another study under the digest of a known one is not even looked at."""
    hub = ToyHub(tmp_path)
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study)
    assert hub.ask(agent, hub.ticket(study, given)).update is not None
    other = a_study(rounds=9, name="other")
    hub.store.put(layout.study_key(study.name, study.sha256), hub.key.seal(other))

    assert hub.ask(agent, hub.ticket(study, given, round=2)).update is not None


def test_what_failed_its_check_is_never_remembered(tmp_path):
    """A study of another digest is refused each time, and the right one is found as soon as it is there."""
    hub = ToyHub(tmp_path)
    agent, study, other = an_agent(tmp_path), a_study(), a_study(rounds=9)
    given = hub.publish(study)
    key = layout.study_key(study.name, study.sha256)
    right, wrong = hub.store.get(key), hub.key.seal(other)

    hub.store.put(key, wrong)
    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.BAD_TICKET
    assert hub.ask(agent, hub.ticket(study, given, attempt=2)).refusal == Code.BAD_TICKET
    hub.store.put(key, right)
    assert hub.ask(agent, hub.ticket(study, given, attempt=3)).update is not None


def test_a_ticket_gets_nothing_else_that_is_remembered(tmp_path):
    """A hub that names the digest of a study as that of parameters: bytes are checked at each use, kept or not."""
    hub = ToyHub(tmp_path)
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study)
    assert hub.ask(agent, hub.ticket(study, given)).update is not None
    as_parameters = {
        "parameters_sha256": study.sha256,
        "parameters_key": layout.parameters_key("toy-1", 1, study.sha256),
    }

    assert hub.ask(agent, hub.ticket(study, given, round=2, **as_parameters)).refusal == Code.BAD_TICKET


def test_memory_has_a_bound():
    """A hub that names ever new things fills no agent's memory: the longest unused goes first."""
    memory = Memory(most_bytes=10)
    for name, data in {"a": b"1234", "b": b"5678"}.items():
        memory.keep(name, data)
    assert memory.find("a") == b"1234"  # used again

    memory.keep("c", b"90ab")
    memory.keep("large", bytes(11))

    assert {name: memory.find(name) for name in ("a", "b", "c", "large")} == {
        "a": b"1234",
        "b": None,
        "c": b"90ab",
        "large": None,
    }
