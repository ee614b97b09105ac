"""Begin a round in lockstep at a site, or go on with one: plan, reserve all its steps, and hand over to lockstep.py.

All steps are in the ledger before a row is read, and once, whatever falls on the
way: the first line of the round's journal says which attempt has paid.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InfraError
from sites.job import StepsJob
from sites.journal import Journal, begun_for
from sites.ledger import Key, Ledger
from sites.lockstep import Lockstep
from sites.notes import note_charged, note_reserved
from sites.oldstate import check_newest
from sites.policy import Facts, decide, obey
from sites.settings import Site, Source
from sites.spending import charge, dataset_of, known_noise, plan_round, reserve
from sites.workplace import Workplace
from tasks.codes import Code, Operation
from tasks.contracts import Spent, Ticket
from tasks.errors import FederationError, RefusedError
from tasks.privacy.shared import mechanism_of
from tasks.study import Study

if TYPE_CHECKING:
    from sites.desk import Desk
    from sites.job import Survey
    from sites.sums import Summing


def check_steps(ticket: Ticket, study: Study) -> None:
    """Raises RefusedError: bad_ticket: another number of steps than people have approved; training alone has any."""
    wanted = study.steps if ticket.operation == Operation.TRAIN else 1
    if (ticket.steps or 1) != wanted:
        raise RefusedError(
            Code.BAD_TICKET,
            f"the ticket asks for {ticket.steps or 1} steps of {ticket.operation}, not {wanted}",
        )


def reserved(
    ticket: Ticket,
    study: Study,
    source: Source,
    survey: Survey,
    numbers: int,
    desk: Desk,
    workplace: Workplace,
) -> Journal:
    """The journal of the round, with all its steps in the ledger: as it was begun before, or begun now.

    Raises:
        RefusedError: budget_exhausted; or bad_ticket: other steps were begun in this round.
    """
    site, folder = desk.site, desk.outbox.folder
    dataset = dataset_of(site, source)
    with closing(Ledger(site.state, site=site.settings.site)) as ledger:
        journal = Journal.known(folder, ticket)
        try:
            check_newest(ticket, journal.newest if journal else None, desk.mailbox, desk.identity)
            paid_for = _paid_for(ledger, ticket, journal) if journal is not None else None
            if journal is not None and paid_for is not None:
                _check_same(ticket, journal)
                _check_records(paid_for, dataset)
                desk.delivery.mend()
                return journal
            _check_unused(journal)
        except BaseException:
            if journal is not None:
                journal.close()
            raise
        if journal is not None:  # a life ended before it had paid: nothing was read
            journal.close()
        event, spent = plan_round(
            ticket,
            study,
            survey.units,
            numbers,
            dataset=dataset,
            site=site,
            ledger=ledger,
            workplace=workplace,
        )
        journal = Journal.begin(folder, ticket, event, spent)
        try:
            reserve(ledger, dataset, ticket, event)
            note_reserved(desk.audit, ticket, ledger, event)
        except BaseException:
            journal.close()
            raise
        return journal


def _check_unused(journal: Journal | None) -> None:
    """Raises RefusedError: sum_refused: keys of this round have hidden vectors, and the ledger has not heard of it."""
    if journal is not None and journal.newest is not None:
        raise RefusedError(
            Code.SUM_REFUSED, "steps of this round were taken, and the ledger is older than they are"
        )


def begin(
    ticket: Ticket,
    study: Study,
    source: Source,
    given: bytes,
    survey: Survey,
    numbers: int,
    *,
    summing: Summing,
    journal: Journal,
    desk: Desk,
    workplace: Workplace,
    facts: Callable[[], Facts],
) -> Lockstep:
    """The steps of the round, from where they stand. Raises RefusedError: sum_refused: this site has no keys."""
    site, begun = desk.site, journal.begun
    noise = known_noise(site.state, ticket)
    of_paid = ticket.model_copy(update={"attempt": begun.paid})

    def allowed() -> None:
        desk.watch(None)
        obey(decide(site.settings, ticket.operation, study, facts()))

    def paid() -> int:
        with closing(Ledger(site.state, site=site.settings.site)) as ledger:
            if charge(ledger, of_paid):
                note_charged(desk.audit, ticket, ledger)
        return desk.delivery.steps_paid(ticket)

    job = StepsJob(
        site=site.settings.site,
        study=study,
        source=source,
        base=site.base,
        round=ticket.round,
        event=begun.event,
        noise=noise,
        seeded_noise=site.settings.testing.seeded_noise,
        threads=site.settings.resources.threads,
    )
    return Lockstep(
        ticket,
        study,
        given,
        survey,
        mechanism_of(study, numbers, noise),
        summing=summing,
        journal=journal,
        job=job,
        workplace=workplace,
        identity=desk.identity,
        hub=desk.hub,
        mailbox=desk.mailbox,
        outbox=desk.outbox,
        delivery=desk.delivery,
        now=desk.now,
        allowed=allowed,
        paid=paid,
    )


def paid_before(ticket: Ticket, site: Site, folder: Path) -> Spent | None:
    """What the steps of a round have cost this site's people, whatever becomes of it; None: no vector has left.

    It is only told: files that cannot be read are said elsewhere.
    """
    if ticket.steps is None or ticket.operation != Operation.TRAIN:
        return None
    with suppress(InfraError, FederationError, OSError):
        begun = begun_for(folder, ticket.run, ticket.round)
        if begun is None:
            return None
        key = Key(ticket.study, ticket.run, ticket.round, begun.paid)
        with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
            if any(row.entry.key == key and row.state == "charged" for row in ledger.rows()):
                return begun.spent
    return None


def _check_same(ticket: Ticket, journal: Journal) -> None:
    if not journal.begun.is_of(ticket):
        raise RefusedError(
            Code.BAD_TICKET, f"steps of round {ticket.round} of {ticket.run} were begun for other work"
        )


def _paid_for(ledger: Ledger, ticket: Ticket, journal: Journal) -> str | None:
    """Whose privacy the steps have been debited to; None where they have not been."""
    key = Key(ticket.study, ticket.run, ticket.round, journal.begun.paid)
    return next((row.entry.dataset for row in ledger.rows() if row.entry.key == key), None)


def _check_records(paid_for: str, dataset: str) -> None:
    """Raises RefusedError: sum_refused: site.yaml names other records now, which have paid for nothing."""
    if paid_for != dataset:
        raise RefusedError(
            Code.SUM_REFUSED,
            f"the steps of this round were begun on {paid_for}, and the source is {dataset} now",
        )
