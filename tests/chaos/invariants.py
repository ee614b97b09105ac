"""What holds after every run, whatever happened in it.

1. The run is finished, every round is committed once, and lease numbers in the commits never go back.
2. Every site is in every round, and the parameters after each round are those of
   a simulation with the same seeds in which the same attempts failed. Where no
   attempt failed that is the undisturbed run. (A failed attempt's noise must never
   be used again; so the next attempt has noise of its own, and other parameters.)
3. Each site's epsilon in each record is that of the same simulation: at most the study's.
4. The ledger has one charged entry for each update that left, and at most one more reservation
   for each process that the site lost; none where it lost none.
5. Ledger and audit log verify, and whatever left has its signed record; no ticket is left; no process is left of
   one that ended.
6. Where there is an MLflow, it shows the run once, each round as one model version with the
   committed parameters, each site's child run once; no flow run in Prefect seems to go on.
7. In rounds in lockstep each site is in every step, and has masked one vector for each, whatever fell.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.errors import InfraError, SealError
from sites.auditread import verified
from sites.egressfile import noted_egress
from sites.job import JOB, InlineRunner, TrainJob, Watch, _job, work
from sites.journal import bounds_of
from sites.ledger import Ledger, Row
from sites.settings import load_site
from tasks import layout
from tasks.commit import load_records
from tasks.contracts import Code, Receipt, RoundRecord, RunEnd
from tasks.errors import RefusedError
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tasks.study import Study
from tests.chaos.world import World
from tests.federation import SITES, a_federation

Failed = frozenset[tuple[str, int, int]]  # site, round, attempt


def violations(world: World) -> list[str]:
    """Sentences; none where everything holds."""
    records = load_records(world.hub, world.run)
    rows = {site: _rows(world, site) for site in SITES}
    found = list(_finished(world, records))
    if not found:
        found += _as_simulated(world, records, _failed(rows))
        found += world.views(records)
    for site in SITES:
        found += _ledger(world, site, rows[site])
        found += _noted(world, site)
        if world.study.steps > 1:
            found += _steps(world, site, records)
    found += _nothing_left(world)
    return found


def _finished(world: World, records: list[RoundRecord]) -> Iterable[str]:
    end = world.hub.read(layout.ended_key(world.run), RunEnd)
    if end is None or end.state != "finished":
        yield f"run {world.run} has no end"
    if [r.round for r in records] != list(range(1, world.study.rounds + 1)):
        yield f"rounds {[r.round for r in records]} are committed"
    fences = [r.fence for r in records]
    if fences != sorted(fences) or 0 in fences:
        yield f"lease numbers of the commits go back: {fences}"


def _as_simulated(world: World, records: list[RoundRecord], failed: Failed) -> Iterable[str]:
    for ours, theirs in zip(records, simulated(world.study, failed), strict=True):
        if ours.cohort != theirs.cohort:
            why = {site: str(s.code) for site, s in ours.sites.items() if s.code}
            yield f"round {ours.round}: the cohort is {ours.cohort} ({why})"
        if ours.parameters_sha256 != theirs.parameters_sha256:
            yield f"round {ours.round}: other parameters than in a simulation without {sorted(failed)}"
        for site, said in ours.sites.items():
            if said.spent != theirs.sites[site].spent:
                yield f"round {ours.round}: site {site} says {said.spent}, simulated {theirs.sites[site].spent}"


def _ledger(world: World, site: str, rows: list[Row]) -> Iterable[str]:
    prefix = f"sites/{site}/out/{world.run}/"
    left = {
        (int(key.removeprefix(prefix)[:5]), hashlib.sha256(world.hub.store.get(key) or b"").hexdigest())
        for key in world.hub.store.list(prefix)
        if key.endswith(("-train/update.safetensors", "-train/update.masked"))
    } | set(_inside(world, site, prefix))
    charged = [row.entry.round for row in rows if row.state == "charged"]
    if sorted(charged) != sorted(round_ for round_, _ in left):
        yield f"site {site}: updates of rounds {sorted(r for r, _ in left)} left, charged are {sorted(charged)}"
    lost = len(rows) - len(charged)
    if lost > world.lost[site]:
        yield f"site {site}: {lost} reservations came to nothing, and {world.lost[site]} of its processes were lost"


def _inside(world: World, site: str, prefix: str) -> Iterable[tuple[int, str]]:
    """Rounds and digests of the vectors that a site's receipts carry."""
    for key in world.hub.store.list(prefix):
        if key.endswith("-train/receipt.json"):
            raw, card = world.hub.store.get(key), site_card(world.hub, site)
            receipt = open_from_site(world.hub, raw, Receipt, card, key) if raw else None
            if receipt and receipt.update and receipt.update.inside:
                yield receipt.round, hashlib.sha256(receipt.update.inside).hexdigest()


def _noted(world: World, site: str) -> Iterable[str]:
    try:
        noted_egress(_state(world, site), site)
    except (InfraError, SealError) as exc:
        yield f"site {site}: {exc}"


def _steps(world: World, site: str, records: list[RoundRecord]) -> Iterable[str]:
    vectors: dict[tuple[int, int], set[str]] = {}
    for round_, bound in bounds_of(_state(world, site) / "outbox", world.run):
        vectors.setdefault((round_, bound.sum.step), set()).add(bound.pledge.masked_sha256)
    twice = sorted(step for step, digests in vectors.items() if len(digests) > 1)
    if twice:
        yield f"site {site}: masked more than one vector for {twice}"
    for record in records:
        there = record.sites[site].steps
        if there != world.study.steps:
            yield f"round {record.round}: site {site} is in {there} of {world.study.steps} steps"
        if {(record.round, n + 1) for n in range(world.study.steps)} - vectors.keys():
            yield f"round {record.round}: site {site} knows not all of its steps"


def _state(world: World, site: str) -> Path:
    return load_site(world.folder / "files" / f"{site}.yaml").state


def _nothing_left(world: World) -> Iterable[str]:
    for site in SITES:
        tickets = world.hub.store.list(layout.tickets_of_run(site, world.run))
        if tickets:
            yield f"tickets are left: {tickets}"
    until = time.monotonic() + 5
    while world.orphans() and time.monotonic() < until:
        time.sleep(0.05)
    if world.orphans():
        yield f"processes are left: {world.orphans()}"


def _rows(world: World, site: str) -> list[Row]:
    """The ledger's entries of the run, and with them a check of its chain and of the audit log's."""
    state = _state(world, site)
    verified(state, site)
    ledger = Ledger(state, site=site, read_only=True)
    try:
        return [row for row in ledger.rows() if row.entry.run == world.run]
    finally:
        ledger.close()


def _failed(rows: dict[str, list[Row]]) -> Failed:
    """Attempts before the one that was charged."""
    charged = [
        (s, r.entry.round, r.entry.attempt)
        for s, found in rows.items()
        for r in found
        if r.state == "charged"
    ]
    return frozenset((site, round_, a) for site, round_, attempt in charged for a in range(1, attempt))


class _Failing(InlineRunner):
    """Does jobs inline; the training of chosen attempts fails after its privacy was reserved."""

    def __init__(self, failed: Failed):
        self._failed = failed

    def run(self, folder: Path, watch: Watch) -> None:
        job = _job.validate_json((folder / JOB).read_bytes())
        if isinstance(job, TrainJob) and (job.site, job.round, job.attempt) in self._failed:
            raise RefusedError(Code.TRAINING_FAILED, "as in the run that is compared")
        work(folder, watch)


@cache
def _simulated(study_json: str, failed: Failed) -> tuple[RoundRecord, ...]:
    study = Study.model_validate_json(study_json)
    with TemporaryDirectory(prefix="chaos-simulated-") as folder:
        federation = a_federation(Path(folder), **{site: {"epsilon": 10_000.0} for site in SITES})
        for agent in federation.agents.values():
            agent.runner = _Failing(failed)
        return tuple(load_records(federation.hub, federation.run(study)))


def simulated(study: Study, failed: Failed) -> tuple[RoundRecord, ...]:
    """The records of a run in which exactly these attempts failed."""
    return _simulated(study.model_dump_json(), failed)
