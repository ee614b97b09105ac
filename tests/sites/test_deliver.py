"""The one way out: own prefix, sealed kinds, and payloads that their receipts name."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import numpy as np
import pytest

from infra.identity import Identity
from infra.signing import SigningKey
from infra.store import open_store
from sites.audit import Audit
from sites.deliver import Delivery
from sites.egress import Egress
from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import Receipt, Update
from tasks.errors import ContractError
from tasks.parameters import to_bytes

PAYLOAD = to_bytes({"w": np.ones(2, np.float32)})


def a_receipt(site: str = "north", payload: bytes = PAYLOAD) -> Receipt:
    update = Update(
        payload_sha256=hashlib.sha256(payload).hexdigest(), payload_bytes=len(payload), spent=None
    )
    return Receipt(
        ticket_sha256="0" * 64,
        run="toy-1",
        round=1,
        attempt=1,
        operation=Operation.TRAIN,
        site=site,
        update=update,
        delivered_at=1.0,
    )


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def delivery(store, tmp_path):
    north, hub = Identity.create("north"), Identity.create("hub")
    return Delivery(
        store,
        north,
        hub.public,
        Audit(tmp_path, north.signing),
        egress=Egress(tmp_path, north.signing, lambda: 1.0),
    )


def sealed(delivery: Delivery, receipt: Receipt) -> bytes:
    """The receipt as the outbox keeps it."""
    place = layout.answer_key(receipt, "receipt.json")
    return delivery.identity.seal(receipt, [*delivery._to], place)


def test_the_update_is_there_before_its_receipt(store, delivery):
    """A hub that sees the receipt may fetch at once; a repeat changes nothing."""
    order = []
    put, once = store.put, store.put_if_absent
    store.put = lambda key, data: (order.append(key), put(key, data))
    store.put_if_absent = lambda key, data: (order.append(key), once(key, data))[1]

    for _ in range(2):
        delivery.answer(sealed(delivery, a_receipt()), PAYLOAD)

    assert [key.rsplit("/", 1)[1] for key in order] == ["update.safetensors", "receipt.json"] * 2
    assert len(store.list("sites/north/out/toy-1/")) == 2


@pytest.mark.parametrize(
    "payload", [None, b"", PAYLOAD[:-1] + b"x", PAYLOAD + b"x"], ids=["none", "empty", "other", "longer"]
)
def test_a_payload_that_the_receipt_does_not_name_stays(store, delivery, payload):
    """Whatever lay in the outbox was perhaps damaged or exchanged."""
    with pytest.raises(ContractError):
        delivery.answer(sealed(delivery, a_receipt()), payload)

    assert store.list("") == []


def test_a_vector_in_its_receipt_is_no_object_of_its_own(store, delivery):
    """One write: the receipt is what the hub waits for, and it is written once."""
    delivery.answer(sealed(delivery, carrying(PAYLOAD)), PAYLOAD)

    assert [key.rsplit("/", 1)[1] for key in store.list("sites/north/out/toy-1/")] == ["receipt.json"]


def test_a_receipt_that_carries_another_vector_than_it_names_stays(store, delivery):
    """The bytes that were kept, examined and bound to a sum are the ones that leave."""
    with pytest.raises(ContractError):
        delivery.answer(sealed(delivery, carrying(PAYLOAD[:-1] + b"x")), PAYLOAD)

    assert store.list("") == []


def carrying(vector: bytes) -> Receipt:
    """A receipt for PAYLOAD with this vector in it."""
    receipt = a_receipt()
    update = receipt.update.model_copy(update={"vector": b64encode(vector).decode()})
    return receipt.model_copy(update={"update": update})


def test_a_payload_without_an_update_in_the_receipt_stays(store, delivery):
    """A refusal carries nothing."""
    refused = a_receipt().model_copy(update={"update": None, "refusal": Code.EXPIRED})

    with pytest.raises(ContractError):
        delivery.answer(sealed(delivery, refused), PAYLOAD)

    assert store.list("") == []


def test_a_receipt_of_somebody_else_is_not_sent(store, delivery):
    """Nor one of this site that says another site's name: it would be written there."""
    for raw in (SigningKey.create("north").seal(a_receipt()), sealed(delivery, a_receipt("south"))):
        with pytest.raises(ContractError):
            delivery.answer(raw, PAYLOAD)

    assert store.list("") == []


def test_every_object_is_logged_with_its_digest(delivery, caplog):
    """What left, in the site's own log, to be compared with anything the hub shows."""
    with caplog.at_level("INFO"):
        delivery.answer(sealed(delivery, a_receipt()), PAYLOAD)

    assert f"{len(PAYLOAD)} bytes sha256 {hashlib.sha256(PAYLOAD).hexdigest()}" in caplog.text
