"""A store that is away for a while: what is waited for, and what is not."""

from __future__ import annotations

import pytest

from infra.errors import StoreError
from infra.store.directory import DirectoryStore
from infra.store.patient import PatientStore


class Unanswered(DirectoryStore):
    """Does every put_if_absent, and says the first time that it is away."""

    def __init__(self, root, passing: bool = True, always: bool = False):
        super().__init__(root)
        self.passing, self.always, self.calls = passing, always, 0

    def put_if_absent(self, key: str, data: bytes) -> bool:
        done = super().put_if_absent(key, data)
        self.calls += 1
        if self.calls == 1 or self.always:
            raise StoreError("away", passing=self.passing)
        return done


def test_a_write_that_was_done_but_not_answered_counts_as_done(tmp_path):
    """Else a hub would take its own commit for another's."""
    store = PatientStore(Unanswered(tmp_path / "store"), lambda _: None)

    assert store.put_if_absent("a", b"mine")
    assert not store.put_if_absent("a", b"mine")  # of an earlier call: the key was taken before this one


def test_another_ones_object_stays_another_ones(tmp_path):
    """A repeat that finds other bytes has lost the race."""
    inner = Unanswered(tmp_path / "store")
    DirectoryStore(tmp_path / "store").put("a", b"theirs")

    assert not PatientStore(inner, lambda _: None).put_if_absent("a", b"mine")


def test_patience_ends(tmp_path):
    """Pauses grow, and a store that does not come back is an error in the end."""
    pauses: list[float] = []
    store = PatientStore(Unanswered(tmp_path / "store", always=True), pauses.append, patience_s=30)

    with pytest.raises(StoreError, match="away"):
        store.put_if_absent("a", b"mine")

    assert 30 <= sum(pauses) <= 45
    assert pauses[0] < 0.2 < 5 < pauses[-1]


def test_a_lasting_fault_is_raised_at_once(tmp_path):
    """Waiting does not mend wrong credentials."""
    store = PatientStore(Unanswered(tmp_path / "store", passing=False), pytest.fail)

    with pytest.raises(StoreError):
        store.put_if_absent("a", b"mine")


def test_a_folder_that_vanished_is_waited_for(tmp_path):
    """A disk that is unmounted for a moment does not end a run."""
    folder, away = tmp_path / "store", tmp_path / "away"
    inner = DirectoryStore(folder)
    inner.put("a", b"here")
    folder.rename(away)

    assert PatientStore(inner, lambda _: away.rename(folder) and None).get("a") == b"here"
