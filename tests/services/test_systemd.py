"""The service as it runs: the unit that install-service writes, under a real systemd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.training import training
from infra.hub import Hub
from simulation.acquaint import acquaint
from sites.settings import load_site
from tasks import layout
from tasks.card import publish_card
from tasks.contracts import Receipt
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tests.federation import a_study, approve_at, write_site
from tests.services.systemd import Systemd, why_not

ROOT = Path(__file__).parents[2]
UNIT = "fedrounds-site-north.service"
USER = "daemon"  # any user of the system will do: making one would leave it behind

PROBE = """
import ctypes, json, os, socket, sys

def tried(call):
    try:
        call()
    except OSError as exc:
        return exc.strerror
    return "done"

def listen():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()

def unshare():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

found = {
    "state": tried(lambda: open("mine", "w")),
    "system": tried(lambda: open("/usr/local/theirs", "w")),
    "records": tried(lambda: open(sys.argv[1], "a")),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2)),
    "listen": tried(listen),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "raw": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "namespace": tried(unshare),
    "chown": tried(lambda: os.chown("mine", 0, 0)),
}
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def systemd(tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(f"no second systemd here: {reason}")
    with Systemd(tmp_path_factory.mktemp("systemd")) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    """A folder that another user may reach, as the folders of a hospital's data are."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


def _command(systemd: Systemd, name: str, config: Path, *options: str) -> str:
    """A command of the site on that machine."""
    command = [sys.executable, "-P", "-m", "sites.cli", name, "--config", config]
    done = systemd.run(*command, *options, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def _install(systemd: Systemd, config: Path) -> None:
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    lines = [f"{name}={value}\n" for name, value in {"PYTHONPATH": str(ROOT), **keys}.items()]
    systemd.run("tee", "/etc/fedrounds/north.env", input="".join(lines))
    _command(systemd, "install-service", config, "--user", USER)


def _status_unless(pid: int, old: int) -> str:
    """What the kernel says of the service's new process; empty while there is none, or systemd prepares it."""
    if pid in (0, old):
        return ""
    status = Path(f"/proc/{pid}/status").read_text()
    return "" if status.startswith("Name:\t(") else status


@pytest.mark.long
@pytest.mark.s3
def test_the_service_trains_with_every_wall_of_a_job_standing(systemd, folder, s3_url):
    """Landlock, seccomp and the warm template work inside the unit; a killed agent comes back by itself."""
    config = write_site(folder, "north")
    config.write_text(config.read_text().replace((folder / "store").as_uri(), s3_url))
    hub = Hub(directory=folder / "hub", store_url=s3_url)
    publish_card(hub)
    study = a_study(sites=("north",), quorum=1, rounds=1)
    acquaint(hub, load_site(config))
    approve_at(hub, [config], study)
    _install(systemd, config)
    first = systemd.main_pid(UNIT)

    run = training(hub=hub, study=study)
    os.kill(first, signal.SIGKILL)

    receipts = [key for key in hub.store.list(layout.sites_prefix()) if key.endswith("train/receipt.json")]
    receipt = open_from_site(
        hub, hub.store.get(receipts[0]) or b"", Receipt, site_card(hub, "north"), receipts[0]
    )
    assert receipt is not None
    assert set(receipt.isolation) == {
        "no_credentials", "no_new_privileges", "no_network", "no_processes", "no_files",
    }, run  # fmt: skip
    until = time.monotonic() + 60
    while not (status := _status_unless(systemd.main_pid(UNIT), first)):
        assert time.monotonic() < until, systemd.run("systemctl", "status", UNIT).stdout
        time.sleep(0.1)
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [(), ("--allow", "127.0.0.1")])
def test_a_program_in_the_unit_reaches_its_folder_and_its_store_and_nothing_else(systemd, folder, allowed):
    """What an agent that was taken over could do: the kernel refuses the rest, whatever the program is."""
    config = write_site(folder, "north")
    unit = _command(systemd, "install-service", config, "--user", USER, "--print", *allowed)
    (folder / "north.state").mkdir()
    shutil.chown(folder / "north.state", USER)
    (folder / "store").mkdir()
    (folder / "probe.py").write_text(PROBE)
    server = subprocess.Popen(
        [sys.executable, "-c", "import socket; s = socket.create_server(('127.0.0.1', 0)); "
         "print(s.getsockname()[1], flush=True); s.accept(); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        probe = f"ExecStart={sys.executable} -I {folder}/probe.py {folder}/north.csv {port}"
        override = f"\n[Service]\nType=oneshot\nRestart=no\nExecStart=\n{probe}\n"
        systemd.run("tee", f"/etc/systemd/system/{UNIT}", input=unit + override)
        systemd.run("systemctl", "daemon-reload")
        done = systemd.run("systemctl", "restart", UNIT)
        assert done.returncode == 0, systemd.run("systemctl", "status", UNIT).stdout
    finally:
        server.kill()
        server.wait()

    found = json.loads((folder / "north.state" / "found.json").read_text())
    assert found.pop("state") == "done"
    assert (found.pop("connect") == "done") == bool(allowed)
    assert "done" not in found.values(), found


@pytest.mark.long
def test_uninstalling_stops_the_agent_and_keeps_what_the_site_owns(systemd, folder):
    """Keys, ledger and audit log are the institution's, not the service's."""
    config, log = write_site(folder, "north"), folder / "north.state" / "agent.log"
    hub = Hub(directory=folder / "hub", store_url=(folder / "store").as_uri())
    publish_card(hub)
    acquaint(hub, load_site(config))
    for path in (folder / "store", *(folder / "store").rglob("*")):
        shutil.chown(path, USER)
    _install(systemd, config)
    until = time.monotonic() + 60
    while not (log.exists() and "is up" in log.read_text()):
        assert time.monotonic() < until, systemd.run("systemctl", "status", UNIT).stdout
        time.sleep(0.05)

    _command(systemd, "uninstall-service", config)

    assert systemd.main_pid(UNIT) == 0
    assert systemd.run("find", "/etc/systemd/system", "-name", UNIT).stdout == ""
    assert list((folder / "north.state").glob("*.key"))
