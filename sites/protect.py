"""Job: the noise of a run, and its price. Reads no row.

The noise is calibrated once, for all rounds and steps of the run. A run that
has begun keeps its noise; if its data have changed since, the new rounds are
composed with the old ones and must still fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sites.job import Cost, PlanJob, Planned
from sites.runner import Watch
from tasks.bands import public_units
from tasks.codes import Code
from tasks.contracts import Against
from tasks.errors import PrivacyError, RefusedError
from tasks.learning.schedule import schedule
from tasks.privacy.accountant import epsilon, trajectory
from tasks.privacy.budget import afford
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.distributed import calibrated
from tasks.privacy.events import GaussianEvent
from tasks.privacy.shared import against_along, mechanism_of

ROUNDING = 1e-6  # relative; the sum of rounds may differ that much from the whole they were calibrated as


def work(job: PlanJob, _folder: Path, _watch: Watch, _began_at: float) -> Planned:
    """Plan the rounds of a run that are left.

    Raises:
        RefusedError: budget_exhausted: the run, as its data are now, would pass the study's own epsilon.
    """
    privacy = job.study.privacy
    if privacy.epsilon is None or privacy.delta is None:
        raise PrivacyError("a run without protection needs no plan")
    event, path, against, noise = (_shared if privacy.mode == "distributed" else _own)(
        job, privacy.epsilon, privacy.delta
    )
    if path[-1] > privacy.epsilon * (1 + ROUNDING):
        raise RefusedError(
            Code.BUDGET_EXHAUSTED,
            f"the run would end at epsilon {path[-1]:.4g}, above the study's {privacy.epsilon:g}: "
            f"its data have changed, or rounds were repeated. A new run is planned anew.",
        )
    planned = [event] * job.rounds_left
    after = afford(job.history, planned, job.limit_epsilon, job.limit_delta)
    if not after.ok:
        raise RefusedError(
            Code.BUDGET_EXHAUSTED,
            f"this run would take the data set to epsilon {after.epsilon_after:.4g} at delta "
            f"{job.limit_delta:g}; limits.epsilon is {job.limit_epsilon:g}. "
            f"Raise the limit in site.yaml, or leave the study.",
        )
    cost = _cost(job, event) if job.priced else None
    return Planned(
        event=event,
        trajectory=path,
        epsilon_after=after.epsilon_after,
        cost=cost,
        against=against,
        noise=noise,
    )


class _Price(NamedTuple):
    """event: of a round, as the ledger counts it. path: epsilon as the study counts it, after each round left.

    noise: of a run in shares, where it takes a search to find it.
    """

    event: GaussianEvent
    path: tuple[float, ...]
    against: tuple[Against, ...] = ()
    noise: float | None = None


def _own(job: PlanJob, target: float, delta: float) -> _Price:
    """All the noise is added here."""
    rate, steps, _ = schedule(job.study.local, public_units(job.units))
    noise = job.noise_multiplier or noise_multiplier(target, delta, rate, steps * job.study.rounds)
    event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)
    return _Price(event, tuple(trajectory(event, job.rounds_left, delta, before=job.released)))


def _shared(job: PlanJob, target: float, delta: float) -> _Price:
    """A share of the noise is added here; against whom the ledger counts is the site's policy."""
    study, run = job.study, mechanism_of(job.study, job.dimension)
    surely = run.sites - study.may_be_lost
    shares = {"hub": surely, "hub_with_missing": run.sites - run.missing, "all_others": 1}
    seen = tuple(against_along(study, run, sum(event.steps for event in job.released), job.rounds_left))
    return _Price(
        run.event(shares[job.charge], study.steps),
        tuple(v.hub_with_missing for v in seen),
        seen,
        calibrated(target, delta, run.steps, run.sample_rate) if run.sample_rate < 1 else None,
    )


def _cost(job: PlanJob, event: GaussianEvent) -> Cost:
    planned = [event] * job.rounds_left
    return Cost(
        round=epsilon([event], job.limit_delta),
        run=epsilon([*job.own, *planned], job.limit_delta),
        study=epsilon([*job.of_study, *planned], job.limit_delta),
    )
