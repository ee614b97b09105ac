"""Hub: wait for the sites' answers, verify them, name those who did not answer.

One Prefect task run per site and round, `train · cleveland`, follows what the
site's own signed messages say. Updates are checked one at a time and left in
the store; aggregate.py reads them again, so that N updates are never in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import Outcome, emit, gather, heartbeat, show, timed
from tasks import layout, parameters
from tasks.contracts import Code, Operation, Progress, Receipt, RunManifest, SiteRound, Ticket
from tasks.errors import ContractError, QuorumError
from tasks.lease import keep
from tasks.parameters import Parameters
from tasks.pins import site_key
from tasks.plan import RoundPlan
from tasks.sealed import open_from_site

HEADER_SLACK = (
    4096  # bytes; an update may differ from the parameters in its safetensors header, not in its arrays
)
MOST_PARAMETERS_BYTES = 2**33  # of a run whose manifest does not say
LARGEST = 1e18  # of a number in an update: a site that sends more would make every later sum infinite


class Answer(NamedTuple):
    """What one site said to one ticket: a verified receipt with an update or scores, or why there is none."""

    site: str
    ticket: Ticket
    receipt: Receipt | None
    code: Code | None
    known_at: float | None = None  # the hub's clock when it read the receipt

    @property
    def ok(self) -> bool:
        return self.code is None


Again = Callable[[Ticket, Code], Ticket | None]
"""Ask once more after a refusal; None where the refusal is final. It is dispatch.py's ask_again."""


def never(_ticket: Ticket, _code: Code) -> None:
    """Take every refusal as final."""


def collect(hub: Hub, plan: RoundPlan, tickets: dict[str, Ticket], again: Again = never) -> dict[str, Answer]:
    """Follow all sites until each has answered or the deadline is over; `again` asks those whose job failed.

    Raises:
        QuorumError: fewer verified updates than the study's quorum; nothing is combined.
    """
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    base, most_bytes = parameters.from_bytes(raw), len(raw) + HEADER_SLACK

    def one(site: str) -> Outcome[Answer]:
        answer = check_update(hub, follow(hub, tickets[site], again), base, most_bytes)
        return _outcome(plan, answer)

    with timed("collect"):
        gathered = gather(one, plan.asked, name=lambda site: f"train · {site}")
    answers = {a.site: a for a in gathered}
    delivered = sum(a.ok for a in answers.values())
    if delivered < plan.study.quorum:
        why = ", ".join(f"{a.site}: {a.code}" for a in answers.values() if a.code)
        why += "".join(f", {site}: {Code.PAUSED_BY_HUB}" for site in plan.paused)
        raise QuorumError(
            f"round {plan.round}: {delivered} of {len(plan.study.sites)} sites delivered, the quorum is "
            f"{plan.study.quorum} ({why}). Nothing was combined. When the sites are back: "
            f"fedrounds run resume {plan.manifest.run}"
        )
    return answers


def follow(hub: Hub, ticket: Ticket, again: Again = never) -> Answer:
    """Follow a ticket to its end, and the next attempts that a refusal leads to."""
    while True:
        answer = _follow(hub, ticket)
        refused = answer.receipt is not None and answer.receipt.refusal is not None
        another = again(ticket, answer.code) if refused and answer.code is not None else None
        if another is None:
            return answer
        ticket = another


def _follow(hub: Hub, ticket: Ticket) -> Answer:
    """Show what a site says of a ticket until its receipt is there or the ticket expires."""
    show("Waiting", "the ticket is in the site's mailbox")
    seen: str | None = None
    while True:
        raw = hub.store.get(layout.answer_key(ticket, "receipt.json"))
        if raw is not None:
            return _open_receipt(hub, ticket, raw)
        seen = _mirror_progress(hub, ticket, seen)
        if hub.now() >= ticket.expires_at:
            code = Code.NO_ANSWER if site_key(hub, ticket.site) else Code.NOT_ENROLLED
            return Answer(ticket.site, ticket, None, code)
        keep(hub, ticket.study)
        hub.wait(hub.pause)


def _mirror_progress(hub: Hub, ticket: Ticket, seen: str | None) -> str | None:
    found = hub.store.get_if_changed(layout.answer_key(ticket, "progress.json"), seen)
    if found is None:
        return seen
    progress = open_from_site(found.data, Progress, ticket.site, site_key(hub, ticket.site))
    if progress is not None:
        steps = f"step {progress.step} of {progress.steps}" if progress.steps else ""
        show(progress.state.capitalize(), steps)
        heartbeat(ticket.site, progress.at)
    return found.tag


def _open_receipt(hub: Hub, ticket: Ticket, raw: bytes) -> Answer:
    key = site_key(hub, ticket.site)
    receipt = open_from_site(raw, Receipt, ticket.site, key)
    if receipt is None:
        return Answer(ticket.site, ticket, None, Code.BAD_SIGNATURE if key else Code.NOT_ENROLLED)
    if not _fits(receipt, ticket):
        return Answer(ticket.site, ticket, receipt, Code.BAD_UPDATE)
    return Answer(ticket.site, ticket, receipt, receipt.refusal, hub.now())


def _fits(receipt: Receipt, ticket: Ticket) -> bool:
    """True where the receipt answers this very ticket with exactly one of update, scores, refusal."""
    said = [receipt.update is not None, receipt.scores is not None, receipt.refusal is not None]
    wanted = receipt.update if ticket.operation == Operation.TRAIN else receipt.scores
    return (
        receipt.ticket_sha256 == ticket.sha256
        and (receipt.run, receipt.round, receipt.attempt) == (ticket.run, ticket.round, ticket.attempt)
        and receipt.operation == ticket.operation
        and sum(said) == 1
        and (wanted is not None or receipt.refusal is not None)
    )


def check_update(hub: Hub, answer: Answer, base: Parameters, most_bytes: int) -> Answer:
    """The same answer, or with a code where its update is not what the receipt promises."""
    if not answer.ok:
        return answer
    try:
        update = load_update(hub, answer, most_bytes)
    except ContractError:
        return answer._replace(code=Code.BAD_UPDATE)
    if not parameters.same_form(update, base):
        return answer._replace(code=Code.BAD_UPDATE)
    sane = parameters.is_finite(update) and all(
        float(abs(v).max(initial=0)) <= LARGEST for v in update.values()
    )
    return answer if sane else answer._replace(code=Code.UPDATE_NOT_FINITE)


def load_update(hub: Hub, answer: Answer, most_bytes: int) -> Parameters:
    """A site's update from the store.

    Raises:
        ContractError: absent, above `most_bytes`, or other bytes than the receipt says.
    """
    promised = answer.receipt.update if answer.receipt else None
    raw = hub.store.get(layout.answer_key(answer.ticket, "update.safetensors"), most_bytes)
    if (
        promised is None
        or raw is None
        or len(raw) > most_bytes
        or parameters.sha256(raw) != promised.payload_sha256
    ):
        raise ContractError(f"the update of site {answer.site!r} is not the one its receipt names")
    return parameters.from_bytes(raw)


def load_parameters(hub: Hub, manifest: RunManifest, key: str, sha256: str) -> bytes:
    """Parameters of a run that this hub published.

    Raises:
        ContractError: the store lost them or holds other bytes.
    """
    raw = hub.store.get(key, manifest.parameters_bytes or MOST_PARAMETERS_BYTES)
    if raw is None or parameters.sha256(raw) != sha256:
        raise ContractError(
            f"{key} is missing or altered in {hub.store_url}; restore the store from its backup"
        )
    return raw


def site_round(answer: Answer) -> SiteRound:
    """An answer to a train ticket in the words of a round's record."""
    if answer.code is not None:
        said_no = answer.receipt is not None and answer.receipt.refusal is not None
        return SiteRound(state="refused" if said_no else "missing", code=answer.code)
    receipt = answer.receipt
    assert receipt is not None and receipt.update is not None  # noqa: S101 - _fits has seen to it
    update, began, known = receipt.update, receipt.first_line_at, answer.known_at
    return SiteRound(
        state="delivered",
        seconds_to_start=began - answer.ticket.issued_at if began else None,
        seconds_to_hear=known - receipt.delivered_at if known else None,
        spent=update.spent,
        payload_sha256=update.payload_sha256,
        payload_bytes=update.payload_bytes,
    )


def _outcome(plan: RoundPlan, answer: Answer) -> Outcome[Answer]:
    about = {"run": plan.manifest.run, "round": plan.round, "site": answer.site}
    if answer.ok:
        emit("fedrounds.site.delivered", site=answer.site, payload=about)
        spent = answer.receipt.update.spent if answer.receipt and answer.receipt.update else None
        message = f"epsilon {spent.epsilon:.3f} of {spent.epsilon_limit:g}" if spent else "no privacy budget"
        return Outcome(answer, ok=True, state="Delivered", message=message)
    emit("fedrounds.site.refused", site=answer.site, payload={**about, "code": str(answer.code)})
    state = "Refused" if answer.receipt is not None and answer.receipt.refusal else "Missing"
    return Outcome(answer, ok=False, state=state, message=str(answer.code))
