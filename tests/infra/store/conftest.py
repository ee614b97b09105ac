"""A store of each kind, empty, and its address for a second handle."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.store import open_store
from infra.store.base import Store


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("s3_url") if request.param == "s3" else (tmp_path / "store").as_uri()


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)
