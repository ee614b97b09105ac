"""Addresses, environments and folders of the hub's servers; the servers themselves run in tests/services."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from infra import servers
from infra.errors import FileError, ServiceError
from infra.hub import Hub
from infra.serverfiles import MLFLOW, PREFECT, environment, server_command, server_environment


def a_hub(folder: Path) -> Hub:
    return Hub(
        directory=folder,
        store_url=(folder / "store").as_uri(),
        prefect_url="http://127.0.0.1:4200",
        mlflow_url="http://127.0.0.1:5000",
    )


def test_clients_are_told_the_addresses_and_nothing_leaves(tmp_path):
    """Prefect and MLflow both send usage data by default."""
    told = environment(a_hub(tmp_path))

    assert told["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert told["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert told["DO_NOT_TRACK"] == told["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert told["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_a_proxy_is_not_asked_for_our_own_machine(tmp_path, monkeypatch):
    """Hospitals set HTTP_PROXY for everything; the exceptions that they made stay."""
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")

    told = environment(a_hub(tmp_path))

    assert told["NO_PROXY"] == told["no_proxy"] == "127.0.0.1,intranet.example.org,localhost"


def test_a_users_own_settings_do_not_reach_the_servers(tmp_path, monkeypatch):
    """A shell that points at another Prefect server, or turns telemetry on, must not change ours."""
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    monkeypatch.setenv("PREFECT_PROFILE", "work")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://elsewhere")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")

    prefect, mlflow = (server_environment(a_hub(tmp_path), name) for name in (PREFECT, MLFLOW))

    assert prefect["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert "PREFECT_PROFILE" not in prefect
    assert mlflow["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:///")
    assert mlflow["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_prefects_recorder_does_not_spin(tmp_path):
    """Prefect 3.8 rounds the interval down to whole seconds, and with 0 burns a core."""
    key = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"

    assert int(float(server_environment(a_hub(tmp_path), PREFECT)[key])) >= 1


@pytest.mark.parametrize("name", [PREFECT, MLFLOW])
def test_servers_listen_on_this_machine_only(tmp_path, name):
    """Neither server asks for a password."""
    command = server_command(a_hub(tmp_path), name)

    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_a_port_is_kept_while_it_is_free():
    """So that bookmarks live."""
    port = servers.free_port()

    assert servers.free_port(port) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert servers.free_port(port) != port


def test_silence_is_no_answer():
    """Nobody listens: not an error, just not healthy."""
    assert not servers.answers(f"http://127.0.0.1:{servers.free_port()}/health")


def test_a_hub_needs_a_folder(tmp_path):
    """The message names the cure."""
    (tmp_path / "file").write_text("")

    with pytest.raises(FileError, match="--dir"):
        servers.make_folders(tmp_path / "file" / "hub")


def test_what_servers_write_is_not_for_other_users(tmp_path):
    """Prefect's and MLflow's databases hold the names of sites and studies."""
    servers.make_folders(tmp_path / "hub")

    assert {part.stat().st_mode & 0o777 for part in (tmp_path / "hub").iterdir()} == {0o700}


def test_a_missing_extra_names_its_cure(tmp_path, monkeypatch):
    """A site's machine has no Prefect; `fedrounds up` there is a mistake."""
    monkeypatch.setattr(servers, "find_spec", lambda name: None)

    with pytest.raises(ServiceError, match=r"pip install 'fedrounds\[hub\]'"):
        servers.start(a_hub(tmp_path))


def test_nothing_runs_in_a_new_folder(tmp_path):
    """`status` and `down` on a folder that was never used."""
    assert [server.healthy for server in servers.state(a_hub(tmp_path))] == [False, False]
    assert servers.stop(tmp_path) == 0
