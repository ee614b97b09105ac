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

Where a site may stay away (losing.py) the second says: each round and step has three sites or more, and what is not of
all has the parameters of a simulation that lost the same site in the same rounds or steps, as far as the records
tell which. The third holds for all who answered, and the fourth says: whatever left is paid for, once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from infra.errors import InfraError, SealError
from sites.auditread import verified
from sites.egressfile import noted_egress
from sites.journal import bounds_of
from sites.ledger import Ledger, Row
from sites.settings import load_site
from tasks import layout
from tasks.commit import load_records
from tasks.contracts import Receipt
from tasks.records import RoundRecord, RunEnd
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tests.chaos.simulated import Failed, missing_in, simulated
from tests.chaos.world import World


def violations(world: World) -> list[str]:
    """Sentences; none where everything holds."""
    records = load_records(world.hub, world.run)
    rows = {site: _rows(world, site) for site in world.study.sites}
    found = list(_finished(world, records))
    if not found:
        found += (_as_simulated_with_less if world.loses else _as_simulated)(world, records, _failed(rows))
        found += world.views(records)
    for site in world.study.sites:
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


def _as_simulated_with_less(world: World, records: list[RoundRecord], failed: Failed) -> Iterable[str]:
    least, limit = world.study.needed, world.study.privacy.epsilon or 0.0
    for record in records:
        counts = record.lockstep.sites if record.lockstep else (len(record.cohort),)
        if min(counts) < least:
            yield f"round {record.round}: sums of {counts} sites, {least} are needed"
        spent = {site: said.spent for site, said in record.sites.items() if said.spent}
        for site, one in spent.items():
            if one.epsilon > limit * (1 + 1e-6):
                yield f"round {record.round}: site {site} says epsilon {one.epsilon}, the study {limit}"
        for site in record.cohort:
            if site not in spent:
                yield f"round {record.round}: site {site} took part and shows no epsilon"
    without = missing_in(world.study, records)
    if without is None:
        return  # several sites were away in steps of one round: nobody wrote down which in which
    for ours, theirs in zip(records, simulated(world.study, failed, without), strict=True):
        if ours.parameters_sha256 != theirs.parameters_sha256:
            yield (
                f"round {ours.round}: other parameters than in a simulation without {sorted(failed)} that lost "
                f"{sorted(without)}"
            )


def _ledger(world: World, site: str, rows: list[Row]) -> Iterable[str]:
    prefix = f"sites/{site}/out/{world.run}/"
    left = {
        (int(key.removeprefix(prefix)[:5]), hashlib.sha256(world.hub.store.get(key) or b"").hexdigest())
        for key in world.hub.store.list(prefix)
        if key.endswith(("-train/update.safetensors", "-train/update.masked"))
    } | set(_inside(world, site, prefix))
    charged = [row.entry.round for row in rows if row.state == "charged"]
    rounds = sorted(round_ for round_, _ in left)
    whole = sorted(charged) == rounds
    if world.loses:  # a vector that is wanted no more stays, and of steps each has left by itself
        whole = (
            len(set(charged)) == len(charged)
            and len(set(rounds)) == len(rounds)
            and set(rounds) <= set(charged)
        )
    if not whole:
        yield f"site {site}: updates of rounds {rounds} left, charged are {sorted(charged)}"
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
    for record in records if not world.loses else ():
        there = record.sites[site].steps
        if there != world.study.steps:
            yield f"round {record.round}: site {site} is in {there} of {world.study.steps} steps"
        if {(record.round, n + 1) for n in range(world.study.steps)} - vectors.keys():
            yield f"round {record.round}: site {site} knows not all of its steps"


def _state(world: World, site: str) -> Path:
    return load_site(world.folder / "files" / f"{site}.yaml").state


def _nothing_left(world: World) -> Iterable[str]:
    for site in world.study.sites:
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
