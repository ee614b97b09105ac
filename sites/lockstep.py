"""A site's part in a round in lockstep: of each step that the hub shows, noised words, masked, kept, sent; then shares.

`turn` does what can be done now and returns, so that the agent stays alive
between two steps. The job that has the records stays from step to step; masking
is done here, where no recipe runs. The hub is not believed: a step only goes
forward, its sum follows from the study, and what this site has bound itself to
(journal.py) decides what it opens. After a fall it goes on with the bytes that
were kept; what was not kept has never left.
"""

from __future__ import annotations

import hashlib
import logging
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from infra.errors import SealError
from infra.identity import Identity
from infra.signing import unseal
from sites.deliver import Delivery
from sites.examine import examine_words
from sites.job import StepsJob, Survey
from sites.journal import Bound, Journal
from sites.mailbox import Mailbox
from sites.outbox import Outbox
from sites.payload import WORD_BYTES, form_of
from sites.sums import Summing, safely
from sites.workplace import Staying, Workplace
from tasks import layout
from tasks.bands import public_units
from tasks.beats import MOST_INLINE_BYTES, Beat, Given, Said
from tasks.codes import Code
from tasks.contracts import Card, Spent, Ticket
from tasks.errors import ContractError, RefusedError
from tasks.privacy.distributed import Mechanism
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.lanes import masked
from tasks.secagg.messages import Consent, SumTerms, Survivors, Unmasking
from tasks.secagg.onesum import Pledge, consent, mask_seeds, pledge
from tasks.secagg.opening import unmask
from tasks.secagg.whole import open_whole
from tasks.study import Study

log = logging.getLogger(__name__)

ALLOWED_EVERY_S = 0.5  # between two looks at all that may forbid to go on
SECURE_EVERY_S = 1.0  # between two moments at which what was noted of steps is made durable
LOST_EVERY_S = 3.0  # between two looks whether the store still has the ticket, and this site's word


class Lockstep:
    """One site's part in the steps of one round.

    Args:
        ticket: the hub's.
        study: as approved.
        given: the parameters that the ticket names.
        survey: counts, for the gate.
        run: the study's noise.
        summing: this site's part in secure sums.
        journal: of the round.
        job: to begin with the first step.
        allowed: raises RefusedError where this site must not go on.
        paid: notes in the ledger that the first vector is kept; returns the entry that pays.
    """

    def __init__(
        self,
        ticket: Ticket,
        study: Study,
        given: bytes,
        survey: Survey,
        run: Mechanism,
        *,
        summing: Summing,
        journal: Journal,
        job: StepsJob,
        workplace: Workplace,
        identity: Identity,
        hub: Card,
        mailbox: Mailbox,
        outbox: Outbox,
        delivery: Delivery,
        now: Callable[[], float],
        allowed: Callable[[], None],
        paid: Callable[[], int],
    ):
        self.ticket, self._study, self._given, self._survey, self._run = ticket, study, given, survey, run
        self._summing, self._journal, self._job, self._workplace = summing, journal, job, workplace
        self._identity, self._hub, self._mailbox, self._outbox = identity, hub, mailbox, outbox
        self._delivery, self._now, self._allowed, self._paid = delivery, now, allowed, paid
        self._member = summing.member()
        self._staying: Staying | None = None
        self._entry: int | None = None
        self._beat_tag: str | None = None
        self._beat: Beat | None = None
        self._open: tuple[str, Consent | Unmasking] | None = None  # said of a list, by its digest
        self._unsent = journal.newest is not None
        self._allowed_at = self._secured_at = self._lost_at = 0.0
        self.over = False
        self._seconds: defaultdict[str, float] = defaultdict(float)  # by phase

    @property
    def step(self) -> int:
        """The newest that this site has a vector for; 0 before the first."""
        return self._journal.newest.sum.step if self._journal.newest else 0

    @property
    def newest(self) -> tuple[Bound, bytes]:
        """What the newest vector binds this site to, and the vector. Raises RefusedError: there is none."""
        bound, payload = self._journal.newest, self._journal.payload
        if bound is None or payload is None:
            raise RefusedError(
                Code.SUM_REFUSED, "the steps of the round are over, and this site was in none of them"
            )
        return bound, payload

    @property
    def spent(self) -> Spent:
        return self._journal.begun.spent

    @property
    def records(self) -> int:
        return self._survey.records

    @property
    def began_at(self) -> float | None:
        """When the job said its first line."""
        return self._staying.session.began_at if self._staying else None

    def turn(self) -> bool:
        """Do what can be done now; True where something was. `over` says when the hub has committed all steps.

        Raises:
            RefusedError: this site must not or cannot go on; nothing more of this attempt leaves.
            StoreError: the store is away; call again.
        """
        self._look_around()
        beat = self._newest_beat()
        if beat is None or beat.step < self.step:
            return self._send_if_needed()
        if beat.step > self._study.steps:
            self.over = True
            return True
        if beat.step > self.step:
            self._take_step(beat)
        else:
            self._answer(beat)
        return self._send_if_needed()

    def close(self, answered: bool = False) -> None:
        """End the job, make durable what was noted, and let the vectors go where the round is `answered`."""
        with ExitStack() as ends:  # from the last to the first, each whatever the others come to
            if self._secured_at:
                ends.callback(self._delivery.secure)
            ends.callback(self._journal.close)
            if answered:
                ends.callback(self._journal.forget_vectors)
            ends.callback(self._workplace.__exit__, None, None, None)
        spent = ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in sorted(self._seconds.items()))
        log.info("steps of round %d of %s: seconds: %s", self.ticket.round, self.ticket.run, spent)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - began

    def _look_around(self) -> None:
        now = self._now()
        if (
            abs(now - self._allowed_at) >= ALLOWED_EVERY_S
        ):  # a clock that is put back must not close these eyes
            self._allowed()
            self._allowed_at = now
        if self._secured_at and abs(now - self._secured_at) >= SECURE_EVERY_S:
            self._delivery.secure()
            self._secured_at = now
        if abs(now - self._lost_at) >= LOST_EVERY_S:
            if self._mailbox.raw_ticket(layout.ticket_key(self.ticket)) is None:
                raise RefusedError(Code.EXPIRED, "the hub has taken the ticket back: the round is over")
            gone = self._mailbox.own(layout.answer_key(self.ticket, "step.json")) is None
            self._unsent |= bool(self._lost_at) and gone and self._journal.newest is not None
            self._lost_at = now

    def _newest_beat(self) -> Beat | None:
        """The hub's newest word on this round. Raises RefusedError: it is of other sums than this site's."""
        found = self._mailbox.beat(self.ticket, self._beat_tag)
        if found is None:
            return self._beat
        self._beat_tag = found.tag
        try:
            beat = unseal(found.data, Beat, self._hub.name, self._hub.public_key)
        except SealError as exc:
            log.warning("ignored: a word on the steps of %s: %s", self.ticket.run, exc)
            return self._beat
        if (beat.run, beat.round) != (self.ticket.run, self.ticket.round):
            log.warning("ignored: a word on the steps of another round than this")
            return self._beat
        if beat.cohort_sha256 != self._member.cohort.sha256:
            raise RefusedError(Code.SUM_REFUSED, "the hub's steps are between other keys than the ticket's")
        if beat.step > self._study.steps + 1:
            raise RefusedError(Code.BAD_TICKET, f"step {beat.step} of a round of {self._study.steps}")
        self._beat = beat
        return beat

    def _take_step(self, beat: Beat) -> None:
        """Noised words of a new step, masked and kept; with the first of all, paid for."""
        raw, sum_ = self._parameters(beat), self._sum(beat)
        pledges = self._outbox.pledges(sum_.run)
        with self._timed("mask"):  # before rows are read
            seeds: MaskSeeds = safely(lambda: mask_seeds(self._member, pledges, sum_))
        if self._staying is None:
            self._staying = self._workplace.begin(self._job)
        with self._timed("job"):
            self._staying.ask(beat.step, raw)
            words = self._staying.words(beat.step, WORD_BYTES * sum_.length)
        with self._timed("mask"):
            examine_words(words, self._run, public_units(self._survey.units))
            vector = safely(lambda: masked(words, seeds))
            digest = hashlib.sha256(vector).hexdigest()
            kept = safely(lambda: pledge(self._member, pledges, sum_, digest, whole=beat.whole))
        with self._timed("keep"):
            self._keep(Bound(sum=sum_, pledge=kept.sums[-1]), vector)
        self._open = None

    def _keep(self, bound: Bound, vector: bytes = b"") -> None:
        self._journal.keep(bound, vector)
        self._outbox.bind(self.ticket.run, bound)
        self._unsent = True

    def _sum(self, beat: Beat) -> SumTerms:
        return self._study.secure_aggregation.sum_of(
            self._member.cohort,
            self.ticket.round,
            "update",
            beat.given.sha256,
            self._run.dimension,
            self._run.scale_bits,
            step=beat.step,
        )

    def _parameters(self, beat: Beat) -> bytes:
        """What the step starts from, in the form that the round began with. Raises RefusedError."""
        given = beat.given
        if beat.step == 1 and given.sha256 != self.ticket.parameters_sha256:
            raise RefusedError(
                Code.BAD_TICKET, "the first step starts from other parameters than the ticket's"
            )
        raw = self._given if given.sha256 == self.ticket.parameters_sha256 else self._read(given)
        if raw is None or hashlib.sha256(raw).hexdigest() != given.sha256:
            raise RefusedError(Code.BAD_TICKET, "the parameters of a step are missing or altered")
        try:
            same = form_of(raw) == form_of(self._given)
        except ContractError as exc:
            raise RefusedError(Code.BAD_TICKET, f"the parameters of a step cannot be read: {exc}") from exc
        if not same:
            raise RefusedError(
                Code.BAD_TICKET, "the parameters of a step are not of the form that the round began with"
            )
        return raw

    def _read(self, given: Given) -> bytes | None:
        if given.key is not None:
            return self._mailbox.step_parameters(self.ticket, given.key, len(self._given))
        try:
            return given.inline
        except ValueError as exc:
            raise RefusedError(Code.BAD_TICKET, "the parameters of a step are no base64") from exc

    def _answer(self, beat: Beat) -> None:
        """What the hub asks of the newest sum: to open it, or to agree first."""
        bound, survivors = self._journal.newest, beat.survivors
        if bound is None:
            return
        if beat.given.sha256 != bound.sum.parameters_sha256:
            raise RefusedError(
                Code.SUM_REFUSED, f"step {beat.step} again, from other parameters than it was taken from"
            )
        if survivors is None or self.ticket.site not in survivors.masked:
            return  # a list without this site: it has no part in it
        said = f"{survivors.sha256} {beat.whole} {beat.consents is not None}"
        if self._open is not None and self._open[0] == said:
            return
        with self._timed("open"):
            pledge, part = self._opened(beat, bound, survivors)
        if pledge != bound.pledge:
            with self._timed("keep"):  # what it binds this site to, before it leaves
                self._keep(Bound(sum=bound.sum, pledge=pledge))
        if part is not None:
            self._open, self._unsent = (said, part), True

    def _opened(
        self, beat: Beat, bound: Bound, survivors: Survivors
    ) -> tuple[Pledge, Consent | Unmasking | None]:
        """What this site gives to a list, and what that binds it to. Raises RefusedError."""
        member, pledges, sum_ = self._member, self._outbox.pledges(self.ticket.run), bound.sum
        if beat.whole:
            opened, shares = safely(lambda: open_whole(member, pledges, sum_, survivors))
            return opened.sums[-1], shares
        if beat.consents is not None:
            consents, verify = beat.consents, self._summing.verify
            return bound.pledge, safely(lambda: unmask(member, pledges, sum_, survivors, consents, verify))
        if bound.pledge.may_be_open_to_all:
            log.warning(
                "step %d: this site may have opened the sum of all, and signs no other list", beat.step
            )
            return bound.pledge, None
        sign = self._identity.signing.sign
        agreed, given = safely(lambda: consent(member, pledges, sum_, survivors, sign))
        return agreed.sums[-1], given

    def _send_if_needed(self) -> bool:
        """Send this site's word on its newest step, if the store may not have it. True where it was sent."""
        if not self._unsent:
            return False
        bound, vector = self.newest
        if self._entry is None:
            self._entry = self._paid()
        part = self._open[1] if self._open else None
        said = Said(
            run=self.ticket.run,
            round=self.ticket.round,
            step=bound.sum.step,
            site=self.ticket.site,
            sum_sha256=bound.sum.sha256,
            masked_sha256=bound.pledge.masked_sha256,
            vector=b64encode(vector).decode() if len(vector) <= MOST_INLINE_BYTES else None,
            whole=bound.pledge.whole,
            consent=part if isinstance(part, Consent) else None,
            unmasking=part if isinstance(part, Unmasking) else None,
        )
        with self._timed("put"):
            self._delivery.said(self.ticket, said, vector, bound, self._entry)
        self._unsent = False
        self._secured_at = self._secured_at or self._now()
        return True
