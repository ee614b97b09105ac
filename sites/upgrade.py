"""A new version beside the old one: verified, installed, examined, and only then switched to.

Whatever ends this between two steps, or within one, leaves the version that
ran before, whole; the same command again goes on or begins anew.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from infra.errors import FileError, SealError, ServiceError
from infra.supply import bundle
from infra.supply.bundle import Bundle
from sites.service import ENVIRONMENT
from sites.settings import Site
from sites.versions import Versions

INCOMING = "incoming"
MOST_FILES = 1000
INSTALL_S = 900
LOAD = "from sites.warm import load; load()"


class Step(NamedTuple):
    """`say` is the sentence for the operator; `act` does it."""

    say: str
    act: Callable[[], None]


def receive(versions: Versions, source: Path, key: Path) -> tuple[Path, Bundle]:
    """Take a bundle, a tar file or an unpacked folder, to a place that nobody else writes to, and verify it there.

    Raises:
        SealError: it is not what the owner of `key` has signed.
    """
    place = versions.root / INCOMING
    forget(versions)
    place.mkdir(mode=0o700)
    if source.is_dir():
        folder = place / "bundle"
        shutil.copytree(source, folder, symlinks=True)
    else:
        folder = _unpack(source, place)
    return folder, bundle.verify(folder, key)


def forget(versions: Versions) -> None:
    """Remove what `receive` has taken."""
    shutil.rmtree(versions.root / INCOMING, ignore_errors=True)


def check_newer(versions: Versions, found: Bundle) -> None:
    """Raises SealError: the bundle is of an older version, or another one of this version, or for another Python."""
    running = versions.current
    if found.order < bundle.order_of(running):
        raise SealError(
            f"the bundle is of version {found.version}, older than {running}, which runs; an old version comes "
            f"back with `fedrounds-site rollback` only"
        )
    if found.version == running and versions.complete(running) != found.sha256:
        raise SealError(f"the bundle is another one of version {running}; two releases never share a number")
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if found.python != own:
        raise SealError(f"the bundle is for {found.python}, this installation runs {own}; get that one")


def steps(
    versions: Versions, folder: Path, found: Bundle, site: Site | None, config: Path | None
) -> Iterator[Step]:
    """From a verified bundle to the version that runs."""
    new = versions.folder(found.version)
    if versions.complete(found.version) != found.sha256:
        yield Step(f"make {new}", lambda: _environment(new))
        yield Step(f"install {len(found.files)} files", lambda: _install(new, folder))
    if site is not None and config is not None:
        old = versions.folder(versions.current)
        yield Step("ask the new version's doctor", lambda: _examine(old, new, site, config))
    yield Step("mark it as whole", lambda: versions.finish(found.version, found.sha256))
    yield Step(f"switch from {versions.current} to {found.version}", lambda: versions.switch(found.version))


def _unpack(source: Path, place: Path) -> Path:
    """The one folder of a tar file. Raises SealError: it holds anything but plain files at their places."""
    try:
        with tarfile.open(source, "r:") as tar:
            members = tar.getmembers()
            if len(members) > MOST_FILES or any(not (each.isreg() or each.isdir()) for each in members):
                raise SealError(f"{source} holds more than a bundle does; use nothing of it")
            tar.extractall(place, members, filter="data")
    except (OSError, tarfile.TarError) as exc:
        raise SealError(f"{source} is no bundle: {exc}") from exc
    inside = list(place.iterdir())
    if len(inside) != 1 or not inside[0].is_dir():
        raise SealError(f"{source} holds more than one folder; use nothing of it")
    return inside[0]


def _environment(new: Path) -> None:
    shutil.rmtree(new, ignore_errors=True)  # of an attempt that was cut off
    os.umask(0o022)  # the service's user reads it
    _call([Path(sys.base_prefix) / "bin" / _python(), "-m", "venv", new])


def _install(new: Path, folder: Path) -> None:
    """pip, with its network, its configuration and its resolver off: it installs what the signed list names.

    Loading everything once compiles what the agent uses: a third of what pip would compile, and a test as well.
    """
    pip = [new / "bin" / "python", "-m", "pip", "--isolated", "--quiet", "--disable-pip-version-check"]
    options = [
        "--no-index",
        "--no-deps",
        "--require-hashes",
        "--no-compile",
        "--find-links",
        folder / bundle.WHEELS,
    ]
    _call([*pip, "install", *options, "--requirement", folder / bundle.REQUIREMENTS])
    _call([*pip, "check"])
    _call([new / "bin" / "python", "-P", "-c", LOAD])
    shutil.copyfile(folder / bundle.SBOM, new / bundle.SBOM)


def _examine(old: Path, new: Path, site: Site, config: Path) -> None:
    """Raises ServiceError: a row of the doctor that was right in the old version is wrong in the new one."""
    before, after = (_wrong_rows(version, site, config) for version in (old, new))
    worse = sorted(after.keys() - before.keys())
    if worse:
        raise ServiceError(
            f"the new version's doctor says about {worse[0]!r}: {after[worse[0]]}. The old version goes on; "
            f"mend that, then upgrade again"
        )


def _wrong_rows(version: Path, site: Site, config: Path) -> dict[str, str]:
    """What a version's doctor fails, run as the state folder's owner with the service's credentials."""
    owner = site.state.stat() if site.state.exists() else None
    as_owner: dict[str, Any] = {}
    if owner is not None and os.geteuid() == 0 and owner.st_uid != 0:
        groups = _groups(owner.st_uid, owner.st_gid)
        as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": groups}
    command = [str(version / "bin" / "fedrounds-site"), "doctor", "--config", str(config.resolve()), "--json"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
            cwd="/",
            env=os.environ | _credentials(site),
            **as_owner,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServiceError(
            f"the doctor cannot be asked as the owner of {site.state} ({exc}); the old version goes on. Install "
            f"Python where every user can run it, such as /usr/bin, or upgrade without --config"
        ) from exc
    try:
        rows = json.loads(done.stdout)["rows"]
        return {row["name"]: row["text"] for row in rows if row["state"] == "fail"}
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        return {"doctor": f"it does not run: {last}"}


def _groups(uid: int, gid: int) -> list[int]:
    """A user's groups: records are often given to one of them."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:  # of a user who is gone
        return [gid]


def _credentials(site: Site) -> dict[str, str]:
    """What systemd gives the service, where this process may read it."""
    path = Path(ENVIRONMENT.format(site=site.settings.site))
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.strip().partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name: value.strip("\"'") for name, _, value in pairs}


def _python() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _call(command: list[Any]) -> None:
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=INSTALL_S, check=False,
            env=os.environ | {"PIP_CONFIG_FILE": os.devnull},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise FileError(f"{command[0]}: {exc}; the old version goes on") from exc
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise FileError(f"{Path(command[0]).name} failed; the old version goes on:\n{said}")
