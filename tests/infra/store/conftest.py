"""A store of each kind, empty, and its address for a second handle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.store import open_store
from infra.store.base import Store
from infra.store.patient import PatientStore
from tests.services.badstore import BadStore, bad_store
from tests.services.storefaults import Fault, often
from tests.services.ways import through

Opener = Callable[[str], Store]
SHARE = 0.1  # of requests that a bad server lets fail


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def kind(request: pytest.FixtureRequest) -> str:
    """Tests that also want a server that fails ("bad s3") have a fixture of their own by this name."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "bad s3":
        bad: BadStore = request.getfixturevalue("bad")
        bad.plan = often(1, SHARE, without=[Fault.STALE])
        return through(request.getfixturevalue("s3_url"), bad.url)
    return request.getfixturevalue("s3_url") if kind == "s3" else (tmp_path / "store").as_uri()


@pytest.fixture
def opened(kind: str) -> Opener:
    """A handle as a run has it: where the server is bad, one that waits."""
    if kind != "bad s3":
        return open_store
    return lambda url: PatientStore(open_store(url), lambda seconds: time.sleep(min(seconds, 0.05)))


@pytest.fixture
def store(url: str, opened: Opener) -> Store:
    return opened(url)


@pytest.fixture
def bad(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadStore]:
    """A server that fails when its plan says so; botocore's own pauses are cut short."""
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    with bad_store(request.getfixturevalue("s3_server").endpoint) as made:
        yield made
