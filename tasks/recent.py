"""Hub: the last committed rounds of a run, each read from the store once.

A committed round never changes: what was read and verified may be kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from infra.hub import Hub
from tasks import layout
from tasks.records import RoundRecord

KEPT = 200  # records, of about 4 KB for each site; whoever asks for more reads the store again

_read: OrderedDict[tuple[str, str], RoundRecord] = OrderedDict()


def recent_records(hub: Hub, run: str, before: int, most: int) -> list[RoundRecord]:
    """Up to `most` committed rounds of a run before round `before`, in order."""
    found = (_record(hub, run, number) for number in range(max(1, before - most), before))
    return [record for record in found if record is not None]


def new_records(hub: Hub, run: str, after: int) -> Iterator[RoundRecord]:
    """The committed rounds of a run after round `after`, in order: each look costs what is new, not what is there."""
    while (record := _record(hub, run, after + 1)) is not None:
        yield record
        after += 1


def _record(hub: Hub, run: str, number: int) -> RoundRecord | None:
    key = layout.commit_key(run, number)
    if (hub.store_url, key) not in _read:
        record = hub.read(key, RoundRecord)
        if record is None or (record.run, record.round) != (run, number):
            return None
        _read[hub.store_url, key] = record
        while len(_read) > KEPT:
            _read.popitem(last=False)
    return _read[hub.store_url, key]
