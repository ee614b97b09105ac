"""The directory store and the power: what a call has returned from stays, and no object is ever torn."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from infra.store.directory import DirectoryStore
from tests.crash.disk import Disk
from tests.federation import Killed

KEYS = st.sampled_from(["a/b/c", "a/b/d", "a/e", "f"])
DATA = st.binary(min_size=1, max_size=3)
KILLS = st.one_of(st.none(), st.integers(0, 25))


class PowerMachine(RuleBasedStateMachine):
    """One process after another, killed between any two calls; at any moment the power may go."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(prefix="power-")
        self.cuts = 0
        self.disk = Disk(self._place())
        self.allowed: dict[
            str, set[bytes | None]
        ] = {}  # what may be read; one value where a call has returned
        self._open()

    @rule(key=KEYS, data=DATA, kill=KILLS)
    def put(self, key, data, kill):
        if self._do(kill, lambda: self.store.put(key, data)):
            self.allowed[key] = {data}
        else:
            self._may(key).add(data)

    @rule(key=KEYS, data=DATA, kill=KILLS)
    def put_if_absent(self, key, data, kill):
        won: list[bool] = []
        may = self._may(key)
        if not self._do(kill, lambda: won.append(self.store.put_if_absent(key, data))):
            may |= {data} if None in may else set()
        elif won[0]:
            assert None in may, "a second winner"
            self.allowed[key] = {data}
        else:
            found = self.store.get(key)
            assert found is not None and found in may
            self.allowed[key] = {found}  # whoever is told that it is there may rely on it

    @rule(key=KEYS, kill=KILLS)
    def delete(self, key, kill):
        if self._do(kill, lambda: self.store.delete(key)):
            self.allowed[key] = {None}
        else:
            self._may(key).add(None)

    @rule(seed=st.integers(0, 2**32))
    def power_cut(self, seed):
        self.disk = self.disk.power_cut(self._place(), random.Random(seed).randrange)
        self._open()
        for key, may in self.allowed.items():  # what the cut has left is on the disk
            assert self.store.get(key) in may, f"{key}: {self.store.get(key)!r}, not one of {may}"
            self.allowed[key] = {self.store.get(key)}

    @invariant()
    def whole(self):
        for key, may in self.allowed.items():
            assert self.store.get(key) in may
        assert set(self.store.list("")) == {k for k in self.allowed if self.store.get(k) is not None}

    def teardown(self):
        self.disk.close()
        self.folder.cleanup()

    def _may(self, key: str) -> set[bytes | None]:
        return self.allowed.setdefault(key, {None})

    def _do(self, kill: int | None, call) -> bool:
        """Whether the call returned."""
        try:
            with self.disk.watching(kill):
                call()
        except Killed:
            return False
        return True

    def _open(self) -> None:
        with self.disk.watching():
            self.store = DirectoryStore(self.disk.root)

    def _place(self) -> Path:
        self.cuts += 1
        place = Path(self.folder.name) / str(self.cuts)
        place.mkdir()
        return place


def _play(examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        PowerMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=checks,
        ),
    )


def test_nothing_acknowledged_is_lost():
    """Commits, leases and tickets are such objects; a lost one would be a round done twice."""
    _play(40)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_in_many_lives():
    """The same, for longer."""
    _play(1000)


def worst(_choices: int) -> int:
    """Of all that POSIX allows, what is oldest."""
    return 0


@pytest.mark.parametrize("again", ["a/b/d", "a/b/c"])
def test_folders_that_a_killed_writer_made_are_durable_under_the_next_ones_object(tmp_path, again):
    """It finds the folder there, and must not take that for a promise: a commit would vanish with the folder."""
    for kill in range(30):
        place = tmp_path / str(kill)
        (place / "before").mkdir(parents=True)
        (place / "after").mkdir()
        disk = Disk(place / "before")
        store = DirectoryStore(disk.root)
        with suppress(Killed), disk.watching(kill):
            store.put("a/b/c", b"first")
        with disk.watching():
            won = DirectoryStore(disk.root).put_if_absent(again, b"second")
        disk = disk.power_cut(place / "after", worst)

        assert DirectoryStore(disk.root).get(again) == (b"second" if won else b"first")
        disk.close()


def test_a_delete_that_a_killed_process_began_is_durable_once_a_repeat_has_returned(tmp_path):
    """A ticket that comes back after its run was cancelled would be worked on."""
    for kill in range(12):
        place = tmp_path / str(kill)
        (place / "before").mkdir(parents=True)
        (place / "after").mkdir()
        disk = Disk(place / "before")
        store = DirectoryStore(disk.root)
        with disk.watching():
            store.put("a/b/c", b"first")
        with suppress(Killed), disk.watching(kill):
            store.delete("a/b/c")
        with disk.watching():
            DirectoryStore(disk.root).delete("a/b/c")
        disk = disk.power_cut(place / "after", worst)

        assert DirectoryStore(disk.root).get("a/b/c") is None
        disk.close()
