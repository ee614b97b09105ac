"""A masked vector that a receipt carries, as the hub takes it: nothing of it is believed."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest
from pydantic import ValidationError

from infra.hub import Hub
from tasks.contracts import MOST_INSIDE_BYTES, Update
from tasks.errors import ContractError
from tasks.follow import Answer
from tasks.masked import load_masked
from tests.sites.test_deliver import a_receipt

VECTOR = bytes(range(16))


def carrying(text: str) -> Answer:
    """A site's answer that promises VECTOR, with this in it."""
    receipt = a_receipt(payload=VECTOR)
    update = Update.model_validate(receipt.update.model_dump() | {"vector": text})
    return Answer("north", None, receipt.model_copy(update={"update": update}), None)


@pytest.fixture
def hub(tmp_path) -> Hub:
    return Hub(directory=tmp_path / "hub", store_url=(tmp_path / "store").as_uri())


def test_a_vector_is_read_from_its_receipt(hub):
    """No object beside it is asked for: the answer of this test has no place."""
    assert load_masked(hub, carrying(b64encode(VECTOR).decode()), len(VECTOR)) == VECTOR


@pytest.mark.parametrize("other", [b"", VECTOR[:-1], VECTOR + b"x", VECTOR[:-1] + b"x"])
def test_a_vector_that_is_not_the_one_that_is_promised_is_refused(hub, other):
    """A site that lies about its own answer is left out, as where the vector is an object."""
    with pytest.raises(ContractError):
        load_masked(hub, carrying(b64encode(other).decode()), len(VECTOR))


@pytest.mark.parametrize("text", ["?", "AAA", "AAAA\n", "ä"])
def test_a_vector_that_is_no_base64_is_refused(hub, text):
    """And stops nobody's round."""
    with pytest.raises(ContractError):
        load_masked(hub, carrying(text), len(VECTOR))


def test_a_receipt_carries_no_more_than_its_bound():
    """What is larger lies beside it."""
    digest = hashlib.sha256(VECTOR).hexdigest()
    with pytest.raises(ValidationError):
        Update(payload_sha256=digest, payload_bytes=16, spent=None, vector="A" * (2 * MOST_INSIDE_BYTES))
