"""The agent: a small loop that looks into its mailbox and answers what it finds.

It opens no port and imports no torch, numpy or prefect: rows are touched only
by jobs (runner.py). What is done for one ticket is round.py's story, what may
leave is deliver.py's. An answer is kept before it is sent, so that a ticket
seen again gets the same bytes, whatever was pulled in between.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress

from infra.errors import SealError, StoreError, UploadClosedError
from infra.store.base import Store
from sites.answer import Answer
from sites.auditevents import TicketIgnored
from sites.belonging import Belonging
from sites.cancelled import Cancelled
from sites.desk import Desk, Done
from sites.doctor.short import concerns
from sites.gate import Gate
from sites.identity import own_version
from sites.ledger import Ledger
from sites.lockstep import Lockstep
from sites.mailbox import Mailbox
from sites.notes import end_audit, note_accepted, note_refused
from sites.outbox import Outbox
from sites.progress import ProgressWriter
from sites.refusing import refusing
from sites.round import play, settle
from sites.runner import Beat, Runner
from sites.sending import Sending
from sites.settings import Site
from sites.uploads import learn_ticket
from sites.verify import check_ticket, open_ticket
from sites.walk import paid_before
from sites.walks import Walks
from tasks import layout
from tasks.codes import WORK, Code
from tasks.contracts import PROTOCOL, Presence, Receipt, Ticket
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

PRESENCE_EVERY_S = 12.0
LIST_EVERY_S = 30.0  # the bell is enough; this catches one that was lost
LIST_SOON_S = 2.0  # after a bell for which nothing new was listed: a store's list may be behind


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
        self._playing = False
        self._walks = Walks(site, self.home, self._finish)
        self._said: tuple[bool, tuple[str, ...]] = (False, ())
        self._list_at = self._presence_at = self._word_at = 0.0
        self._sending = Sending(site, self.home, self.mailbox, self.outbox, self.gate, self.cancelled, now)
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
        if due and self._wants_the_word():
            self._look_at_membership()
        if not self.home.member:
            self._list_at = self.now() + LIST_EVERY_S if due else self._list_at
            return False
        self.home.introduce(self.mailbox)
        self.show_presence()
        worked = self._sending.send_all() | self._walks.go_on()
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
                busy=self._playing or bool(self._walks),
                paused=paused,
                approved=approved,
            )
            with suppress(UploadClosedError):  # the hub has been silent for a week
                self.home.delivery.presence(said_now)

    def close(self) -> None:
        """End what is under way, which goes on in a later life; the last line of the audit log."""
        self._walks.end_all()
        end_audit(self.home.audit)

    def _wants_the_word(self) -> bool:
        """False where the bell names the hub's newest word as the one that is known here, for a while."""
        heard = self.mailbox.word is not None and self.mailbox.word == self.home.heard
        return not heard or abs(self.now() - self._word_at) >= LIST_EVERY_S

    def _look_at_membership(self) -> None:
        before, self._word_at = self.home.identity, self.now()
        self.home.look(self.mailbox, idle=not self._walks and self._sending.idle)
        if self.home.identity is not before or not self.home.member:
            self._walks.end_all()  # a member goes on with the ticket, under its new keys
        if self.home.identity is not before:  # what waits was sealed anew, under the new keys
            self._sending.look_again()
            self._ignored.clear()  # also what could not be opened with the keys before

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
        elif self._sending.may_leave(known) and not self.mailbox.has_answer(ticket):
            log.info("the store has lost the answer to %s; the same bytes are sent again", known.name)
            self._sending.send_again(known)
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
        self._walks.end_older(ticket)
        self._playing = True
        log.info("ticket %s: accepted", name)
        progress = ProgressWriter(self.home.delivery, ticket, self.now)
        try:
            done = self._play(ticket, progress)
        except RefusedError as exc:
            log.warning("ticket %s: refused, %s: %s", name, exc.code, exc)
            note_refused(self.home.audit, ticket, exc.code)
            done = Done(refusal=exc.code)
        finally:
            self._playing = False
        if isinstance(done, Lockstep):
            self._walks.add(ticket, progress, done)
            return
        self._keep(ticket, progress, done)
        del done  # with its vector, as large as the model: what is sent is read from the outbox
        self._sending.send_all()

    def _finish(self, ticket: Ticket, progress: ProgressWriter, done: Done) -> None:
        """Keep the answer, then send it."""
        self._keep(ticket, progress, done)
        self._sending.send_all()

    def _keep(self, ticket: Ticket, progress: ProgressWriter, done: Done) -> None:
        """From now on the ticket counts as answered, and the answer waits to be sent."""
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
        if (
            done.update is not None
            and done.update.vector is None
            and self.gate.lets_out(answer, self.home.approvals)
        ):
            progress.delivering()
        self._sending.add(answer)
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

        return refusing(play_it)

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
