"""What the store can do, which is trusted with nothing: lose and delay. Each lie ends in a code or stops the run."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from flows.results import results
from infra.errors import InfraError, SealError
from simulation.federation import Federation
from sites.auditevents import TicketIgnored, TicketRefused
from sites.auditread import lines
from sites.ledger import Ledger
from tasks import layout, parameters
from tasks.codes import Code
from tasks.errors import ContractError, FederationError, QuorumError
from tasks.registry import site_card
from tests.attacks.liar import Liar
from tests.federation import a_federation, a_study, plain_update
from tests.sites.builders import ToyHub, an_agent
from tests.sites.builders import a_study as a_site_study

SOUTH = "sites/south/out/"


def lying_to_the_hub(tmp_path: Path, lie=lambda _, data: data, hide=lambda keys: keys) -> Federation:
    federation = a_federation(tmp_path)
    federation.hub.__dict__["store"] = Liar(federation.store, lie, hide)
    return federation


def reserved(federation: Federation) -> dict[str, int]:
    """Rounds that each site has paid for."""
    found = {}
    for name, agent in federation.agents.items():
        with closing(Ledger(agent.site.state, read_only=True)) as ledger:
            found[name] = len(ledger.rows())
    return found


def test_answers_that_are_swapped_truncated_replayed_or_taken_away(tmp_path):
    """One lie a round about what south said; nobody else's answer suffers, and nothing false is summed."""

    def lie(key: str, data: bytes | None) -> bytes | None:
        if not key.startswith(f"{SOUTH}toy-1/") or "-train" not in key or data is None:
            return data
        inner, round_ = federation.store, int(key.split("/")[4][:5])
        swap = {
            (1, "receipt.json"): lambda: inner.get(key.replace("south", "east")),
            (2, "receipt.json"): lambda: inner.get(key.replace("/00002-", "/00001-")),
            (3, "receipt.json"): lambda: data[: len(data) // 2],
            (4, "update.safetensors"): lambda: inner.get(key.replace("south", "east")),
            (5, "update.safetensors"): lambda: inner.get(key.replace("/00005-", "/00004-")),
            (6, "update.safetensors"): lambda: data[:-4],
            (7, "update.safetensors"): lambda: None,
            (8, "receipt.json"): lambda: None,
            (9, "progress.json"): lambda: b"\x00" * 9,
        }.get((round_, key.rpartition("/")[2]))
        return data if swap is None else swap()

    federation = lying_to_the_hub(tmp_path, lie)
    result = results(federation.hub, federation.run(a_study(rounds=9), run="toy-1"))

    codes = [r["sites"]["south"]["code"] for r in result["rounds"]]
    assert codes == [
        *("bad_signature", "bad_signature", "bad_signature"),
        *("bad_update", "bad_update", "bad_update", "bad_update"),
        *("no_answer", None),
    ]
    assert [len(r["cohort"]) for r in result["rounds"]] == [2] * 8 + [3]


def test_answers_that_come_late_are_not_taken(tmp_path):
    """Delay: the round is over without them, and the late answer is nobody's next one."""
    hidden = {"on": True}

    def lie(key: str, data: bytes | None) -> bytes | None:
        late = key.startswith(f"{SOUTH}toy-1/00001-") and key.endswith("receipt.json")
        if key.startswith("sites/") and "/00002-" in key:
            hidden["on"] = False
        return None if late and hidden["on"] else data

    federation = lying_to_the_hub(tmp_path, lie)
    result = results(federation.hub, federation.run(a_study(), run="toy-1"))

    assert [r["sites"]["south"]["code"] for r in result["rounds"]] == ["no_answer", None]
    assert reserved(federation)["south"] == 2


@pytest.mark.parametrize("what", ["deleted", pytest.param("swapped", marks=pytest.mark.long), "older"])
def test_commits_that_are_not_the_ones_written_stop_the_run(tmp_path, what):
    """Reordered, or one of them gone: a hub that goes on would build on another history."""

    def lie(key: str, data: bytes | None) -> bytes | None:
        if what == "swapped" and key.startswith("hub/runs/toy-1/rounds/"):
            other = "00002" if "00001" in key else "00001"
            return federation.store.get(key.replace(key[-10:-5], other))
        return data

    def hide(keys: list[str]) -> list[str]:
        return [k for k in keys if not (what == "deleted" and k == layout.commit_key("toy-1", 1))]

    federation = a_federation(tmp_path)
    federation.run(a_study(rounds=2), run="toy-1")
    before = reserved(federation)
    if what == "older":
        federation.store.put(
            layout.commit_key("toy-1", 2), federation.store.get(layout.commit_key("toy-1", 1))
        )
    federation.hub.__dict__["store"] = Liar(federation.store, lie, hide)

    with pytest.raises((ContractError, InfraError)):
        federation.run(a_study(rounds=2), run="toy-1")

    assert reserved(federation) == before


def test_a_hub_that_is_made_to_forget_everything_spends_nothing_twice(tmp_path):
    """The store rolls back to the day before the run: the sites remember."""
    federation = a_federation(tmp_path)
    federation.run(a_study(rounds=1), run="toy-1")
    before = reserved(federation)
    store = tmp_path / "federation" / "store"
    for part in ("hub/runs", "hub/leases", "shared/runs"):
        shutil.rmtree(store / part)
    for site in federation.agents:
        shutil.rmtree(store / "sites" / site / "out" / "toy-1")

    with pytest.raises((QuorumError, FederationError)):
        federation.run(a_study(rounds=1, seed=1), run="toy-1")

    assert reserved(federation) == before
    for agent in federation.agents.values():
        events = [line.event for line in lines(agent.site.state)]
        assert any(isinstance(e, TicketIgnored) for e in events)


# --- what a site is shown


@pytest.fixture
def hub(tmp_path) -> ToyHub:
    return ToyHub(tmp_path)


def refused_and_noted(hub, agent, ticket, code: Code) -> None:
    assert hub.ask(agent, ticket).refusal == code
    noted = [line.event for line in lines(agent.site.state) if isinstance(line.event, TicketRefused)]
    assert (noted[-1].ticket_sha256, noted[-1].code) == (ticket.sha256, code)
    assert hub.update(ticket) is None
    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        assert ledger.rows() == []


def test_parameters_and_studies_that_are_not_the_ones_named(tmp_path, hub):
    """Two views of one run: the store shows this site other objects than it shows the others."""
    agent = an_agent(tmp_path)
    agent.step()
    study, easier = a_site_study(), a_site_study(privacy={"mode": "none"})
    given, moved = hub.publish(study), {k: v + 1 for k, v in hub.publish(study).items()}
    other = hub.ticket(study, moved)
    honest = hub.ticket(study, given, attempt=1)
    shown = {
        honest.parameters_key: hub.store.get(other.parameters_key),  # swapped
        layout.study_key("toy", study.sha256): hub.key.seal(easier),
    }
    agent.mailbox.store = Liar(hub.store, shown.get)
    refused_and_noted(hub, agent, honest, Code.BAD_TICKET)

    del shown[layout.study_key("toy", study.sha256)]
    refused_and_noted(hub, agent, hub.ticket(study, given, attempt=2), Code.BAD_TICKET)

    shown[honest.parameters_key] = hub.store.get(honest.parameters_key)[:-1]  # truncated
    refused_and_noted(hub, agent, hub.ticket(study, given, attempt=3), Code.BAD_TICKET)

    shown[honest.parameters_key] = None  # deleted
    refused_and_noted(hub, agent, hub.ticket(study, given, attempt=4), Code.BAD_TICKET)

    shown.clear()
    assert hub.ask(agent, hub.ticket(study, given, attempt=5)).update is not None


def test_tickets_in_other_places_and_cut_ones_are_ignored_and_noted(tmp_path, hub):
    """Nobody is answered who is not known; the log has the digest of what lay there."""
    agent = an_agent(tmp_path)
    agent.step()
    study = a_site_study()
    given = hub.publish(study)
    old, place = hub.ticket(study, given), hub.ticket(study, given, round=2)
    sealed = hub.key.seal(old)

    for raw in (sealed, sealed[:-1], sealed[: len(sealed) // 2], sealed.replace(b"hub", b"hop"), b""):
        hub.send_raw(place, raw)
        agent.step()
        assert hub.receipt(place) is None
    events = [line.event for line in lines(agent.site.state)]

    assert sum(isinstance(event, TicketIgnored) for event in events) == 5


def test_the_same_ticket_again_and_again_is_answered_once(tmp_path, hub):
    """Replay: the bytes of the first answer, one debit."""
    agent = an_agent(tmp_path)
    agent.step()
    study = a_site_study()
    ticket = hub.ticket(study, hub.publish(study))
    first = (hub.ask(agent, ticket), hub.update(ticket))

    for _ in range(3):
        hub.store.delete(layout.answer_key(ticket, "receipt.json"))
        hub.store.delete(layout.answer_key(ticket, "update.safetensors"))
        hub.store.delete(layout.ticket_key(ticket))
        agent.step()
        agent._settled.clear()
        assert (hub.ask(agent, ticket), hub.update(ticket)) == first

    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        assert len(ledger.rows()) == 1


def test_whoever_reads_the_store_reads_no_update(tmp_path):
    """It carries noise and no mask: only the hub that asked for it opens it, and only as that round's of that site."""
    federation = a_federation(tmp_path)
    federation.run(a_study(rounds=2), run="toy-1")
    first, second = (
        (key, federation.store.get(key))
        for key in (f"{SOUTH}toy-1/0000{n}-01-train/update.safetensors" for n in (1, 2))
    )

    assert plain_update(federation, *first) != plain_update(federation, *second)
    with pytest.raises(ContractError):
        parameters.from_bytes(first[1])
    for key, raw in ((first[0], second[1]), (first[0].replace("south", "east"), first[1])):
        with pytest.raises(SealError):
            plain_update(federation, key, raw)
    other = federation.agents["east"].home.identity
    with pytest.raises(SealError):
        other.decrypt(first[1], site_card(federation.hub, "south"), layout.update_place("toy-1", 1))
