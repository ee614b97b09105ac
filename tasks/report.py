"""Hub: tell people who took part in a round, and warn them of a site that keeps missing."""

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
    page(f"participation-{record.study}", markdown(records), f"Who took part in rounds of {record.study}")
