"""What an audit looks at after a run with canaries: how far each was moved, and what was claimed.

Mode local promises something for each site's updates, so these are heard on their
way and opened with the hub's key. In mode distributed nobody has more of the sites
together than the opened sums, and these follow from the models after each round:
the hub's step is public arithmetic. Sums of groups do not: a robust rule hides them. There an audit takes the masks
off that sites' own keys have made, and adds up each group as the hub does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from infra.store.base import Store
from infra.store.through import Through
from simulation.canaries import COLUMN, PARAMETER, number_of
from simulation.federation import Federation
from sites.seats import Seats
from sites.settings import Site
from sites.sources import read
from tasks import layout, parameters
from tasks.aggregation.descent import last_half, total_of
from tasks.begin import load_manifest
from tasks.codes import Operation
from tasks.collect import load_parameters
from tasks.errors import ContractError
from tasks.learning.split import held_out
from tasks.parameters import Parameters
from tasks.privacy.onerun import Canaries
from tasks.privacy.shared import mechanism_of
from tasks.records import RoundRecord
from tasks.registry import site_card
from tasks.secagg.fixedpoint import Words, word_type
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import MaskStream
from tasks.secagg.onesum import Pledges, mask_seeds
from tasks.stepterms import descent_for
from tasks.study import Study

UPDATES = ("/update.safetensors", "-train/update.masked")

Moved = NDArray[np.float64]
"""Shape (canaries,): how far each canary's parameter was pulled; higher where the canary was in."""


class Heard(Through):
    """A store that keeps a copy of each update that a site puts."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.updates: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        if key.endswith(UPDATES):
            self.updates[key] = data
        self.inner.put(key, data)


def moved_by_site(hub: Hub, heard: Heard, sites: Sequence[str]) -> dict[str, Moved]:
    """Mode local. By site: how far all its updates together moved each canary's parameter."""
    cards = {site: site_card(hub, site) for site in sites}
    last: dict[tuple[str, int], bytes] = {}  # attempts repeat the same bytes
    for key, data in heard.updates.items():
        _, site, _, run, name, _ = key.split("/")
        card = cards.get(site)
        if card is not None:
            round_ = int(name[:5])
            last[site, round_] = hub.identity.decrypt(data, card, layout.update_place(run, round_))
    return {site: _moved([raw for (s, _), raw in last.items() if s == site]) for site in sites}


def _moved(updates: Sequence[bytes]) -> Moved:
    parts = [parameters.from_bytes(raw)[PARAMETER][0].astype(np.float64) for raw in updates]
    total: Moved = np.sum(parts, axis=0)
    return total


def moved_by_sums(hub: Hub, study: Study, run: str, records: Sequence[RoundRecord]) -> Moved:
    """Mode distributed: how far all opened sums of a run together pulled each canary's parameter.

    A run's last model is the mean of its last half of iterates, so its own iterate is what the others leave of it.
    Of rounds with several steps in lockstep only the last model is looked at: it holds 92 % of the mu of all sums.
    """
    if study.steps > 1:
        moved: Moved = last_model(hub, run, records)[PARAMETER][0].astype(np.float64)
        return moved
    manifest = load_manifest(hub, run)
    first = manifest.initial_parameters_sha256
    places = [(layout.parameters_key(run, 0, first), first)]
    places += [(record.parameters_key, record.parameters_sha256) for record in records]
    own, dimension = list[Any](), 0
    for place in places:
        model = parameters.from_bytes(load_parameters(hub, manifest, *place))
        own.append({PARAMETER: model[PARAMETER].astype(np.float64)})
        dimension = parameters.flat(model).size
    half = last_half(study.rounds)
    own[-1][PARAMETER] = len(half) * own[-1][PARAMETER] - sum(own[n][PARAMETER] for n in half[:-1])
    terms = descent_for(study, dimension)
    pulled: Moved = np.sum([total_of(before, after, terms) for before, after in pairwise(own)], axis=0)
    return -pulled  # a gradient points away from where it pulls


def moved_by_groups(
    federation: Federation, heard: Heard, study: Study, run: str, records: Sequence[RoundRecord]
) -> dict[str, Moved]:
    """Mode distributed with groups. By site: how far the sums of its groups together pulled each canary's parameter.

    Raises:
        ContractError: a vector that is in an opened sum cannot be read any more.
    """
    model, found = last_model(federation.hub, run, records), dict[str, Moved]()
    scale = math.ldexp(1.0, -mechanism_of(study, parameters.flat(model).size).scale_bits)
    for record in records:
        for sites in (group.sites for group in record.groups):
            words = np.sum([_unmasked(federation, heard, run, record.round, site) for site in sites], axis=0)
            total = parameters.shaped(words.view("<i8") * scale, model)[PARAMETER][0]
            for site in sites:  # a gradient points away from where it pulls
                found[site] = found.get(site, 0.0) - total.astype(np.float64)
    return found


def _unmasked(federation: Federation, heard: Heard, run: str, round_: int, site: str) -> Words:
    """The words that a site has masked in a round, by its own keys: only an audit, which plays all sites, can do it."""
    agent = federation.agents[site]
    ticket = agent.outbox.answered(run, round_, Operation.TRAIN)[-1]
    answer = agent.outbox.find(layout.ticket_name(ticket))
    update = answer.receipt.update if answer else None
    raw = update.inside if update else None
    if raw is None and answer is not None:
        raw = heard.updates.get(layout.answer_key(answer.ticket, "update.masked"))
    if answer is None or answer.bound is None or raw is None:
        raise ContractError(f"the vector of site {site!r} in round {round_} is gone; audit again")
    member = Seats(agent.site.state, run).member(answer.bound.sum.cohort_sha256)
    if member is None:
        raise ContractError(f"the keys of site {site!r} are gone; audit again")
    seeds = mask_seeds(member, Pledges(), answer.bound.sum)
    words: Words = np.frombuffer(raw, dtype=word_type(answer.bound.sum.bits)).copy()
    MaskStream(MaskSeeds(seeds.minus, seeds.plus), answer.bound.sum.bits).apply(words)
    return words


def last_model(hub: Hub, run: str, records: Sequence[RoundRecord]) -> Parameters:
    """The parameters of the last round."""
    last = records[-1]
    raw = load_parameters(hub, load_manifest(hub, run), last.parameters_key, last.parameters_sha256)
    return parameters.from_bytes(raw)


def claims(study: Study, records: Sequence[RoundRecord], dimension: int) -> dict[str, float]:
    """By site: the epsilon of the whole run against whoever sees what an audit sees.

    In mode distributed receipts count as many sites lost as a sum may lose. Where more have delivered, more noise
    was accounted, and that is held against the run.
    """
    spent = {site: one.spent for site, one in records[-1].sites.items() if one.spent}
    if study.privacy.mode != "distributed":
        return {site: one.epsilon for site, one in spent.items()}
    plan = mechanism_of(study, dimension)
    accounted = plan.views(study.privacy.delta or 0.0, delivered=fewest(records)).hub
    return {site: min(one.against.hub, accounted) for site, one in spent.items() if one.against}


def fewest(records: Sequence[RoundRecord]) -> int:
    """Sites in the smallest sum of a run."""
    return min(min(_sizes(record)) for record in records)


def _sizes(record: RoundRecord) -> Sequence[int]:
    if record.groups:
        return [len(group.sites) for group in record.groups]
    return record.lockstep.sites if record.lockstep else [len(record.cohort)]


def was_whole(site: str, study: Study, record: RoundRecord) -> bool:
    """True where a site is in every sum of a round."""
    return site in record.cohort and (study.steps == 1 or record.sites[site].steps == study.steps)


def canaries_of(study: Study, site: Site, moved: Moved) -> Canaries:
    """A site's canaries; one whose coin held it out was in no training, in or out."""
    rows = read(site.settings.sources[study.name], site.base, [COLUMN])
    coins = held_out(
        rows.n, rows.identities, study.evaluation.holdout_fraction, study.seed, site.settings.site
    )
    marks = [str(mark) for mark, held in zip(rows.table[COLUMN], coins, strict=True) if mark and not held]
    inside = np.array([mark.startswith("in-") for mark in marks], dtype=bool)
    return Canaries(inside, moved[[number_of(mark) for mark in marks]])
