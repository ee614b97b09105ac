"""One run of a study with canaries in it, over local files: what an audit looks at.

Hub and sites are the product's own, noise comes from the operating system. What
leaves each site is heard on its way and opened with the hub's key: the view of
a curious hub, and the most that anybody sees of a site. Everything lies in a
folder of its own, without MLflow: no version of a model is made.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infra.hub import Hub
from infra.store import open_store
from infra.store.base import MESSAGE_BYTES, Store
from infra.store.through import Through
from simulation.canaries import COLUMN, LOUD, PARAMETER, number_of, plant
from simulation.federation import Federation
from sites.settings import Site
from sites.sources import read
from tasks import layout, parameters
from tasks.begin import new_run_name
from tasks.commit import load_records
from tasks.errors import PrivacyError, StudyError
from tasks.learning.split import held_out
from tasks.parameters import Parameters
from tasks.privacy.onerun import Canaries
from tasks.registry import site_card
from tasks.study import Study

UPDATE = "/update.safetensors"
RECIPE = "simulation.canaries:WithCanaries"


class Audited(NamedTuple):
    """A run with canaries.

    canaries: of each site that delivered; those among its held-out records are left out.
    epsilon: what each of these sites says that the run has cost.
    study, sites, parameters: as they were run; the last parameters.
    """

    canaries: dict[str, Canaries]
    epsilon: dict[str, float]
    delta: float
    study: Study
    sites: list[Site]
    parameters: Parameters


class Heard(Through):
    """A store that keeps a copy of each update that a site puts."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.updates: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        if key.endswith(UPDATE):
            self.updates[key] = data
        self.inner.put(key, data)


def with_canaries(study: Study, count: int) -> Study:
    """The study as it is audited: its recipe wrapped, all sites in every round, each update by itself.

    Raises:
        StudyError: it promises nothing that could be audited, or shows no single update.
    """
    if study.privacy.mode != "local":
        raise StudyError(
            f"study {study.name!r} has privacy mode {study.privacy.mode}; an audit compares what leaves each site "
            f"with what mode local promises"
        )
    left_out = {"schedule", "cohort", "grace", "asynchronous", "secure_aggregation"}
    terms: dict[str, Any] = study.model_dump(mode="json", exclude=left_out)
    terms["aggregation"] = {"update_norm": study.aggregation.update_norm}  # what sites do of it
    length = LOUD * (study.privacy.clip_norm or 1.0)
    wrapped = {"recipe": study.recipe, "settings": study.recipe_settings, "canaries": count, "length": length}
    return Study.model_validate(terms | {"recipe": RECIPE, "recipe_settings": wrapped})


def run_audited(
    study: Study,
    sites: Sequence[Site],
    count: int,
    folder: Path,
    coins: random.Random | None = None,
    watch: Any = lambda _hub, _run: nullcontext(),
    seeded_noise: bool = False,
) -> Audited:
    """Run a study once with `count` canaries, spread evenly over its sites.

    Args:
        study: as its file says.
        sites: its sites, in any order.
        count: canaries in all.
        folder: an empty one; what is written there can be thrown away.
        coins: who is in; None: from the operating system.
        watch: gives a context manager that shows how the run goes on.
        seeded_noise: for tests that want the same result each time.

    Raises:
        StudyError: the study has nothing to audit.
        PrivacyError: no site delivered in every round.
        FederationError: whatever ends a run.
    """
    audited = with_canaries(study, count)
    planted = _planted(audited, sites, count, folder, coins or secrets.SystemRandom())
    heard = Heard(open_store((folder / "store").absolute().as_uri()))
    federation = Federation(folder, planted, heard, seeded_noise=seeded_noise)
    hub, run = federation.hub, new_run_name(study.name, federation.hub.now())
    shown: AbstractContextManager[None] = watch(hub, run)
    with shown:
        federation.run(audited, run)
    records = load_records(hub, run)
    there = [site for site in planted if all(site.settings.site in record.cohort for record in records)]
    if not there:
        raise PrivacyError(
            "no site delivered in every round: its canaries would prove nothing; see why it refused"
        )
    sums = _sums(hub, heard, [site.settings.site for site in there])
    last = hub.store.get(records[-1].parameters_key, MESSAGE_BYTES * 1000)
    return Audited(
        {site.settings.site: _canaries(audited, site, sums[site.settings.site]) for site in there},
        {
            s.settings.site: spent.epsilon
            for s in there
            if (spent := records[-1].sites[s.settings.site].spent)
        },
        audited.privacy.delta or 0.0,
        audited,
        there,
        parameters.from_bytes(last or b""),
    )


def _planted(
    study: Study, sites: Sequence[Site], count: int, folder: Path, coins: random.Random
) -> list[Site]:
    """The sites with a copy of their table that has canaries in it."""
    tables = folder / "tables"
    tables.mkdir(parents=True, mode=0o700)
    planted = []
    for i, site in enumerate(sites):
        source = site.settings.sources.get(study.name)
        if source is None:
            raise StudyError(f"site {site.settings.site!r} has no source for study {study.name!r}; add it")
        numbers = range(i * count // len(sites), (i + 1) * count // len(sites))
        copy = plant(source, site.base, numbers, tables / f"{site.settings.site}.csv", coins)
        planted.append(
            replace(site, settings=site.settings.model_copy(update={"sources": {study.name: copy}}))
        )
    return planted


def _sums(hub: Hub, heard: Heard, sites: Sequence[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """By site: how far all its updates together moved each canary's parameter."""
    cards = {site: site_card(hub, site) for site in sites}
    last: dict[tuple[str, int], bytes] = {}  # attempts repeat the same bytes
    for key, data in heard.updates.items():
        _, site, _, run, name, _ = key.split("/")
        card = cards.get(site)
        if card is not None:
            round_ = int(name[:5])
            last[site, round_] = hub.identity.decrypt(data, card, layout.update_place(run, round_))
    return {
        site: np.sum(
            [
                parameters.from_bytes(raw)[PARAMETER][0].astype(np.float64)
                for (s, _), raw in last.items()
                if s == site
            ],
            axis=0,
        )
        for site in sites
    }


def _canaries(study: Study, site: Site, moved: np.ndarray[Any, np.dtype[np.float64]]) -> Canaries:
    """A site's canaries; one whose coin held it out was in no training, in or out."""
    rows = read(site.settings.sources[study.name], site.base, [COLUMN])
    coins = held_out(
        rows.n, rows.identities, study.evaluation.holdout_fraction, study.seed, site.settings.site
    )
    marks = [str(mark) for mark, held in zip(rows.table[COLUMN], coins, strict=True) if mark and not held]
    inside = np.array([mark.startswith("in-") for mark in marks], dtype=bool)
    return Canaries(inside, moved[[number_of(mark) for mark in marks]])
