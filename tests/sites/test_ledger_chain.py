"""The ledger against crashes and against hands: nothing is forgotten, and nobody takes an entry back unseen."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import FileError
from sites import ledgerfile
from sites.chain import BrokenChainError
from sites.ledger import Entry, Ledger
from sites.ledgerfile import FILE, HEAD
from tasks.privacy.accountant import epsilon
from tasks.privacy.budget import afford
from tasks.privacy.events import GaussianEvent

ROOT = Path(__file__).parents[2]


def an_entry(round_: int) -> Entry:
    event = GaussianEvent(noise_multiplier=1.5, sample_rate=0.25, steps=5)
    return Entry(dataset="d", study="heart", run="run-1", round=round_, attempt=1, event=event)


def a_ledger(folder: Path, rounds: int = 3) -> Path:
    """A ledger with charged rounds, closed, as another process would find it."""
    ledger = Ledger(folder, site="north", clock=lambda: 1_700_000_000.0)
    for round_ in range(1, rounds + 1):
        ledger.reserve(an_entry(round_))
        ledger.charge(an_entry(round_).key)
    ledger.close()
    ledgerfile._checked.clear()
    return folder


def tamper(folder: Path, statement: str) -> None:
    """As somebody with the file and a SQLite shell could."""
    with sqlite3.connect(folder / FILE) as db:
        db.execute("DROP TRIGGER entries_keep")
        db.execute("DROP TRIGGER entries_stay")
        db.execute(statement)


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("UPDATE entries SET event = replace(event, '1.5', '9.5') WHERE id = 3", 3),
        ("UPDATE entries SET dataset = 'other' WHERE id = 1", 1),
        ("UPDATE entries SET at = at - 1 WHERE id = 6", 6),
        ("UPDATE entries SET kind = 'reserve', round = 9 WHERE id = 2", 2),
        ("DELETE FROM entries WHERE id = 1", 1),
        ("DELETE FROM entries WHERE id = 4", 4),
        ("DELETE FROM entries WHERE id = 6", 6),
        ("DELETE FROM entries", 1),
        ("UPDATE entries SET id = -id WHERE id IN (1, 2)", 1),
    ],
)
def test_a_changed_ledger_is_refused_and_the_entry_is_named(tmp_path, statement, entry):
    """An edited, moved or deleted entry would give back privacy that was paid."""
    tamper(a_ledger(tmp_path), statement)
    for read_only in (False, True):
        with pytest.raises(BrokenChainError, match="Restore") as refused:
            Ledger(tmp_path, read_only=read_only)
        assert refused.value.entry == entry


def test_a_replaced_ledger_is_refused(tmp_path):
    """A new, empty or foreign ledger owes nothing."""
    a_ledger(tmp_path / "a")
    a_ledger(tmp_path / "b")
    shutil.copy(tmp_path / "b" / FILE, tmp_path / "a" / FILE)
    with pytest.raises(BrokenChainError, match="another ledger"):
        Ledger(tmp_path / "a")

    (tmp_path / "a" / FILE).unlink()
    with pytest.raises(BrokenChainError, match=r"is gone; ledger\.head says it had 6 entries"):
        Ledger(tmp_path / "a")
    (tmp_path / "a" / FILE).touch()
    with pytest.raises(BrokenChainError, match="is gone"):
        Ledger(tmp_path / "a", read_only=True)


def test_an_old_copy_of_the_ledger_is_refused(tmp_path):
    """A backup that is put back without its head forgets what came after it."""
    old = (a_ledger(tmp_path) / FILE).read_bytes()
    with_more = Ledger(tmp_path)
    with_more.reserve(an_entry(4))
    with_more.close()
    (tmp_path / FILE).write_bytes(old)
    with pytest.raises(BrokenChainError, match="an old copy was put back"):
        Ledger(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 100])
def test_a_damaged_head_is_refused(tmp_path, damage):
    """Without it nobody knows how long the ledger was."""
    (a_ledger(tmp_path) / HEAD).write_bytes(damage)
    with pytest.raises(BrokenChainError, match="head is damaged"):
        Ledger(tmp_path)
    (tmp_path / HEAD).unlink()
    with pytest.raises(BrokenChainError, match="head is gone"):
        Ledger(tmp_path)


def test_a_ledger_of_another_site_is_refused(tmp_path):
    """Two sites on one machine keep their accounts apart."""
    a_ledger(tmp_path)
    with pytest.raises(BrokenChainError, match="of site 'north', not of 'south'"):
        Ledger(tmp_path, site="south")


def test_a_change_while_the_ledger_is_open_is_seen(tmp_path):
    """The check is not only at the start: the agent may run for months."""
    a_ledger(tmp_path)
    ledger = Ledger(tmp_path)
    tamper(tmp_path, "UPDATE entries SET dataset = 'other' WHERE id = 1")
    with pytest.raises(BrokenChainError) as refused:
        ledger.reserve(an_entry(4))
    assert refused.value.entry == 1
    ledger.close()
    with pytest.raises(BrokenChainError):
        Ledger(tmp_path)


def test_an_untouched_ledger_is_opened_without_a_walk(tmp_path, monkeypatch):
    """It is opened for each ticket; the walk grows with the years."""
    ledger = Ledger(a_ledger(tmp_path))
    ledger.close()
    monkeypatch.setattr(ledgerfile, "full_check", None)  # would fail if called
    again = Ledger(tmp_path)
    assert again.reserve(an_entry(4))
    again.close()


DYING = """
import os, signal, sys
from pathlib import Path
from sites import ledgerfile
from tests.sites.test_ledger_chain import Ledger, an_entry
write, count = ledgerfile.write_head, int(sys.argv[2])
def dies(path, head):
    if head.entries == count:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, head)
ledger = Ledger(Path(sys.argv[1])) if count else None
ledgerfile.write_head = dies
(ledger or Ledger(Path(sys.argv[1]))).reserve(an_entry(1))
"""


@pytest.mark.parametrize("entries", [0, 1])
def test_a_crash_between_entry_and_head_is_healed(tmp_path, entries):
    """The entry counts, and the ledger goes on: a power cut is no attack."""
    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), str(entries)], cwd=ROOT, check=False)
    assert died.returncode == -9

    looking = Ledger(tmp_path, read_only=True)
    assert len(looking.rows()) == entries
    looking.close()
    ledger = Ledger(tmp_path)
    assert ledger.reserve(an_entry(2))
    ledger.close()
    ledgerfile._checked.clear()
    Ledger(tmp_path).close()


def test_a_full_disk_is_said_and_never_forgets(tmp_path):
    """SQLite itself says that it is full; nothing was reserved, so nothing may be trained."""
    ledger = Ledger(a_ledger(tmp_path))
    pages = ledger._file.db.execute("PRAGMA page_count").fetchone()[0]
    ledger._file.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(FileError, match=r"cannot be written.*full.*Make room"):
        for round_ in range(4, 400):
            ledger.reserve(an_entry(round_))
    reserved = len(ledger.rows())
    ledger._file.db.execute("PRAGMA max_page_count = 100000")
    assert ledger.reserve(an_entry(500))
    assert len(ledger.rows()) == reserved + 1
    ledger.close()


def test_a_disk_that_is_full_between_entry_and_head_counts_the_entry(tmp_path, monkeypatch):
    """In doubt it was spent; the head catches up when there is room."""
    ledger, write = Ledger(a_ledger(tmp_path)), ledgerfile.write_head

    def full(_path, _head):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledgerfile, "write_head", full)
    with pytest.raises(FileError, match="No space left"):
        ledger.reserve(an_entry(4))
    with pytest.raises(FileError, match="No space left"):
        ledger.reserve(an_entry(5))
    monkeypatch.setattr(ledgerfile, "write_head", write)

    assert ledger.reserve(an_entry(4)) is False
    assert ledger.reserve(an_entry(5))
    ledger.close()
    ledgerfile._checked.clear()
    assert len(Ledger(tmp_path, read_only=True).rows()) == 5


def test_a_clock_that_jumps_back_changes_no_order(tmp_path):
    """Entries are numbered; the wall clock is only told."""
    times = iter([2_000_000_000.0, 5.0])
    ledger = Ledger(tmp_path, clock=lambda: next(times))
    ledger.reserve(an_entry(1))
    ledger.reserve(an_entry(2))
    assert [(row.id, row.at) for row in ledger.rows()] == [(1, 2_000_000_000.0), (2, 5.0)]
    ledger.close()
    ledgerfile._checked.clear()
    Ledger(tmp_path).close()


@pytest.mark.parametrize(
    "jumps", [(4e10, 1.8e9), (1.8e9, 4e10), (4e10, 0.0)], ids=["far then now", "now then far", "back"]
)
def test_no_jump_of_the_clock_frees_budget(tmp_path, jumps):
    """A debit of the year 3237 counts now, and one of today still counts then: budget has no date."""
    times = iter(jumps)
    ledger = Ledger(tmp_path, clock=lambda: next(times))
    ledger.reserve(an_entry(1))
    ledger.charge(an_entry(1).key)
    ledger.close()
    ledgerfile._checked.clear()

    again = Ledger(tmp_path, clock=lambda: 1.8e9)
    one = [an_entry(1).event]
    assert again.events(an_entry(1).dataset) == one
    limit = epsilon(one, 1e-5) * 1.1
    assert not afford(again.events(an_entry(1).dataset), one, limit, 1e-5).ok
    assert afford([], one, limit, 1e-5).ok
    assert again.reserve(an_entry(1)) is False
    again.close()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
floats = st.floats(min_value=1e-300, max_value=1e300)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(floats, st.floats(1e-9, 1), st.integers(1, 10**6), floats, st.text(min_size=1)), max_size=6
    )
)
def test_whatever_was_appended_verifies(tmp_path_factory, entries):
    """Any float and any text come back from the disk as they were hashed."""
    folder = tmp_path_factory.mktemp("ledger")
    for i, (noise, rate, steps, at, dataset) in enumerate(entries):
        event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)
        ledger = Ledger(folder, clock=lambda at=at: at)
        ledger.reserve(
            Entry(
                dataset=dataset,
                study="s",
                run="r",
                round=i + 1,
                attempt=1,
                event=event,
            )
        )
        ledger.close()
        ledgerfile._checked.clear()
    assert len(Ledger(folder, read_only=True).rows()) == len(entries)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return a_ledger(tmp_path_factory.mktemp("book"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cell_of_the_ledger_can_be_changed(book, data):
    """Any column of any entry, to anything else that the table takes."""
    good = (book / FILE).read_bytes()
    column = data.draw(
        st.sampled_from(["dataset", "study", "run", "round", "attempt", "event", "at", "hash"])
    )
    number = data.draw(st.integers(1, 6))
    if column in ("round", "attempt"):
        change = f"{column} = {column} + {data.draw(st.integers(4, 2**40))}"
    elif column == "at":
        change = f"at = at + {data.draw(st.floats(0.001, 1e9))}"
    else:
        place, letter = data.draw(st.integers(0, 9)), data.draw(st.sampled_from("!xyz%"))
        change = f"{column} = substr({column}, 1, {place}) || '{letter}' || substr({column}, {place} + 2)"
    try:
        tamper(book, f"UPDATE entries SET {change} WHERE id = {number}")
        with pytest.raises(BrokenChainError):
            Ledger(book, read_only=True)
    finally:
        (book / FILE).write_bytes(good)
        ledgerfile._checked.clear()
    Ledger(book, read_only=True).close()
