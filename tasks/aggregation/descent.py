"""The hub's step on a noisy sum of gradients, with settings that follow from public numbers alone.

Nothing here is tuned on data, so nothing here spends budget:

- **How far to go.** Noise of T steps, not pulled back by the loss, leaves the
  parameters about `way` * clip_norm * sqrt(d) / (mu * units) away, whatever T is,
  where `way` is the sum of all step sizes. The way is as long as keeps this below
  DRIFT, and never longer than LONGEST, or than brings gradients at their clip norm REACH * sqrt(d) far: those that
  are clipped short need a longer way to the same model.
- **Drawn units.** A sum of units that were each drawn with probability q is
  scaled by 1/q. Noise is then 1/q times as large in a step, and the draw adds a
  variance of (1 - q) / q of the sum of squared gradients, at most clip_norm^2 each.
- **A prior instead of tuning.** Weights on scaled features are standard normal
  beforehand; its pull needs no noise, because it does not look at records.
- **The last half counts.** The model of a run is the mean of its last half of
  iterates, which takes out most of the noise of single steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.localsteps import largest_step
from tasks.errors import AggregationError, ContractError
from tasks.parameters import Parameters, flat, same_form, shaped
from tasks.privacy.distributed import Mechanism

DRIFT = 2.0  # Euclidean, in units of parameters of features in [-1, 1]
LONGEST = 60.0  # a logistic model has converged as far as records of hospitals tell
REACH = 26.0  # Euclidean per square root of a dimension; at half the longest record as far as LONGEST
PRIOR = 1.0  # precision of each parameter


class Descent(NamedTuple):
    """rate: step size on the mean gradient. units: people of all sites together, a public number. prior: PRIOR.

    local_steps: of this size, that each site takes by itself before the hub takes one on their sum. sample_rate: chance
    of each unit to be in a sum.
    """

    rate: float
    units: int
    prior: float = PRIOR
    local_steps: int = 1
    sample_rate: float = 1.0

    def local_step(self, sites: int) -> float:
        """Of a site, on its own sum of gradients: the mean of what `sites` come to is then a step of all."""
        return sites * self.rate / self.units

    @property
    def shrinking(self) -> float:
        """What the prior leaves of the parameters in one step."""
        return 1 - self.rate * self.prior / self.units

    @property
    def pull(self) -> float:
        """Of the prior in a round, in parameters of the gradient: as often as steps were taken, each from less."""
        return self.prior * math.fsum(self.shrinking**k for k in range(self.local_steps))


def descent(mu: float, units: int, clip_norm: float, dimension: int, steps: int) -> Descent:
    """Step size by formula, for all steps of a run.

    Args:
        mu: of the whole run, sensitivity over noise; infinite without noise.
        units: people of all sites together, roughly; public.
        clip_norm: bound on one unit's gradient.
        dimension: parameters.
        steps: of the run.

    Raises:
        AggregationError: a number that is not positive.
    """
    if not (mu > 0 and units > 0 and clip_norm > 0 and dimension > 0 and steps > 0):
        raise AggregationError(
            f"expected positive numbers, got mu {mu}, units {units}, clip_norm {clip_norm}, "
            f"dimension {dimension}, steps {steps}"
        )
    longest = max(LONGEST, REACH * math.sqrt(dimension) / clip_norm)
    way = min(longest, DRIFT * mu * units / (clip_norm * math.sqrt(dimension)))
    return Descent(way / steps, units)


def descent_of(run: Mechanism, units: int, longest: float | None, sums: int = 1) -> Descent:
    """The steps of a run in privacy mode distributed: with the noise that is left where the study says it is enough.

    Args:
        run: of the study.
        units: people of all sites together, a public number.
        longest: of a recipe's records, in mode of several local steps: these must be short enough for them.
        sums: of groups of sites, that a step is made of: each has that noise, and a rule that combines them well lets
            about the square root of their number through.

    Raises:
        AggregationError: several local steps, and no bound on records.
    """
    mu, steps = run.mu(sums * (run.sites - run.missing)), run.steps * run.local_steps
    told = with_draws(mu, run.sample_rate, units, run.dimension, steps)
    terms = descent(told, units, run.clip_norm, run.dimension, steps)._replace(sample_rate=run.sample_rate)
    if run.local_steps == 1:
        return terms
    if longest is None:
        raise AggregationError("several local steps with a recipe that does not bound its records")
    most = largest_step(units, longest, PRIOR / run.sites) * units / run.sites
    return terms._replace(rate=min(terms.rate, most), local_steps=run.local_steps)


def with_draws(mu: float, sample_rate: float, units: int, dimension: int, steps: int) -> float:
    """Signal over noise of a run with draws: the mu of a run on all units whose steps are as uncertain.

    Per step and coordinate, in clip_norms of the sum of all: steps / (q mu)^2 by noise, (1 - q) units / (q dimension)
    by the draw.
    """
    q = sample_rate
    return 1 / math.sqrt(1 / (q * mu) ** 2 + (1 - q) * units / (q * dimension * steps))


def stepped(parameters: Parameters, total: NDArray[np.float64], terms: Descent) -> Parameters:
    """One step against the noisy sum of gradients: shape (d,), in the order of `parameters.flat`.

    With local steps the sum is of the sites' ways (localsteps.py), and the new parameters are the mean of those that
    the sites came to.

    Raises:
        AggregationError: the sum is not finite.
        ContractError: another number of parameters.
    """
    if not np.isfinite(total).all():
        raise AggregationError("a sum of gradients is not finite; the round cannot be used")
    start = flat(parameters)
    return shaped(
        start - terms.rate * (total / terms.sample_rate + terms.pull * start) / terms.units, parameters
    )


def total_of(before: Parameters, after: Parameters, terms: Descent) -> NDArray[np.float64]:
    """Inverse of `stepped`: the noisy sum that led from one model to the next. Whoever sees both models knows it.

    Raises:
        ContractError: names or shapes differ.
    """
    if not same_form(before, after):
        raise ContractError("two models of other names or shapes are not one step apart")
    start = flat(before)
    of_all = (start - flat(after)) * terms.units / terms.rate - terms.pull * start
    total: NDArray[np.float64] = terms.sample_rate * of_all
    return total


def last_half(steps: int) -> range:
    """Numbers, from 1, of the steps whose parameters are averaged into the model of a run.

    Source: Polyak and Juditsky 1992, doi 10.1137/0330046; the last half instead of all (Rakhlin et al. 2012,
    arXiv:1109.5647) forgets the way there.
    """
    return range(steps // 2 + 1, steps + 1)
