"""Hub: fix every number of a round before the first byte moves.

A plan is a view on the store: the run's manifest and the last committed round
say all there is to say. Who is really asked, with which ticket, is dispatch.py's
work.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import paused, step
from tasks import layout
from tasks.begin import load_manifest, load_study
from tasks.codes import Code, Operation
from tasks.contracts import RunManifest, Ticket
from tasks.errors import StudyError
from tasks.recent import recent_records
from tasks.records import RoundRecord
from tasks.selection import draw, lookback, resting
from tasks.staleness import carried
from tasks.study import Study
from tasks.tickets import last_ticket


class RoundPlan(NamedTuple):
    """One round of one run.

    `base_key` and `base_sha256` name the parameters that every site starts from;
    `drawn` is the cohort as the study draws it, `left_out` says who does not take part in this round without
    being asked, and why; `asked` are the others of the cohort. The round has `enough` with so many updates
    (None: it waits for all). `update_norm` bounds each of them. `carried` are tickets of earlier rounds whose
    updates may still go into this one.
    """

    manifest: RunManifest
    study: Study
    round: int
    base_key: str
    base_sha256: str
    drawn: tuple[str, ...]
    asked: tuple[str, ...]
    left_out: dict[str, Code]
    enough: int | None
    update_norm: float | None
    carried: dict[str, Ticket]
    began_at: float


@step(name="plan")
def plan_round(hub: Hub, run: str, number: int) -> RoundPlan:
    """Plan round `number` of a run.

    Raises:
        StudyError: the round lies outside the study, or the one before it is not committed.
    """
    manifest = load_manifest(hub, run)
    study = load_study(hub, manifest)
    if not 1 <= number <= study.rounds:
        raise StudyError(f"study {study.name!r} has rounds 1 to {study.rounds}, got {number}")
    key, digest = _base(hub, manifest, number)
    tired = resting(study, recent_records(hub, run, number, lookback(study)), number)
    drawn = draw(study, run, number, tired)
    earlier = _carried(hub, study, run, recent_records(hub, run, number, 1))
    left_out = dict.fromkeys(tired, Code.COOLING_DOWN)
    left_out |= {site: Code.PAUSED_BY_HUB for site in drawn if paused(site)}
    busy = earlier if study.asynchronous else {}
    asked = tuple(site for site in drawn if site not in left_out and site not in busy)
    enough = study.cohort.size(len(study.sites)) if study.cohort.over_select else None
    enough = study.asynchronous.buffer if study.asynchronous else enough
    bound = _bound(study, recent_records(hub, run, number, 1))
    began_at = hub.now()
    return RoundPlan(
        manifest, study, number, key, digest, drawn, asked, left_out, enough, bound, earlier, began_at
    )


def _bound(study: Study, last: list[RoundRecord]) -> float | None:
    """What no update of the round may pass: where it adapts, as the last round has left it."""
    terms = study.aggregation
    if terms.adaptive is None:
        return terms.bound(None)
    if not last or last[-1].update_norm is None or last[-1].within is None:
        return terms.adaptive.start
    return terms.adaptive.after(last[-1].update_norm, last[-1].within)


def _carried(hub: Hub, study: Study, run: str, records: list[RoundRecord]) -> dict[str, Ticket]:
    """The tickets that the last round left in mailboxes for this one; one that the store lost is lost."""
    found: dict[str, Ticket] = {}
    for site, round_ in carried(study, records).items():
        ticket = last_ticket(hub, run, site, round_, Operation.TRAIN)
        if ticket is not None:
            found[site] = ticket
    return found


def _base(hub: Hub, manifest: RunManifest, number: int) -> tuple[str, str]:
    if number == 1:
        digest = manifest.initial_parameters_sha256
        return layout.parameters_key(manifest.run, 0, digest), digest
    before = hub.read(layout.commit_key(manifest.run, number - 1), RoundRecord)
    if before is None or (before.run, before.round) != (manifest.run, number - 1):
        raise StudyError(f"round {number - 1} of run {manifest.run!r} is not committed; resume the run first")
    return before.parameters_key, before.parameters_sha256
