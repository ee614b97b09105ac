import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import FileError
from sites.ledger import FILE, Entry, Key, Ledger
from tasks.errors import PrivacyError
from tasks.privacy.events import GaussianEvent

ROOT = Path(__file__).parents[2]


def an_event(noise=1.5, steps=5):
    return GaussianEvent(noise_multiplier=noise, sample_rate=0.25, steps=steps)


def an_entry(round=1, attempt=1, run="run-1", study="heart", dataset="csv:heart.csv|", event=None):
    return Entry(
        dataset=dataset, study=study, run=run, round=round, attempt=attempt, event=event or an_event()
    )


@pytest.fixture
def ledger(tmp_path):
    with_clock = Ledger(tmp_path, clock=lambda: 1700000000.0)
    yield with_clock
    with_clock.close()


def test_a_reserved_entry_counts(ledger):
    """From the reservation on, rows may have been read: there is no way back."""
    assert ledger.reserve(an_entry())
    assert ledger.events("csv:heart.csv|") == [an_event()]
    assert [(row.state, row.at, row.entry) for row in ledger.rows()] == [
        ("reserved", 1700000000.0, an_entry())
    ]


def test_the_same_entry_again_is_not_paid_twice(ledger):
    """A ticket that is delivered twice finds its update ready."""
    assert ledger.reserve(an_entry())
    assert not ledger.reserve(an_entry())
    ledger.charge(an_entry().key)
    assert not ledger.reserve(an_entry())
    assert len(ledger.rows()) == 1


def test_another_attempt_is_another_debit(ledger):
    """A retry that computes again is a second release."""
    ledger.reserve(an_entry(attempt=1))
    ledger.reserve(an_entry(attempt=2))
    assert ledger.events("csv:heart.csv|") == [an_event()] * 2


@pytest.mark.parametrize("other", [an_entry(event=an_event(steps=6)), an_entry(dataset="csv:other.csv|")])
def test_the_same_key_for_other_work_is_refused(ledger, other):
    """Else a hub could pay once and train twice."""
    ledger.reserve(an_entry())
    with pytest.raises(PrivacyError, match="another attempt"):
        ledger.reserve(other)
    assert ledger.rows()[0].entry == an_entry()


def test_a_charge_is_noted_and_still_counts_once(ledger):
    """Charged: the update left. The price is the same."""
    ledger.reserve(an_entry())
    ledger.charge(an_entry().key)
    ledger.charge(an_entry().key)
    assert [row.state for row in ledger.rows()] == ["charged"]
    assert ledger.events("csv:heart.csv|") == [an_event()]


def test_what_was_not_reserved_cannot_be_charged(ledger):
    """An update without a reservation is a bug that must not pass."""
    with pytest.raises(PrivacyError, match="never reserved"):
        ledger.charge(Key("heart", "run-1", 1, 1))


def test_events_are_of_people_and_of_runs(ledger):
    """The limit is over all studies on the same people; a receipt is about one run."""
    ledger.reserve(an_entry(run="run-1", round=1))
    ledger.reserve(an_entry(run="run-2", study="lungs", event=an_event(2)))
    ledger.reserve(an_entry(run="run-1", round=2, event=an_event(3)))
    ledger.reserve(an_entry(run="run-3", dataset="csv:other.csv|"))

    assert [e.noise_multiplier for e in ledger.events("csv:heart.csv|")] == [1.5, 2, 3]
    assert [e.noise_multiplier for e in ledger.run_events("csv:heart.csv|", "run-1")] == [1.5, 3]


def test_the_ledger_outlives_its_process(tmp_path):
    """Nothing is kept in memory only."""
    first = Ledger(tmp_path)
    first.reserve(an_entry())
    first.close()
    second = Ledger(tmp_path)
    assert not second.reserve(an_entry())
    second.close()


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM entries", "UPDATE entries SET event = ''", "DELETE FROM entries WHERE kind = 'charge'"],
)
def test_the_tables_only_grow(ledger, tmp_path, statement):
    """No code path, and no hasty administrator, takes an entry back by accident."""
    ledger.reserve(an_entry())
    ledger.charge(an_entry().key)
    with sqlite3.connect(tmp_path / FILE) as other, pytest.raises(sqlite3.IntegrityError, match="only grows"):
        other.execute(statement)


DYING = """
import os, signal, sys
from pathlib import Path
from sites.ledger import Entry, Ledger
from tasks.privacy.events import GaussianEvent
ledger = Ledger(Path(sys.argv[1]))
entry = Entry(dataset="d", study="heart", run="run-1", round=1, attempt=1,
              event=GaussianEvent(noise_multiplier=1.5, sample_rate=0.25, steps=5))
ledger.reserve(entry)
ledger._file.db.execute("BEGIN IMMEDIATE")
ledger._file.db.execute("INSERT INTO entries SELECT 2, kind, dataset, study, run, 2, 1, event, at, hash FROM entries")
os.kill(os.getpid(), signal.SIGKILL)  # never committed
"""


def test_a_killed_process_keeps_its_reservation(tmp_path):
    """The plug is pulled between reserve and charge: the reservation stays, the half-written one is gone."""
    ended = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], cwd=ROOT, check=False)
    assert ended.returncode == -9

    ledger = Ledger(tmp_path, wait_s=0)  # the lock died with the process

    assert [(row.entry.round, row.state) for row in ledger.rows()] == [(1, "reserved")]
    assert ledger.reserve(an_entry(round=3))
    ledger.close()


def test_a_second_writer_is_refused(ledger, tmp_path):
    """Two agents with one ledger would each look, and then both spend."""
    with pytest.raises(FileError, match=f"in use by process {os.getpid()}.*Stop that agent"):
        Ledger(tmp_path, wait_s=0.1)


def test_others_may_look_but_not_write(ledger, tmp_path):
    """`fedrounds-site budget` runs beside the agent."""
    ledger.reserve(an_entry())
    looking = Ledger(tmp_path, read_only=True)
    assert looking.events("csv:heart.csv|") == [an_event()]
    with pytest.raises(FileError, match="reading only"):
        looking.reserve(an_entry(round=2))
    looking.close()
    assert len(ledger.rows()) == 1


def test_looking_at_no_ledger_shows_none_and_makes_none(tmp_path):
    """Before its first round a site has spent nothing."""
    looking = Ledger(tmp_path / "state", read_only=True)
    assert looking.rows() == []
    looking.close()
    assert not (tmp_path / "state").exists()


def test_a_damaged_ledger_is_not_replaced(tmp_path):
    """Beginning a new one would forget what was paid."""
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(FileError, match="Restore it from a backup"):
        Ledger(tmp_path)
    assert (tmp_path / FILE).read_bytes().startswith(b"not a database")


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    """Newer columns may hold costs that this version cannot see."""
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(FileError, match="newer version"):
        Ledger(tmp_path)


def test_an_event_of_another_mechanism_stops_the_count(ledger):
    """What cannot be counted must not be counted as nothing."""
    ledger.reserve(an_entry())
    ledger._file.append("reserve", "csv:heart.csv|", ("heart", "run-1", 2, 1), '{"kind":"laplace"}', 0.0)
    with pytest.raises(PrivacyError, match="cannot count"):
        ledger.events("csv:heart.csv|")


def test_a_closed_ledger_lets_the_next_one_in(tmp_path):
    """An agent that is restarted at once must not wait for a time-out."""
    Ledger(tmp_path).close()
    second = Ledger(tmp_path, wait_s=0)
    second.close()
    second.close()


def test_the_ledger_is_light():
    """It lives in the agent, whose memory is bounded: no numpy, no scipy."""
    code = "import sys, sites.ledger; sys.exit(bool({'numpy', 'scipy', 'torch', 'dp_accounting'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
