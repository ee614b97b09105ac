"""Putting the agent's unit in its place and taking it away again, step by step.

Each step has a sentence, so that --dry-run can say everything beforehand. What
the unit says is service.py's work. State folder, keys and ledger are never
removed here.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from infra.errors import FileError, ServiceError
from sites.service import unit_name, written
from sites.settings import Site
from sites.sources import address

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")  # there while systemd is the init process
NOLOGIN = "/usr/sbin/nologin"
CALL_S = 120


class Step(NamedTuple):
    """`say` is what will be done, or why nothing will be; `act` does it."""

    say: str
    act: Callable[[], None] | None = None


def take(steps: Iterable[Step], dry_run: bool) -> Iterator[str]:
    """Do the steps, or only say them; yields each sentence before its deed.

    Raises:
        FileError: not root.
        ServiceError: a step failed; all may be done again.
    """
    if not dry_run and os.geteuid() != 0:
        raise FileError("services are root's: run it with sudo, or look first with --dry-run")
    for step in steps:
        yield f"would {step.say}" if dry_run and step.act else step.say
        if step.act and not dry_run:
            step.act()


def running() -> bool:
    return RUNNING.is_dir()


def install_steps(site: Site, config: Path, user: str, text: str) -> Iterator[Step]:
    """Everything between a filled-in site.yaml and a running service. Each may be done again."""
    unit = unit_name(site.settings.site)
    if not _known(user):
        yield Step(f"make the system user {user}, who cannot log in", partial(_make_user, user))
    yield Step(f"give {site.state} to {user}", partial(_give, site.state, user))
    for path in _files_read(site, config):
        yield Step(f"check that {user} can read {path}", partial(_check_access, path, user, "r"))
    for folder in (
        each for each in written(site) if each != site.state
    ):  # a store: not the site's to give away
        yield Step(f"check that {user} can write {folder}", partial(_check_access, folder, user, "w"))
    yield Step(f"write {UNITS / unit}", partial(_write, UNITS / unit, text))
    if not running():
        yield Step(
            f"systemd does not run here: on the machine where it does, `systemctl enable --now {unit}`"
        )
        return
    yield Step("systemctl daemon-reload", partial(_systemctl, "daemon-reload"))
    yield Step(f"systemctl enable {unit}", partial(_systemctl, "enable", unit))
    yield Step(f"systemctl restart {unit}", partial(_systemctl, "restart", unit))


def uninstall_steps(site: str) -> Iterator[Step]:
    unit = unit_name(site)
    if not (UNITS / unit).exists():
        yield Step(f"there is no {UNITS / unit}")
        return
    if running():
        yield Step(f"systemctl disable --now {unit}", partial(_systemctl, "disable", "--now", unit))
    yield Step(f"remove {UNITS / unit}", (UNITS / unit).unlink)
    if running():
        yield Step("systemctl daemon-reload", partial(_systemctl, "daemon-reload"))


def restart(site: str) -> bool:
    """Restart the site's service; False where there is none on this machine. Raises ServiceError."""
    if not running() or not (UNITS / unit_name(site)).exists():
        return False
    _systemctl("restart", unit_name(site))
    return True


def _files_read(site: Site, config: Path) -> list[Path]:
    found = [config.resolve(), *(address(source, site.base) for source in site.settings.sources.values())]
    return [*found, *([Path(site.settings.store_ca)] if site.settings.store_ca else [])]


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _make_user(user: str) -> None:
    _call("useradd", "--system", "--user-group", "--no-create-home", "--shell", NOLOGIN, user)


def _give(folder: Path, user: str) -> None:
    """Make `user` the owner of a folder and all in it. Follows no link, and takes no file that has two names.

    Raises:
        FileError: a file in it has a second name elsewhere, and would be given away with this one.
    """
    entry = pwd.getpwnam(user)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    for where, folders, names in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *names)):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                raise FileError(f"{path} has another name elsewhere (a hard link); remove it, then go on")
            os.lchown(path, entry.pw_uid, entry.pw_gid)


def _check_access(path: Path, user: str, right: Literal["r", "w"]) -> None:
    """Ask the kernel, as that user. Raises FileError: it says no; the text holds the command that allows it."""
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    done = subprocess.run(
        ["test", f"-{right}", str(path)],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=groups,
        check=False,
    )
    if done.returncode:
        word, rights = ("read", "r") if right == "r" else ("write", "rwx")
        raise FileError(
            f"{user} cannot {word} {path}; allow it, and the way to it: "
            f"setfacl -m u:{user}:{rights} {path}; setfacl -m u:{user}:x {path.parent}"
        )


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.replace(path)


def _systemctl(*words: str) -> None:
    _call("systemctl", *words)


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServiceError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        raise ServiceError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
