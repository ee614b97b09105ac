"""Every verb against every fault that a request of its kind can meet: once, and without end."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from infra.errors import StoreError
from infra.store import open_store, s3
from infra.store.base import Store
from tests.services.storefaults import FAULTS, Fault, nothing, once
from tests.services.ways import through

pytestmark = pytest.mark.s3

BEFORE = b"what was there" * 1000
IN_PARTS = 5 * 2**20 + 1000  # two parts, where a part is 5 MiB: S3's least
HARMLESS = {Fault.SLOW, Fault.STALE}  # a success, however often


def verbs(data: bytes) -> dict[str, Callable[[Store, str], object]]:
    """By kind of request, a verb that makes such a request."""
    return {
        "GET": lambda store, key: store.get(key, len(BEFORE)) == BEFORE,
        "LIST": lambda store, key: store.list(key) == [key],
        "PUT": lambda store, key: store.put_if_absent(f"{key}-new", data[:100]),
        "DELETE": lambda store, key: store.delete(key),
    } | dict.fromkeys(("BEGIN", "PART", "COMPLETE"), lambda store, key: store.put(f"{key}-new", data))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 5 * 2**20)


@pytest.mark.parametrize("kind", FAULTS)
def test_one_fault_is_not_noticed_and_many_are_told(kind, bad, s3_url, small_parts):
    """Nothing but a StoreError may come out of a verb: an agent lives through that, and through nothing else."""
    data = os.urandom(IN_PARTS)
    good, through_it, verb = open_store(s3_url), open_store(through(s3_url, bad.url)), verbs(data)[kind]
    for fault in sorted(FAULTS[kind]):
        key = f"{kind}/{fault.name}.x"
        good.put(key, BEFORE)
        through_it.list(key)  # something that may be shown again later
        bad.plan = once(kind, fault)
        assert verb(through_it, key) in (True, None), fault

        good.put(key, BEFORE)
        good.delete(f"{key}-new")
        bad.plan = once(kind, fault, times=99)
        try:
            verb(through_it, key)
            assert fault in HARMLESS
        except StoreError as exc:
            assert exc.passing, fault
        bad.plan = nothing
    assert {fault for done, fault in bad.done if done == kind} == FAULTS[kind]


@pytest.mark.parametrize("kind", ["BEGIN", "PART", "COMPLETE"])
def test_an_upload_in_parts_is_whole_or_not_there(kind, bad, s3_url, small_parts):
    """Half an update is no update: after a fault without end nothing is there, after another try all of it."""
    data = os.urandom(IN_PARTS)
    good, through_it = open_store(s3_url), open_store(through(s3_url, bad.url))
    for fault in (Fault.ERROR_500, Fault.RESET_BEFORE, Fault.LOST):
        key = f"{kind}/{fault.name}.x"
        bad.plan = once(kind, fault, times=99)
        with pytest.raises(StoreError):
            through_it.put(key, data)
        left = good.get(key, len(data))
        assert left is None or (kind == "COMPLETE" and fault is Fault.LOST and left == data)

        bad.plan = nothing
        through_it.put(key, data)
        assert good.get(key, len(data)) == data


def test_a_lost_answer_makes_a_commit_ours_whatever_comes_after_it(bad, s3_url):
    """Hub's patience: the write was done, its answer was lost, then the server was away; it is still our commit."""
    from infra.store.patient import PatientStore

    waited: list[float] = []
    store = PatientStore(open_store(through(s3_url, bad.url)), waited.append)
    plans = [once("PUT", Fault.LOST), once("PUT", Fault.ERROR_503, times=7), once("GET", Fault.BROKEN)]
    bad.plan = lambda request: next((f for p in plans if (f := p(request))), None)

    assert store.put_if_absent("hub/runs/r/rounds/00001.json", b"sealed by this hub")
    assert waited
    assert not store.put_if_absent("hub/runs/r/rounds/00001.json", b"sealed by another")
