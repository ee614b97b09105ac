"""Signing and encrypting together: who can pass whose words off as what."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Literal

import pytest
from pydantic import BaseModel

from infra.errors import SealError
from infra.identity import Encrypted, Identity, Public
from infra.sealing import Context, encrypt
from infra.signing import unseal

HUB, NORTH, EAST = (Identity.create(name) for name in ("hub", "north", "east"))
PLACE = "sites/north/out/presence.json"


class Word(BaseModel):
    kind: Literal["word"] = "word"
    text: str


WORD = Word(text="secret-canary")


def test_only_the_recipients_read():
    """The store sees who wrote to whom, and not what."""
    raw = NORTH.seal(WORD, [HUB.public, NORTH.public], PLACE)

    assert b64encode(b"canary") not in raw and b"canary" not in b64decode(
        unseal(raw, Encrypted, "north", NORTH.public.public_key).parts["hub"]
    )
    assert HUB.open(raw, Word, NORTH.public, PLACE) == WORD == NORTH.open(raw, Word, NORTH.public, PLACE)
    with pytest.raises(SealError):
        EAST.open(raw, Word, NORTH.public, PLACE)


def test_a_message_opens_only_at_its_place():
    """An answer to round 1 is none to round 2."""
    raw = NORTH.seal(WORD, [HUB.public], PLACE)

    with pytest.raises(SealError):
        HUB.open(raw, Word, NORTH.public, "sites/north/out/other.json")


def test_nobody_signs_somebody_else_s_encrypted_words():
    """Encrypt-then-sign falls to this where the sender is not bound: east claims north's words without reading them."""
    closed = unseal(NORTH.seal(WORD, [HUB.public], PLACE), Encrypted, "north", NORTH.public.public_key)

    with pytest.raises(SealError, match="does not open"):
        HUB.open(EAST.signing.seal(closed), Word, EAST.public, PLACE)


def test_a_recipient_cannot_pass_words_on_as_the_sender_s():
    """The hub reads north's words; it cannot make a message from north to east of them."""
    part = b64encode(
        encrypt(
            WORD.model_dump_json().encode(), EAST.public.agreement_key or "", Context("north", "east", PLACE)
        )
    )
    closed = Encrypted(holds="word", place=PLACE, parts={"east": part.decode()})

    with pytest.raises(SealError):
        EAST.open(HUB.signing.seal(closed), Word, NORTH.public, PLACE)


def test_one_kind_is_not_taken_for_another():
    """A receipt that passes for a ticket would let a site speak as the hub."""

    class Other(BaseModel):
        kind: Literal["other"] = "other"
        text: str

    raw = NORTH.seal(Other(text="x"), [HUB.public], PLACE)

    with pytest.raises(SealError):
        HUB.open(raw, Word, NORTH.public, PLACE)


def test_to_a_party_of_the_version_before_it_is_signed_only():
    """It has no key to encrypt to, and reads what it always read."""
    old = Public("hub", HUB.public.public_key, None)

    raw = NORTH.seal(WORD, [old], PLACE)

    assert (
        unseal(raw, Word, "north", NORTH.public.public_key)
        == WORD
        == HUB.open(raw, Word, NORTH.public, PLACE)
    )


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff" * 100, b"[" * 5000, b"0" * 600_000])
def test_junk_is_refused(raw):
    """Whoever can write to the store can write anything."""
    with pytest.raises(SealError):
        HUB.open(raw, Word, NORTH.public, PLACE)


def test_junk_under_a_good_signature_is_refused():
    """A site is enrolled, not trusted: what it signs may still be nonsense."""
    for part in ("%%%", b64encode(b"short").decode(), b64encode(bytes(200)).decode()):
        closed = Encrypted(holds="word", place=PLACE, parts={"hub": part})
        with pytest.raises(SealError):
            HUB.open(NORTH.signing.seal(closed), Word, NORTH.public, PLACE)


def test_bytes_travel_to_one_party():
    """An update lies beside its receipt, encrypted to the hub."""
    raw = NORTH.encrypt(b"update", HUB.public, "toy-1/00001-train")

    assert HUB.decrypt(raw, NORTH.public, "toy-1/00001-train") == b"update"
    with pytest.raises(SealError):
        HUB.decrypt(raw, NORTH.public, "toy-1/00002-train")
    with pytest.raises(SealError):
        NORTH.encrypt(b"update", Public("hub", HUB.public.public_key, None), "x")
