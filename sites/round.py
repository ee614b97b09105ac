"""What a site does for one ticket, in order: approve, survey, plan, reserve, train, charge.

By now the ticket is known to be the hub's (verify.py). Rows are read only in
jobs (job.py), and for training only after the ledger has its privacy set aside.
Whatever is wrong ends as a RefusedError, whose code the hub learns and whose
text it does not. What is returned is kept by the outbox before deliver.py
sends it.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from infra.identity import Identity
from sites.approvals import Approvals
from sites.audit import Audit
from sites.deliver import HEADER_SLACK, Delivery
from sites.examine import examine, examine_words
from sites.hiding import Hiding, Masked, hide
from sites.job import Runner, Scored, ScoreJob, Survey, Trained, TrainJob, Watch
from sites.journal import Bound
from sites.ledger import Ledger
from sites.localsteps import check_units
from sites.lockstep import Lockstep
from sites.mailbox import Mailbox
from sites.notes import note_charged, note_read, note_reserved
from sites.outbox import Answer, Outbox
from sites.payload import WORD_BYTES, form_of, numbers_of
from sites.policy import (
    Facts,
    approve,
    check_bound,
    check_candidates,
    check_evaluation,
    check_order,
    check_records,
    check_start,
    check_study,
)
from sites.policyterms import Hours
from sites.seats import Seats
from sites.settings import Site, Source
from sites.spending import charge, dataset_of, known_noise, plan_round, reserve
from sites.sums import Summing
from sites.surveys import surveyed
from sites.verify import open_study
from sites.votes import Standing, missing_for
from sites.walk import begin, check_steps, reserved
from sites.workplace import Workplace
from tasks import layout
from tasks.adaptive import is_within
from tasks.bands import band, public_units
from tasks.codes import WORK, Band, Code, Operation
from tasks.contracts import MOST_INSIDE_BYTES, Card, Scores, Spent, Ticket, Update
from tasks.errors import ContractError, RefusedError
from tasks.privacy.events import GaussianEvent
from tasks.privacy.shared import mechanism_of
from tasks.study import Study


class Desk(NamedTuple):
    """What a site has at hand while it works on a ticket."""

    site: Site
    identity: Identity
    hub: Card
    mailbox: Mailbox
    outbox: Outbox
    runner: Runner
    watch: Watch
    now: Callable[[], float]
    audit: Audit
    approvals: Approvals
    delivery: Delivery


class Done(NamedTuple):
    """One of: update with its payload, scores, said, refusal; scores also beside a masked update of them."""

    update: Update | None = None
    payload: bytes | None = None
    scores: Scores | None = None
    votes: tuple[bool, ...] | None = None  # beside masked scores of candidates
    said: str | None = None
    bound: Bound | None = None  # what it binds this site to in a secure sum
    refusal: Code | None = None
    first_line_at: float | None = None
    records: Band | None = None  # where the site's file lets it be known


class Task(NamedTuple):
    """An approved ticket with all that its jobs need."""

    ticket: Ticket
    study: Study
    source: Source
    given: bytes  # the parameters
    survey: Survey
    hiding: Hiding | None  # None: the hub sees the answer by itself
    bound: float | None  # of the norm of an update
    candidates: list[bytes]  # other parameters to score

    @property
    def weight(self) -> float:
        """What this site counts among the others."""
        weights = self.study.aggregation.weights
        return weights.of(self.survey.units) if weights else 1.0


def play(ticket: Ticket, desk: Desk) -> Done | Lockstep:
    """Do what the hub's ticket asks, as far as this site allows it; of a round in lockstep, all but its steps.

    Raises:
        RefusedError: it does not, or it cannot be done.
        StoreError: the store is away; nothing was reserved, the ticket may be played again.
    """
    study = _study(ticket, desk)
    standing = desk.approvals.for_ticket(desk.site.settings.policy.approval)
    source = approve(study, ticket, desk.site.settings, _facts(ticket, desk, standing))
    check_study(ticket, desk.outbox.studies_of(ticket.run))
    check_start(ticket, study)
    check_order(ticket, desk.outbox.bases(ticket.run))
    check_candidates(ticket, study)
    summing = _summing(ticket, study, standing, desk)
    if ticket.operation not in WORK:
        said = summing.step()
        return Done(said=said.text, bound=said.bound)
    if ticket.operation == Operation.EVALUATE:
        trained = desk.outbox.answered(ticket.run, ticket.round, Operation.TRAIN)
        check_evaluation(ticket, trained, desk.outbox.answered(ticket.run, ticket.round, Operation.EVALUATE))
    again = _made_before(ticket, desk.outbox)
    if again is not None:
        return again
    bound = _bound(study, ticket)
    given = _parameters(ticket, desk)
    check_bound(len(given), standing.in_force[study.name])
    others = desk.mailbox.candidates(ticket, len(given) + HEADER_SLACK)  # they are as big as the model
    numbers = _numbers(given, others)
    check_steps(ticket, study)
    if ticket.steps is not None:
        return _lockstep(ticket, study, source, given, numbers, summing, desk)
    hiding = (
        hide(summing, ticket, study, numbers) if study.secure_aggregation.on else None
    )  # before rows are read

    with _workplace(ticket, desk) as workplace:
        survey = _survey(ticket, study, source, workplace, desk)
        task = Task(ticket, study, source, given, survey, hiding, bound, others)
        if ticket.operation == Operation.EVALUATE:
            return _score(task, desk.site, workplace)
        if study.privacy.mode == "none":
            return _train(task, desk, workplace, None, None)

        with closing(Ledger(desk.site.state, site=desk.site.settings.site)) as ledger:
            dataset = dataset_of(desk.site, source)
            event, spent = plan_round(
                ticket,
                study,
                survey.units,
                numbers,
                dataset=dataset,
                site=desk.site,
                ledger=ledger,
                workplace=workplace,
            )
            reserve(ledger, dataset, ticket, event)
            note_reserved(desk.audit, ticket, ledger, event)
            return _train(task, desk, workplace, event, spent)


def _lockstep(
    ticket: Ticket,
    study: Study,
    source: Source,
    given: bytes,
    numbers: int,
    summing: Summing,
    desk: Desk,
) -> Lockstep:
    """All of the story before the steps of a round: keys, survey, plan, reserve."""
    summing.member()  # before rows are read: a site without keys spends nothing
    with _workplace(ticket, desk) as workplace:
        survey = _survey(ticket, study, source, workplace, desk)
        journal = reserved(ticket, study, source, survey, numbers, desk, workplace)
    standing = desk.approvals.for_ticket(desk.site.settings.policy.approval)
    return begin(
        ticket,
        study,
        source,
        given,
        survey,
        numbers,
        summing=summing,
        journal=journal,
        desk=desk,
        workplace=_workplace(ticket, desk),
        facts=lambda: _facts(ticket, desk, standing),
    )


def finished(lockstep: Lockstep, site: Site) -> Done:
    """The answer to a ticket whose steps are over: the last vector, which is in the store already.

    Raises:
        RefusedError: sum_refused: this site was in none of them.
    """
    bound, payload = lockstep.newest
    done = _sealed(Masked(payload, bound), lockstep.spent)
    shown = band(lockstep.records) if site.settings.disclosure.records else None
    return done._replace(first_line_at=lockstep.began_at, records=shown)


def settle(answer: Answer, site: Site, audit: Audit) -> None:
    """Charge an update that the outbox keeps, before it can leave. Safe to repeat.

    Not earlier: an update that a crash took before it was kept has released
    nothing, and only what is charged counts against the study's epsilon.

    Raises:
        FileError: the ledger cannot be written; the answer must wait.
    """
    if answer.receipt.update is None or answer.receipt.update.spent is None:
        return
    with closing(Ledger(site.state, site=site.settings.site)) as ledger:
        if charge(ledger, answer.ticket):
            note_charged(audit, answer.ticket, ledger)


def _survey(ticket: Ticket, study: Study, source: Source, workplace: Workplace, desk: Desk) -> Survey:
    """How many records and people there are: enough, and noted before rows are read for the work itself."""
    survey = surveyed(ticket, study, source, desk.site, workplace, desk.audit)
    check_records(survey, desk.site.settings)
    check_units(study, survey.units)
    note_read(desk.audit, ticket, source, survey.records)
    return survey


def _study(ticket: Ticket, desk: Desk) -> Study:
    raw = desk.mailbox.study(ticket)
    study = open_study(raw, ticket, desk.hub)
    if raw is not None:
        desk.mailbox.remember_study(ticket, raw)
    return study


def _parameters(ticket: Ticket, desk: Desk) -> bytes:
    return desk.mailbox.parameters(ticket, desk.site.settings.resources.parameters_mb * 2**20)


def _bound(study: Study, ticket: Ticket) -> float | None:
    """What an update's norm must not pass: the approved study allows what the ticket says, or it is bad_ticket."""
    if ticket.operation != Operation.TRAIN:
        return None
    try:
        return study.aggregation.bound(ticket.update_norm)
    except ValueError as exc:
        raise RefusedError(Code.BAD_TICKET, str(exc)) from exc


def _facts(ticket: Ticket, desk: Desk, standing: Standing) -> Facts:
    policy, now = desk.site.settings.policy, desk.now()
    missing = missing_for(ticket, standing, policy.approval)
    if policy.rounds_per_day is None:
        return Facts(now, missing_approval=missing)
    midnight = (policy.hours or Hours()).day_began(now)
    trained = desk.outbox.trained_since(midnight) - {(ticket.run, ticket.round)}
    return Facts(now, len(trained), missing_approval=missing)


def _workplace(ticket: Ticket, desk: Desk) -> Workplace:
    caps = desk.site.settings.policy.resources
    return Workplace(desk.site.state, layout.ticket_name(ticket), desk.runner, desk.watch, caps)


def _made_before(ticket: Ticket, outbox: Outbox) -> Done | None:
    """The vector of an earlier attempt at the same work: the same bytes are sent again, and cost nothing."""
    answer = outbox.update_of(ticket)
    if answer is None:
        return None
    receipt = answer.receipt
    return Done(
        update=receipt.update,
        payload=outbox.payload(answer),
        scores=receipt.scores,
        votes=receipt.votes,
        bound=answer.bound,  # the outbox keeps what was agreed to since
        records=receipt.records,
    )


def _train(
    task: Task, desk: Desk, workplace: Workplace, event: GaussianEvent | None, spent: Spent | None
) -> Done:
    """Train, take the protected update over from the job, and close it for the hub's eyes."""
    site = desk.site
    job = TrainJob(
        site=site.settings.site,
        study=task.study,
        source=task.source,
        base=site.base,
        round=task.ticket.round,
        attempt=task.ticket.attempt,
        event=event,
        noise=known_noise(site.state, task.ticket),
        seeded_noise=site.settings.testing.seeded_noise,
        threads=site.settings.resources.threads,
        update_norm=task.bound,
        clip_norm=desk.outbox.clip_norm(task.ticket.run, task.ticket.round),
        weight=task.weight,
    )
    trained = workplace.run(job, Trained, task.given)
    if spent is not None and task.study.privacy.adaptive_clip is not None:
        spent = spent.model_copy(update={"clip_norm": _allowed(trained.clip_norm, task.study)})
    shown = band(task.survey.records) if site.settings.disclosure.records else None
    if task.study.privacy.mode == "distributed":
        masked = _words(task, workplace, job.noise)
        return _sealed(masked, spent)._replace(first_line_at=trained.began_at, records=shown)
    payload = workplace.update(len(task.given) + HEADER_SLACK)
    batch = event.sample_rate * public_units(task.survey.units) if event else 0.0
    size = examine(
        payload, task.given, task.study, event, batch, site.settings.policy, task.bound, task.weight
    )
    if task.hiding is not None:
        said = [task.weight] if task.study.aggregation.weights else []
        if task.bound and task.study.aggregation.adaptive:
            said.append(is_within(size / task.weight, task.bound))
        masked = task.hiding.mask(payload, workplace, said)
        return _sealed(masked, spent)._replace(first_line_at=trained.began_at, records=shown)
    if desk.hub.agreement_key is not None:  # noised is not masked: whoever reads the store need not see it
        place = layout.update_place(task.ticket.run, task.ticket.round)
        payload = desk.identity.encrypt(payload, desk.hub, place)
    update = Update(payload_sha256=_sha256(payload), payload_bytes=len(payload), spent=spent)
    return Done(update=update, payload=payload, first_line_at=trained.began_at, records=shown)


def _allowed(clip_norm: float | None, study: Study) -> float:
    """A clip norm that a job has come to. Raises RefusedError: training_failed: none that the study allows."""
    terms = study.privacy.adaptive_clip
    if terms is None or clip_norm is None or not terms.least <= clip_norm <= terms.most:
        raise RefusedError(
            Code.TRAINING_FAILED, "training ended with a clip norm that the study does not allow"
        )
    return clip_norm


def _words(task: Task, workplace: Workplace, noise: float | None) -> Masked:
    """The noised words of a job, hidden: they are an update to nobody, and never leave as they are."""
    if task.hiding is None:
        raise RefusedError(Code.BAD_TICKET, "privacy mode distributed without a secure sum")
    length = task.hiding.sum.length
    words = workplace.update(WORD_BYTES * length)
    examine_words(words, mechanism_of(task.study, length, noise), public_units(task.survey.units))
    return task.hiding.mask_words(words, workplace)


def _sealed(masked: Masked, spent: Spent | None) -> Done:
    """A masked vector as an answer. What it binds this site to is kept with it."""
    inside = len(masked.payload) <= MOST_INSIDE_BYTES  # one write less, and three of the books
    update = Update(
        payload_sha256=masked.bound.pledge.masked_sha256,
        payload_bytes=len(masked.payload),
        spent=spent,
        sum_sha256=masked.bound.sum.sha256,
        vector=b64encode(masked.payload).decode() if inside else None,
    )
    return Done(update=update, payload=masked.payload, bound=masked.bound)


def _score(task: Task, site: Site, workplace: Workplace) -> Done:
    """Score the parameters on held-out records, as the disclosure rule lets it be known; candidates are voted on."""
    job = ScoreJob(
        site=site.settings.site,
        study=task.study,
        source=task.source,
        base=site.base,
        min_held_out=site.settings.disclosure.min_held_out,
        decimals=site.settings.disclosure.decimals,
        candidates=len(task.candidates),
    )
    scored = workplace.run(job, Scored, task.given, task.candidates)
    if task.hiding is None:
        return Done(scores=scored.scores, first_line_at=scored.began_at)
    if not len(scored.others) == len(scored.votes) == len(task.candidates):
        raise RefusedError(Code.TRAINING_FAILED, "the job has scored another number of candidates")
    masked = task.hiding.mask_statistics([scored.scores.statistics, *scored.others], workplace)
    own = Scores(metrics=scored.scores.metrics) if site.settings.disclosure.own_figures else None
    votes = scored.votes if task.candidates and site.settings.disclosure.votes else None
    return _sealed(masked, None)._replace(scores=own, votes=votes, first_line_at=scored.began_at)


def _numbers(given: bytes, others: list[bytes]) -> int:
    """How many numbers a set of parameters has. Raises RefusedError: bad_ticket: none, or the others' form differs."""
    try:
        form = form_of(given)
        if any(form_of(other) != form for other in others):
            raise RefusedError(Code.BAD_TICKET, "a candidate has other names or shapes than the parameters")
    except ContractError as exc:
        raise RefusedError(Code.BAD_TICKET, f"the hub's parameters cannot be read: {exc}") from exc
    return numbers_of(form)


def _summing(ticket: Ticket, study: Study, standing: Standing, desk: Desk) -> Summing:
    vote, seats = standing.in_force[study.name], Seats(desk.site.state, ticket.run)
    return Summing(ticket, study, vote, desk.identity, desk.mailbox, desk.outbox, seats)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
