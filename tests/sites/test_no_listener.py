"""A site opens nothing: no process of a running agent has a listening socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.sites.attacks import a_hostile_study, install
from tests.sites.builders import ToyHub, write_site


@pytest.mark.slow
def test_agent_template_and_child_have_no_listening_socket(tmp_path, monkeypatch):
    """Looked at while a child is at work, over TCP, UDP and unix sockets of all three processes."""
    install(monkeypatch, tmp_path)
    hub, study = ToyHub(tmp_path), a_hostile_study("sleep")
    config = write_site(tmp_path)
    hub.send(hub.ticket(study, hub.publish(study)))
    root = str(Path(__file__).parents[2])
    agent = psutil.Popen(
        [sys.executable, "-P", "-m", "sites.cli", "start", "--config", str(config)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((root, os.environ["PYTHONPATH"]))},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while len(family := [agent, *agent.children(recursive=True)]) < 3:
            assert time.monotonic() < until, "the child has not begun"
            time.sleep(0.05)

        sockets = [(process.pid, found) for process in family for found in process.net_connections("all")]
    finally:
        agent.terminate()
        agent.wait(10)

    assert sockets == []  # with a directory as store there is no socket at all
