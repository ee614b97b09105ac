"""What every test may use: the real S3 server, started once and only where a test asks for it; and the order of files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.services.ceph import Ceph, S3Server, missing_programs, serve_s3

LONGEST = ("tests/wheel/", "tests/services/", "tests/chaos/", "tests/simulation/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where processes share the files (`make test`), the longest begin first, so that none is left over alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: next((i for i, f in enumerate(LONGEST) if item.nodeid.startswith(f)), 9))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with one user and that user's bucket. Mark the test with `s3`."""
    if missing_programs():
        pytest.skip("S3 server not installed: run `make services`")
    with Ceph(tmp_path_factory.mktemp("ceph")) as ceph:
        yield serve_s3(ceph)


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty store on that server; its credentials are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_CA_BUNDLE",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    return s3_server.url(f"test-{uuid.uuid4().hex[:12]}")
