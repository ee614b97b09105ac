"""Hub: show a run in MLflow; every round becomes a model version.

Experiment = study, parent run = run, one child run per site, step = round. The
store is the truth and MLflow a view on it: each verb may be repeated after a
fall at any point and finds what is there. What MLflow shows in words and
figures is in modelcard.py, how a model's files look in infra/modelfiles.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from infra.hub import Hub
from infra.modelfiles import write_model_files
from infra.orchestrator import step
from infra.tracking import NOTE, Model, Version
from tasks import layout, modelcard
from tasks.collect import load_parameters
from tasks.contracts import RunManifest
from tasks.recipes import load_recipe
from tasks.records import Registered, RoundRecord
from tasks.study import Study
from tasks.trackedrun import ANONYMOUS, CHAMPION, TrackedRun, forget, is_known, points_of, tracked

LOADER = "flows.predictor"  # named, not imported: it runs where somebody predicts
CALLS = 8  # to MLflow in a short round, whatever the number of sites, rounds and metrics
REGISTRATION = 7  # of them: model, 3 files, ready, metrics, version; an eighth where the champion changes
RETRIES, RETRY_DELAY_S = 3, 3.0  # what a restart of MLflow takes
TABLE_EVERY = 5  # rounds, in short ones: each time one site's batch waits a round longer
SECONDS_PER_BATCH = 5.0  # for each of these a longer round may add one site's batch (0.02 s)


@step(name="open run", retries=RETRIES, retry_delay_s=RETRY_DELAY_S)
def open_run(hub: Hub, study: Study, manifest: RunManifest) -> None:
    """Make the experiment, the runs and the registered model, or find them; a run that had ended goes on.

    Raises:
        ServiceError: MLflow does not answer.
    """
    if hub.mlflow_url is None:
        return
    with tracked(hub, study, manifest) as run:
        columns = load_recipe(study.recipe, study.recipe_settings).columns()
        about = {"study": study.name, "recipe": study.recipe}
        run.tracking.registered_model(study.name, modelcard.study_card(study, columns), about)
        if run.parent.tags.get("state", "RUNNING") != "RUNNING":
            for each in (run.parent, *run.children.values()):
                run.tracking.set_state(each.id, "RUNNING")
        tags = {NOTE: modelcard.run_card(study, manifest, None), "state": "RUNNING"}
        run.tracking.log(run.parent.id, params=modelcard.settings(study), tags=tags)
        run.parent.tags.update(tags)


@step(name="register", retries=RETRIES, retry_delay_s=RETRY_DELAY_S)
def register(hub: Hub, study: Study, manifest: RunManifest, record: RoundRecord) -> int | None:
    """Make the round a model version and return its number; None where the hub has no MLflow.

    Takes at most CALLS calls, and in a long round one more for each SECONDS_PER_BATCH. A child run gets its
    points in batches, when a call is left for it, and all of them when the run is closed.

    Raises:
        ServiceError: MLflow does not answer.
        ContractError: the store lost the round's parameters.
    """
    if hub.mlflow_url is None:
        return None
    marker = layout.registered_key(record.run, record.round)
    known = hub.read(marker, Registered)
    if known is not None:
        return known.model_version
    with tracked(hub, study, manifest) as run:
        run.add(record)
        made = _find_version(run, record) or _make_version(hub, run, study, manifest, record)
        calls = REGISTRATION + _crown(run, study, made)
        _tell(run, record, CALLS - calls + int(record.seconds / SECONDS_PER_BATCH))
    hub.write_once(marker, Registered(run=record.run, round=record.round, model_version=made.number))
    return made.number


def register_all(hub: Hub, study: Study, manifest: RunManifest) -> None:
    """Open the run where that is due, and register every committed round that is not registered yet, in order.

    MLflow is a view and may have been away.

    Raises:
        ServiceError: MLflow does not answer; what is missing is registered next time.
    """
    if hub.mlflow_url is None:
        return
    if not is_known(hub, manifest.run):
        open_run(hub, study, manifest)
    run, done = manifest.run, set(hub.store.list(layout.registered_prefix(manifest.run)))
    for number in count(1):  # not by a list, which may be behind: the last round has no later chance
        if layout.registered_key(run, number) in done:
            continue
        record = hub.read(layout.commit_key(run, number), RoundRecord)
        if record is None:
            return
        register(hub, study, manifest, record)


@step(name="close run", retries=RETRIES, retry_delay_s=RETRY_DELAY_S)
def close_run(
    hub: Hub,
    study: Study,
    manifest: RunManifest,
    records: Sequence[RoundRecord],
    state: Literal["FINISHED", "FAILED", "KILLED"],
) -> None:
    """Send what the child runs still lack, and say how the run ended.

    Raises:
        ServiceError: MLflow does not answer.
    """
    if hub.mlflow_url is None:
        return
    with tracked(hub, study, manifest) as run:
        if run.parent.tags.get("state") != state:
            for record in records:
                run.add(record)
            run.tell_sites(len(run.children))
            run.tell_participation()
            last = records[-1] if records else None
            for each in (*run.children.values(), run.parent):
                run.tracking.set_state(each.id, state, last.committed_at if last else manifest.created_at)
            tags = {NOTE: modelcard.run_card(study, manifest, last), "state": state}
            run.tracking.log(run.parent.id, tags=tags)  # last: a repeat reads here that all is done
    forget(hub, manifest.run)


def _tell(run: TrackedRun, record: RoundRecord, calls: int) -> None:
    """Spend the calls that are left on the child runs, and now and then one on the table of participation."""
    if calls > 0 and (calls > 1 or record.round % TABLE_EVERY == 0):
        run.tell_participation()
        calls -= 1
    run.tell_sites(calls)


def _find_version(run: TrackedRun, record: RoundRecord) -> Version | None:
    """The round's version if an earlier process made it: its model and metrics were there before it."""
    if record.round > run.begun:
        return None
    found = run.tracking.versions(record.study, _identity(record))
    return found[0] if found else None


def _make_version(
    hub: Hub, run: TrackedRun, study: Study, manifest: RunManifest, record: RoundRecord
) -> Version:
    """Model, files, metrics, version: in an order that lets a repeat go on where it stopped."""
    raw = load_parameters(hub, manifest, record.parameters_key, record.parameters_sha256)
    spent = run.spent_by(record.round)
    tags, card = _version_tags(hub, study, record, spent), modelcard.round_card(study, record, spent)
    model = _model(run, study, record, ANONYMOUS | tags | {NOTE: card})
    with TemporaryDirectory() as folder:
        _write_files(Path(folder), study, record, raw, (model.id, run.parent.id))
        run.tracking.upload(model, Path(folder))
    refusals = {f"round/{record.round:04d}/{n}": str(s.code) for n, s in record.sites.items() if s.code}
    points = points_of(record, modelcard.round_metrics(record, spent))
    run.tracking.log(run.parent.id, points, tags=refusals, model=model)
    return run.tracking.create_version(study.name, model, run.parent.id, tags, card)


def _model(run: TrackedRun, study: Study, record: RoundRecord, tags: Mapping[str, str]) -> Model:
    """The round's logged model: the one that an earlier process left unfinished, or a new one."""
    if record.round <= run.begun:
        left = run.tracking.models(run.experiment, _identity(record))
        if left:
            return left[0]
    name = f"{study.name}-round-{record.round:04d}"
    return run.tracking.create_model(run.experiment, run.parent.id, name, tags, modelcard.settings(study))


def _write_files(folder: Path, study: Study, record: RoundRecord, raw: bytes, ids: tuple[str, str]) -> None:
    write_model_files(
        folder,
        parameters=raw,
        loader=LOADER,
        # As text: MLflow sorts the keys of a mapping, and the order of features is the order of weights.
        config={"recipe": study.recipe, "settings": json.dumps(study.recipe_settings)},
        example=load_recipe(study.recipe, study.recipe_settings).example(),
        output="score",
        ids=ids,
        at=record.committed_at,
    )


def _crown(run: TrackedRun, study: Study, made: Version) -> bool:
    """Give the version the alias of the best, if it is; True where that took a call."""
    if not beats(made, run.champion):
        return False
    run.tracking.set_alias(study.name, CHAMPION, made.number)
    run.champion = made
    return True


def beats(made: Version, champion: Version | None) -> bool:
    """Better than the champion; within one run, as good is enough for the later round.

    Highest AUROC first, then versions without one by lowest loss, then those without metrics.
    """
    if champion is None or made.number == champion.number:
        return champion is None
    same_run = made.tags.get("run") == champion.tags.get("run")
    mine, theirs = _standing(made.tags), _standing(champion.tags)
    return mine >= theirs if same_run else mine > theirs


def _standing(tags: Mapping[str, str]) -> tuple[int, float]:
    if "auroc" in tags:
        return 2, float(tags["auroc"])
    return (1, -float(tags["loss"])) if "loss" in tags else (0, 0.0)


def _identity(record: RoundRecord) -> dict[str, str]:
    return {"run": record.run, "round": str(record.round)}


def _version_tags(hub: Hub, study: Study, record: RoundRecord, spent: Mapping[str, float]) -> dict[str, str]:
    before = hub.read(layout.registered_key(record.run, record.round - 1), Registered)  # none before round 1
    tags = {key: f"{value:.6f}" for key, value in record.metrics.model_dump().items() if value is not None}
    tags |= {
        "cohort": ", ".join(record.cohort),
        "secure_aggregation": "on" if record.summed else "off",
        "recipe_sha256": record.recipe_sha256,
        "parameters_sha256": record.parameters_sha256,
        "epsilon_max": f"{max(spent.values()):.6f}" if spent else "none",
        "parent_version": str(before.model_version) if before else _parent(study),
    }
    if any(group.dropped for group in record.groups):
        tags["dropped"] = modelcard.dropped(record).strip()
    if study.start is not None:
        tags["start_sha256"] = study.start.sha256
    return _identity(record) | tags


def _parent(study: Study) -> str:
    """Of a run's first version: what the run began from, in MLflow's words; of another model with its name."""
    start = study.start
    if start is None or start.version is None:
        return "none"
    return str(start.version) if start.model == study.name else f"{start.model}/{start.version}"
