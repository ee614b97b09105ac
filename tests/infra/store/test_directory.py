"""What only a directory can get wrong: half-written files, races between processes, and disks."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from infra.errors import StoreError
from infra.store import open_store
from infra.store.directory import DRAFT_AGE_S, DRAFTS, DirectoryStore

FORK = multiprocessing.get_context("fork")


def in_a_child(work: Callable[[], object]) -> str:
    """Run in another process, which may give up its rights; returns the text of the StoreError it met."""

    def run(answer: Connection) -> None:
        try:
            work()
            answer.send("no error")
        except StoreError as exc:
            answer.send(str(exc))
        finally:
            os._exit(0)

    here, there = FORK.Pipe()
    process = FORK.Process(target=run, args=(there,))
    process.start()
    there.close()
    text = here.recv()
    process.join()
    return str(text)


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
        while store.get("replaced") is None:
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

    def write_and_delete(name: str) -> None:
        store = DirectoryStore(tmp_path)
        for _ in range(150):
            store.put(f"a/b/c/{name}", b"x")
            assert store.get(f"a/b/c/{name}") == b"x"
            store.delete(f"a/b/c/{name}")

    processes = [FORK.Process(target=write_and_delete, args=(str(i),)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [DRAFTS]


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


def test_old_drafts_go_when_a_store_is_opened(tmp_path):
    """Killed writers leave drafts; they must not fill the disk, nor may a running writer's be taken."""
    DirectoryStore(tmp_path)
    old, new = tmp_path / DRAFTS / "old", tmp_path / DRAFTS / "new"
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (time.time() - DRAFT_AGE_S - 60,) * 2)

    DirectoryStore(tmp_path)

    assert (old.exists(), new.exists()) == (False, True)


def test_a_vanished_folder_is_an_error_not_an_empty_store(tmp_path):
    """A hub that saw no commits would start its run again."""
    store = DirectoryStore(tmp_path / "disk")
    store.put("a", b"1")
    shutil.rmtree(tmp_path / "disk")
    calls = [
        lambda: store.get("a"),
        lambda: store.get_if_changed("a", None),
        lambda: store.list(""),
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("a", b""),
        lambda: store.delete("a"),
    ]

    for call in calls:
        with pytest.raises(StoreError, match="is its disk mounted"):
            call()


def test_a_closed_folder_names_the_cure(tmp_path):
    """Another account's store: the person who reads this is not its author."""
    store = DirectoryStore(tmp_path / "store")
    store.put("a", b"1")
    (tmp_path / "store").chmod(0o555)
    (tmp_path / "store" / DRAFTS).chmod(0o555)
    (tmp_path / "store" / "a").chmod(0o000)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)

    def as_nobody(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            if os.geteuid() == 0:
                os.setuid(65534)
            return call()

        return run

    for call in (lambda: store.put("b", b""), lambda: store.put_if_absent("b", b""), lambda: store.get("a")):
        text = in_a_child(as_nobody(call))
        assert "let this account read and write the store's folder" in text
        assert str(tmp_path) not in text


def test_a_disk_that_takes_no_more_leaves_nothing_behind(tmp_path):
    """Half an update must neither get a name nor keep its space."""
    store = DirectoryStore(tmp_path)

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        store.put("update", bytes(100_000))

    assert "raise the limit on file sizes" in in_a_child(write)
    assert store.list("") == []
    assert list((tmp_path / DRAFTS).iterdir()) == []


def test_a_file_in_the_way_is_no_store(tmp_path):
    """A path that was mistyped is met when the store is opened."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot hold a store"):
        DirectoryStore(tmp_path / "file")


def test_a_part_too_long_for_the_disk_is_an_error(tmp_path):
    """S3 takes it, a file system does not."""
    with pytest.raises(StoreError, match="shorten the key"):
        DirectoryStore(tmp_path).put("a/" + "b" * 300, b"")


@pytest.mark.parametrize("form", ["file://{0}", "file:{0}", "{0}", "file://localhost{0}"])
def test_a_folder_may_be_written_in_several_ways(tmp_path, form):
    """As a URL in site.yaml, as a path on a command line."""
    folder = tmp_path / "with space"

    open_store(form.format(folder).replace(" ", "%20" if form.startswith("file") else " ")).put("a", b"1")

    assert (folder / "a").read_bytes() == b"1"


def test_a_relative_folder_is_fixed_when_it_is_opened(tmp_path, monkeypatch):
    """A daemon changes its working folder after it has read its settings."""
    monkeypatch.chdir(tmp_path)
    store = open_store("store")
    monkeypatch.chdir("/")

    store.put("a", b"1")

    assert (tmp_path / "store" / "a").exists()


@pytest.mark.parametrize(
    "url", ["", "file:", "file://srv/fedrounds", "gs://bucket/x", "http://host/x", "s4://b"]
)
def test_an_address_of_another_kind_is_refused(url):
    """The text says what would do."""
    with pytest.raises(StoreError, match=r"file:///FOLDER"):
        open_store(url)
