"""A fall between a thing and its line in another book: the next start of the agent adds the line, and says it is late."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from contextlib import closing, suppress

import pytest

from infra.errors import FileError, SealError
from sites.agent import Agent
from sites.audit import Audit
from sites.auditevents import BudgetCharged, BudgetReserved, BytesOut
from sites.auditread import lines, verified
from sites.egress import Egress
from sites.egressfile import egress_records, noted_egress
from sites.ledger import Ledger
from sites.runner import InlineRunner
from sites.sending import Sending
from tests.federation import Killed
from tests.sites.builders import ToyHub, a_study, an_agent


def killed(*_args, **_more):
    raise Killed


def anew(agent: Agent) -> Agent:
    """The next life."""
    return Agent(agent.site, agent.mailbox.store, InlineRunner())


def late(agent: Agent, kind: type) -> list:
    return [
        event
        for line in lines(agent.site.state)
        if isinstance(event := line.event, kind) and getattr(event, "late", False)
    ]


def fallen(folder, monkeypatch, where: str) -> Agent:
    """An agent that was killed there in its first round."""
    hub, agent, study = ToyHub(folder), an_agent(folder), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    with monkeypatch.context() as fatal:
        fatal.setattr(where, killed)
        with suppress(Killed):
            hub.ask(agent, ticket)
    return agent


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("sites.round.note_reserved", BudgetReserved),
        ("sites.round.note_charged", BudgetCharged),
    ],
)
def test_a_movement_of_the_budget_that_the_log_has_not_heard_of_is_noted_at_the_next_start(
    tmp_path, monkeypatch, where, kind
):
    """The ledger has it, and its entry counts: the log that goes to the institution's collector must not lack it."""
    agent = fallen(tmp_path, monkeypatch, where)

    again = anew(agent)
    anew(agent)  # once is enough

    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        last = ledger.entries()[-1]
    noted = late(again, kind)
    assert [(e.ledger_entries, e.ledger_hash, e.round) for e in noted] == [(last["id"], last["hash"], 1)]
    verified(agent.site.state, "north")


def test_an_answer_that_nobody_asks_for_again_gets_its_record_at_the_next_start(tmp_path, monkeypatch):
    """Killed between the line and the record; the run is cancelled, so that the answer is never sent again."""
    agent = fallen(tmp_path, monkeypatch, "sites.egress.Egress.note")
    monkeypatch.setattr(Sending, "may_leave", lambda *_: False)
    with pytest.raises(FileError, match="has no signed record"):
        noted_egress(agent.site.state, "north")

    again = anew(agent)
    again.step()

    assert noted_egress(agent.site.state, "north")
    key = again.home.identity.signing.public_hex
    [record] = egress_records(agent.site.state, "north", key)
    assert record.late and record.ledger_entry == 1
    assert record.ticket_sha256 == again.outbox.find("toy-1/00001-01-train").ticket.sha256


def test_a_record_that_the_log_has_lost_is_noted_late(tmp_path):
    """A power cut took the last lines of the log, which no head had covered yet."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    egress = Egress(agent.site.state, agent.home.identity.signing, agent.now)
    place = ("sites/north/out/toy-1/00001-01-train/step.json", "5" * 64)
    egress.note("6" * 64, *place, 10, None)

    again = anew(agent)

    assert [(e.key, e.sha256) for e in late(again, BytesOut)] == [place]
    assert noted_egress(agent.site.state, "north")


@pytest.mark.parametrize("field", [{"key": "no\tplace"}, {"sha256": "zz"}, {"bytes": 11}])
def test_a_record_that_this_site_has_not_signed_comes_into_no_log(tmp_path, field):
    """Somebody has edited the file: the agent starts, its log says nothing of it, and `audit egress` does."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    egress = Egress(agent.site.state, agent.home.identity.signing, agent.now)
    egress.note("6" * 64, "sites/north/out/toy-1/00001-01-train/step.json", "5" * 64, 10, None)
    path = agent.site.state / "egress.jsonl"
    line = json.loads(path.read_bytes())
    body = json.loads(b64decode(line["body"])) | field
    path.write_text(json.dumps(line | {"body": b64encode(json.dumps(body).encode()).decode()}) + "\n")

    again = anew(agent)

    assert not late(again, BytesOut)
    with pytest.raises(SealError):
        noted_egress(agent.site.state, "north")


@pytest.mark.parametrize("gone", ["the file", "a line in its middle"])
def test_a_book_that_no_fall_has_torn_stays_as_it_is(tmp_path, gone):
    """Somebody has taken records away: a start must not sign them anew as if nothing had been."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    for round_ in (1, 2):
        hub.ask(agent, hub.ticket(study, given, round=round_))
    path = agent.site.state / "egress.jsonl"
    lines_ = path.read_bytes().splitlines(keepends=True)
    path.unlink() if gone == "the file" else path.write_bytes(b"".join(lines_[:1] + lines_[2:]))
    before = path.read_bytes() if path.exists() else None

    anew(agent)

    assert (path.read_bytes() if path.exists() else None) == before
    with pytest.raises(FileError, match="has no signed record"):
        noted_egress(agent.site.state, "north")


def test_books_that_agree_are_left_as_they_are(tmp_path):
    """A start adds its own line, and no other."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    before = (agent.site.state / "egress.jsonl").read_bytes()
    count = verified(agent.site.state, "north")[0].entries

    anew(agent)

    assert (agent.site.state / "egress.jsonl").read_bytes() == before
    assert verified(agent.site.state, "north")[0].entries == count + 1


def test_what_nothing_has_paid_for_gets_no_record(tmp_path):
    """A gap that no fall explains stays one, for whoever looks."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    audit = Audit(agent.site.state, agent.home.identity.signing)
    audit.note(BytesOut(key="sites/north/out/toy-1/00001-01-train/step.json", bytes=9, sha256="5" * 64))

    anew(agent)

    with pytest.raises(FileError, match="has no signed record"):
        noted_egress(agent.site.state, "north")


def test_a_line_says_late_only_where_it_is():
    """Every other line reads as it did in the version before."""
    event = BytesOut(key="sites/north/out/x/receipt.json", bytes=9, sha256="5" * 64)
    assert "late" not in json.loads(event.model_dump_json())
