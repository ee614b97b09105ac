"""The agent's side of privacy: plan a run once, reserve before rows are read, say what was spent.

The plan of a run is kept in the state folder and holds for its later rounds as
long as nothing came in between: no other entry in the ledger, no changed limit,
no change in the number of units. Otherwise it is made again (protect.py), with
the noise that the run began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.keyfile import sync_folder, write_durably
from sites.job import PlanJob, Planned
from sites.ledger import Entry, Key, Ledger
from sites.policy import check_cost, obey
from sites.policyterms import View
from sites.settings import Limits, Site, Source
from sites.sources import address, scheme
from sites.workplace import Workplace
from tasks.codes import Code
from tasks.contracts import Sha256, Spent, Ticket
from tasks.errors import RefusedError
from tasks.privacy.events import GaussianEvent
from tasks.privacy.shared import spent_of
from tasks.study import Study


class Standing(BaseModel):
    """Where a data set and a run stand before a round; a plan is made for one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_sha256: Sha256  # the terms that it was planned for
    units: int
    others: Sha256  # digest of the data set's entries that are not this run's
    limits: Limits
    reserved: int  # of this run's rounds, whatever became of them
    released: int  # of this run's rounds, at most
    left: int  # rounds, this one included
    priced: bool = False  # the plan says what it costs
    charge: View = "hub_with_missing"  # against whom the ledger counts, in privacy mode distributed

    def holds_for(self, later: Standing) -> bool:
        """True where nothing asks for more now than was foreseen then."""
        fixed = ("study_sha256", "units", "others", "limits", "priced", "charge")
        same = all(getattr(self, name) == getattr(later, name) for name in fixed)
        return (
            same
            and later.released >= self.released
            and later.reserved + later.left <= self.reserved + self.left
            and later.released + later.left <= self.released + self.left
        )


class RunPlan(BaseModel):
    """What was planned, and for which standing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    standing: Standing
    planned: Planned


def dataset_of(site: Site, source: Source) -> str:
    """Whose privacy is counted together: everybody in one file, or in all files of one named population."""
    if source.population is not None:
        return f"population:{source.population}"
    return f"{scheme(source)}:{address(source, site.base).resolve()}"


def plan_round(
    ticket: Ticket,
    study: Study,
    units: int,
    dimension: int,
    *,
    dataset: str,
    site: Site,
    ledger: Ledger,
    workplace: Workplace,
) -> tuple[GaussianEvent, Spent]:
    """What this round releases, and what the run's people will then have paid.

    Raises:
        RefusedError: budget_exhausted: the site's limit, its policy's or the study's would be passed before the
            run ends.
    """
    history = ledger.events(dataset)
    own = ledger.run_events(dataset, ticket.run)
    released = own if len(own) < ticket.round else _charged(ledger, dataset, ticket.run)
    standing = Standing(
        study_sha256=ticket.study_sha256,
        units=units,
        others=_digest(history, own),
        limits=site.settings.limits,
        reserved=len(own),
        released=len(released),
        left=study.rounds - ticket.round + 1,
        priced=site.settings.policy.prices,
        charge=site.settings.policy.charge,
    )
    plan = known_plan(site.state, ticket.run)
    if plan is None or not plan.standing.holds_for(standing):
        job = PlanJob(
            study=study,
            units=units,
            noise_multiplier=own[0].noise_multiplier if own else None,
            released=tuple(released),
            history=tuple(history),
            rounds_left=standing.left,
            limit_epsilon=site.settings.limits.epsilon,
            limit_delta=site.settings.limits.delta,
            priced=standing.priced,
            own=tuple(own),
            of_study=tuple(_of_study(ledger, dataset, ticket.study)),
            dimension=dimension,
            charge=site.settings.policy.charge,
        )
        plan = RunPlan(standing=standing, planned=workplace.run(job, Planned))
        keep_plan(site.state, ticket.run, plan)
    obey(check_cost(site.settings.policy, plan.planned.cost))
    return plan.planned.event, _spent(plan, standing, study)


def keep_plan(state: Path, run: str, plan: RunPlan) -> None:
    """Keep what was planned for a run; it outlives the power."""
    path = _place(state, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    sync_folder(state)  # whoever made the folder may have died before it came to this
    write_durably(path, plan.model_dump_json().encode(), folder_too=True)


def known_plan(state: Path, run: str) -> RunPlan | None:
    """What was planned for a run; None where it is planned anew."""
    try:
        return RunPlan.model_validate_json(_place(state, run).read_bytes())
    except (OSError, ValidationError):
        return None


def known_noise(state: Path, ticket: Ticket) -> float | None:
    """The noise of a run in shares, as it was planned; None: it follows from the study, or the plan is gone."""
    plan = known_plan(state, ticket.run)
    if plan is None or plan.standing.study_sha256 != ticket.study_sha256:
        return None
    return plan.planned.noise


def reserve(ledger: Ledger, dataset: str, ticket: Ticket, event: GaussianEvent) -> Key:
    """Set the round's privacy aside, on disk, before rows are read.

    Raises:
        RefusedError: training_failed: it was set aside before and no update came of it. What became of that
            training nobody can know, so there is no second one under the same reservation.
    """
    entry = Entry(
        dataset=dataset,
        study=ticket.study,
        run=ticket.run,
        round=ticket.round,
        attempt=ticket.attempt,
        event=event,
    )
    if not ledger.reserve(entry):
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"round {ticket.round} attempt {ticket.attempt} of {ticket.run} was begun before and did not "
            f"end; its privacy stays reserved. The hub may ask again with another attempt.",
        )
    return entry.key


def charge(ledger: Ledger, ticket: Ticket) -> bool:
    """Note that the ticket's update is kept; False where that is noted, or another attempt has paid for it."""
    key = Key(ticket.study, ticket.run, ticket.round, ticket.attempt)
    if all(row.entry.key != key or row.state == "charged" for row in ledger.rows()):
        return False
    ledger.charge(key)
    return True


def _spent(plan: RunPlan, standing: Standing, study: Study) -> Spent:
    at = standing.released - plan.standing.released
    against = plan.planned.against[at] if plan.planned.against else None
    return spent_of(study, plan.planned.event, plan.planned.trajectory[at], against)


def _charged(ledger: Ledger, dataset: str, run: str) -> list[GaussianEvent]:
    """The run's rounds whose update was made; what was only reserved counts for the site's limit alone."""
    return [
        row.entry.event
        for row in ledger.rows()
        if row.state == "charged" and row.entry.dataset == dataset and row.entry.run == run
    ]


def _of_study(ledger: Ledger, dataset: str, study: str) -> list[GaussianEvent]:
    entries = (row.entry for row in ledger.rows())
    return [entry.event for entry in entries if (entry.dataset, entry.study) == (dataset, study)]


def _digest(history: Sequence[GaussianEvent], own: Sequence[GaussianEvent]) -> str:
    """Of the entries that are not the run's own."""
    left = sorted(event.to_json() for event in history)
    for event in own:
        left.remove(event.to_json())
    return hashlib.sha256("\n".join(left).encode()).hexdigest()


def _place(state: Path, run: str) -> Path:
    return state / "plans" / f"{run}.json"
