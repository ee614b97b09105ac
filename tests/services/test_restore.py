"""The restore drill of docs/operations.md: PostgreSQL, Redis and S3, all lost in the middle of a run, all restored."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.training import training
from infra import servers
from infra.backends import Backends
from infra.errors import ServiceError, StoreError
from infra.hub import Hub
from infra.store import open_store
from simulation.acquaint import acquaint
from simulation.deployment import start_agent, stop, wait_for_agents
from sites.ledger import Ledger
from sites.settings import load_site
from tasks.card import publish_card
from tasks.commit import load_records
from tests.federation import SITES, Tampering, a_study, approve_at, write_site
from tests.services.ceph import S3Server
from tests.services.databases import PASSWORD, Databases, databases, missing, postgres_programs
from tests.services.servers import used
from tests.services.test_servers import facts, fedrounds

pytestmark = [
    pytest.mark.services,
    pytest.mark.s3,
    pytest.mark.long,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}; run `make services`"),
]
PARTS = ("hub/", "shared/", "sites/")  # of the store, in the order in which they are copied


def _postgres(program: str, address: str, *words: str) -> None:
    """pg_dump or pg_restore on one of the databases, by the address that the servers use."""
    programs = postgres_programs()
    assert programs is not None
    plain = f"postgresql://{address.partition('://')[2]}"
    done = subprocess.run(
        [programs / program, "--dbname", plain, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _back_up(hub: Hub, backing: Databases, to: Path) -> None:
    """As docs/operations.md has it: store, databases, hub's folder."""
    to.mkdir()
    for part in PARTS:
        for key in hub.store.list(part):
            path = to / "store" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(hub.store.get(key, 2**26) or b"")
    for name in ("prefect", "mlflow"):
        _postgres("pg_dump", getattr(backing, name), "--format=custom", f"--file={to / name}.dump")
    shutil.copytree(hub.directory, to / "hub")


def _destroy(hub: Hub) -> None:
    servers.stop(hub.directory)
    for key in hub.store.list(""):
        hub.store.delete(key)
    shutil.rmtree(hub.directory)


def _restore(hub: Hub, backing: Databases, copy: Path) -> None:
    """`backing` is another, empty installation."""
    for part in PARTS:
        for path in sorted((copy / "store" / part).rglob("*")):
            if path.is_file():
                hub.store.put(path.relative_to(copy / "store").as_posix(), path.read_bytes())
    for name in ("prefect", "mlflow"):
        _postgres(
            "pg_restore", getattr(backing, name), "--no-owner", "--exit-on-error", str(copy / f"{name}.dump")
        )
    for part in ("keys", "members", "hub.json", "mlflow"):
        source = copy / "hub" / part
        if source.is_dir():
            shutil.copytree(source, hub.directory / part)
        elif source.exists():
            hub.directory.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, hub.directory / part)
    _on(backing).save(hub.directory)


def _on(backing: Databases) -> Backends:
    return Backends(prefect_db=backing.prefect, mlflow_db=backing.mlflow, redis=backing.redis)


def _fall_in_round_2(hub: Hub) -> Hub:
    """The hub's machine is lost when all sites have delivered for round 2 and nothing of it is committed."""

    def fall(key: str, data: bytes) -> bytes:
        if "/parameters/00002-" in key:
            raise StoreError("the machine is lost")
        return data

    falling = hub.model_copy()
    falling.__dict__["store"] = Tampering(open_store(hub.store_url), fall)
    return falling


@contextmanager
def _agents(own: Hub, hub: Hub, files: dict[str, Path]) -> Iterator[None]:
    """Three sites at work; `own` is only the folder of their processes."""
    publish_card(hub)
    try:
        for site, file in files.items():
            acquaint(hub, load_site(file))
            start_agent(own, site, file)
        wait_for_agents(own, list(files))
        yield
    finally:
        stop(own.directory)


@pytest.mark.timeout(1200)
def test_everything_is_lost_and_restored_and_the_run_goes_on(tmp_path, s3_server: S3Server, s3_url):
    """One model version for each round, and no site has trained, or paid, for anything again."""
    study, hub = a_study(rounds=3, deadline_s=300), Hub(directory=tmp_path / "hub", store_url=s3_url)
    files = {site: write_site(tmp_path / "files", site) for site in SITES}
    for file in files.values():
        file.write_text(file.read_text().replace((tmp_path / "files" / "store").as_uri(), s3_url))
    agents = Hub(
        directory=tmp_path / "agents", store_url=s3_url
    )  # of other institutions: they outlive the hub
    hub.directory.mkdir()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()

    with databases(tmp_path / "first") as backing:
        _on(backing).save(hub.directory)
        with _agents(agents, hub, files), databases(tmp_path / "second") as other:
            up = servers.start(hub)
            try:
                with used(up):
                    approve_at(up, files.values(), study)
                    with pytest.raises(StoreError, match="machine is lost"):
                        training(hub=_fall_in_round_2(up), study=study, run="toy-1")
                _back_up(up, backing, tmp_path / "copy")
                _destroy(up)
                _restore(hub, other, tmp_path / "copy")
                done = fedrounds("up", "--dir", hub.directory)
                assert done.returncode == 0, done.stderr
                for _ in range(
                    5
                ):  # on a machine that is busy MLflow may be late: its exit code is 4, and the cure this
                    done = fedrounds("run", "resume", "toy-1", "--dir", hub.directory)
                    if done.returncode != ServiceError.exit_code:
                        break
                assert done.returncode == 0, done.stderr
                shown = facts("run", "show", "toy-1", "--dir", hub.directory)
                versions = MlflowClient(Hub.load(hub.directory).mlflow_url).search_model_versions(
                    "name='toy'"
                )
            finally:
                servers.stop(hub.directory)

    assert [record.round for record in load_records(hub, "toy-1")] == [1, 2, 3]
    assert shown["state"] == "finished"
    assert sorted(int(version.version) for version in versions) == [1, 2, 3]
    for site, file in files.items():
        ledger = Ledger(load_site(file).state, site=site, read_only=True)
        assert [(r.entry.round, r.entry.attempt, r.state) for r in ledger.rows()] == [
            (n, 1, "charged") for n in (1, 2, 3)
        ]
        ledger.close()
    assert PASSWORD not in (hub.directory / "hub.json").read_text()
