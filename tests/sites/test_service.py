"""The unit that install-service writes, as text; tests/services/test_systemd.py runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.errors import FileError
from sites import service
from sites.cli import main
from sites.settings import load_site
from sites.systemd import install_steps, take
from tests.federation import write_site

ROOT = Path(__file__).parents[2]
MOST_EXPOSED = 1.5  # of 10, by systemd's own count; 1.2 as written, 9.6 without a line of hardening
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze of Debian's package systemd"
)


def _unit(tmp_path: Path, **changes: str) -> str:
    config = write_site(tmp_path, "north")
    for old, new in changes.items():
        config.write_text(re.sub(rf"^{old}:.*$", f"{old}: {new}", config.read_text(), flags=re.M))
    return service.unit_text(load_site(config), config, "fedrounds-site", "4G")


def _line(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


@needs_systemd
def test_systemd_reads_the_unit_and_finds_it_hardly_exposed(tmp_path):
    """A directive that is misspelt or lost shows here; the number is the one an auditor will ask for."""
    path = tmp_path / "fedrounds-site-north.service"
    path.write_text(_unit(tmp_path).replace(str(service.program()), "/bin/true"))

    assert _exposure(path) <= MOST_EXPOSED


@needs_systemd
def test_systemd_reads_the_hub_unit_too(tmp_path):
    """It talks to people and servers, so it may be reached; the rest is as closed as a site's."""
    path = tmp_path / "fedrounds-hub.service"
    text = (ROOT / "infra" / "systemd" / path.name).read_text()
    path.write_text(text.replace("/opt/fedrounds-hub/bin/fedrounds", "/bin/true"))

    assert _exposure(path) <= 2.5


def _exposure(path: Path) -> float:
    """systemd's own score of a unit that it reads without a complaint."""
    verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", path], capture_output=True, text=True
    )

    complaints = [line for line in verified.stderr.splitlines() if path.name in line]
    newer = ("RestartSteps", "RestartMaxDelaySec")  # systemd 254
    assert verified.returncode == 0
    assert [line for line in complaints if not any(key in line for key in newer)] == []
    found = re.search(r"Overall exposure level .*: ([0-9.]+)", scored.stdout)
    assert found, scored.stderr
    return float(found[1])


def test_only_the_store_can_be_reached(tmp_path):
    """The address is that of the store's URL; a name would bring the machine's name servers with it."""
    unit = _unit(tmp_path, store='"s3://bucket/x?endpoint=https://192.0.2.7:9000"')

    assert _line(unit, "IPAddressDeny") == ["any"]
    assert _line(unit, "IPAddressAllow") == ["192.0.2.7"]


def test_where_there_is_a_proxy_only_the_proxy_can_be_reached(tmp_path):
    """The agent never talks to the store itself then, nor needs its name."""
    unit = _unit(
        tmp_path, store='"s3://bucket/x?endpoint=https://store.invalid"\nproxy: http://192.0.2.8:3128'
    )

    assert _line(unit, "IPAddressAllow") == ["192.0.2.8"]


def test_a_name_brings_its_addresses_and_the_name_servers(tmp_path, monkeypatch):
    """Without its name servers the agent could not find the store again after a restart."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("search example.org\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n")
    monkeypatch.setattr(service, "RESOLVER", resolver)
    unit = _unit(tmp_path, store='"s3://bucket/x?endpoint=http://localhost:9000"')

    assert {"127.0.0.1", "192.0.2.53", "fe80::1"} <= set(_line(unit, "IPAddressAllow")[0].split())


def test_a_host_without_an_address_is_said(tmp_path):
    """Not a unit that can reach nothing."""
    with pytest.raises(FileError, match="--allow"):
        _unit(tmp_path, store='"s3://bucket/x?endpoint=https://store.invalid"')


def test_what_lies_in_homes_and_temporary_folders_is_put_back_and_nothing_else(tmp_path, monkeypatch):
    """The service sees empty ones; a read-only folder of records stays read-only there."""
    monkeypatch.setattr(service, "HOMES", (tmp_path,))
    monkeypatch.setattr(service, "installation", lambda: [Path("/opt/fedrounds")])

    unit = _unit(tmp_path)

    assert _line(unit, "ProtectHome") == ["tmpfs"]
    assert _line(unit, "BindPaths") == [str(tmp_path / "north.state"), str(tmp_path / "store")]
    assert _line(unit, "BindReadOnlyPaths") == [str(tmp_path)]


@pytest.mark.parametrize("name", ["with space", "per%cent", "new\nline", 'quo"te', "dol$lar"])
def test_a_path_that_a_unit_would_read_otherwise_is_refused(tmp_path, name):
    """No line of site.yaml becomes a line of the unit."""
    with pytest.raises(FileError, match="character"):
        _unit(tmp_path / name)


def test_the_service_runs_through_the_link_that_an_upgrade_moves(tmp_path, monkeypatch):
    """Else a restart after an upgrade would start the old version."""
    (tmp_path / "versions" / "1.0").mkdir(parents=True)
    (tmp_path / "current").symlink_to("versions/1.0")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "versions" / "1.0"))

    assert service.program() == tmp_path / "current" / "bin" / "fedrounds-site"


def test_a_dry_run_says_every_step_and_does_none(tmp_path, capsys, monkeypatch):
    """An operator reads it before he gives it root."""
    monkeypatch.setattr("sites.systemd.UNITS", tmp_path / "units")
    config = write_site(tmp_path, "north")

    assert main(["install-service", "--config", str(config), "--user", "nobody-yet", "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert "would make the system user nobody-yet" in said
    assert "would write" in said
    assert not (tmp_path / "north.state").exists()
    assert not (tmp_path / "units").exists()


def test_a_user_without_root_is_told_so(tmp_path, monkeypatch):
    """Before anything is done."""
    config = write_site(tmp_path, "north")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(FileError, match="sudo"):
        list(take(install_steps(load_site(config), config, "daemon", ""), dry_run=False))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")
def test_a_hard_link_in_the_state_folder_is_not_given_away(tmp_path):
    """Whoever could write there before might have linked a file of root's."""
    config = write_site(tmp_path, "north")
    theirs = tmp_path / "theirs"
    theirs.write_text("root's own")
    (tmp_path / "north.state").mkdir()
    (tmp_path / "north.state" / "innocent").hardlink_to(theirs)

    with pytest.raises(FileError, match="hard link"):
        list(take(install_steps(load_site(config), config, "daemon", ""), dry_run=False))

    assert theirs.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_records_that_the_service_cannot_read_are_named_before_it_starts(tmp_path):
    """With the command that allows it."""
    config = write_site(tmp_path, "north")
    (tmp_path / "north.csv").chmod(0o600)

    with pytest.raises(FileError, match="setfacl -m u:daemon:r"):
        list(take(install_steps(load_site(config), config, "daemon", ""), dry_run=False))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_a_store_that_is_a_folder_is_not_given_away(tmp_path):
    """It is the federation's: the hub's and other sites' objects lie there too."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o011)
    config = write_site(tmp_path, "north")
    (tmp_path / "store").mkdir(mode=0o700)

    with pytest.raises(FileError, match="cannot write"):
        list(take(install_steps(load_site(config), config, "daemon", ""), dry_run=False))

    assert (tmp_path / "store").stat().st_uid == 0
    assert (tmp_path / "north.state").stat().st_uid != 0
