"""Hub: add the vectors that sites have masked, and take off what opening.py has opened: nothing but their sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from infra.orchestrator import step
from tasks import parameters
from tasks.codes import Code
from tasks.collect import Collected, load_parameters
from tasks.errors import ContractError, SecureSumError
from tasks.follow import Answer
from tasks.masked import load_masked, update_sum
from tasks.opening import Opening
from tasks.parameters import Parameters
from tasks.plan import RoundPlan
from tasks.quorum import too_few
from tasks.records import Summed
from tasks.rules import Aggregation
from tasks.seats import Seats
from tasks.secagg.fixedpoint import Words, numbers_in, word_type
from tasks.secagg.groups import Part
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import MaskStream
from tasks.secagg.messages import SumTerms, Survivors
from tasks.walked import Walked


class Total(NamedTuple):
    """What was opened: the words of each sum by the sites in it (one sum, or one for each group), and how."""

    parts: dict[tuple[str, ...], Words]
    scale_bits: int  # a word counts 2**-scale_bits
    summed: Summed

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose vectors are in it."""
        return tuple(sorted(site for part in self.parts for site in part))

    @property
    def words(self) -> Words:
        """Of the one sum that there is."""
        (words,) = self.parts.values()
        return words


@step(name="open")
def open_updates(
    hub: Hub,
    plan: RoundPlan,
    seats: Seats | None,
    collected: Collected,
    walked: Walked | None = None,
) -> tuple[Collected, Total | None]:
    """The sum of a round's updates, and the answers with those marked that came too late for it.

    None, and the answers as they are, where the hub has each update by itself, or the round's sums are open (`walked`).

    Raises:
        QuorumError: too few sites are there to agree or to open.
    """
    if seats is None or walked is not None:
        return collected, None
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    sum_ = update_sum(plan, seats, parameters.from_bytes(raw))
    good = {site: answer for site, answer in collected.answers.items() if answer.ok}
    try:
        total = add_up(Opening(hub, plan, seats, sum_), good)
    except SecureSumError as exc:
        raise too_few(hub, plan, len(good), (), f"secure sum of update: {exc}") from exc
    late = {site: good[site]._replace(code=Code.TOO_LATE) for site in good if site not in total.sites}
    return collected._replace(answers=collected.answers | late), total


def add_up(opening: Opening, answers: Mapping[str, Answer]) -> Total:
    """The sum of the vectors that `answers` have delivered, or of those that were listed before.

    `answers` are verified, by site; each names its masked vector.

    Raises:
        SecureSumError: too few sites are there to agree or to open; the same call goes on when they are back.
    """
    survivors, recovered = opening.play(answers)
    parts = {
        part: _total(opening.hub, answers, survivors, part, seeds, opening.sum)
        for part, seeds in recovered.parts.items()
    }
    return Total(parts, opening.sum.scale_bits, opening.seats.summed(survivors.sha256))


def mean_of(total: Total, base: Parameters, terms: Aggregation) -> Parameters:
    """The mean of the vectors in an opened sum, in the form of `base`: float32, its arrays in the order of names."""
    return _decoded(total.words, total.scale_bits, base, counted(total, terms))


def counted(total: Total, terms: Aggregation) -> float:
    """What the sites in an opened sum count together: each one, or as they say in it."""
    sites = len(total.sites)
    if terms.weights is None:
        return sites
    word = total.words[-terms.said :][:1]
    return terms.weights.together(float(numbers_in(word, total.scale_bits)[0]), sites)


def sums_of(total: Total, base: Parameters) -> Iterator[tuple[Part, Parameters]]:
    """Each group with the sum of its sites' updates, one after another."""
    for part, words in total.parts.items():
        yield part, _decoded(words, total.scale_bits, base)


def share_within(total: Total) -> float:
    """Of the sites, how many were within a bound that adapts, as the last word of a sum says; in [0, 1].

    Of groups the median: a site that lies there leads its own group alone.
    """
    shares = (
        float(numbers_in(words[-1:], total.scale_bits, len(part))[0]) for part, words in total.parts.items()
    )
    return median(min(max(share, 0.0), 1.0) for share in shares)


def _decoded(words: Words, scale_bits: int, base: Parameters, count: float = 1) -> Parameters:
    """What words stand for, divided by `count`, in the form of `base`."""
    found, start = {}, 0
    for name in sorted(base):
        size = base[name].size
        part = numbers_in(words[start : start + size], scale_bits, count)
        found[name], start = part.astype(np.float32).reshape(base[name].shape), start + size
    return found


def numbers_of(total: Total) -> NDArray[np.float64]:
    """The sum that an opened sum stands for: shape (d,)."""
    return numbers_in(total.words, total.scale_bits)


def _total(
    hub: Hub,
    answers: Mapping[str, Answer],
    survivors: Survivors,
    part: tuple[str, ...],
    seeds: MaskSeeds,
    sum_: SumTerms,
) -> Words:
    """The words of one sum. Two vectors are in memory, however many sites there are."""
    kind = word_type(sum_.bits)
    total: Words = np.zeros(sum_.length, dtype=kind)
    for site in part:
        digest = survivors.masked[site]
        raw = load_masked(hub, answers.get(site), sum_.vector_bytes)
        if parameters.sha256(raw) != digest:
            raise ContractError(f"the vector of site {site!r} is not the one that the sites agreed to")
        np.add(total, np.frombuffer(raw, dtype=kind), out=total)
    MaskStream(seeds, sum_.bits).apply(total)
    return total
