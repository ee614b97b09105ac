"""The S3 server of the tests must not outlive them."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from tests.services.ceph import missing_programs

PROGRAM = """
import os, signal, sys
from pathlib import Path
from tests.services.ceph import Ceph
with Ceph(Path(sys.argv[1])) as ceph:
    print(*(daemon.pid for daemon in ceph._daemons), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.s3
@pytest.mark.skipif(bool(missing_programs()), reason="S3 server not installed: run `make services`")
def test_the_daemons_die_with_a_killed_test_run(tmp_path):
    """Nobody cleans up after kill -9: the kernel does."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False
    )
    pids = [int(pid) for pid in done.stdout.split()]
    until = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)

    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
