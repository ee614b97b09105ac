"""Encryption to a recipient: published vectors, and what a store could try."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import sealing
from infra.errors import SealError
from infra.fingerprint import same_words, six_words
from infra.sealing import AgreementKey, Context, encrypt, encrypted_bytes

VECTORS = Path(__file__).parents[1] / "vectors" / "sealing"
PLACE = Context("north", "hub", "sites/north/out/presence.json")
HUB = AgreementKey.from_bytes(b"\x09" * 32)


def vectors(name):
    return json.loads((VECTORS / name).read_text())["vectors"]


@pytest.mark.parametrize("vector", vectors("encryption.json"), ids=lambda v: v["name"])
def test_the_published_vectors_are_reproduced(vector):
    """Another implementation can be held against ours, and ours of next year against this one."""
    plain = bytes(i % 251 for i in range(vector["plain_bytes"]))
    context = Context(vector["sender"], vector["recipient"], vector["place"])
    once = AgreementKey.from_bytes(bytes.fromhex(vector["ephemeral_private"]))

    raw = encrypt(plain, vector["recipient_public"], context, ephemeral=once)

    assert hashlib.sha256(raw).hexdigest() == vector["encrypted_sha256"]
    assert raw.hex() == vector.get("encrypted", raw.hex())


@pytest.mark.parametrize(
    "vector", [v for v in vectors("encryption.json") if "encrypted" in v], ids=lambda v: v["name"]
)
def test_the_published_vectors_are_decrypted(vector):
    """What a version before has encrypted, this one opens."""
    key = AgreementKey.from_bytes(bytes.fromhex(vector["recipient_private"]))
    context = Context(vector["sender"], vector["recipient"], vector["place"])

    plain = key.decrypt(bytes.fromhex(vector["encrypted"]), context)

    assert plain == bytes(i % 251 for i in range(vector["plain_bytes"]))


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=300), flip=st.integers(min_value=0), bit=st.integers(0, 7))
def test_every_byte_counts(data, flip, bit):
    """Whatever is altered, cut or added: nothing opens, and nothing but SealError comes out."""
    raw = encrypt(data, HUB.public_hex, PLACE)
    assert HUB.decrypt(raw, PLACE) == data and len(raw) == encrypted_bytes(len(data))
    at = flip % len(raw)
    altered = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]

    for wrong in (altered, raw[:at], raw + b"\0"):
        with pytest.raises(SealError):
            HUB.decrypt(wrong, PLACE)


@pytest.mark.parametrize("part", ["sender", "recipient", "place"])
def test_nothing_opens_in_another_context(part):
    """A message that is moved, or sent on as somebody else's, does not open."""
    raw = encrypt(b"scores", HUB.public_hex, PLACE)

    with pytest.raises(SealError):
        HUB.decrypt(raw, PLACE._replace(**{part: "east"}))


def test_only_the_recipient_opens():
    """Another site with a key of its own reads nothing."""
    raw = encrypt(b"scores", HUB.public_hex, PLACE)

    with pytest.raises(SealError):
        AgreementKey.create().decrypt(raw, PLACE)


def test_chunks_can_be_neither_left_out_nor_moved(monkeypatch):
    """A large update is many chunks; a store could lose or reorder whole ones."""
    monkeypatch.setattr(sealing, "CHUNK_BYTES", 10)
    raw = encrypt(bytes(range(35)), HUB.public_hex, PLACE)
    head, size = sealing.HEADER_BYTES, 10 + sealing.TAG_BYTES
    chunks = [raw[i : i + size] for i in range(head, len(raw), size)]
    assert HUB.decrypt(raw, PLACE) == bytes(range(35)) and len(chunks) == 4

    for order in ([0, 1, 2], [1, 0, 2, 3], [0, 2, 3], [0, 1, 2, 3, 3], [3], [0, 0, 2, 3]):
        with pytest.raises(SealError):
            HUB.decrypt(raw[:head] + b"".join(chunks[i] for i in order), PLACE)


def test_two_messages_share_no_key():
    """The same words twice look like nothing of each other."""
    one, other = (encrypt(bytes(64), HUB.public_hex, PLACE) for _ in range(2))

    assert one[8:40] != other[8:40] and one[40:] != other[40:]


@pytest.mark.parametrize("key", ["00" * 32, "zz", "01" * 31, "01" + "00" * 31])
def test_a_key_that_is_none_is_refused(key):
    """Also a point of small order, with which everybody would know the secret."""
    with pytest.raises(SealError):
        encrypt(b"x", key, PLACE)


def test_a_message_whose_own_key_is_of_small_order_is_refused():
    """Everybody would know the secret that such a key leads to."""
    raw = sealing.MAGIC + bytes(32) + bytes(16)

    with pytest.raises(SealError):
        HUB.decrypt(raw, PLACE)


def test_keys_are_the_owner_s_alone_and_made_once(tmp_path):
    """Never re-issued by a second start."""
    path = tmp_path / "keys" / "hub.x25519"

    keys = [AgreementKey.load_or_create(path).public_hex for _ in range(2)]

    assert keys[0] == keys[1] and path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "abc", "00" * 31, "not hex"])
def test_a_damaged_key_file_is_said(tmp_path, text):
    """A new key in its place would be a stranger to the other side."""
    path = tmp_path / "site.x25519"
    path.write_text(text)

    with pytest.raises(SealError, match="backup"):
        AgreementKey.load_or_create(path)


@pytest.mark.parametrize("vector", vectors("fingerprints.json"), ids=lambda v: v["words"])
def test_the_published_words_are_reproduced(vector):
    """Two versions at two ends of a telephone say the same words."""
    assert six_words(vector["public_key"], vector["agreement_key"]) == vector["words"]


def test_either_key_changes_the_words():
    """Who exchanges one of the two keys is heard on the telephone."""
    words = {
        six_words("aa" * 32, "bb" * 32),
        six_words("ab" * 32, "bb" * 32),
        six_words("aa" * 32, "bc" * 32),
    }

    assert len(words) == 3


def test_words_are_compared_as_people_say_them():
    """Capitals, spaces and hyphens are not heard; the order is."""
    assert same_words("Maple  orbit-one", "maple orbit one") and not same_words("maple orbit", "orbit maple")
