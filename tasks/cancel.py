"""Hub: take a run back. The word stands in the store, so that it reaches a flow on any machine, and every site.

RunEnd says it to the hub: whoever plays the run looks for it all the time,
stops, and leaves a clean state. A sealed Cancel in each mailbox says it to the
sites: a job that runs there is ended, a ticket that is found is refused. What a
site has reserved stays counted, as after any attempt without an update.
"""

from __future__ import annotations

from infra.hub import Hub
from infra.orchestrator import emit
from tasks import layout
from tasks.commit import load_records
from tasks.contracts import Cancel, RunManifest, Ticket
from tasks.errors import StudyError
from tasks.records import RunEnd
from tasks.registry import ring
from tasks.study import Study


def cancel(hub: Hub, manifest: RunManifest, study: Study) -> RunEnd:
    """Write that a run is cancelled, and tell its sites. Safe to repeat: sites are told again.

    Raises:
        StudyError: the run has finished; there is nothing to take back.
    """
    run = manifest.run
    rounds = len(load_records(hub, run))
    hub.write_once(layout.ended_key(run), RunEnd(run=run, state="cancelled", rounds=rounds, at=hub.now()))
    end = hub.read(layout.ended_key(run), RunEnd)
    if end is None or end.state != "cancelled":
        raise StudyError(f"run {run!r} has finished all its rounds; there is nothing to cancel")
    for site in study.sites:
        hub.write_once(layout.cancel_key(site, run), Cancel(run=run, at=end.at))
        ring(hub, site)
    emit("fedrounds.run.cancelled", run=run, payload={"rounds": end.rounds})
    return end


def unanswered(hub: Hub, run: str, sites: tuple[str, ...]) -> dict[str, Ticket]:
    """By site, the latest ticket that it has been given and has not answered."""
    found: dict[str, Ticket] = {}
    for site in sites:
        keys = hub.store.list(layout.tickets_of_run(site, run))
        ticket = hub.read(keys[-1], Ticket) if keys else None
        if ticket is not None and hub.store.get(layout.answer_key(ticket, "receipt.json")) is None:
            found[site] = ticket
    return found
