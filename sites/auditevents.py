"""What the audit log can say: a closed list of events with closed fields.

None has room for a row's value, a path of records or an exception's text: there
are names, counts in bands, digests, codes and numbers. How lines are written
and chained is audit.py's work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from sites.policyterms import Person
from tasks.codes import Code, Operation
from tasks.contracts import Message, Name, PublicKey, Sha256, Ticket

Version = Annotated[str, StringConstraints(max_length=40)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,500}$")]  # of the object store
Band = Annotated[str, StringConstraints(pattern=r"^[0-9]+-[0-9]+$")]
Late = Annotated[bool, Field(exclude_if=lambda late: not late)]
"""True: a fall came between the thing and its line, which was written at the next start (mending.py)."""
UNLOGGED = (
    "presence.json",
    "progress.json",
    "probe",
)  # overwritten all the time; sealed, of a few hundred bytes


class LogBegun(Message):
    """The first line of every log: its id makes the chain one of a kind."""

    event: Literal["log_begun"] = "log_begun"
    site: Name
    id: str = Field(pattern=r"^[0-9a-f]{32}$")


class AgentStarted(Message):
    """`not_logged`: objects of these names leave again and again and get no line of their own."""

    event: Literal["agent_started"] = "agent_started"
    version: Version
    not_logged: tuple[str, ...] = UNLOGGED


class DoctorSkipped(Message):
    """The agent was started, for the first time, without the doctor's look at this machine."""

    event: Literal["doctor_skipped"] = "doctor_skipped"


class AgentStopped(Message):
    event: Literal["agent_stopped"] = "agent_stopped"
    version: Version


class VersionChanged(Message):
    event: Literal["version_changed"] = "version_changed"
    before: Version
    after: Version


class LogMended(Message):
    """A power cut left bytes that do not follow, after all that was signed; they lie in audit.torn now."""

    event: Literal["log_mended"] = "log_mended"
    torn_bytes: int = Field(ge=1)


class HubPinned(Message):
    event: Literal["hub_pinned"] = "hub_pinned"
    public_key: PublicKey


class Membership(Message):
    """What this site is to its hub from now on. `asked`: it has answered a kit; `renewed`: its keys are others now."""

    event: Literal["membership"] = "membership"
    state: Literal["asked", "confirmed", "rotating", "renewed", "revoked", "left"]
    word: int = Field(ge=0)  # number of the hub's word; 0: this site's own
    public_key: PublicKey  # of this site


class TicketIgnored(Message):
    """Something in the mailbox that the pinned hub did not write for this place."""

    event: Literal["ticket_ignored"] = "ticket_ignored"
    sha256: Sha256


class _OfTicket(Message):
    study: Name
    run: Name
    round: int
    attempt: int
    operation: Operation


class TicketAccepted(_OfTicket):
    """Signed by the hub, in time and well-formed; what the site's rules say comes after."""

    event: Literal["ticket_accepted"] = "ticket_accepted"
    ticket_sha256: Sha256


class TicketRefused(_OfTicket):
    event: Literal["ticket_refused"] = "ticket_refused"
    ticket_sha256: Sha256
    code: Code


class DataRead(_OfTicket):
    """Rows are about to be read. `records`: usable ones as counted before, in a band; None: being counted."""

    event: Literal["data_read"] = "data_read"
    source: str = Field(pattern=r"^[a-z][a-z0-9]{0,20}$")  # its scheme, such as csv
    purpose: Literal["count", "train", "score"]
    records: Band | None


class _Budget(_OfTicket):
    ledger_entries: int  # length and hash of the ledger just after
    ledger_hash: Sha256
    late: Late = False


class BudgetReserved(_Budget):
    event: Literal["budget_reserved"] = "budget_reserved"
    noise_multiplier: float
    sample_rate: float
    steps: int


class BudgetCharged(_Budget):
    event: Literal["budget_charged"] = "budget_charged"


class _Decided(Message):
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256
    approval_sha256: Sha256
    person: Person  # as said by whoever ran the command
    account: str = Field(max_length=64)  # as known to the operating system


class StudyApproved(_Decided):
    """Somebody approves a version of a study; with policy.approval.required, one of several voices."""

    event: Literal["study_approved"] = "study_approved"


class StudyRejected(_Decided):
    """Nothing of the study runs from here on. The reason is in the file of votes."""

    event: Literal["study_rejected"] = "study_rejected"


class BytesOut(Message):
    """Written before the bytes leave; a repeat after a failure is another line."""

    event: Literal["bytes_out"] = "bytes_out"
    key: Key
    bytes: int = Field(ge=0)
    sha256: Sha256
    late: Late = False


Event = (
    LogBegun
    | AgentStarted
    | DoctorSkipped
    | AgentStopped
    | VersionChanged
    | LogMended
    | HubPinned
    | Membership
    | TicketIgnored
    | TicketAccepted
    | TicketRefused
    | DataRead
    | BudgetReserved
    | BudgetCharged
    | StudyApproved
    | StudyRejected
    | BytesOut
)

Decided = dict[str, list[tuple[str, str]]]
"""By study: person and approval_sha256 of every approval since its last rejection, oldest first."""


def note_decision(known: Decided, event: Event) -> None:
    """Follow what people decide, event by event."""
    if isinstance(event, StudyRejected):
        known[event.study] = []
    elif isinstance(event, StudyApproved):
        known.setdefault(event.study, []).append((event.person, event.approval_sha256))


EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Line(Message):
    """One line of the log. `hash` is over `prev` and all other fields (chain.py)."""

    seq: int = Field(ge=1)
    at: float  # seconds since 1970, the site's clock; it may go back, seq does not
    event: Annotated[Event, Field(discriminator="event")]
    prev: Sha256
    hash: Sha256


def of_ticket(ticket: Ticket) -> dict[str, Any]:
    """The fields that say which ticket an event belongs to."""
    return {name: getattr(ticket, name) for name in ("study", "run", "round", "attempt", "operation")}


def band(count: int) -> str:
    """A count by its first digit: 0-99, 100-199, 200-299, ..., 1000-1999."""
    if count < 100:
        return "0-99"
    width = 10 ** (len(str(count)) - 1)
    low = count // width * width
    return f"{low}-{low + width - 1}"
