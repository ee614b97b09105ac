"""A recipe that an enemy wrote, as an installed package, and what its study looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.study import Study
from tests.packages import install_package
from tests.sites.builders import a_study

MARK = "FEDROUNDS_TEST_MARK"  # names a file that the recipe writes when it is imported

SOURCE = """
import ctypes, mmap, os, signal, socket, subprocess, time
from pathlib import Path
from tasks.recipes.tabular import LogisticRegression

if "FEDROUNDS_TEST_MARK" in os.environ:
    Path(os.environ["FEDROUNDS_TEST_MARK"]).touch()


def connect(at):
    socket.create_connection(("127.0.0.1", int(at)), timeout=5)


def unix(at):
    socket.socket(socket.AF_UNIX).connect(at)


def read(at):
    Path(at).read_bytes()


def write(at):
    Path(at).write_text("x")


def link(at):
    Path("update.safetensors").symlink_to(at)


def memory(at):
    mmap.mmap(-1, int(at) << 20)


def spin(at):
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        pass


def sleep(at):
    Path(at).write_text(str(os.getpid())) if at else None
    time.sleep(120)


def process(at):
    subprocess.run(["sleep", "60"])


def fork(at):
    os.fork()


def escape(at):
    os.setsid()


def environment(at):
    held = [name for name in os.environ if name in at.split()]
    assert not held, held


def peek(at):
    Path(f"/proc/{at}/environ").read_bytes()


def kill(at):
    os.kill(int(at), 0)


def fill(at):
    with open(os.path.join(os.environ["TMPDIR"], "big"), "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def many(at):
    for i in range(int(at)):
        Path(os.environ["TMPDIR"], str(i)).write_bytes(bytes(1 << 20))
    time.sleep(60)


def forge(at):
    folder = os.environ["TMPDIR"]
    os.write(1, ('{"job": "%s", "event": "ended", "status": 0}' % folder).encode() + bytes([10]))
    time.sleep(60)


def babble(at):
    while True:
        os.write(1, b"x" * 4096)


def nothing(at):
    pass


class Recipe(LogisticRegression):
    def __init__(self, settings):
        settings = dict(settings)
        self.attack, self.at = settings.pop("attack"), settings.pop("at")
        super().__init__(settings)

    def encode(self, table):
        globals()[self.attack](self.at)
        return super().encode(table)
"""


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put package `hostile` where this process and its template find it."""
    install_package(monkeypatch, folder / "packages", "hostile", {"recipe.py": SOURCE})
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
    assert str(folder / "packages") in sys.path


def a_hostile_study(attack: str, at: Any = "", **changes: Any) -> Study:
    settings = a_study().recipe_settings | {"attack": attack, "at": str(at)}
    return a_study(recipe="hostile.recipe:Recipe", recipe_settings=settings, **changes)
