"""The wheel of a site: the same distribution without what only a hub can run.

Kept are sites/, the recipes, and what these import, followed through the
sources; a hub's flows, verbs and servers are not in the file at all. Version and
modules stay byte for byte the same, so recipes keep their hashes. The build tag
in the file's name, `0site`, tells the two apart.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

BUILD_TAG = "0site"
ROOTS = ("sites", "tasks.recipes", "tasks.learning")  # what is imported by name at run time lies in these
DATA = ("infra/systemd/fedrounds-site.service",)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same sources


def site_wheel(wheel: Path, out: Path) -> Path:
    """Write the site's wheel of a full one into the folder `out`; returns its path."""
    name, version, rest = wheel.name.split("-", 2)
    made = out / f"{name}-{version}-{BUILD_TAG}-{rest}"
    with zipfile.ZipFile(wheel) as full:
        sources = {each: full.read(each) for each in full.namelist()}
    info = next(each.split("/")[0] for each in sources if each.split("/")[0].endswith(".dist-info"))
    kept = {name: sources[name] for name in sorted(_kept(sources, info))}
    kept[f"{info}/entry_points.txt"] = b"[console_scripts]\nfedrounds-site = sites.cli:main\n"
    kept[f"{info}/WHEEL"] = sources[f"{info}/WHEEL"].rstrip() + f"\nBuild: {BUILD_TAG}\n".encode()
    write_wheel(made, info, kept)
    return made


def write_wheel(path: Path, info: str, files: dict[str, bytes]) -> None:
    """A wheel of these files, with the RECORD that pip checks them by."""
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    record.append(f"{info}/RECORD,,")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**files, f"{info}/RECORD": "\n".join(record).encode() + b"\n"}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            wheel.writestr(entry, data)


def reached(sources: dict[str, bytes]) -> set[str]:
    """Files of the modules that a site can import; `sources` by path inside the wheel."""
    modules = {_module(path): path for path in sources if path.endswith(".py")}
    todo = [name for name in modules if any(f"{name}.".startswith(f"{root}.") for root in ROOTS)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in modules and name not in seen:
            seen.add(name)
            todo += [part for each in _imports(sources[modules[name]]) for part in _with_parents(each)]
    return {modules[name] for name in seen}


def _kept(sources: dict[str, bytes], info: str) -> set[str]:
    """Own modules that are reached, their data, and the metadata but for what is written anew."""
    metadata = {path for path in sources if path.startswith(f"{info}/")}
    anew = {f"{info}/{name}" for name in ("RECORD", "entry_points.txt")}
    return reached(sources) | (metadata - anew) | set(DATA)


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _module(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
