"""A study's own mechanism in privacy mode distributed: the same numbers for sites, hub and auditors.

They follow from the study and the size of its model alone, so that nobody has to be told, or believed.
"""

from __future__ import annotations

from functools import lru_cache

from tasks.contracts import Against, Spent
from tasks.errors import PrivacyError
from tasks.privacy.distributed import Mechanism, mechanism
from tasks.privacy.events import GaussianEvent
from tasks.secagg.messages import What
from tasks.study import Study

LATTICE = 2e-5  # relative: what integers instead of real numbers take from the noise is below 1e-5 up to 1e8 numbers


def mechanism_of(study: Study, dimension: int) -> Mechanism:
    """The noise of a run of this study, for a model of so many numbers.

    Each sum that is opened has all of it. Where sums are of groups, `sites` are those of the smallest. A group that is
    drawn smaller, because sites have no keys, is as if it had lost some; and one of fewer than `sites` - `may_be_lost`
    is never opened, because none of its sites agrees to it.

    Raises:
        PrivacyError: another mode, or numbers that cannot be.
    """
    privacy = study.privacy
    if privacy.epsilon is None or privacy.delta is None or privacy.first_clip is None:
        raise PrivacyError("a study without epsilon, delta and clip_norm has no mechanism")
    steps = study.rounds * study.steps
    return _planned(
        privacy.epsilon,
        privacy.delta,
        privacy.first_clip,
        study.sums[0],
        study.missing,
        dimension,
        steps,
        study.local_steps,
    )


def scale_of(study: Study, what: What, length: int) -> int | None:
    """How fine the words of a secure sum are, where its noise decides; None where it does not."""
    if study.privacy.mode != "distributed" or what != "update":
        return None
    return mechanism_of(study, length).scale_bits


def event_against(run: Mechanism, shares: int, steps: int = 1) -> GaussianEvent:
    """`steps` sums of the run, as an entry of a ledger, for who does not know `shares` of its shares of noise."""
    return GaussianEvent(
        noise_multiplier=(1 - LATTICE) / run.mu(shares, steps=1), sample_rate=1.0, steps=steps
    )


def against_after(study: Study, run: Mechanism, sums: int) -> Against:
    """Epsilon of a site's people by who looks, after so many sums of the run that the site was in."""
    surely = (
        run.sites - study.may_be_lost
    )  # shares of noise that are in every sum, whatever the hub says of others
    views = run.views(study.privacy.delta or 0.0, delivered=surely, steps=sums)
    return Against(**views._asdict(), missing=run.missing)


def spent_after(study: Study, dimension: int, rounds: int) -> Spent:
    """What a site says that it has spent after so many rounds, where its ledger counts as most do.

    Raises:
        PrivacyError: see `mechanism_of`.
    """
    run, several = mechanism_of(study, dimension), study.local_steps > 1
    event = event_against(run, run.sites - run.missing, study.steps)
    against = against_after(study, run, rounds * study.steps)
    return Spent(
        epsilon=against.hub_with_missing,
        delta=study.privacy.delta or 0.0,
        noise_multiplier=event.noise_multiplier,
        sample_rate=event.sample_rate,
        steps=event.steps,
        epsilon_limit=study.privacy.epsilon or 0.0,
        local_steps=study.local_steps if several else None,
        sensitivity=run.bound if several else None,
        against=against,
    )


_planned = lru_cache(maxsize=64)(mechanism)
