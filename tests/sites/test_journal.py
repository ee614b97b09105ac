"""The journal of a round in lockstep: what is torn at its end is nothing, what is torn elsewhere stops the site."""

from __future__ import annotations

import os

import pytest

from infra.errors import FileError
from sites.journal import Journal, bounds_of
from sites.outbox import Outbox
from tasks.contracts import Spent
from tasks.privacy.events import GaussianEvent
from tests.crash.test_site_power import a_step, an_answer

TICKET = an_answer().ticket.model_copy(update={"steps": 3})
EVENT = GaussianEvent(noise_multiplier=1.5, sample_rate=1.0, steps=3)
SPENT = Spent(epsilon=1, delta=1e-5, noise_multiplier=1.5, sample_rate=1, steps=3, epsilon_limit=3)


@pytest.fixture
def journal(tmp_path):
    """Two steps are in it."""
    made = Journal.begin(tmp_path / "outbox", TICKET, EVENT, SPENT)
    for step in (1, 2):
        made.keep(*a_step(step))
    yield made
    made.close()


def path(tmp_path):
    return next((tmp_path / "outbox" / "toy-1").iterdir())


def test_a_record_that_is_torn_at_the_end_has_never_been(tmp_path, journal):
    """It was not synced, so nothing of it has left; the next one takes its place."""
    whole = path(tmp_path).read_bytes()
    begin = whole.rfind(b'{"bound"')
    for cut in range(begin, len(whole)):
        path(tmp_path).write_bytes(whole[:cut])
        known = Journal.known(tmp_path / "outbox", TICKET)
        assert (known.newest, known.payload) == a_step(1)
        known.close()
    known = Journal.known(tmp_path / "outbox", TICKET)
    known.keep(*a_step(2))
    known.close()
    assert path(tmp_path).read_bytes() == whole


def test_a_record_that_is_changed_before_the_end_is_told(tmp_path, journal):
    """The site would forget what it has bound itself to."""
    whole = path(tmp_path).read_bytes()
    path(tmp_path).write_bytes(whole.replace(a_step(1)[1], bytes(16)))

    for look in (
        lambda: Journal.known(tmp_path / "outbox", TICKET),
        lambda: list(bounds_of(tmp_path / "outbox", "toy-1")),
    ):
        with pytest.raises(FileError, match="is damaged; restore it"):
            look()


def test_without_its_vectors_it_still_says_what_the_site_is_bound_to(tmp_path, journal):
    """The newest stays: the answer may have to be made from it. Pledges of the run hold all, in their order."""
    before = len(path(tmp_path).read_bytes())
    journal.forget_vectors()
    journal.keep(*a_step(3))
    known = Journal.known(tmp_path / "outbox", TICKET)

    assert known.payload == a_step(3)[1] and len(path(tmp_path).read_bytes()) < before * 2
    assert a_step(1)[1] not in path(tmp_path).read_bytes()
    assert [p.step for p in Outbox(tmp_path / "outbox").pledges("toy-1").sums] == [1, 2, 3]
    known.close()


def test_what_a_failed_write_has_torn_is_never_in_the_middle(tmp_path, journal, monkeypatch):
    """A disk that is full, and then fails at the cut as well; the next step is kept behind the last whole one."""
    real, cuts = os.write, []

    def half(fd, data):
        if b'"bound"' not in data:
            return real(fd, data)
        return real(fd, data[: len(data) // 2])

    def broken(*_args):
        cuts.append(True)
        raise OSError(5, "input/output error")

    with monkeypatch.context() as disk:
        disk.setattr("os.write", half)
        disk.setattr("os.ftruncate", broken)
        with pytest.raises(FileError, match="cannot be written"):
            journal.keep(*a_step(3))
        with pytest.raises(FileError, match="cannot be written"):  # nothing is written behind what is torn
            journal.keep(*a_step(3))
    journal.keep(*a_step(3))
    known = Journal.known(tmp_path / "outbox", TICKET)

    assert len(cuts) > 1 and (known.newest, known.payload) == a_step(3)
    assert [bound.sum.step for _, bound in bounds_of(tmp_path / "outbox", "toy-1")] == [1, 2, 3]
    known.close()
