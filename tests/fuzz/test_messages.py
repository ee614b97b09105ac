"""Seals and messages: what came from the other side is a message, or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import SealError
from infra.signing import SigningKey, peek, unseal
from tasks.contracts import Card, Message, Presence, Progress, Receipt, RunManifest, Ticket
from tasks.records import Lease, Registered, RoundRecord, RunEnd
from tasks.study import Study
from tests.fuzz.effort import changed_json, efforts, nearly, tried

STORE = Path(__file__).parents[1] / "vectors" / "protocol-1" / "store"
NORTH = STORE / "sites" / "north"
EXAMPLES: dict[type[Message], Path] = {
    Card: STORE / "shared" / "hub.json",
    Study: next((STORE / "shared" / "studies").rglob("*.json")),
    RunManifest: STORE / "shared" / "runs" / "toy-1" / "run.json",
    Ticket: NORTH / "in" / "tickets" / "toy-1" / "00001-01-train.json",
    Presence: NORTH / "out" / "presence.json",
    Progress: NORTH / "out" / "toy-1" / "00001-01-train" / "progress.json",
    Receipt: NORTH / "out" / "toy-1" / "00001-01-train" / "receipt.json",
    RoundRecord: STORE / "hub" / "runs" / "toy-1" / "rounds" / "00001.json",
    RunEnd: STORE / "hub" / "runs" / "toy-1" / "ended.json",
    Registered: STORE / "hub" / "runs" / "toy-1" / "registered" / "00001.json",
    Lease: STORE / "hub" / "leases" / "toy" / "000000000001.json",
}
KEY = SigningKey.create("hub")


def body_of(model: type[Message]) -> Message:
    return peek(EXAMPLES[model].read_bytes(), model)[1]


@efforts
@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_a_body_is_a_message_or_is_refused(effort, model):
    """What is accepted says the same when it is said again, and its digest can be taken."""

    def check(raw: bytes) -> None:
        try:
            message = model.model_validate_json(raw)
        except ValidationError:
            return
        assert model.model_validate_json(message.model_dump_json()) == message
        assert len(getattr(message, "sha256", "x" * 64)) == 64

    tried(effort, 40, changed_json(json.loads(body_of(model).model_dump_json())), check)


@efforts
@pytest.mark.parametrize("model", [Card, Ticket, Receipt], ids=lambda model: model.__name__)
def test_bytes_are_a_sealed_message_or_are_refused(effort, model):
    """Nobody's bytes change what was signed: only the message itself comes out."""
    message = body_of(model)
    sealed = KEY.seal(message)

    def check(raw: bytes) -> None:
        with suppress(SealError):
            assert unseal(raw, model, "hub", KEY.public_hex) == message
        with suppress(SealError):
            peek(raw, model)

    tried(effort, 60, st.one_of(nearly(sealed), changed_json(json.loads(sealed))), check)


@efforts
def test_a_public_key_is_one_or_is_refused(effort):
    """Also keys of small order and no points at all: they come from cards."""
    sealed = KEY.seal(body_of(Card))

    def check(raw: bytes) -> None:
        if raw.hex() != KEY.public_hex:
            with pytest.raises(SealError):
                unseal(sealed, Card, "hub", raw.hex())

    small_order = [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, bytes(31) + b"\x80"]
    tried(effort, 60, st.one_of(st.sampled_from(small_order), st.binary(max_size=40)), check)
