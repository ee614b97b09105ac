"""Hub: tell people who took part in a round; warn of a site that keeps missing, and of a group that was voted out."""

from __future__ import annotations

import logging

from infra.hub import Hub
from infra.orchestrator import emit, page
from tasks.contracts import RoundRecord
from tasks.participation import LOOK_BACK, markdown, warnings
from tasks.recent import recent_records

log = logging.getLogger(__name__)


def report(hub: Hub, record: RoundRecord) -> None:
    """Show a committed round's participation as a page of its flow run; warnings also as events and in the log."""
    records = [*recent_records(hub, record.run, record.round, LOOK_BACK), record]
    for text in warnings(records):
        log.warning("round %d: %s", record.round, text)
        emit("fedrounds.round.warning", run=record.run, payload={"round": record.round, "warning": text})
    for group in (group for group in record.groups if group.dropped):
        log.warning(
            "round %d: %d of %d sites do better without the group %s: it was left out. One of them may be wrong, or "
            "unlike the others; ask their people",
            record.round,
            group.votes,
            record.voters,
            ", ".join(group.sites),
        )
        payload = {
            "round": record.round,
            "sites": list(group.sites),
            "votes": group.votes,
            "voters": record.voters,
        }
        emit("fedrounds.group.dropped", run=record.run, payload=payload)
    page(f"participation-{record.study}", markdown(records), f"Who took part in rounds of {record.study}")
