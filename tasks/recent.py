"""Hub: the last committed rounds of a run, each read from the store once.

A committed round never changes: what was read and verified may be kept.
"""

from __future__ import annotations

from collections import OrderedDict

from infra.hub import Hub
from tasks import layout
from tasks.contracts import RoundRecord

KEPT = 1000  # records; a few kilobytes each

_read: OrderedDict[tuple[str, str], RoundRecord] = OrderedDict()


def recent_records(hub: Hub, run: str, before: int, most: int) -> list[RoundRecord]:
    """Up to `most` committed rounds of a run before round `before`, in order."""
    found = (_record(hub, run, number) for number in range(max(1, before - most), before))
    return [record for record in found if record is not None]


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
