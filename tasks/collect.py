"""Hub: wait for the sites' updates, verify them, name those who did not answer.

One Prefect task run per site and round, `train · cleveland`, follows what the
site's own signed messages say (follow.py). How long is waiting.py's rule.
Updates are checked one at a time and left in the store; aggregate.py reads them
again, so that N updates are never in memory.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.errors import SealError
from infra.hub import Hub
from infra.orchestrator import Outcome, emit, gather, timed
from infra.sealing import encrypted_bytes, is_encrypted
from tasks import layout, parameters
from tasks.codes import Code
from tasks.contracts import RunManifest, Ticket
from tasks.errors import ContractError
from tasks.follow import Again, Answer, Follower, never
from tasks.masked import check_masked, check_walked, update_sum
from tasks.parameters import Parameters
from tasks.plan import RoundPlan
from tasks.quorum import reason, too_few
from tasks.records import SiteRound
from tasks.registry import site_card
from tasks.seats import Seats, is_silent
from tasks.waiting import Waiting
from tasks.walked import Walked

HEADER_SLACK = (
    4096  # bytes; an update may differ from the parameters in its safetensors header, not in its arrays
)
MOST_PARAMETERS_BYTES = 2**33  # of a run whose manifest does not say
LARGEST = 1e18  # of a number in an update: a site that sends more would make every later sum infinite


class Collected(NamedTuple):
    """What a round has from its sites: on time, late from the round before (fold), and who works on (asynchronous)."""

    answers: dict[str, Answer]
    late: dict[str, Answer]
    working: dict[str, int]  # and the round of their ticket

    @property
    def delivered(self) -> list[Answer]:
        """All verified updates, in one order whatever came first: by site, then by round."""
        good = [a for a in (*self.answers.values(), *self.late.values()) if a.ok]
        return sorted(good, key=lambda a: (a.site, a.ticket.round))


def collect(
    hub: Hub,
    plan: RoundPlan,
    tickets: dict[str, Ticket],
    again: Again = never,
    seats: Seats | None = None,
    walked: Walked | None = None,
) -> Collected:
    """Follow all sites until each has answered, enough have, or time is over; `again` asks those whose job failed.

    With `seats` updates are masked, and are looked at by their size and digest alone. A round whose steps are over
    (`walked`) has its sums already: it hears the last word of those that are there.

    Raises:
        QuorumError: fewer verified updates than the study's quorum; nothing is combined.
    """
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    base, most_bytes = parameters.from_bytes(raw), len(raw) + HEADER_SLACK
    sum_ = update_sum(plan, seats, base) if seats else None
    tickets = walked.tickets if walked else tickets
    waiting = Waiting(plan.study.needed, plan.enough, plan.study.grace)
    if plan.study.asynchronous:
        tickets = tickets | plan.carried
    followers = {
        site: Follower(hub, tickets[site], again, waiting, for_people=True) for site in sorted(tickets)
    }

    def one(site: str) -> Outcome[Answer] | None:
        answer = followers[site].look()
        if answer is None and walked:
            answer = _not_waited_for(hub, walked, followers[site], site)
        if answer is None:
            return None
        if walked and sum_:
            answer = check_walked(answer, walked)
        else:
            answer = check_masked(hub, sum_, answer) if sum_ else check_update(hub, answer, base, most_bytes)
        if answer.ok and answer.known_at is not None:
            waiting.delivered(answer.known_at - answer.ticket.issued_at, answer.known_at)
        return _outcome(hub, plan, answer)

    with timed("collect"):
        gathered = gather(
            one, followers, name=lambda site: f"train · {site}", wait=lambda: hub.wait(hub.pause)
        )
    working = {a.site: a.ticket.round for a in gathered if _works_on(plan, a)}
    answers = {a.site: a for a in gathered if a.site not in working}
    _check_quorum(hub, plan, answers)
    late = {} if plan.study.asynchronous else _late(hub, plan, base, most_bytes)
    return Collected(answers, late, working)


def _not_waited_for(hub: Hub, walked: Walked, follower: Follower, site: str) -> Answer | None:
    """The end of following a site that was lost on the way."""
    if site in walked.lost:
        return follower.give_up(walked.lost[site])
    return follower.give_up() if site in walked.late and is_silent(hub, site) else None


def _works_on(plan: RoundPlan, answer: Answer) -> bool:
    """True where nobody waits for the site now, and its update will go into a later round."""
    return plan.study.asynchronous is not None and answer.code == Code.TOO_LATE


def _late(hub: Hub, plan: RoundPlan, base: Parameters, most_bytes: int) -> dict[str, Answer]:
    """Verified updates for the round before, as far as they are there now."""
    looks = (Follower(hub, ticket, never, Waiting(1)).look() for ticket in plan.carried.values())
    found = [check_update(hub, answer, base, most_bytes) for answer in looks if answer is not None]
    return {answer.site: answer for answer in found if answer.ok}


def _check_quorum(hub: Hub, plan: RoundPlan, answers: dict[str, Answer]) -> None:
    delivered = sum(a.ok for a in answers.values())
    if delivered < plan.study.needed:
        raise too_few(hub, plan, delivered, answers.values())


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
    most_sent = encrypted_bytes(most_bytes)
    raw = hub.store.get(layout.answer_key(answer.ticket, "update.safetensors"), most_sent)
    if (
        promised is None
        or raw is None
        or len(raw) > most_sent
        or parameters.sha256(raw) != promised.payload_sha256
    ):
        raise ContractError(f"the update of site {answer.site!r} is not the one its receipt names")
    return parameters.from_bytes(_opened(hub, answer, raw))


def _opened(hub: Hub, answer: Answer, raw: bytes) -> bytes:
    """An update as the site made it; a site of the version before does not encrypt."""
    card = site_card(hub, answer.site)
    if not is_encrypted(raw) or card is None:
        return raw
    place = layout.update_place(answer.ticket.run, answer.ticket.round)
    try:
        return hub.identity.decrypt(raw, card, place)
    except SealError as exc:
        raise ContractError(f"the update of site {answer.site!r} does not open: {exc}") from exc


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
    receipt, attempt = answer.receipt, answer.ticket.attempt
    if answer.code is not None or receipt is None or receipt.update is None:
        said_no = receipt is not None and receipt.refusal is not None
        return SiteRound(
            state="refused" if said_no else "missing",
            code=answer.code,
            attempts=attempt,
            reached=answer.reached,
            silent_s=answer.silent_s,
            health=receipt.health if receipt else None,
            spent=receipt.spent if receipt else None,
        )
    update, began, known = receipt.update, receipt.first_line_at, answer.known_at
    return SiteRound(
        state="delivered",
        attempts=attempt,
        seconds_to_start=began - answer.ticket.issued_at if began else None,
        seconds_to_deliver=receipt.delivered_at - answer.ticket.issued_at,
        seconds_to_hear=known - receipt.delivered_at if known else None,
        records=receipt.records,
        health=receipt.health,
        spent=update.spent,
        payload_sha256=update.payload_sha256,
        payload_bytes=update.payload_bytes,
    )


def _outcome(hub: Hub, plan: RoundPlan, answer: Answer) -> Outcome[Answer]:
    about = {"run": plan.manifest.run, "round": plan.round, "site": answer.site}
    if answer.ok:
        emit("fedrounds.site.delivered", site=answer.site, payload=about)
        spent = answer.receipt.update.spent if answer.receipt and answer.receipt.update else None
        message = f"epsilon {spent.epsilon:.3f} of {spent.epsilon_limit:g}" if spent else "no privacy budget"
        return Outcome(answer, ok=True, state="Delivered", message=message)
    if _works_on(plan, answer):
        return Outcome(answer, ok=True, state="Working", message="works on for a later round")
    emit("fedrounds.site.refused", site=answer.site, payload={**about, "code": str(answer.code)})
    state = "Refused" if answer.receipt is not None and answer.receipt.refusal else "Missing"
    return Outcome(answer, ok=False, state=state, message=reason(hub, answer))
