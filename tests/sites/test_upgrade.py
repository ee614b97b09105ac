"""Installing, upgrading and going back, from signed bundles, with the network cut off.

The bundles hold our own wheel and one that points to this test's libraries, so
that nothing has to be fetched; tests/wheel/test_offline.py does it with the
real ones, torch included.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.errors import FileError, SealError, ServiceError
from infra.supply.bundle import Bundle
from sites.settings import load_site
from sites.upgrade import check_newer, receive, steps
from sites.versions import KEY, Versions
from tests.federation import write_site
from tests.infra.supply.wheels import a_bundle, a_wheel, libraries, unpack, write_public

STEPS = 4  # without a doctor: make, install, mark, switch


class Release(NamedTuple):
    """What a publisher hands out: two versions, one that does not work, and the key."""

    public: Path
    old: Path
    new: Path
    broken: Path


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder, key = tmp_path_factory.mktemp("release"), Ed25519PrivateKey.generate()
    needed = [
        libraries(folder),
        a_wheel(folder, "setuptools", "99.0"),
    ]  # venv brings one that torch finds too old
    broken = a_wheel(
        folder, "spoiler", files={"spoiler.pth": b"import sys; sys.modules['sites.doctor.contact'] = None\n"}
    )
    return Release(
        write_public(key, folder / "release.pem"),
        a_bundle(folder, "0.1.0", key, *needed),
        a_bundle(folder, "0.2.0", key, *needed),
        a_bundle(folder, "0.3.0", key, *needed, broken),
    )


def offline(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine without any network, its own loopback included."""
    cut = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*cut, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a test cut the network off (unshare --net)")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run([*cut, *command], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def fresh(release, tmp_path_factory):
    """A first installation, made by install.sh."""
    folder = tmp_path_factory.mktemp("machine")
    script = unpack(release.old, folder / "unpacked") / "install.sh"
    done = offline("sh", script, "--key", release.public, "--root", folder / "root")
    assert done.returncode == 0, done.stderr
    return folder / "root"


def _version(root: Path) -> str:
    """What the installed program says, run from where it is."""
    program = root / "current" / "bin" / "fedrounds-site"
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.mark.slow
def test_install_upgrade_and_back_with_the_network_cut_off(release, fresh):
    """The whole life of an installation; an old release never comes in by the front door."""
    program = fresh / "current" / "bin" / "fedrounds-site"
    assert _version(fresh) == "0.1.0"

    done = offline(program, "upgrade", release.new)
    assert done.returncode == 0, done.stderr
    assert _version(fresh) == "0.2.0"

    done = offline(program, "upgrade", release.old)
    assert "older than 0.2.0" in done.stderr
    assert _version(fresh) == "0.2.0"

    done = offline(program, "rollback")
    assert done.returncode == 0, done.stderr
    assert _version(fresh) == "0.1.0"
    assert not (fresh / "incoming").exists()


@pytest.mark.long
def test_a_version_whose_doctor_finds_what_was_right_before_is_not_switched_to(release, fresh, tmp_path):
    """And what the site owns is the same bytes after an upgrade, a failed one and a rollback."""
    config = write_site(tmp_path, "north")
    state = tmp_path / "north.state"
    state.mkdir()
    (state / "site.key").write_text("ab" * 32)
    before, program = config.read_bytes(), fresh / "current" / "bin" / "fedrounds-site"
    first = _version(fresh)

    done = offline(program, "upgrade", release.broken, "--config", config)

    assert done.returncode != 0
    assert "old version goes on" in done.stderr
    assert _version(fresh) == first
    done = offline(program, "upgrade", release.new, "--config", config)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
    assert _version(fresh) == "0.2.0"
    assert offline(program, "rollback", "--config", config).returncode == 0
    assert (config.read_bytes(), (state / "site.key").read_text()) == (before, "ab" * 32)


def _pretend(root: Path, *versions: str) -> Versions:
    """An installation whose versions are empty folders: for what needs no program."""
    for version in versions:
        (root / "versions" / version).mkdir(parents=True)
    (root / "current").symlink_to(f"versions/{versions[0]}")
    found = Versions(root)
    for version in versions:
        found.finish(version, "0" * 64)
        found.switch(version)
    return found


def test_going_back_follows_the_way_that_was_gone(tmp_path):
    """Twice back is two versions back; before the first there is nothing."""
    versions = _pretend(tmp_path, "0.1.0", "0.2.0", "0.3.0")
    (versions.folder("0.1.0") / ".previous").unlink()

    for expected in ("0.2.0", "0.1.0"):
        versions.switch(versions.previous())
        assert versions.current == expected
    with pytest.raises(FileError, match="first version"):
        versions.previous()


def test_nobody_goes_back_to_half_a_version(tmp_path):
    """A folder that lost its mark is not trusted to be whole."""
    versions = _pretend(tmp_path, "0.1.0", "0.2.0")
    (versions.folder("0.1.0") / ".complete").unlink()

    with pytest.raises(FileError, match="not whole"):
        versions.previous()


def test_only_newer_bundles_of_the_known_key_come_in(release, tmp_path):
    """An old release is signed too; an attacker would offer the one whose holes he knows."""
    versions = _pretend(tmp_path / "root", "0.2.0")
    shutil.copy(release.public, versions.root / KEY)

    with pytest.raises(SealError, match="older than"):
        check_newer(versions, receive(versions, release.old, versions.root / KEY)[1])
    with pytest.raises(SealError, match="another one of version"):
        check_newer(versions, receive(versions, release.new, versions.root / KEY)[1])
    check_newer(versions, receive(versions, release.broken, versions.root / KEY)[1])
    stranger = write_public(Ed25519PrivateKey.generate(), tmp_path / "stranger.pem")
    with pytest.raises(SealError, match="not signed"):
        receive(versions, release.new, stranger)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-fedrounds", "link"])
def test_a_tar_file_cannot_write_outside_its_place(tmp_path, name):
    """It is unpacked before its signature can be checked."""
    import io
    import tarfile

    versions = _pretend(tmp_path / "root", "0.1.0")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member, io.BytesIO())

    with pytest.raises(SealError):
        receive(versions, tmp_path / "evil.tar", tmp_path / "key")
    assert not Path("/tmp/outside-fedrounds").exists()
    assert not (tmp_path / "root" / "outside").exists()


def test_two_upgrades_at_once_are_one_too_many(tmp_path):
    """The second one is told, before it touches anything."""
    versions = _pretend(tmp_path, "0.1.0")

    with versions.alone(), pytest.raises(FileError, match="another command"), versions.alone():
        pass


@pytest.mark.long
def test_a_kill_between_any_two_steps_leaves_a_working_version(release, tmp_path):
    """kill -9 after each step; then the same command goes through."""
    root = tmp_path / "root"
    script = unpack(release.old, tmp_path / "unpacked") / "install.sh"
    assert offline("sh", script, "--key", release.public, "--root", root).returncode == 0
    versions = Versions(root)
    seen = set()

    for done in range(STEPS + 1):
        if os.fork() == 0:  # kill -9 of the process that upgrades
            folder, found = receive(versions, release.new, root / KEY)
            for step, _ in zip(steps(versions, folder, found, None, None), range(done), strict=False):
                step.act()
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
        seen.add(_version(root))
        if done < STEPS:
            assert versions.current == "0.1.0"

    assert seen == {"0.1.0", "0.2.0"}
    versions.switch(versions.previous())
    assert _version(root) == "0.1.0"
    program = root / "current" / "bin" / "fedrounds-site"
    assert offline(program, "upgrade", release.new).returncode == 0
    assert _version(root) == "0.2.0"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_a_version_that_the_service_cannot_run_is_said_before_it_is_switched_to(tmp_path):
    """A Python in root's home works for root, and for nobody else."""
    versions = _pretend(tmp_path / "root", "0.1.0")
    config = write_site(tmp_path, "north")
    state = tmp_path / "north.state"
    state.mkdir()
    shutil.chown(state, "daemon")
    program = versions.folder("0.1.0") / "bin" / "fedrounds-site"
    program.parent.mkdir(mode=0o700)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = Bundle("0.2.0", "python3.11", "linux-x86_64", {}, "0" * 64)
    versions.folder("0.2.0").mkdir()
    (versions.folder("0.2.0") / ".complete").write_text("0" * 64)

    examine = next(steps(versions, tmp_path, found, load_site(config), config))
    with pytest.raises(ServiceError, match="old version goes on"):
        examine.act()
