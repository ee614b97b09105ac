"""What a ticket's work adds to the audit log, spelled once (auditevents.py holds the forms)."""

from __future__ import annotations

from collections.abc import Callable

from infra.signing import SigningKey
from sites.audit import Audit
from sites.auditevents import (
    AgentStarted,
    AgentStopped,
    BudgetCharged,
    BudgetReserved,
    DataRead,
    DoctorSkipped,
    TicketAccepted,
    TicketRefused,
    VersionChanged,
    band,
    of_ticket,
)
from sites.doctor.short import last_look
from sites.identity import own_version
from sites.ledger import Ledger
from sites.settings import Site, Source
from sites.sources import scheme
from sites.syslog import Syslog
from tasks.codes import Code, Operation
from tasks.contracts import Ticket
from tasks.privacy.events import GaussianEvent


def begin_audit(site: Site, key: SigningKey, now: Callable[[], float]) -> Audit:
    """The log of a site whose agent starts. Raises what Audit raises."""
    address = site.settings.audit.syslog
    audit = Audit(site.state, key, now, Syslog(address) if address else None)
    if audit.last_version is not None and audit.last_version != own_version():
        audit.note(VersionChanged(before=audit.last_version, after=own_version()))
    audit.note(AgentStarted(version=own_version()))
    look = last_look(site)
    if look is not None and look.skipped:
        audit.note(DoctorSkipped())
    audit.secure()
    return audit


def end_audit(audit: Audit) -> None:
    audit.note(AgentStopped(version=own_version()))
    audit.secure()


def note_accepted(audit: Audit, ticket: Ticket) -> None:
    audit.note(TicketAccepted(**of_ticket(ticket), ticket_sha256=ticket.sha256))


def note_refused(audit: Audit, ticket: Ticket, code: Code) -> None:
    audit.note(TicketRefused(**of_ticket(ticket), ticket_sha256=ticket.sha256, code=code))


def note_read(audit: Audit, ticket: Ticket, source: Source, records: int | None = None) -> None:
    """Rows are about to be read; without `records`: to be counted."""
    trains = ticket.operation == Operation.TRAIN
    audit.note(
        DataRead(
            **of_ticket(ticket),
            source=scheme(source),
            purpose="count" if records is None else "train" if trains else "score",
            records=None if records is None else band(records),
        )
    )


def note_reserved(audit: Audit, ticket: Ticket, ledger: Ledger, event: GaussianEvent) -> None:
    audit.note(
        BudgetReserved(
            **of_ticket(ticket),
            ledger_entries=ledger.head.entries,
            ledger_hash=ledger.head.hash,
            noise_multiplier=event.noise_multiplier,
            sample_rate=event.sample_rate,
            steps=event.steps,
        )
    )


def note_charged(audit: Audit, ticket: Ticket, ledger: Ledger) -> None:
    head = ledger.head
    audit.note(BudgetCharged(**of_ticket(ticket), ledger_entries=head.entries, ledger_hash=head.hash))
