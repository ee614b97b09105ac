"""The audit log: every byte out has its line first, and no line is changed or lost unseen."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import FileError
from infra.signing import SigningKey
from sites import audit as audit_module
from sites.audit import FILE, TORN, Audit
from sites.auditchain import HEAD
from sites.auditevents import UNLOGGED, AgentStarted, BytesOut, DataRead, TicketIgnored, band
from sites.auditread import TornTailError, lines, verified
from sites.chain import BrokenChainError
from sites.cli import main
from sites.identity import own_identity
from sites.ledger import Ledger
from sites.settings import load_site
from sites.spending import dataset_of
from sites.syslog import Syslog
from tasks.codes import Code
from tests.sites.builders import ToyHub, a_study, an_agent

ROOT = Path(__file__).parents[2]


def an_audit(state: Path, **more) -> Audit:
    return Audit(state, own_identity("north", state).signing, **more)


def a_log(state: Path, ignored: int = 5) -> Path:
    """A signed log of some lines; returns its file."""
    audit = an_audit(state, now=lambda: 1_700_000_000.25)
    for number in range(ignored):
        audit.note(TicketIgnored(sha256=f"{number:064x}"))
    audit.secure()
    return audit.path


def events(state: Path) -> list[str]:
    return [line.event.event for line in lines(state)]


def test_the_lines_of_a_round(tmp_path):
    """What an auditor wants to see, in the order in which it happened."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    receipt = hub.ask(agent, ticket)
    agent.close()

    assert events(agent.site.state) == [
        *("log_begun", "agent_started", "study_approved", "bytes_out"),
        *("ticket_accepted", "data_read", "data_read", "budget_reserved", "budget_charged"),
        *("bytes_out", "bytes_out", "agent_stopped"),
    ]
    out = [line.event for line in lines(agent.site.state) if isinstance(line.event, BytesOut)]
    assert (out[1].bytes, out[1].sha256) == (receipt.update.payload_bytes, receipt.update.payload_sha256)
    read = [line.event for line in lines(agent.site.state) if isinstance(line.event, DataRead)]
    assert [(event.purpose, event.records) for event in read] == [("count", None), ("train", "100-199")]
    head, signed = verified(agent.site.state, "north")
    assert head.entries == signed == 12


def test_a_refusal_has_its_code_and_no_reason(tmp_path):
    """The reason may name files; it is in the agent's own log."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study(name="other")
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    refused = [line.event for line in lines(agent.site.state) if line.event.event == "ticket_refused"]
    assert [event.code for event in refused] == [Code.UNKNOWN_STUDY]


def test_every_object_in_the_store_has_a_line(tmp_path):
    """The log and the mailbox are two views of one truth, but for the signs of life that the first line names."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    hub.ask(agent, hub.ticket(study, hub.publish(study), operation="evaluate"))
    sent = {key for key in hub.store.list("sites/north/out/") if key.rpartition("/")[2] not in UNLOGGED}
    logged = [line.event for line in lines(agent.site.state) if isinstance(line.event, BytesOut)]
    assert {event.key for event in logged} == sent
    for event in logged:
        assert len(hub.store.get(event.key)) == event.bytes


def test_bytes_wait_for_their_line(tmp_path):
    """A full disk stops the sending, not the noting."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    agent.step()
    given = hub.publish(study)

    def full(_event):
        raise FileError("no room")

    agent.home.audit.note, note = full, agent.home.audit.note
    ticket = hub.send(hub.ticket(study, given))
    with pytest.raises(FileError):
        agent.step()
    assert hub.receipt(ticket) is None
    agent.home.audit.note = note
    assert hub.ask(agent, ticket).update is not None


def test_a_log_that_lost_its_tail_is_refused(tmp_path):
    """The head is signed by the site's key, so that the chain cannot simply end earlier."""
    path = a_log(tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-2]))
    with pytest.raises(BrokenChainError, match=r"signed head says 6") as refused:
        an_audit(tmp_path)
    assert refused.value.entry == 5
    path.unlink()
    for look in (lambda: verified(tmp_path, "north"), lambda: an_audit(tmp_path)):
        with pytest.raises(BrokenChainError):
            look()


def test_lines_that_change_places_are_named(tmp_path):
    """Each hash covers the line before."""
    path = a_log(tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    whole[2], whole[3] = whole[3], whole[2]
    path.write_bytes(b"".join(whole))
    with pytest.raises(BrokenChainError, match="line 3 ") as refused:
        verified(tmp_path, "north")
    assert refused.value.entry == 3


def test_a_log_that_was_written_anew_is_refused(tmp_path):
    """A consistent chain of other lines does not fit what the key has signed."""
    a_log(tmp_path)
    other = a_log(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    (tmp_path / FILE).write_bytes(other.read_bytes())
    with pytest.raises(BrokenChainError):
        verified(tmp_path, "north")


def test_a_head_of_another_key_is_refused(tmp_path):
    """Whoever rewrites log and head does not have the site's key."""
    audit = Audit(tmp_path, SigningKey.create("north"))
    audit.secure()
    with pytest.raises(BrokenChainError, match="not what this site's key has signed"):
        an_audit(tmp_path)


def test_a_torn_line_is_mended_and_said(tmp_path):
    """A power cut may leave half of the last line; what was secured before stands."""
    path = a_log(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"seq":7,"at":17')
    assert verified(tmp_path, "north")[0].entries == 6

    an_audit(tmp_path).secure()

    assert events(tmp_path)[-1] == "log_mended"
    assert verified(tmp_path, "north")[0].entries == 7


@pytest.mark.parametrize("hand", ["changes a line", "cuts lines off"])
def test_lines_that_another_process_has_signed_are_not_set_aside(tmp_path, hand):
    """The agent runs while a command writes and signs: what that head covers is covered for the agent too."""
    agent = an_audit(tmp_path)
    agent.secure()
    path = a_log(tmp_path)
    raw = path.read_bytes()
    whole = raw.splitlines(keepends=True)
    changed = raw.replace(b'"ticket_ignored"', b'"ticket_ignorad"', 1)
    path.write_bytes(changed if hand == "changes a line" else b"".join(whole[:-2]))

    with pytest.raises(BrokenChainError):
        agent.note(AgentStarted(version="1"))

    path.write_bytes(raw)
    agent.note(AgentStarted(version="1"))
    assert events(tmp_path)[-1] == "agent_started"


def test_a_head_that_is_put_back_or_taken_away_changes_nothing(tmp_path):
    """A process that has seen the newer head goes on to know it."""
    agent = an_audit(tmp_path)
    agent.secure()
    older = (tmp_path / HEAD).read_bytes()
    path = a_log(tmp_path)
    agent.note(AgentStarted(version="1"))  # it has seen the newer one
    raw = path.read_bytes()
    (tmp_path / HEAD).write_bytes(older)
    path.write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 1])

    with pytest.raises(BrokenChainError):
        agent.note(AgentStarted(version="1"))


def torn_after_the_head(folder: Path) -> Path:
    """A power cut: of three lines since the last head the second is zeros, as disks leave them, and the third is whole."""
    path = a_log(folder)
    audit = an_audit(folder)
    for number in range(3):
        audit.note(TicketIgnored(sha256=f"{number:064x}"))
    *kept, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept) + bytes(len(second) - 1) + b"\n" + third)
    return path


def test_what_no_head_covers_never_needs_a_human(tmp_path):
    """The agent starts again, says what it took away, and keeps it for whoever asks."""
    path = torn_after_the_head(tmp_path)
    lost = b"".join(path.read_bytes().splitlines(keepends=True)[-2:])
    with pytest.raises(TornTailError, match="line 8"):
        verified(tmp_path, "north")

    an_audit(tmp_path).secure()

    assert events(tmp_path)[-2:] == ["ticket_ignored", "log_mended"]
    assert list(lines(tmp_path))[-1].event.torn_bytes == len(lost)
    assert (tmp_path / TORN).read_bytes() == lost + b"\n"
    assert verified(tmp_path, "north")[0].entries == 8


def test_what_a_head_covers_is_not_taken_away(tmp_path):
    """Else whoever changes a line would have the rest of the log forgotten. A head that is gone helps nobody."""
    path = torn_after_the_head(tmp_path)
    torn = path.read_bytes()
    path.write_bytes(torn.replace(b'"ticket_ignored"', b'"ticket_ignorad"', 1))
    with pytest.raises(BrokenChainError, match="line 2 "):
        an_audit(tmp_path)
    path.write_bytes(torn)
    (tmp_path / HEAD).unlink()
    Ledger(tmp_path, site="north").close()
    with pytest.raises(BrokenChainError, match="line 8 "):
        an_audit(tmp_path)
    assert path.read_bytes() == torn


def test_a_power_cut_at_the_very_first_start_is_mended(tmp_path):
    """Nothing was signed and nothing spent: the log begins anew, and says so."""
    own_identity("north", tmp_path)
    (tmp_path / FILE).write_bytes(bytes(200) + b"\n")

    an_audit(tmp_path).secure()

    assert events(tmp_path) == ["log_begun", "log_mended"]


def test_two_writers_make_one_chain(tmp_path):
    """A command beside the agent may add its lines."""
    first, second = an_audit(tmp_path), an_audit(tmp_path)
    for number in range(6):
        (first, second)[number % 2].note(AgentStarted(version=str(number)))
    first.secure()
    second.secure()
    assert verified(tmp_path, "north")[0].entries == 7


def test_a_log_that_becomes_shorter_under_the_agent_is_seen(tmp_path):
    """Not only at the next start."""
    audit = an_audit(tmp_path)
    audit.note(AgentStarted(version="1"))
    audit.path.write_bytes(b"")
    with pytest.raises(BrokenChainError, match="shorter"):
        audit.note(AgentStarted(version="2"))


def test_a_new_version_has_a_line(tmp_path, monkeypatch):
    """The code that ran is part of the story."""
    ToyHub(tmp_path)
    an_agent(tmp_path).close()
    monkeypatch.setattr("sites.notes.own_version", lambda: "9.9")
    state = an_agent(tmp_path).site.state
    changed = [line.event for line in lines(state) if line.event.event == "version_changed"]
    assert [event.after for event in changed] == ["9.9"]


DYING = """
import os, signal, sys
from pathlib import Path
from tests.sites.test_audit import AgentStarted, an_audit
audit = an_audit(Path(sys.argv[1]))
audit.note(AgentStarted(version="1"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_keeps_its_lines(tmp_path):
    """Secured or not: the system has them."""
    assert (
        subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], cwd=ROOT, check=False).returncode == -9
    )
    assert events(tmp_path) == ["log_begun", "agent_started"]
    an_audit(tmp_path).secure()
    assert verified(tmp_path, "north") == (verified(tmp_path, "north")[0], 2)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    return a_log(tmp_path_factory.mktemp("signed")).parent


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_byte_can_be_changed(signed, data):
    """Any flip of any bit in any place is seen."""
    good = (signed / FILE).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    try:
        (signed / FILE).write_bytes(good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :])
        with pytest.raises(BrokenChainError):
            verified(signed, "north")
    finally:
        (signed / FILE).write_bytes(good)
    assert verified(signed, "north")[0].entries == 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.floats(-1e12, 1e12)), max_size=8))
def test_whatever_was_noted_verifies(tmp_path_factory, notes):
    """Any text and any time come back as they were hashed."""
    state = tmp_path_factory.mktemp("log")
    times = iter([0.0, *(at for _, at in notes)])
    audit = an_audit(state, now=lambda: next(times))
    for text, _ in notes:
        audit.note(AgentStarted(version=text.encode("utf-8", "ignore").decode()))
    audit.secure()
    assert verified(state, "north")[1] == len(notes) + 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0-99"), (99, "0-99"), (120, "100-199"), (999, "900-999"), (12345, "10000-19999")]
)
def test_counts_are_told_in_bands(count, text):
    """How many patients a ward has is nobody's business to the digit."""
    assert band(count) == text


def test_syslog_gets_a_copy(tmp_path):
    """One datagram per line, at the institution's own collector."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(5)
        an_audit(tmp_path, forward=Syslog(f"udp:127.0.0.1:{collector.getsockname()[1]}"))
        got = collector.recv(65536).decode()
    assert "fedrounds-site: " in got
    assert json.loads(got[got.index("{") :])["event"]["event"] == "log_begun"


@pytest.mark.parametrize("address", ["unix:/nowhere/log", "udp:127.0.0.1:9", "udp:no-such-host.invalid:514"])
def test_a_collector_that_is_away_costs_no_line(tmp_path, address):
    """The file is the log; syslog is a courtesy."""
    audit = an_audit(tmp_path, forward=Syslog(address))
    for _ in range(20):
        audit.note(AgentStarted(version="1"))
    assert len(events(tmp_path)) == 21


def a_month_of_work(folder: Path) -> Path:
    """One round and one refusal; returns the site's file."""
    hub, agent, study = ToyHub(folder), an_agent(folder), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    other = a_study(name="other")
    hub.ask(agent, hub.ticket(other, hub.publish(other), round=2))
    agent.close()
    return folder / "north.yaml"


def test_a_month_on_one_page(tmp_path, capsys):
    """For a committee that was not there."""
    config = a_month_of_work(tmp_path)
    assert (
        main(["audit", "report", "--config", str(config), "--month", time.strftime("%Y-%m", time.gmtime())])
        == 0
    )
    page = capsys.readouterr().out
    assert "| toy | train | answered | 1 |" in page
    assert "| other | train | refused: unknown_study | 1 |" in page
    assert "| toy | csv | train | 100-199 | 1 |" in page
    assert "| update.safetensors | 1 |" in page
    assert "Privacy spent (epsilon at delta 0.001)" in page
    assert main(["audit", "report", "--config", str(config), "--month", "1999-01"]) == 0
    assert "none" in capsys.readouterr().out
    assert main(["audit", "report", "--config", str(config), "--month", "May"]) == 2


def test_audit_on_the_command_line(tmp_path, capsys):
    """show, verify and export, and an exit code that a monitor can use."""
    config = str(a_month_of_work(tmp_path))
    assert main(["audit", "show", "--config", config, "--last", "1"]) == 0
    assert "agent_stopped" in capsys.readouterr().out
    assert main(["audit", "verify", "--config", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    out = [str(tmp_path / name) for name in ("a.csv", "a.json")]
    assert main(["audit", "export", "--config", config, "--csv", out[0], "--json-file", out[1]]) == 0
    assert len(json.loads(Path(out[1]).read_text())) == len(Path(out[0]).read_text().splitlines()) - 1

    path = tmp_path / "north.state" / FILE
    path.write_text(path.read_text().replace('"toy-1"', '"toy-2"', 1))
    capsys.readouterr()
    assert main(["audit", "verify", "--config", config, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["line"] > 1
    assert main(["audit", "verify", "--config", config]) == 1
    assert "error: line " in capsys.readouterr().err


def test_ledger_on_the_command_line(tmp_path, capsys):
    """Every epsilon is computed anew; a replaced ledger is known by the audit log."""
    config, state = str(a_month_of_work(tmp_path)), tmp_path / "north.state"
    out = [str(tmp_path / name) for name in ("l.csv", "l.json")]
    assert (
        main(["ledger", "export", "--config", config, "--json", "--csv", out[0], "--json-file", out[1]]) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert (facts["entries"], facts["confirmed_by_audit_log"]) == (2, 2)
    assert 0 < facts["datasets"][0]["studies"]["toy"]["epsilon"] == facts["datasets"][0]["epsilon"] < 3
    assert len(Path(out[0]).read_text().splitlines()) == 3
    assert main(["ledger", "verify", "--config", config]) == 0
    assert "intact: 2 entries" in capsys.readouterr().out

    for name in ("ledger.sqlite", "ledger.head"):
        (state / name).unlink()
    Ledger(state, site="north").close()
    assert main(["ledger", "verify", "--config", config, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["entry"] == 1
    assert main(["ledger", "verify", "--config", config]) == 1
    assert "replaced by another one" in capsys.readouterr().err


def test_csv_and_json_hold_the_same_ledger_of_persons(tmp_path, capsys):
    """An auditor's two files agree, entry by entry, and both add up to what the site was charged for its persons."""
    from tasks.privacy.accountant import epsilon
    from tasks.privacy.events import GaussianEvent

    hub = ToyHub(tmp_path)
    agent = an_agent(tmp_path, source="{url: 'csv:north.csv', person: patient}")
    study = a_study()
    given = hub.publish(study)
    spent = [hub.ask(agent, hub.ticket(study, given, round=r)).update.spent for r in (1, 2)]
    agent.close()
    config, out = str(tmp_path / "north.yaml"), [str(tmp_path / name) for name in ("l.csv", "l.json")]

    assert main(["ledger", "export", "--config", config, "--csv", out[0], "--json-file", out[1]]) == 0

    book = json.loads(Path(out[1]).read_text())
    with Path(out[0]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in entry.items()} for entry in book["chain"]]
    assert [row["kind"] for row in rows] == ["reserve", "charge"] * 2
    events = [GaussianEvent.from_json(row["event"]) for row in rows if row["kind"] == "reserve"]
    (dataset,) = book["datasets"]
    assert dataset["epsilon"] == epsilon(events, 1e-3) == pytest.approx(spent[-1].epsilon)
    assert {row["dataset"] for row in rows} == {dataset["dataset"]}
    # the same people under another person column, or none: the same budget, not a new one
    path = Path(config)
    path.write_text(path.read_text().replace(", person: patient", ""))
    site = load_site(path)
    assert dataset_of(site, site.settings.sources["toy"]) == dataset["dataset"]


def test_an_exported_chain_can_be_checked_without_fedrounds(tmp_path, capsys):
    """In ten years, with a hash function and a JSON reader."""
    import hashlib

    config = str(a_month_of_work(tmp_path))
    assert main(["ledger", "export", "--config", config, "--json-file", str(tmp_path / "l.json")]) == 0
    book = json.loads((tmp_path / "l.json").read_text())

    def link(previous, fields):
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()

    last = link("", {"chain": "ledger", "site": book["site"], "id": book["ledger"]})
    for entry in book["chain"]:
        last = link(last, {k: v for k, v in entry.items() if k != "hash"})
        assert last == entry["hash"]
    assert last == book["hash"]


def test_a_log_on_a_full_disk_is_said(tmp_path, monkeypatch):
    """A line that cannot be written whole is not there."""
    audit = an_audit(tmp_path)
    write = os.write
    monkeypatch.setattr(audit_module.os, "write", lambda fd, data: write(fd, data[:10]))
    with pytest.raises(FileError, match="Make room"):
        audit.note(AgentStarted(version="1"))
    monkeypatch.undo()
    audit.note(AgentStarted(version="2"))
    audit.secure()
    assert verified(tmp_path, "north")[0].entries == 2
    assert (tmp_path / HEAD).exists()
