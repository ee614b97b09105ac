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
from tasks.contracts import RoundRecord, RunManifest
from tasks.errors import StudyError
from tasks.study import Study


class RoundPlan(NamedTuple):
    """One round of one run.

    `base_key` and `base_sha256` name the parameters that every site starts from;
    `paused` are sites whose work pool the operator has paused.
    """

    manifest: RunManifest
    study: Study
    round: int
    base_key: str
    base_sha256: str
    asked: tuple[str, ...]
    paused: tuple[str, ...]
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
    resting = tuple(site for site in study.sites if paused(site))
    asked = tuple(site for site in sorted(study.sites) if site not in resting)
    return RoundPlan(manifest, study, number, key, digest, asked, resting, hub.now())


def _base(hub: Hub, manifest: RunManifest, number: int) -> tuple[str, str]:
    if number == 1:
        digest = manifest.initial_parameters_sha256
        return layout.parameters_key(manifest.run, 0, digest), digest
    before = hub.read(layout.commit_key(manifest.run, number - 1), RoundRecord)
    if before is None or (before.run, before.round) != (manifest.run, number - 1):
        raise StudyError(f"round {number - 1} of run {manifest.run!r} is not committed; resume the run first")
    return before.parameters_key, before.parameters_sha256
