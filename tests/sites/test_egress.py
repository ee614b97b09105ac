"""The gate before anything leaves: tensors and nothing else, within their norm, paid for, on record."""

from __future__ import annotations

import json
import math
import struct
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import SealError
from infra.signing import SigningKey
from sites import egressmark
from sites.cli import main
from sites.egress import Egress
from sites.egressfile import FILE, egress_records
from sites.examine import examine, norm_bound
from sites.identity import FORMER
from sites.ledger import Ledger
from sites.payload import form_of, norm, read_tensors
from sites.policyterms import Policy
from tasks.codes import Code
from tasks.errors import ContractError, RefusedError
from tasks.parameters import from_bytes, to_bytes
from tasks.privacy.events import GaussianEvent
from tests.sites.builders import ToyHub, a_study, an_agent

EVENT = GaussianEvent(noise_multiplier=1.0, sample_rate=1.0, steps=1)
GIVEN = to_bytes({"a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float32)})


def an_update(**changes: object) -> bytes:
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.ones(1, np.float32)} | changes
    return to_bytes({name: array for name, array in arrays.items() if array is not None})


def reheaded(payload: bytes, change: str) -> bytes:
    """The same numbers under a header that says something besides."""
    size = struct.unpack("<Q", payload[:8])[0]
    header, body = payload[8 : 8 + size].decode(), payload[8 + size :]
    match change:
        case "metadata":
            header = header.rstrip()[:-1] + ',"__metadata__":{"ward":"7"}}'
        case "spaces":
            header += " " * 64
        case "another order":
            found = json.loads(header)
            header = json.dumps(dict(reversed(found.items())), separators=(",", ":"))
        case "escapes":
            header = header.replace('"a"', '"\\u0061"')
        case "a key twice":
            header = header.replace('"shape"', '"shape":[9],"shape"', 1)
        case "a field more":
            header = header.replace('"dtype"', '"x":1,"dtype"', 1)
        case "a gap":
            return reheaded(payload, "") + b"\0\0\0\0"
        case "bytes after":
            return payload + b"p"
        case "integers":
            header = header.replace("F32", "I32")
    raw = header.encode()
    return struct.pack("<Q", len(raw)) + raw + body


SMUGGLED = (
    "metadata",
    "spaces",
    "another order",
    "escapes",
    "a key twice",
    "a field more",
    "a gap",
    "bytes after",
)


@pytest.mark.parametrize("change", [*SMUGGLED, "integers"])
def test_bytes_that_say_more_than_their_numbers_stay(change):
    """Whatever a recipe hides beside the numbers: only the one spelling passes."""
    with pytest.raises(RefusedError, match="stays here"):
        examine(reheaded(an_update(), change), GIVEN, a_study(), EVENT, 10, Policy())


@pytest.mark.parametrize(
    "payload",
    [
        an_update(b=None),
        an_update(c=np.ones(1, np.float32)),
        an_update(a=np.ones((3, 2), np.float32)),
        b"",
        b"\xff" * 100,
        struct.pack("<Q", 2) + b"{}",
    ],
)
def test_an_update_has_the_names_and_shapes_that_were_asked_for(payload):
    """No tensor more, no tensor less, none of another shape."""
    with pytest.raises(RefusedError) as caught:
        examine(payload, GIVEN, a_study(), EVENT, 10, Policy())
    assert caught.value.code == Code.TRAINING_FAILED


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_stay(bad):
    """The child has looked before; the gate does not believe it."""
    with pytest.raises(RefusedError) as caught:
        examine(an_update(b=np.array([bad], np.float32)), GIVEN, a_study(), EVENT, 10, Policy())
    assert caught.value.code == Code.NOT_FINITE


def test_a_norm_that_training_cannot_have_stays():
    """One step of SGD at rate 1, clipped at 1: a number like a record's identifier does not fit."""
    with pytest.raises(RefusedError, match="norm"):
        examine(an_update(b=np.array([1e6], np.float32)), GIVEN, a_study(), EVENT, 10, Policy())
    examine(an_update(), GIVEN, a_study(), EVENT, 10, Policy())


def test_the_site_may_set_a_bound_of_its_own():
    """Also where a study has no protection, and so no bound."""
    with pytest.raises(RefusedError, match="at most 2"):
        examine(an_update(), GIVEN, a_study(), None, 0, Policy(max_update_norm=2.0))
    examine(an_update(), GIVEN, a_study(), None, 0, Policy())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_size", ["full", 5])
def test_no_real_round_is_stopped_by_its_bound(tmp_path, optimizer, batch_size):
    """What training makes is below it, with room; a bound that refuses honest rounds would be switched off."""
    local = {"epochs": 2, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": 0.5}
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    study = a_study(local=local)
    ticket = hub.ticket(study, hub.publish(study))

    spent = hub.ask(agent, ticket).update.spent

    payload = hub.update(ticket)
    event = GaussianEvent(
        noise_multiplier=spent.noise_multiplier, sample_rate=spent.sample_rate, steps=spent.steps
    )
    tensors = read_tensors(payload)
    batch = 96.0 if batch_size == "full" else 5.0
    bound = norm_bound(study, event, batch, tensors.numbers)
    assert 0 < norm(payload, tensors) < bound < 1000 * norm(payload, tensors)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda b: struct.pack("<Q", len(b)) + b))
def test_no_bytes_break_the_reader(raw):
    """It reads what a child that was taken over has written."""
    for read in (read_tensors, form_of):
        try:
            read(raw)
        except ContractError:
            continue


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=5).filter(
            lambda name: name != "__metadata__"
        ),
        st.lists(st.integers(0, 3), max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_the_reader_agrees_with_safetensors(shapes, data):
    """Whatever names and shapes: what we write is canonical, and one changed byte is other numbers or refused."""
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    raw = to_bytes(arrays)

    found = read_tensors(raw)

    assert found.form == {name: array.shape for name, array in from_bytes(raw).items()}
    flat = np.concatenate([a.ravel() for a in arrays.values()])
    assert norm(raw, found) == pytest.approx(float(np.linalg.norm(flat)))
    at = data.draw(st.integers(0, found.begin - 1))
    bent = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    try:
        other = read_tensors(bent)
    except ContractError:
        return
    assert other.form == {name: array.shape for name, array in from_bytes(bent).items()}
    assert other.form != found.form


def test_forty_megabytes_have_their_norm():
    """Read in pieces, never as a second copy of the whole."""
    raw = to_bytes({"w": np.random.default_rng(1).normal(size=10_000_000).astype(np.float32)})

    assert norm(raw, read_tensors(raw)) == pytest.approx(math.sqrt(1e7), rel=0.01)


def test_every_answer_has_its_signed_record(tmp_path):
    """Who, what, how large, for which ticket, and which entry of the ledger paid."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    receipt = hub.ask(agent, ticket)
    refused = hub.ticket(study, hub.publish(study), round=9)
    hub.ask(agent, refused)

    records = list(egress_records(agent.site.state, "north", agent.home.identity.signing.public_hex))

    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        entry = ledger.rows()[0].id
    assert [(r.key.rpartition("/")[2], r.ledger_entry, r.ticket_sha256) for r in records] == [
        ("update.safetensors", entry, ticket.sha256),
        ("receipt.json", entry, ticket.sha256),
        ("receipt.json", None, refused.sha256),
    ]
    assert (records[0].sha256, records[0].bytes) == (
        receipt.update.payload_sha256,
        receipt.update.payload_bytes,
    )


def test_an_update_that_the_ledger_has_not_paid_for_is_not_sent(tmp_path):
    """The ledger was exchanged for an empty one between training and sending."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    hub.ask(agent, ticket)
    answer = agent.outbox.find("toy-1/00001-01-train")
    payload = agent.outbox.payload(answer)
    hub.store.delete("sites/north/out/toy-1/00001-01-train/update.safetensors")
    for path in agent.site.state.glob("ledger.*"):
        path.unlink()

    with pytest.raises(ContractError, match="not in the ledger"):
        agent.home.delivery.answer(answer.sealed.encode(), payload)
    assert hub.update(ticket) is None


def test_the_same_bytes_for_a_later_attempt_are_paid_for(tmp_path):
    """A repeated round is debited once; its entry is the first attempt's."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    first, second = (hub.ask(agent, hub.ticket(study, given, attempt=n)) for n in (1, 2))

    records = list(egress_records(agent.site.state, "north", agent.home.identity.signing.public_hex))

    assert first.update == second.update
    assert len({r.ledger_entry for r in records}) == 1


def test_a_forged_record_is_named(tmp_path):
    """Whoever edits the file does not have the key."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    path = agent.site.state / FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"signature", b"Signature", 1))
    with pytest.raises(SealError, match="line 1"):
        list(egress_records(agent.site.state, "north", agent.home.identity.signing.public_hex))

    path.write_bytes(whole + whole.splitlines()[0][:40])  # a power cut
    assert len(list(egress_records(agent.site.state, "north", agent.home.identity.signing.public_hex))) == 2
    hub.ask(agent, hub.ticket(study, hub.publish(study), round=2))
    assert len(list(egress_records(agent.site.state, "north", agent.home.identity.signing.public_hex))) == 4


def test_the_command_compares_records_with_the_audit_log(tmp_path, capsys):
    """One that was taken out of the file is missed."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    words = ["audit", "egress", "--config", str(tmp_path / "north.yaml")]

    assert main([*words, "--json"]) == 0
    assert [each["site"] for each in json.loads(capsys.readouterr().out)] == ["north", "north"]
    assert main(words) == 0
    assert "ledger entry 1" in capsys.readouterr().out

    path = agent.site.state / FILE
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert main(words) == 1
    assert "has no signed record" in capsys.readouterr().err


def test_a_full_disk_takes_the_mark_and_not_the_start(tmp_path, monkeypatch):
    """The mark only saves time: an agent that cannot write it verifies everything again next time."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    egress = Egress(agent.site.state, agent.home.identity.signing, agent.now)
    monkeypatch.setattr(egressmark, "WORTH_BYTES", 1)
    egress.note("6" * 64, "sites/north/out/toy-1/00001-01-train/receipt.json", "5" * 64, 9, None)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(egressmark, "_move", full)

    assert len(egress.kept()) == 1


def test_a_key_that_somebody_adds_for_an_hour_makes_no_record_true(tmp_path, monkeypatch):
    """The list of former keys is not signed: what was right by it alone is verified anew once it is another."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    state, key = agent.site.state, agent.home.identity.signing
    monkeypatch.setattr(egressmark, "WORTH_BYTES", 1)
    forger = SigningKey.create("north")
    place = "sites/north/out/toy-1/00001-01-train/receipt.json"
    Egress(state, forger, agent.now).note("6" * 64, place, "5" * 64, 9, None)
    (state / FORMER).write_text(forger.public_hex + "\n")

    assert len(egressmark.kept_objects(state, key)[0]) == 1
    (state / FORMER).unlink()
    assert egressmark.kept_objects(state, key) == ({}, 1)


def test_a_start_verifies_only_what_is_new_and_everything_where_a_byte_has_changed(tmp_path, monkeypatch):
    """A site of years has a record for each object; an edited one is still found, for the mark is of the bytes."""
    ToyHub(tmp_path)
    agent = an_agent(tmp_path)
    state, key = agent.site.state, agent.home.identity.signing
    egress, opened = Egress(state, key, agent.now), []
    monkeypatch.setattr(egressmark, "WORTH_BYTES", 1)
    right = egressmark.opened_record
    monkeypatch.setattr(egressmark, "opened_record", lambda *args: opened.append(args) or right(*args))

    def kept(number):
        """Objects, and how many signatures that took to know."""
        if number:
            egress.note(
                "6" * 64, f"sites/north/out/toy-1/00001-0{number}-train/receipt.json", "5" * 64, 9, None
            )
        opened.clear()
        return len(egress.kept()), len(opened)

    assert [kept(1), kept(2), kept(None), kept(3)] == [(1, 1), (2, 1), (2, 0), (3, 1)]
    (state / FILE).write_bytes((state / FILE).read_bytes().replace(b'"signature":"', b'"signature":"A', 1))
    assert kept(None) == (2, 3)
    assert kept(None) == (2, 3)  # and no mark is set over it
    forged = SigningKey.create("north")
    raw = (state / FILE).read_bytes()
    (state / egressmark.MARK).write_bytes(forged.seal(egressmark._mark(state, forged, raw)))
    assert kept(None) == (2, 3)
