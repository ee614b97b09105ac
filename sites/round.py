"""What a site does for one ticket, in order: approve, survey, plan, reserve, train, charge.

By now the ticket is known to be the hub's (verify.py). Rows are read only in jobs
(runner.py; what is made of them: making.py), for training only after the ledger has its privacy set aside.
Whatever is wrong ends as a RefusedError, whose code the hub learns and whose text it
does not. What is returned is kept by the outbox before deliver.py sends it.
"""

from __future__ import annotations

from contextlib import closing

from sites.answer import Answer
from sites.audit import Audit
from sites.deliver import HEADER_SLACK
from sites.desk import Desk, Done, Task
from sites.hiding import Masked, hide
from sites.job import Survey
from sites.ledger import Ledger
from sites.localsteps import check_units
from sites.lockstep import Lockstep
from sites.making import make_scores, make_update, masked_answer
from sites.notes import note_charged, note_read, note_reserved
from sites.outbox import Outbox
from sites.payload import form_of, numbers_of
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
from sites.spending import charge, dataset_of, plan_round, reserve
from sites.sums import Summing
from sites.surveys import surveyed
from sites.verify import open_study
from sites.votes import Standing, missing_for
from sites.walk import begin, check_steps, reserved
from sites.workplace import Workplace
from tasks import layout
from tasks.bands import band
from tasks.codes import WORK, Code, Operation
from tasks.contracts import Ticket
from tasks.errors import ContractError, RefusedError
from tasks.study import Study


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
            return make_scores(task, desk.site, workplace)
        if study.privacy.mode == "none":
            return make_update(task, desk, workplace, None, None)

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
            return make_update(task, desk, workplace, event, spent)


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
    done = masked_answer(Masked(payload, bound), lockstep.spent)
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
