"""What only a directory can get wrong: half-written files and races between processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import StoreError
from infra.store.directory import DRAFTS, DirectoryStore

FORK = multiprocessing.get_context("fork")


def write_forever(root: Path) -> None:
    """Objects of one repeated byte, so that a reader sees whether one is whole; first its length."""
    store = DirectoryStore(root)
    for i in range(1_000_000):
        data = bytes([i % 256]) * (200_000 + i % 7)
        store.put("replaced", len(data).to_bytes(4, "big") + data)
        store.put_if_absent(f"created/{os.getpid()}/{i}", len(data).to_bytes(4, "big") + data)


def is_whole(raw: bytes) -> bool:
    return len(raw) - 4 == int.from_bytes(raw[:4], "big") and len(set(raw[4:])) == 1


def test_a_killed_writer_leaves_only_whole_objects(tmp_path):
    """Pull the plug anywhere: what has a name is whole, what is not whole has none."""
    store = DirectoryStore(tmp_path)
    for pause in (0.02, 0.05, 0.08, 0.11):
        writer = FORK.Process(target=write_forever, args=(tmp_path,))
        writer.start()
        while not store.list(f"created/{writer.pid}/"):
            time.sleep(0.001)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            assert is_whole(store.get("replaced") or b"")
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()

    keys = store.list("")
    assert len(keys) > 4
    assert all(is_whole(store.get(key) or b"") for key in keys)
    assert not any(DRAFTS in key for key in keys)


def test_one_of_many_processes_wins(tmp_path):
    """A lease is taken by processes, not threads."""
    heats, racers = 20, 8
    start = FORK.Barrier(racers)
    outcomes = FORK.SimpleQueue()

    def race(i: int) -> None:
        store = DirectoryStore(tmp_path)
        for heat in range(heats):
            start.wait()
            if store.put_if_absent(f"leases/{heat}", b"%d" % i * 10_000):
                outcomes.put((heat, i))

    processes = [FORK.Process(target=race, args=(i,)) for i in range(racers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    winners = [outcomes.get() for _ in range(heats)]
    assert outcomes.empty()
    assert sorted(heat for heat, _ in winners) == list(range(heats))
    store = DirectoryStore(tmp_path)
    assert all(store.get(f"leases/{heat}") == b"%d" % i * 10_000 for heat, i in winners)


def test_writers_survive_a_folder_that_others_prune(tmp_path):
    """One process deletes the last object of a folder while another writes its next one there."""
    root, said = tmp_path / "store", tmp_path / "said"
    said.mkdir()

    def write_and_delete(name: str) -> None:
        store = DirectoryStore(root)
        for _ in range(150):
            store.put(f"a/b/c/{name}", b"x")
            assert store.get(f"a/b/c/{name}") == b"x"
            store.delete(f"a/b/c/{name}")

    ended = [
        os.waitpid(pid, 0)[1] for pid in [_forked(write_and_delete, str(i), said / str(i)) for i in range(3)]
    ]

    assert (ended, [path.read_text() for path in said.iterdir()]) == ([0, 0, 0], [])
    assert sorted(p.name for p in root.iterdir()) == [DRAFTS]


def _forked(work: Callable[[str], None], name: str, trouble: Path) -> int:
    """A bare fork: what other libraries do around a process of multiprocessing is not tested here."""
    pid = os.fork()
    if pid == 0:
        try:
            work(name)
        except BaseException:
            trouble.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    return pid


def test_a_delete_takes_empty_folders_along(tmp_path):
    """A thousand finished runs leave no thousand folders to walk."""
    store = DirectoryStore(tmp_path)
    store.put("runs/r1/a/b", b"1")
    store.put("runs/keep", b"2")

    store.delete("runs/r1/a/b")

    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["keep"]


def test_an_object_and_a_folder_of_one_name_are_refused(tmp_path):
    """S3 holds both, a file system cannot: say so instead of losing one."""
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"1")
    store.put("c", b"2")
    refused = [
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("a", b""),
        lambda: store.put("c/d", b""),
        lambda: store.put_if_absent("c/d/e", b""),
    ]

    for call in refused:
        with pytest.raises(StoreError, match="choose another key"):
            call()
    store.delete("a")
    assert store.list("") == ["a/b", "c"]


def test_bytes_of_one_size_written_at_once_have_tags_of_their_own(tmp_path):
    """Inode numbers are reused at once and kernel stamps tick every 4 ms: neither may hide a change."""
    store = DirectoryStore(tmp_path)
    tags = set()
    for i in range(50):
        store.put("bell", b"%03d" % i)
        tags.add(store.get_if_changed("bell", None).tag)

    assert len(tags) == 50


def test_foreign_files_and_drafts_are_not_listed(tmp_path):
    """What nobody could get must not be listed: an editor's or a file manager's droppings."""
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"1")
    for name in ("a/b~", "a/new folder.txt", f"{DRAFTS}/0123"):
        (tmp_path / name).write_bytes(b"")

    assert store.list("") == ["a/b"]
