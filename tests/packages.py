"""A package that is installed, in a folder of the test's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install_package(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, files: dict[str, str]) -> Path:
    """Write `name` with its files (paths inside the package) and the metadata that pip would leave; put it on the path."""
    for path, source in {"__init__.py": "", **files}.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(f"{name}\n")
    monkeypatch.syspath_prepend(folder)
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:  # of another test
        monkeypatch.delitem(sys.modules, module)
    return folder / name
