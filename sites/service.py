"""The agent as a service of systemd: what the unit of one site says.

Pure text from site.yaml and this installation; the template is
infra/systemd/fedrounds-site.service. Writing it down and talking to systemd is
systemd.py's work.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import unquote, urlsplit

from infra.errors import FileError
from sites.settings import Site
from sites.sources import address

HOMES = tuple(Path(name) for name in ("/home", "/root", "/run/user"))  # what ProtectHome= hides
TEMPORARY = tuple(Path(name) for name in ("/tmp", "/var/tmp"))  # noqa: S108 - what PrivateTmp= replaces
ENVIRONMENT = "/etc/fedrounds/{site}.env"
RESOLVER = Path("/etc/resolv.conf")
_PLAIN = re.compile(r"[A-Za-z0-9/._@+-]+")  # needs no quoting anywhere in a unit


def unit_name(site: str) -> str:
    return f"fedrounds-site-{site}.service"


def unit_text(site: Site, config: Path, user: str, memory: str, allowed: Sequence[str] = ()) -> str:
    """The whole unit.

    Args:
        site: what `config` says.
        config: site.yaml.
        user: whom the agent runs as.
        memory: the most that agent and jobs may use together, such as 4G.
        allowed: networks that may be reached; looked up from the settings where there are none.

    Raises:
        FileError: a path that a unit cannot name, or a host that cannot be looked up.
    """
    readable, writable = read_only(site, config), [_plain(path) for path in written(site)]
    template = Template((files("infra") / "systemd" / "fedrounds-site.service").read_text())
    return template.substitute(
        site=site.settings.site,
        user=user,
        program=_plain(program()),
        config=_plain(config.resolve()),
        environment=ENVIRONMENT.format(site=site.settings.site),
        writable=" ".join(writable),
        state=_plain(site.state),
        readable=" ".join(_plain(path) for path in readable),
        homes=_hidden([*readable, *installation()], written(site)),
        addresses=" ".join(sorted(allowed or reached(site))),
        memory=memory,
    )


def program() -> Path:
    """The command of this installation; through the link that an upgrade moves, where there is one."""
    prefix = Path(sys.prefix)
    if prefix.parent.name == "versions" and (prefix.parent.parent / "current").is_symlink():
        prefix = prefix.parent.parent / "current"
    return prefix / "bin" / "fedrounds-site"


def installation() -> list[Path]:
    """Where the program, its code and its Python lie."""
    prefix, code = program().parent.parent, Path(__file__).resolve().parents[1]
    apart = set() if code.is_relative_to(Path(sys.prefix).resolve()) else {code}  # an editable installation
    return sorted({prefix.parent if prefix.name == "current" else prefix, Path(sys.base_prefix)} | apart)


def written(site: Site) -> list[Path]:
    """Folders that the agent writes to: its state, and a store that is a folder."""
    store = urlsplit(site.settings.store)
    return [site.state, *([Path(unquote(store.path))] if store.scheme == "file" else [])]


def read_only(site: Site, config: Path) -> list[Path]:
    """Folders of the files that the agent reads: folders, since a table may be replaced by a new file."""
    named = [config.resolve(), *(address(source, site.base) for source in site.settings.sources.values())]
    if site.settings.store_ca is not None:
        named.append(Path(site.settings.store_ca))
    return sorted({path.resolve().parent for path in named})


def reached(site: Site) -> set[str]:
    """Addresses on the way to the store and to syslog, name servers included.

    Raises:
        FileError: a host has no address.
    """
    hosts = {host for host in (_store_host(site), _syslog_host(site)) if host}
    found = {each for host in hosts for each in _addresses(host)}
    if any(not _is_address(host) for host in hosts):
        found |= set(name_servers())
    return found


def name_servers() -> list[str]:
    lines = RESOLVER.read_text().splitlines() if RESOLVER.exists() else []
    words = [line.split() for line in lines if line.startswith("nameserver")]
    return [pair[1].partition("%")[0] for pair in words if len(pair) > 1]


def _store_host(site: Site) -> str | None:
    """Whom the agent talks to: the proxy where there is one, else the store."""
    if not site.settings.store.startswith("s3:"):
        return None
    if site.settings.proxy is not None:
        return urlsplit(site.settings.proxy).hostname
    from infra.store.s3client import endpoint_of

    return urlsplit(endpoint_of(site.settings.store)).hostname


def _syslog_host(site: Site) -> str | None:
    kind, _, rest = (site.settings.audit.syslog or "").partition(":")
    return rest.rpartition(":")[0] if kind == "udp" else None


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except OSError as exc:
        raise FileError(
            f"{host} has no address here ({exc}); correct site.yaml, or name the networks with --allow"
        ) from exc


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hidden(readable: Iterable[Path], writable: Iterable[Path]) -> str:
    """Homes and temporary folders are empty; what the agent needs of them is put back, piece by piece."""
    read = [path for path in readable if _below(path, HOMES + TEMPORARY)]
    write = [path for path in writable if _below(path, HOMES + TEMPORARY)]
    at_home = any(_below(path, HOMES) for path in (*read, *write))
    lines = ["ProtectHome=tmpfs" if at_home else "ProtectHome=yes"]
    lines += [f"BindReadOnlyPaths={_plain(path)}" for path in read]
    return "\n".join(lines + [f"BindPaths={_plain(path)}" for path in write])


def _below(path: Path, roots: Iterable[Path]) -> bool:
    return any(root in (path, *path.parents) for root in roots)


def _plain(path: Path) -> str:
    text = str(path)
    if not _PLAIN.fullmatch(text):
        raise FileError(
            f"{text!r} has a character that a unit of systemd would read otherwise; "
            f"expected letters, digits and / . _ @ + - only: move or rename it"
        )
    return text
