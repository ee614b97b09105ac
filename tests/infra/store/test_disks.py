"""A directory store on the disks that people have: full, closed, unmounted, mistyped."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

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
