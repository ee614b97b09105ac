"""The agent: a small loop that looks into its mailbox and answers what it finds.

It opens no port and imports no torch, numpy or prefect: rows are touched only
by jobs (job.py). What is done for one ticket is round.py's story, what may
leave is deliver.py's. An answer is kept before it is sent, so that a ticket
seen again gets the same bytes, whatever was pulled in between.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple, TypeVar

from infra.errors import InfraError, SealError, StoreError, UploadClosedError
from infra.store.base import Store
from sites.auditevents import TicketIgnored
from sites.belonging import Belonging
from sites.cancelled import Cancelled
from sites.doctor.short import concerns
from sites.gate import Gate
from sites.identity import own_version
from sites.job import Beat, Runner, where
from sites.ledger import Ledger
from sites.lockstep import Lockstep
from sites.mailbox import Mailbox
from sites.notes import end_audit, note_accepted, note_refused
from sites.outbox import Answer, Outbox
from sites.progress import ProgressWriter
from sites.round import Desk, Done, finished, play, settle
from sites.settings import Site
from sites.uploads import can_send, learn_ticket
from sites.verify import check_ticket, open_ticket
from sites.walk import paid_before
from tasks import layout
from tasks.contracts import PROTOCOL, WORK, Code, Operation, Presence, Receipt, Ticket
from tasks.errors import ContractError, RefusedError

log = logging.getLogger(__name__)

PRESENCE_EVERY_S = 12.0
LIST_EVERY_S = 30.0  # the bell is enough; this catches one that was lost
LIST_SOON_S = 2.0  # after a bell for which nothing new was listed: a store's list may be behind


R = TypeVar("R")


class Walking(NamedTuple):
    """A round in lockstep that is under way."""

    ticket: Ticket
    progress: ProgressWriter
    lockstep: Lockstep


class Stopped(BaseException):
    """The agent was told to stop while a job ran; the job ends with it."""


class Agent:
    """One site's agent.

    Args:
        site: what the institution's own file says.
        store: where it meets the hub.
        runner: who runs its jobs.
        now: seconds since 1970; a simulation has its own clock.
        stopped: asked while a job runs; True ends the job.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        runner: Runner,
        now: Callable[[], float] = time.time,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.site, self.runner, self.now, self.stopped = site, runner, now, stopped
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(site.state / "jobs", ignore_errors=True)  # of an agent that was killed
        name = site.settings.site
        self.mailbox = Mailbox(store, name)
        self.cancelled = Cancelled(site.state, self.mailbox)
        self.outbox = Outbox(site.state / "outbox")
        self.gate = Gate(site, self.outbox)
        Ledger(site.state, site=name, read_only=True).close()  # a broken chain is said at the start
        self.home = Belonging(site, store, now, lambda: self.gate.closed)
        self.home.delivery.mend()
        self.outbox.forget_old()
        self._busy = False
        self._walks: dict[str, Walking] = {}  # rounds in lockstep that are under way, by the ticket's name
        self._said: tuple[bool, tuple[str, ...]] = (False, ())
        self._list_at = self._presence_at = 0.0
        self._unsent = self.outbox.undelivered()
        for answer in self._unsent:  # also what waits for a person has been made, and counts
            settle(answer, self.site, self.home.audit)
        self._settled: set[str] = set()  # keys of answered tickets
        self._ignored: dict[str, str] = {}  # key and digest of what nobody we know has written

    def step(self) -> bool:
        """Handle what is in the mailbox now; True where a ticket was answered.

        Raises:
            StoreError: the store is away; nothing is lost, call again.
            Stopped: `stopped` said so while a job ran.
        """
        rang = self.mailbox.rang()
        if rang:
            self._list_at = 0.0  # until all was looked through
        elif self.now() >= self._list_at:
            self._settled.clear()
        due = self.now() >= self._list_at
        if due:
            self._look_at_membership()
        if not self.home.member:
            self._list_at = self.now() + LIST_EVERY_S if due else self._list_at
            return False
        self.home.introduce(self.mailbox)
        self.show_presence()
        worked = self._send_unsent() | self._walk()
        if not due:
            return worked
        found = self._look_through(self.mailbox.ticket_keys())
        self._list_at = self.now() + (LIST_SOON_S if rang and not found else LIST_EVERY_S)
        return worked or found

    @property
    def in_steps(self) -> bool:
        """True while a round in lockstep is under way."""
        return bool(self._walks)

    def show_presence(self, always: bool = False) -> None:
        """A sign of life, now and then, and at once when the kill switch or an approval has changed."""
        if not self.home.member:
            return
        said = paused, approved = self.gate.closed, self.gate.approved(self.home.approvals)
        if always or said != self._said or self.now() >= self._presence_at:
            self._presence_at, self._said = self.now() + PRESENCE_EVERY_S, said
            said_now = Presence(
                site=self.home.identity.name,
                at=self.now(),
                version=own_version(),
                busy=self._busy,
                paused=paused,
                approved=approved,
            )
            with suppress(UploadClosedError):  # the hub has been silent for a week
                self.home.delivery.presence(said_now)

    def close(self) -> None:
        """End what is under way, which goes on in a later life; the last line of the audit log."""
        self._end_walks()
        end_audit(self.home.audit)

    def _look_at_membership(self) -> None:
        before = self.home.identity
        idle = not self._walks and not any(can_send(self.mailbox.store, answer) for answer in self._unsent)
        self.home.look(self.mailbox, idle)
        if self.home.identity is not before or not self.home.member:
            self._end_walks()  # a member goes on with the ticket, under its new keys
        if self.home.identity is not before:  # what waits was sealed anew, under the new keys
            self._unsent = self.outbox.undelivered()

    def _look_through(self, keys: list[str]) -> bool:
        """Look at every ticket; one that the store cannot give does not hide the others."""
        self._settled &= set(keys)
        self._ignored = {key: self._ignored[key] for key in keys if key in self._ignored}
        worked, trouble = False, None
        for key in keys:
            try:
                worked |= self._look_at(key)
            except StoreError as exc:
                trouble = exc
        if trouble is not None:
            raise trouble
        return worked

    def _look_at(self, key: str) -> bool:
        """Answer the ticket under `key` unless it is answered or nobody's; True where it was answered now."""
        raw = None if key in self._settled else self.mailbox.raw_ticket(key)
        if raw is None or self._ignored.get(key) == (digest := hashlib.sha256(raw).hexdigest()):
            return False
        try:
            ticket = open_ticket(raw, key, self.home.hub, self.home.identity)
        except SealError as exc:
            return self._ignore(key, digest, str(exc))
        if layout.ticket_name(ticket) in self._walks:
            return False
        known = self.outbox.find(layout.ticket_name(ticket))
        if known is not None and known.ticket.sha256 != ticket.sha256:
            return self._ignore(
                key, digest, "it has the name of a ticket that was answered, and other content"
            )
        if known is None:
            self._answer(ticket)
            if layout.ticket_name(ticket) in self._walks:  # not answered yet
                return True
        elif self._may_leave(known) and not self.mailbox.has_answer(ticket):
            log.info("the store has lost the answer to %s; the same bytes are sent again", known.name)
            self._send(known)
        self._settled.add(key)
        return known is None

    def _ignore(self, key: str, digest: str, why: str) -> bool:
        log.warning("ignored: %s: %s", key, why)
        self._ignored[key] = digest
        self.home.audit.note(TicketIgnored(sha256=digest))
        return False

    def _answer(self, ticket: Ticket) -> None:
        """Do what the ticket asks, or refuse; keep the answer, then send it."""
        name = layout.ticket_name(ticket)
        self._end_older(ticket)
        self._busy = True
        log.info("ticket %s: accepted", name)
        progress = ProgressWriter(self.home.delivery, ticket, self.now)
        try:
            done = self._play(ticket, progress)
        except RefusedError as exc:
            log.warning("ticket %s: refused, %s: %s", name, exc.code, exc)
            note_refused(self.home.audit, ticket, exc.code)
            done = Done(refusal=exc.code)
        finally:
            self._busy = bool(self._walks)
        if isinstance(done, Lockstep):
            self._walks[name], self._busy = Walking(ticket, progress, done), True
        else:
            self._finish(ticket, progress, done)

    def _end_older(self, ticket: Ticket) -> None:
        """An attempt at the same round that is under way ends: the hub asks anew."""
        for name, walking in list(self._walks.items()):
            same = (walking.ticket.run, walking.ticket.round) == (ticket.run, ticket.round)
            if same and ticket.operation == Operation.TRAIN:
                self._end_walk(name, Done(refusal=Code.EXPIRED))

    def _walk(self) -> bool:
        """Go on with the rounds in lockstep that are under way; True where something was done."""
        worked = False
        for name, walking in list(self._walks.items()):
            ticket, lockstep = walking.ticket, walking.lockstep
            try:
                worked |= self._guarded(lockstep.turn)
                walking.progress.beat(Beat("training", lockstep.step, ticket.steps or 1))
                done = finished(lockstep, self.site) if lockstep.over else None
            except UploadClosedError as exc:  # of this ticket alone; another attempt brings other addresses
                log.warning("ticket %s: its addresses are not valid any more: %s", name, exc)
                done = Done(refusal=Code.EXPIRED)
            except RefusedError as exc:
                log.warning("ticket %s: refused, %s: %s", name, exc.code, exc)
                note_refused(self.home.audit, ticket, exc.code)
                done = Done(refusal=exc.code)
            if done is not None:
                self._end_walk(name, done)
        return worked

    def _end_walks(self) -> None:
        """End what is under way without an answer: it may be gone on with."""
        with ExitStack() as ends:
            for walking in self._walks.values():
                ends.callback(walking.lockstep.close)
            self._walks.clear()
            self._busy = False

    def _end_walk(self, name: str, done: Done) -> None:
        walking = self._walks.pop(name)
        try:
            self._finish(walking.ticket, walking.progress, done)
        finally:
            self._busy = bool(self._walks)
            walking.lockstep.close(answered=done.update is not None)

    def _finish(self, ticket: Ticket, progress: ProgressWriter, done: Done) -> None:
        """Keep the answer, then send it."""
        receipt = Receipt(
            protocol=min(ticket.protocol, PROTOCOL),
            ticket_sha256=ticket.sha256,
            run=ticket.run,
            round=ticket.round,
            attempt=ticket.attempt,
            operation=ticket.operation,
            site=self.home.identity.name,
            update=done.update,
            scores=done.scores,
            votes=done.votes,
            refusal=done.refusal,
            said=done.said,
            spent=paid_before(ticket, self.site, self.outbox.folder) if done.refusal else None,
            first_line_at=done.first_line_at,
            isolation=self.runner.isolation if done.first_line_at is not None else (),
            records=done.records,
            health=concerns(self.site, ticket, self.now()),
            delivered_at=self.now(),
        )
        answer = Answer.sealed_now(ticket, receipt, self.home.identity, self.home.hub, done.bound)
        self.outbox.keep(answer, done.payload)
        settle(answer, self.site, self.home.audit)
        if done.payload is not None and self.gate.lets_out(answer, self.home.approvals):
            progress.delivering()
        self._unsent.append(answer)
        self._send_unsent()
        log.info("ticket %s: answered", answer.name)

    def _play(self, ticket: Ticket, progress: ProgressWriter) -> Done | Lockstep:
        def play_it() -> Done | Lockstep:
            check_ticket(ticket, self.now())
            self._check_new(ticket)
            learn_ticket(self.mailbox.store, ticket)
            self.gate.check()
            self.cancelled.check(ticket.run, self.home.hub, self.now())
            note_accepted(self.home.audit, ticket)
            if ticket.operation in WORK:  # the steps of a secure sum take no time
                progress.accepted()
            return play(
                ticket,
                Desk(
                    self.site,
                    self.home.identity,
                    self.home.hub,
                    self.mailbox,
                    self.outbox,
                    self.runner,
                    lambda beat: self._watch(ticket, progress, beat),
                    self.now,
                    self.home.audit,
                    self.home.approvals,
                    self.home.delivery,
                ),
            )

        return self._guarded(play_it)

    def _guarded(self, work: Callable[[], R]) -> R:
        """Whatever goes wrong with one ticket is a refusal, but for a store that is away. Raises RefusedError."""
        try:
            return work()
        except (RefusedError, StoreError):
            raise
        except InfraError as exc:  # the site's own files, such as a broken ledger: our text, no row's
            raise RefusedError(Code.TRAINING_FAILED, str(exc)) from exc
        except Exception as exc:  # the loop outlives whatever one ticket does
            raise RefusedError(Code.TRAINING_FAILED, where(exc)) from exc

    def _check_new(self, ticket: Ticket) -> None:
        """Refuse a ticket whose masked answer has left, where this folder knows nothing of it. Raises RefusedError.

        An answer is kept before it is sent, so this is an older copy of the state folder: another vector under the
        same mask would show the difference of the two.
        """
        masked = ticket.relayed_key is not None and ticket.operation in WORK
        if masked and self.mailbox.has_answer(ticket):
            raise RefusedError(
                Code.SUM_REFUSED,
                "the store has an answer of this site that this state folder does not know: it is an older copy; "
                "secure sums wait for the next setup of keys",
            )

    def _watch(self, ticket: Ticket, progress: ProgressWriter, beat: Beat | None) -> None:
        """Called all the time while a job runs: the agent stays alive, and stops the job where it must."""
        if self.stopped():
            raise Stopped
        self.gate.check()
        self.gate.check_approved(ticket, self.home.approvals)
        if beat is not None:
            progress.beat(beat)
        if self.now() > 2 * ticket.expires_at - ticket.issued_at:
            raise RefusedError(
                Code.TRAINING_FAILED, "the job took twice the time that the ticket gave; it was ended"
            )
        try:
            self.cancelled.check(ticket.run, self.home.hub, self.now())
            self.show_presence()
        except StoreError as exc:  # the job goes on
            log.debug("the store is away: %s", exc)

    def _send_unsent(self) -> bool:
        """Send what may leave, oldest first; the rest stays."""
        sent = False
        for answer in list(self._unsent):
            if answer in self._unsent and self._may_leave(answer) and self._send(answer):
                self._unsent.remove(answer)
                self._forget_before(answer)
                sent = True
        return sent

    def _forget_before(self, sent: Answer) -> None:
        """Earlier attempts at the same work that can no longer be sent need not be."""
        now = sent.ticket
        for answer in list(self._unsent):
            then = answer.ticket
            same = (then.run, then.round, then.operation) == (now.run, now.round, now.operation)
            if same and then.attempt < now.attempt and not can_send(self.mailbox.store, answer):
                self.outbox.delivered(answer.name)
                self._unsent.remove(answer)

    def _may_leave(self, answer: Answer) -> bool:
        """False while the site holds it back or has no address for it, and for good where nobody wants it any more."""
        if not can_send(self.mailbox.store, answer) or not self.gate.lets_out(answer, self.home.approvals):
            return False
        try:
            self.cancelled.check(answer.ticket.run, self.home.hub, self.now())
        except RefusedError:  # a refusal may still be said
            return answer.receipt.refusal is not None
        return True

    def _send(self, answer: Answer) -> bool:
        """False where its address has expired meanwhile: it stays, and goes with the next attempt's."""
        settle(answer, self.site, self.home.audit)  # where a crash or a full disk came between
        try:
            self.home.delivery.answer(answer.sealed.encode(), self.outbox.payload(answer))
        except UploadClosedError as exc:
            log.warning("ticket %s: the answer stays in the outbox: %s", answer.name, exc)
            return False
        except ContractError as exc:  # an old round's payload is gone, or a file was damaged
            log.warning("ticket %s: the answer cannot be sent: %s", answer.name, exc)
        self.outbox.delivered(answer.name)
        return True
