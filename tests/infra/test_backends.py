"""Addresses of the hub's databases: kept for their owner alone, never shown with a password."""

from __future__ import annotations

import stat
from datetime import timedelta

import pytest

from infra.backends import FILE, Backends, hide_password
from infra.errors import FileError
from infra.hub import Hub
from infra.serverfiles import server_command, server_environment

SECRET = "postgresql+asyncpg://prefect:hush@db/prefect"
MLFLOW = "postgresql+pg8000://mlflow:hush@db/mlflow"


def test_they_are_kept_for_their_owner_alone(tmp_path):
    """The file holds passwords, also when it is written over one that others could read."""
    (tmp_path / FILE).touch(mode=0o644)

    Backends(prefect_db=SECRET).save(tmp_path)

    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert Backends.load(tmp_path).prefect_db == SECRET


def test_what_is_not_said_again_stays():
    """`fedrounds up` is repeated without the addresses."""
    known = Backends(prefect_db=SECRET, redis="redis://r/0")

    assert known.updated({"prefect_db": None, "mlflow_db": MLFLOW}) == Backends(
        prefect_db=SECRET, mlflow_db=MLFLOW, redis="redis://r/0"
    )


@pytest.mark.parametrize("name", ["prefect_db", "mlflow_db", "mlflow_artifacts", "redis"])
def test_a_wrong_address_is_refused_without_repeating_it(name):
    """It may hold a password, and the error goes to a terminal or a log."""
    with pytest.raises(FileError, match="such as") as error:
        Backends().updated({name: "mysql://me:hush@db/x"})

    assert "hush" not in str(error.value)


def test_how_long_history_is_kept_reaches_prefect(tmp_path, monkeypatch):
    """Prefect ignores settings whose name it does not know: one that was renamed would let its database grow."""
    from prefect.settings import Settings

    Backends().updated({"keep_days": "30"}).save(tmp_path)
    for name, value in Backends.load(tmp_path).prefect_environment().items():
        monkeypatch.setenv(name, value)
    server = Settings().server

    assert server.services.db_vacuum.enabled_vacuum_types >= {"events", "flow_runs"}
    assert server.services.db_vacuum.retention_period == timedelta(days=30)
    assert server.events.retention_period == timedelta(days=7)
    with pytest.raises(FileError, match="keep_days has another form than expected, such as 90"):
        Backends().updated({"keep_days": "0"})


def test_a_damaged_file_is_said(tmp_path):
    """Going on with SQLite would hide all earlier runs."""
    (tmp_path / FILE).write_text("{")

    with pytest.raises(FileError, match="damaged"):
        Backends.load(tmp_path)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (SECRET, "postgresql+asyncpg://prefect:***@db/prefect"),
        ("redis://:hush@r:6379/0", "redis://:***@r:6379/0"),
        ("redis://r:6379/0", "redis://r:6379/0"),
        ("s3://bucket/mlflow", "s3://bucket/mlflow"),
    ],
)
def test_passwords_are_not_shown(address, shown):
    """What `fedrounds up` prints is read over shoulders."""
    assert hide_password(address) == shown


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_servers_learn_them_by_their_environment(tmp_path, name):
    """`ps` shows every user the command lines of all."""
    Backends(prefect_db=SECRET, mlflow_db=MLFLOW).save(tmp_path)
    hub = Hub(
        directory=tmp_path,
        store_url="file:///s",
        prefect_url="http://127.0.0.1:1",
        mlflow_url="http://127.0.0.1:2",
    )

    assert "hush" not in " ".join(server_command(hub, name))
    assert {SECRET, MLFLOW} & set(server_environment(hub, name).values())
