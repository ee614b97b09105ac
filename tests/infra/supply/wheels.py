"""Small wheels and bundles for tests: the real form, a few bytes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.supply.build import assemble, own_wheel, public_pem
from infra.supply.sitewheel import write_wheel

ROOT = Path(__file__).parents[3]
TAG = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def a_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: dict[str, bytes] | None = None,
    says: str = "License-Expression: MIT\n",
) -> Path:
    """An installable wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{says}"
    content = {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": TAG.encode(), **(files or {})}
    path = folder / f"{name}-{version}-py3-none-any.whl"
    write_wheel(path, info, content)
    return path


def libraries(folder: Path) -> Path:
    """A wheel that stands for everything heavy: it points to the libraries of this very test."""
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    return a_wheel(folder, "libraries", files={"libraries.pth": f"{mine}\n".encode()})


@cache
def _built(folder: Path) -> Path:
    return own_wheel(ROOT, folder)


def our_wheel(folder: Path, version: str) -> Path:
    """The site's wheel of this source tree under another version."""
    folder.mkdir(parents=True, exist_ok=True)
    built = _built(folder.parent)
    old = built.name.split("-")[1]
    with zipfile.ZipFile(built) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")}
    renamed = {
        name.replace(f"fedrounds-{old}.dist-info", f"fedrounds-{version}.dist-info"): data
        for name, data in files.items()
    }
    info = f"fedrounds-{version}.dist-info"
    renamed[f"{info}/METADATA"] = renamed[f"{info}/METADATA"].replace(
        f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode()
    )
    path = folder / built.name.replace(f"-{old}-", f"-{version}-", 1)
    write_wheel(path, info, renamed)
    return path


def a_bundle(folder: Path, version: str, key: Ed25519PrivateKey, *wheels: Path) -> Path:
    """A signed tar file of a version of ours and other wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    return assemble(folder, [our_wheel(folder / f"our-{version}", version), *wheels], key)


def unpack(tar: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "xf", tar, "-C", folder], check=True)
    return next(folder.iterdir())


def write_public(key: Ed25519PrivateKey, path: Path) -> Path:
    path.write_bytes(public_pem(key))
    return path
