"""What every store promises (infra/store/base.py), asked of each kind, also where a tenth of all requests fails."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.errors import StoreError
from infra.signing import MAX_SEALED_BYTES
from infra.store.base import MESSAGE_BYTES

NO_KEYS = {
    "empty": "",
    "climbs out": "../secret",
    "climbs out later": "a/../../secret",
    "absolute": "/nowhere/at-all",  # a store without this defence must not harm the machine that tests it
    "empty part": "a//b",
    "folder": "a/",
    "dot": "a/./b",
    "space": "a b",
    "not ASCII": "clé",
    "newline": "a\n",
    "wildcard": "a*",
    "percent": "a%2e",
    "tilde": "~drafts/x",
    "long": "a" * 10_000,
}
KINDS = ["directory", *(pytest.param(kind, marks=pytest.mark.s3) for kind in ("s3", "bad s3"))]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1, 20 * 2**20])
def test_what_is_put_is_got(store, size):
    """Signals may be empty, updates are large; neither may lose a byte."""
    data = os.urandom(size)

    store.put("runs/r1/update", data)

    assert store.get("runs/r1/update", size) == data


@pytest.mark.parametrize("size", [3, 4, 5, 3 * 2**20])
def test_a_read_is_bounded(store, size):
    """Whoever writes an object must not fill its reader's memory; one byte too many tells that there is more."""
    data = os.urandom(size)
    store.put("a", data)

    assert store.get("a", 4) == data[:5]


def test_a_read_that_names_no_bound_has_the_one_of_a_message(store):
    """Receipts, cards and signs of life come from whoever may write there."""
    store.put("a", bytes(MESSAGE_BYTES + 5))

    assert MESSAGE_BYTES >= MAX_SEALED_BYTES
    assert len(store.get("a")) == MESSAGE_BYTES + 1
    assert len(store.get_if_changed("a", None).data) == MESSAGE_BYTES + 1


def test_a_second_put_replaces(store):
    """Progress and bells are overwritten."""
    store.put("bell", b"first, and longer")
    store.put("bell", b"second")

    assert store.get("bell") == b"second"
    assert store.list("") == ["bell"]


def test_what_was_never_put_is_absent(store):
    """A poll before the first ticket is no error."""
    store.put("a/b", b"x")

    assert [store.get(k) for k in ("a", "a/c", "a/b/c", "z/y/x")] == [None] * 4
    assert [store.get_if_changed(k, t) for k in ("a", "a/b/c", "z") for t in (None, "no tag")] == [None] * 6


def test_put_if_absent_keeps_what_is_there(store, kind):
    """A commit stands: whoever comes later learns that it is too late."""
    assert store.put_if_absent("commits/00001.json", b"ours")
    assert not store.put_if_absent("commits/00001.json", b"theirs")
    again = store.put_if_absent("commits/00001.json", b"ours")
    assert (
        not again or kind == "bad s3"
    )  # an answer that was lost is ours where the bytes are (infra/store/s3.py)
    assert store.get("commits/00001.json") == b"ours"


def test_put_if_absent_works_again_after_a_delete(store):
    """Absent means absent now, not never seen."""
    store.put_if_absent("lease/1", b"a")
    store.delete("lease/1")

    assert store.put_if_absent("lease/1", b"b")
    assert store.get("lease/1") == b"b"


def test_one_of_many_racers_wins(url, opened):
    """Leases and commits rest on this alone."""
    racers = 8
    start = threading.Barrier(racers)
    stores = [opened(url) for _ in range(racers)]

    def race(i: int) -> list[bool]:
        won = []
        for heat in range(10):
            start.wait()
            won.append(stores[i].put_if_absent(f"leases/{heat}", f"racer {i}".encode() * 1000))
        return won

    with ThreadPoolExecutor(racers) as pool:
        results = list(pool.map(race, range(racers)))

    for heat, outcomes in enumerate(zip(*results, strict=True)):
        assert sum(outcomes) == 1
        assert stores[0].get(f"leases/{heat}") == f"racer {outcomes.index(True)}".encode() * 1000


def test_one_handle_serves_many_threads(store):
    """The hub's site tasks share one store."""

    def work(i: int) -> bool:
        key, data = f"t/{i % 4}/{i}", os.urandom(5000)
        store.put(key, data)
        return store.get(key) == data and key in store.list("t/")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_polling_tells_each_change_once(store):
    """An idle agent asks one key for news, again and again."""
    assert store.get_if_changed("bell", None) is None
    store.put("bell", b"1")
    first = store.get_if_changed("bell", None)
    assert first.data == b"1"
    assert store.get_if_changed("bell", first.tag) is None

    store.put("bell", b"2")
    second = store.get_if_changed("bell", first.tag)
    assert second.data == b"2"
    assert second.tag != first.tag
    assert store.get_if_changed("bell", second.tag) is None

    store.delete("bell")
    assert store.get_if_changed("bell", second.tag) is None
    store.put("bell", b"3")
    assert store.get_if_changed("bell", second.tag).data == b"3"


def test_a_tag_fits_its_bytes_while_they_are_replaced(url, opened):
    """A tag of newer bytes than the reader got would hide the change for ever."""
    writer, reader = opened(url), opened(url)
    versions = [bytes([i]) * 300 for i in range(60)]  # one size: only the tag tells them apart
    thread = threading.Thread(target=lambda: [writer.put("bell", v) for v in versions])
    thread.start()
    seen: dict[str, bytes] = {}
    tag = None
    while thread.is_alive() or tag is None:
        found = reader.get_if_changed("bell", tag)
        if found is not None:
            assert len(set(found.data)) == 1
            assert seen.setdefault(found.tag, found.data) == found.data
            tag = found.tag
    thread.join()

    last = reader.get_if_changed("bell", tag)
    assert (last.data if last else seen[tag]) == versions[-1]


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("", ["ab", "abc/x", "b-/x", "b/1/z", "b/10", "b/2", "b0"]),
        ("a", ["ab", "abc/x"]),
        ("ab", ["ab", "abc/x"]),
        ("abc/", ["abc/x"]),
        ("b", ["b-/x", "b/1/z", "b/10", "b/2", "b0"]),
        ("b/", ["b/1/z", "b/10", "b/2"]),
        ("b/1", ["b/1/z", "b/10"]),
        ("b/1/", ["b/1/z"]),
        ("ab/", []),
        ("zz", []),
        ("z/y/x", []),
    ],
)
def test_a_prefix_is_any_beginning(store, prefix, keys):
    """tickets_of_round lists by half a name; the order is that of the whole keys, not of the folders."""
    for key in ("b/2", "b0", "ab", "b/10", "abc/x", "b/1/z", "b-/x"):
        store.put(key, b"")

    assert store.list(prefix) == keys


def test_a_delete_leaves_the_neighbours(store):
    """Deleting twice is a success: a clean-up may be cut short and repeated."""
    store.put("a/b/c", b"1")
    store.put("a/b/d", b"2")
    for _ in range(2):
        store.delete("a/b/c")
    store.delete("never/was")

    assert store.get("a/b/c") is None
    assert store.list("") == ["a/b/d"]


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_what_is_no_key_is_refused_by_every_verb(store, key):
    """No name that another party chose may lead out of the store."""
    verbs = [
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.get(key),
        lambda: store.get_if_changed(key, None),
        lambda: store.delete(key),
    ]
    for verb in verbs:
        with pytest.raises(StoreError, match="is not a key"):
            verb()


@pytest.mark.parametrize("prefix", ["../", "/", "a//", "a/../", " ", "*"])
def test_what_begins_no_key_is_refused_by_list(store, prefix):
    """Nor may a listing."""
    with pytest.raises(StoreError, match="is not a key"):
        store.list(prefix)
