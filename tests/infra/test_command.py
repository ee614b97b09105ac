"""A command that is printed works when it is pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from infra.command import program
from infra.hub import Hub


def test_a_command_names_the_program_as_it_was_called(tmp_path, monkeypatch):
    """In a checkout it is .venv/bin/fedrounds, which no search path has; in a service it is another program's module."""
    called = tmp_path / "fedrounds"
    called.write_text("#!/bin/sh\n")
    called.chmod(0o700)

    monkeypatch.setattr(sys, "argv", [str(called), "demo"])
    assert program() == str(called)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "fedrounds"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/python3/worker.py"])
    assert program() == "fedrounds"


def test_a_command_names_the_hubs_folder_whatever_is_in_its_name():
    """The demo's is a temporary one; a person's may have a space in it."""
    hub = Hub(directory=Path("my hub"), store_url="file:///x")

    words = shlex.split(hub.command("run", "show", "heart-1"))

    assert words[1:] == ["run", "show", "heart-1", "--dir", "my hub"]
