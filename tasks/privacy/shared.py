"""A study's own mechanism in privacy mode distributed: the same numbers for sites, hub and auditors.

They follow from the study and the size of its model alone, so that nobody has to be told, or believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tasks.contracts import Against, Spent
from tasks.errors import PrivacyError
from tasks.privacy.distributed import Mechanism, mechanism, scale_of_run
from tasks.privacy.events import GaussianEvent
from tasks.secagg.messages import What
from tasks.study import Study


def mechanism_of(study: Study, dimension: int, noise: float | None = None) -> Mechanism:
    """The noise of a run of this study, for a model of so many numbers.

    Each sum that is opened has all of it. Where sums are of groups, `sites` are those of the smallest. A group that is
    drawn smaller, because sites have no keys, is as if it had lost some; and one of fewer than `sites` - `may_be_lost`
    is never opened, because none of its sites agrees to it.

    `noise`: as a plan of the run has found it; with a sample rate below 1 it spares a light process the search.

    Raises:
        PrivacyError: another mode, or numbers that cannot be.
    """
    epsilon, delta, clip_norm = _promised(study)
    return _planned(
        epsilon,
        delta,
        clip_norm,
        study.sums[0],
        study.missing,
        dimension,
        study.rounds * study.steps,
        study.local_steps,
        study.sample_rate,
        noise,
    )


def scale_of(study: Study, what: What) -> int | None:
    """How fine the words of a secure sum are, where its noise decides; None where it does not. Light."""
    if study.privacy.mode != "distributed" or what != "update":
        return None
    epsilon, delta, clip_norm = _promised(study)
    steps = study.rounds * study.steps
    bound = study.local_steps * clip_norm
    return scale_of_run(epsilon, delta, bound, study.sums[0], study.missing, steps, study.sample_rate)


def _promised(study: Study) -> tuple[float, float, float]:
    privacy = study.privacy
    if privacy.epsilon is None or privacy.delta is None or privacy.first_clip is None:
        raise PrivacyError("a study without epsilon, delta and clip_norm has no mechanism")
    return privacy.epsilon, privacy.delta, privacy.first_clip


def against_along(study: Study, run: Mechanism, before: int, rounds: int) -> Iterator[Against]:
    """Epsilon of a site's people by who looks, after each of so many rounds more, on top of `before` sums."""
    surely = (
        run.sites - study.may_be_lost
    )  # shares of noise that are in every sum, whatever the hub says of others
    for views in run.path(study.privacy.delta or 0.0, surely, before, study.steps, rounds):
        yield Against(**views._asdict(), missing=run.missing)


def spent_along(study: Study, dimension: int) -> Iterator[Spent]:
    """What a site says that it has spent after each round of a run, where its ledger counts as most do.

    Raises:
        PrivacyError: see `mechanism_of`.
    """
    run = mechanism_of(study, dimension)
    event = run.event(run.sites - run.missing, study.steps)
    for against in against_along(study, run, 0, study.rounds):
        yield spent_of(study, event, against.hub_with_missing, against)


def spent_of(study: Study, event: GaussianEvent, epsilon: float, against: Against | None) -> Spent:
    """What a round has cost, as a receipt says it: `event` is of one round, `epsilon` of all up to it."""
    several = study.local_steps > 1
    return Spent(
        epsilon=epsilon,
        delta=study.privacy.delta or 0.0,
        noise_multiplier=event.noise_multiplier,
        sample_rate=event.sample_rate,
        steps=event.steps,
        epsilon_limit=study.privacy.epsilon or 0.0,
        local_steps=study.local_steps if several else None,
        sensitivity=study.local_steps * (study.privacy.first_clip or 0.0) if several else None,
        against=against,
    )


_planned = lru_cache(maxsize=64)(mechanism)
