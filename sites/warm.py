"""The warm template: imports the heavy libraries once and forks a clean child per job.

Started by children.py as its own process. Jobs come in as JSON lines on stdin, and
the word to end one; their starts, beats and ends go out as JSON lines on stdout. It starts no thread
and does no arithmetic itself, so that a fork is safe; a child gives all memory
back by ending. When the agent goes away, template and child end.
"""

from __future__ import annotations

import os

os.environ.update(  # before the first import of numpy: a process with threads cannot be forked safely
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    JE_ARROW_MALLOC_CONF="background_thread:false",
)

import contextlib
import ctypes
import gc
import importlib
import json
import selectors
import signal
import sys
from pathlib import Path
from typing import Any

from sites.runner import WORK, Beat, work
from sites.sandbox import enter, installed
from sites.sandbox.cell import read_cell

HEAVY = (
    "numpy",
    "pandas",
    "torch",
    "opacus",
    "dp_accounting.pld.privacy_loss_distribution",
    "safetensors.numpy",
    "tasks.learning.dp_sgd",
    "tasks.secagg.masks",
    "sites.sources",
    *WORK.values(),
)
PR_SET_PDEATHSIG = 1
_stdin_left = b""


def main() -> int:
    """Serve jobs until stdin ends."""
    die_with_parent()
    load()
    installed()
    gc.collect()
    gc.freeze()  # a child's collector does not touch, and so does not copy, what is already here
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    children: dict[int, str] = {}
    say(event="ready", pid=os.getpid())
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if wake_read in ready:
            os.read(wake_read, 4096)
            reap(children)
        if 0 in ready:
            asked = read_asked()
            if asked is None:
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return 0
            obey(asked, children)


def obey(asked: list[dict[str, str]], children: dict[int, str]) -> None:
    """Begin jobs and end jobs; one that is to be ended already is not begun."""
    gone = {words["end"] for words in asked if "end" in words}
    for folder in (words["job"] for words in asked if "job" in words):
        if folder not in gone:
            children[start(folder)] = folder
    for pid, folder in children.items():
        if folder in gone:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    for folder in gone - set(children.values()):
        say(job=folder, event="ended", status=-signal.SIGKILL)


def load() -> None:
    """Import all that a job may need. An installation does it once, so that Python keeps what it compiled."""
    for name in HEAVY:
        importlib.import_module(name)


def start(folder: str) -> int:
    """Fork a child for the job of `folder`; returns its pid."""
    template = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does the same; who is first does not matter
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        if os.getppid() == template:
            os.close(0)
            isolation = enter(Path(folder), read_cell(Path(folder)))
            say(job=folder, event="began", pid=os.getpid(), isolation=isolation)
            work(Path(folder), _beats(folder))
            code = 0
    finally:
        os._exit(code)


def _beats(folder: str) -> Any:
    def watch(beat: Beat | None) -> None:
        if beat is not None:
            say(job=folder, event="beat", state=beat.state, step=beat.step, steps=beat.steps)

    return watch


def reap(children: dict[int, str]) -> None:
    """Report every child that has ended, when nothing of its process group is left."""
    for pid in list(children):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # before the pid is free for somebody else
        _, status = os.waitpid(pid, 0)
        say(job=children.pop(pid), event="ended", status=os.waitstatus_to_exitcode(status))


def read_asked() -> list[dict[str, str]] | None:
    """What came in: folders, each to begin its job or to end it; None at the end of stdin."""
    global _stdin_left
    data = os.read(0, 65536)
    if not data:
        return None
    *lines, _stdin_left = (_stdin_left + data).split(b"\n")
    return [json.loads(line) for line in lines]


def say(**words: Any) -> None:
    """One line on stdout; short enough to be written in one piece, and behind half a line of whoever died at one."""
    os.write(1, b"\n" + json.dumps(words).encode() + b"\n")


def die_with_parent() -> None:
    """Linux: be killed when the parent ends, however it ends. Elsewhere the end of stdin has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
