"""Committed rounds are read once: what a look costs must not grow with the run."""

from __future__ import annotations

from tasks.recent import new_records, recent_records
from tests.rounds import a_hub, a_record, commit


class Counting:
    """A store that counts how often it is read."""

    def __init__(self, inner):
        self.inner, self.reads = inner, 0

    def get(self, *args):
        self.reads += 1
        return self.inner.get(*args)


def test_a_look_at_a_long_run_reads_what_is_new(tmp_path):
    """The lines of a foreground run look four times a second, for hundreds of rounds."""
    hub = a_hub(tmp_path, None)
    for number in range(1, 6):
        commit(hub, a_record(number))
    store = hub.__dict__["store"] = Counting(hub.store)

    assert [r.round for r in new_records(hub, a_record(1).run, 0)] == [1, 2, 3, 4, 5]
    store.reads = 0
    assert list(new_records(hub, a_record(1).run, 5)) == []
    assert store.reads == 1
    assert [r.round for r in recent_records(hub, a_record(1).run, 6, 3)] == [3, 4, 5]
    assert store.reads == 1
