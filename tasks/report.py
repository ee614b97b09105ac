"""Hub: tell people what a committed round came to: who took part, who keeps missing, which group was voted out.

All of it follows from the record, and may be told again: a hub that falls between
commit and report leaves it to the next one.
"""

from __future__ import annotations

import logging
from typing import Any

from infra.hub import Hub
from infra.orchestrator import emit, page
from tasks.participation import LOOK_BACK, markdown, warnings
from tasks.recent import recent_records
from tasks.records import RoundRecord

log = logging.getLogger(__name__)


def report(hub: Hub, record: RoundRecord) -> None:
    """Show a committed round's participation as a page of its flow run; commit and warnings also as events."""
    _emit(record, "fedrounds.round.committed", sites=len(record.cohort))
    records = [*recent_records(hub, record.run, record.round, LOOK_BACK), record]
    for text in warnings(records):
        log.warning("round %d: %s", record.round, text)
        _emit(record, "fedrounds.round.warning", warning=text)
    for group in (group for group in record.groups if group.dropped):
        log.warning(
            "round %d: %d of %d sites do better without the group %s: it was left out. One of them may be wrong, or "
            "unlike the others; ask their people",
            record.round,
            group.votes,
            record.voters,
            ", ".join(group.sites),
        )
        told = {"sites": list(group.sites), "votes": group.votes, "voters": record.voters}
        _emit(record, "fedrounds.group.dropped", **told)
    page(f"participation-{record.study}", markdown(records), f"Who took part in rounds of {record.study}")


def _emit(record: RoundRecord, event: str, **payload: Any) -> None:
    emit(event, run=record.run, payload={"round": record.round} | payload)
