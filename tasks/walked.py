"""Hub: the committed steps of a round in lockstep, and what comes out of them.

Each step is committed by one conditional write, so that a hub that starts anew,
or a second one, goes on with the same. When the round is committed its record
says what an audit needs, and the steps are taken away (tidy).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from tasks import layout, parameters
from tasks.aggregation.descent import last_half
from tasks.beats import Given, Stepped
from tasks.codes import Code
from tasks.contracts import Ticket
from tasks.errors import ContractError
from tasks.parameters import Parameters
from tasks.records import Steps, Summed
from tasks.study import Study

MOST_BYTES = 2**33  # of parameters


@dataclass
class Walk:
    """How far the steps of a round have come. `raw`: parameters after the last one, or those it starts from.

    `tail` is the sum of those parameters that are averaged into the model of the run, shape (d,), float64.
    """

    study: Study
    run: str
    round: int
    raw: bytes
    sites: list[int] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    sums: dict[str, frozenset[str]] = field(default_factory=dict)  # of each sum: whose vectors are in it
    last: str | None = None  # digest of the last commit
    survivors: str | None = None  # digest of its list
    there: frozenset[str] | None = None  # the sites on it
    tail: NDArray[np.float64] | None = None

    @property
    def done(self) -> int:
        """Steps that are committed."""
        return len(self.sites)

    @property
    def over(self) -> bool:
        return self.done >= self.study.steps

    @property
    def sha256(self) -> str:
        """Of the parameters that the next step starts from."""
        return parameters.sha256(self.raw)

    def add(self, stepped: Stepped, raw: bytes) -> None:
        """Take in the next committed step."""
        self.raw, self.last, self.survivors = raw, stepped.sha256, stepped.survivors.sha256
        self.sites.append(len(stepped.survivors.masked))
        self.moved.append(stepped.moved)
        self.there = self.sums[stepped.survivors.sum_sha256] = frozenset(stepped.survivors.masked)
        if (self.round - 1) * self.study.steps + self.done in averaged(self.study):
            flat = parameters.flat(parameters.from_bytes(raw))
            self.tail = flat.copy() if self.tail is None else self.tail + flat

    def steps_of(self, site: str) -> int:
        """In how many of the steps a site's gradients are."""
        return sum(site in there for there in self.sums.values())

    @property
    def summary(self) -> Steps:
        """Raises ContractError: no step is committed."""
        if self.last is None:
            raise ContractError(f"round {self.round} of {self.run} has no committed step")
        tail = None if self.tail is None else hashlib.sha256(self.tail.tobytes()).hexdigest()
        return Steps(sites=tuple(self.sites), moved=tuple(self.moved), sha256=self.last, tail_sha256=tail)


@dataclass(frozen=True)
class Walked:
    """A round whose steps are over.

    `lost`: sites that are not in it any more, and why. `late`: those that were not in the last step.
    """

    walk: Walk
    tickets: dict[str, Ticket]
    lost: Mapping[str, Code]
    late: frozenset[str]
    summed: Summed  # how the last of them was added


def averaged(study: Study) -> range:
    """Numbers, from 1, of the steps of a whole run whose parameters are averaged into its model."""
    return last_half(study.rounds * study.steps)


def walk_of(hub: Hub, study: Study, run: str, round_: int, raw: bytes) -> Walk:
    """The steps of a round that are committed; `raw` are the parameters that the round starts from.

    Raises:
        ContractError: the store has lost one, or shows another in its place.
    """
    walk = Walk(study, run, round_, raw)
    while not walk.over:
        found = hub.read(layout.step_key(run, round_, walk.done + 1), Stepped)
        if found is None:
            break
        take(hub, walk, found)
    return walk


def take(hub: Hub, walk: Walk, stepped: Stepped) -> None:
    """Add a committed step. Raises ContractError: it is not the next one, or its parameters are gone."""
    place = (walk.run, walk.round, walk.done + 1, walk.last)
    if (stepped.run, stepped.round, stepped.step, stepped.before) != place:
        raise ContractError(
            f"step {walk.done + 1} of round {walk.round} of {walk.run} is not the one that follows; restore "
            f"{hub.store_url} from its backup"
        )
    walk.add(stepped, _given(hub, stepped.given))


def _given(hub: Hub, given: Given) -> bytes:
    raw = given.inline if given.key is None else hub.store.get(given.key, MOST_BYTES)
    if raw is None or parameters.sha256(raw) != given.sha256:
        raise ContractError(
            f"the parameters of a step are missing or altered; restore {hub.store_url} from its backup"
        )
    return raw


def keep_tail(hub: Hub, walk: Walk) -> None:
    """Keep the round's part of the average, until the run's end. Safe to repeat."""
    if walk.tail is not None:
        hub.store.put_if_absent(layout.tail_key(walk.run, walk.round), walk.tail.tobytes())


def mean_of_tails(hub: Hub, walk: Walk, before: Mapping[int, Steps | None], base: Parameters) -> Parameters:
    """The model of a run: the mean of the parameters after its last half of steps, in the form of `base`.

    `before` are the earlier rounds that have steps in that half.

    Raises:
        ContractError: the store has lost one, or holds another.
    """
    size = parameters.flat(base).size
    total = np.zeros(size) if walk.tail is None else walk.tail.copy()
    for number, steps in before.items():
        raw = hub.store.get(layout.tail_key(walk.run, number), 8 * size)
        wanted = steps.tail_sha256 if steps else None
        if raw is None or hashlib.sha256(raw).hexdigest() != wanted:
            raise ContractError(
                f"the steps of round {number} of {walk.run} are gone; restore the store from its backup"
            )
        total += np.frombuffer(raw, dtype=np.float64)
    return parameters.shaped(total / len(averaged(walk.study)), base)


def rounds_averaged(study: Study) -> range:
    """The rounds that have steps in the last half of a run."""
    return range(math.ceil(averaged(study).start / study.steps), study.rounds + 1)


def tidy(hub: Hub, run: str, number: int) -> None:
    """Take away the steps of all rounds up to `number`: these are committed."""
    for prefix in (layout.lockstep_prefix(run), layout.steps_prefix(run)):
        for key in hub.store.list(prefix):
            round_ = layout.round_of_step(key, run)
            if round_ is not None and round_ <= number:
                hub.store.delete(key)
