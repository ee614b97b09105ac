"""One run of a study with canaries in it, over local files.

Hub and sites are the product's own, noise comes from the operating system. What
an audit looks at of such a run is in observed.py: all that a curious hub sees of
the sites. Everything lies in a folder of its own, without MLflow: no version of a
model is made.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from infra.store import open_store
from simulation.canaries import LOUD, plant
from simulation.federation import Federation
from simulation.observed import (
    Heard,
    canaries_of,
    claims,
    fewest,
    last_model,
    moved_by_groups,
    moved_by_site,
    moved_by_sums,
    was_whole,
)
from sites.settings import Site
from tasks.begin import new_run_name
from tasks.commit import load_records
from tasks.errors import PrivacyError, StudyError
from tasks.parameters import Parameters, flat
from tasks.privacy.onerun import Canaries
from tasks.study import Study

RECIPE = "simulation.canaries:WithCanaries"


class Audited(NamedTuple):
    """A run with canaries.

    canaries: of each site that delivered; those among its held-out records are left out.
    epsilon: what is claimed for each of these sites' people, against whom `against` says.
    study, sites, parameters: as they were run; the last parameters.
    """

    canaries: dict[str, Canaries]
    epsilon: dict[str, float]
    against: str
    delta: float
    study: Study
    sites: list[Site]
    parameters: Parameters


def with_canaries(study: Study, count: int) -> Study:
    """The study as it is audited: its recipe wrapped, all sites in every round; in mode local each update by itself.

    Raises:
        StudyError: it promises nothing that could be audited.
    """
    if study.privacy.mode == "none":
        raise StudyError(
            f"study {study.name!r} has privacy mode none: it promises nothing that an audit could refute"
        )
    left_out = {"schedule", "cohort", "grace", "asynchronous", "start"}  # a wrapped model begins at its own
    if study.privacy.mode == "local":
        left_out.add("secure_aggregation")
    terms: dict[str, Any] = study.model_dump(mode="json", exclude=left_out)
    if study.privacy.mode == "local":
        terms["aggregation"] = {"update_norm": study.aggregation.update_norm}  # what sites do of it
    if (
        study.local_steps > 1
    ):  # canaries are records too, and no site may have more than the steps are made for
        terms["privacy"]["people"] += count
    length = LOUD * (study.privacy.most_clip or 1.0)
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
    there = [site for site in planted if all(was_whole(site.settings.site, audited, r) for r in records)]
    if not there:
        raise PrivacyError(
            "no site delivered in every round: its canaries would prove nothing; see why it refused"
        )
    names, last = [site.settings.site for site in there], last_model(hub, run, records)
    if audited.aggregation.groups:
        moved = moved_by_groups(federation, heard, audited, run, records)
        against = f"the hub, which sees sums of groups of {fewest(records)} sites"
    elif audited.privacy.mode == "distributed":
        moved = dict.fromkeys(names, moved_by_sums(hub, audited, run, records))
        against = f"the hub, which sees sums of {fewest(records)} sites"
    else:
        moved, against = moved_by_site(hub, heard, names), "everybody"
    claimed = claims(audited, records, flat(last).size)
    return Audited(
        {site.settings.site: canaries_of(audited, site, moved[site.settings.site]) for site in there},
        {name: claimed[name] for name in names},
        against,
        audited.privacy.delta or 0.0,
        audited,
        there,
        last,
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
