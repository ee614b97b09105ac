"""Hub: what one site says to one ticket, look by look, and what it said in the end.

A look never blocks: collect.py and evaluate.py look at all sites in turn, or
each in a thread of its own. Nothing is believed that the site's own key did
not sign for this very ticket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import heartbeat, show
from tasks import layout
from tasks.approval import is_approved, presence_of, who_paused, who_waits
from tasks.codes import Code, Operation, Reached
from tasks.contracts import Presence, Progress, Receipt, Ticket
from tasks.going import check_going, keep_going
from tasks.lease import keep
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tasks.waiting import Waiting


class Answer(NamedTuple):
    """What one site said to one ticket: a verified receipt with an update or scores, or why there is none."""

    site: str
    ticket: Ticket
    receipt: Receipt | None
    code: Code | None
    known_at: float | None = None  # the hub's clock when it read the receipt
    reached: Reached | None = None  # how far the site said it was; None: it said nothing
    silent_s: float | None = None  # of a site without an answer: since its last sign of life; two clocks

    @property
    def ok(self) -> bool:
        return self.code is None


LOOK_S = 1.0  # between two looks at a site's sign of life
SOON_S, GROWTH = (
    0.1,
    1.3,
)  # a site answers a step of a sum within a second, and where one has, the others will soon
GAP_S = 5.0  # between two tickets for the same work: a site that says yes and no at once is not flooded
MOST_ASKED = 40  # tickets of one site in one round
FOR_PEOPLE = frozenset({Code.NOT_APPROVED, Code.PAUSED_BY_SITE})  # until somebody at the site acts

Again = Callable[[Ticket, Code], Ticket | None]
"""Ask once more after a refusal; None where the refusal is final. It is dispatch.py's ask_again."""


def never(_ticket: Ticket, _code: Code) -> None:
    """Take every refusal as final."""


class Follower:
    """Follows a ticket to its end, and the next attempts that a refusal leads to.

    Args:
        for_people: where a site's people must approve first, or have paused it, wait for them while the round lacks
            its quorum.
    """

    def __init__(self, hub: Hub, ticket: Ticket, again: Again, waiting: Waiting, for_people: bool = False):
        self._hub, self._ticket, self._again, self._waiting = hub, ticket, again, waiting
        self._for_people, self._look_at = for_people, 0.0
        self._refused: Answer | None = None  # and waits for the site's people
        self._seen: str | None = None
        self._reached: Reached | None = None
        self._new = True

    def look(self) -> Answer | None:
        """The site's answer if it is there, or if nobody waits for it any more; None: look again later.

        Raises:
            LeaseError: another hub has taken the study.
            RunCancelledError: somebody has cancelled the run.
        """
        if self._refused is not None:
            return self._wait_for_people(self._refused)
        if self._new and site_card(self._hub, self._ticket.site) is None:
            return self._missing(Code.NOT_ENROLLED)
        if self._new:
            show("Waiting", "the ticket is in the site's mailbox")
            self._new = False
        hub, ticket = self._hub, self._ticket
        raw = hub.store.get(layout.answer_key(ticket, "receipt.json"))
        if raw is not None:
            return self._unless_again(_open_receipt(hub, ticket, raw))
        self._mirror_progress()
        if hub.now() >= ticket.expires_at:
            return self._missing(Code.NO_ANSWER if site_card(hub, ticket.site) else Code.NOT_ENROLLED)
        if self._waiting.over(hub.now()):
            return self._missing(Code.TOO_LATE)
        keep(hub, ticket.study)
        keep_going(hub, ticket.run)
        return None

    @property
    def ticket(self) -> Ticket:
        """The newest attempt."""
        return self._ticket

    @property
    def waits_for_people(self) -> bool:
        """True where the site has refused, and its people may change that."""
        return self._refused is not None

    def give_up(self, code: Code = Code.NO_ANSWER) -> Answer:
        """The end of following a site that gives no sign, where the others need not wait for it."""
        return self._missing(code)

    def _wait_for_people(self, refused: Answer) -> Answer | None:
        """Ask again as soon as the site shows that they have acted; its refusal, where nobody waits any more."""
        hub, ticket, now = self._hub, refused.ticket, self._hub.now()
        if now >= ticket.expires_at or self._waiting.quorate or self._waiting.over(now):
            return refused
        keep(hub, ticket.study)
        keep_going(hub, ticket.run)
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_S
        if now < ticket.issued_at + GAP_S or not self._have_acted(refused):
            return None
        self._refused = None
        return self._ask_again(refused)

    def _have_acted(self, refused: Answer) -> bool:
        """True where the site's last sign of life takes back what it refused for."""
        if refused.code == Code.NOT_APPROVED:
            return is_approved(self._hub, refused.ticket)
        presence, receipt = presence_of(self._hub, refused.site), refused.receipt
        newer = presence is not None and receipt is not None and presence.at >= receipt.delivered_at
        return newer and presence is not None and not presence.paused

    def _unless_again(self, answer: Answer) -> Answer | None:
        if answer.code == Code.CANCELLED:  # is it? a site alone cannot say so
            check_going(self._hub, answer.ticket.run)
        if answer.code in FOR_PEOPLE and answer.receipt is not None:
            if not self._for_people or answer.ticket.attempt >= MOST_ASKED:
                return answer
            if answer.code == Code.NOT_APPROVED:
                show("Waiting for approval", who_waits(self._hub, answer.ticket))
            else:
                show("Paused by the site", who_paused(answer.site))
            self._refused = answer
            return None
        return self._ask_again(answer)

    def _ask_again(self, answer: Answer) -> Answer | None:
        refused = answer.receipt is not None and answer.receipt.refusal is not None
        another = self._again(answer.ticket, answer.code) if refused and answer.code is not None else None
        if another is None:
            return answer
        self._ticket, self._seen, self._reached, self._new = another, None, None, True
        return None

    def _mirror_progress(self) -> None:
        hub, ticket = self._hub, self._ticket
        key = layout.answer_key(ticket, "progress.json")
        found = hub.store.get_if_changed(key, self._seen)
        if found is None:
            return
        self._seen = found.tag
        progress = open_from_site(hub, found.data, Progress, site_card(hub, ticket.site), key)
        if progress is not None and progress.ticket_sha256 == ticket.sha256:
            steps = f"step {progress.step} of {progress.steps}" if progress.steps else ""
            self._reached = progress.state
            show(progress.state.capitalize(), steps)
            heartbeat(ticket.site, progress.at)

    def _missing(self, code: Code) -> Answer:
        hub, site = self._hub, self._ticket.site
        key = layout.presence_key(site)
        raw = hub.store.get(key)
        presence = open_from_site(hub, raw, Presence, site_card(hub, site), key) if raw else None
        silent = None if presence is None else max(0.0, hub.now() - presence.at)
        return Answer(site, self._ticket, None, code, reached=self._reached, silent_s=silent)


def follow_all(
    hub: Hub,
    followers: Sequence[Follower],
    heard: Callable[[Answer], None] = lambda _: None,
    given_up: Callable[[Ticket], bool] = lambda _: False,
) -> list[Answer]:
    """Look at all in turn until each has its answer, and tell `heard` of each; in the order of the followers.

    A site without an answer whose ticket is `given_up` is not waited for.
    """
    found: dict[int, Answer] = {}
    rest = soon = min(SOON_S, hub.pause)
    while True:
        before = len(found)
        for i, follower in enumerate(followers):
            answer = None if i in found else follower.look()
            if answer is None and i not in found and given_up(follower.ticket):
                answer = follower.give_up()
            if answer is not None:
                found[i] = answer
                heard(answer)
        if len(found) == len(followers):
            return [found[i] for i in range(len(followers))]
        rest = soon if len(found) > before else rest
        hub.wait(rest)
        rest = min(rest * GROWTH, hub.pause)


def _open_receipt(hub: Hub, ticket: Ticket, raw: bytes) -> Answer:
    card = site_card(hub, ticket.site)
    receipt = open_from_site(hub, raw, Receipt, card, layout.answer_key(ticket, "receipt.json"))
    if receipt is None:
        return Answer(ticket.site, ticket, None, Code.BAD_SIGNATURE if card else Code.NOT_ENROLLED)
    if not _fits(receipt, ticket):
        return Answer(ticket.site, ticket, receipt, Code.BAD_UPDATE)
    return Answer(ticket.site, ticket, receipt, receipt.refusal, hub.now())


def _fits(receipt: Receipt, ticket: Ticket) -> bool:
    """True where the receipt answers this very ticket, with what was asked or with a refusal, and not with both."""
    masked = ticket.relayed_sha256 is not None
    parts = {
        "update": receipt.update,
        "scores": receipt.scores,
        "said": receipt.said,
        "refusal": receipt.refusal,
    }
    if ticket.operation == Operation.EVALUATE and masked and receipt.update is not None:
        parts.pop("scores")  # own figures that the site shows beside
    wanted = {Operation.TRAIN: "update", Operation.EVALUATE: "update" if masked else "scores"}
    given = {name for name, part in parts.items() if part is not None}
    return (
        receipt.ticket_sha256 == ticket.sha256
        and (receipt.run, receipt.round, receipt.attempt) == (ticket.run, ticket.round, ticket.attempt)
        and receipt.operation == ticket.operation
        and len(given) == 1
        and (receipt.spent is None or (receipt.refusal is not None and ticket.steps is not None))
        and (
            receipt.votes is None
            or (wanted.get(ticket.operation) in given and len(receipt.votes) == len(ticket.candidates))
        )
        and given <= {wanted.get(ticket.operation, "said"), "refusal"}
    )
