"""Job: the noise of a run, and its price. Reads no row.

The noise is calibrated once, for all rounds and steps of the run. A run that
has begun keeps its noise; if its data have changed since, the new rounds are
composed with the old ones and must still fit.
"""

from __future__ import annotations

from pathlib import Path

from sites.job import Cost, PlanJob, Planned, Watch
from tasks.bands import public_units
from tasks.contracts import Code
from tasks.errors import PrivacyError, RefusedError
from tasks.learning.schedule import schedule
from tasks.privacy.accountant import epsilon, trajectory
from tasks.privacy.budget import afford
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.events import GaussianEvent

ROUNDING = 1e-6  # relative; the sum of rounds may differ that much from the whole they were calibrated as


def work(job: PlanJob, _folder: Path, _watch: Watch, _began_at: float) -> Planned:
    """Plan the rounds of a run that are left.

    Raises:
        RefusedError: budget_exhausted: the run, as its data are now, would pass the study's own epsilon.
    """
    privacy, rounds = job.study.privacy, job.study.rounds
    if privacy.epsilon is None or privacy.delta is None:
        raise PrivacyError("a run without protection needs no plan")
    rate, steps, _ = schedule(job.study.local, public_units(job.units))
    noise = job.noise_multiplier or noise_multiplier(privacy.epsilon, privacy.delta, rate, steps * rounds)
    event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)
    path = trajectory(event, job.rounds_left, privacy.delta, before=job.released)
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
    return Planned(event=event, trajectory=tuple(path), epsilon_after=after.epsilon_after, cost=cost)


def _cost(job: PlanJob, event: GaussianEvent) -> Cost:
    planned = [event] * job.rounds_left
    return Cost(
        round=epsilon([event], job.limit_delta),
        run=epsilon([*job.own, *planned], job.limit_delta),
        study=epsilon([*job.of_study, *planned], job.limit_delta),
    )
