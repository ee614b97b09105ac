"""Hub: begin a run, or find one that was begun.

Publishes the study, the initial parameters and the manifest. Everything is
written once under a key that its content fixes, so a repeat changes nothing.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout, parameters
from tasks.contracts import RunManifest
from tasks.errors import ContractError, StudyError
from tasks.propose import propose
from tasks.recipes import recipe_sha256
from tasks.starting import starting_parameters
from tasks.study import Study


def new_run_name(study: str, now: float) -> str:
    """A name that sorts by time and is nobody else's: `heart-20261123-2108-3f9a`."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M")
    return f"{study[:40]}-{stamp}-{secrets.token_hex(2)}"


@step(name="begin")
def begin(hub: Hub, study: Study, run: str) -> RunManifest:
    """Write what is fixed for the whole run.

    Raises:
        StudyError: the recipe is not installed or refuses its settings, the store has not what the study starts
            from, or the run exists with another study.
    """
    known = hub.read(layout.run_key(run), RunManifest)
    if known is not None:
        if known.study_sha256 != study.sha256:
            raise StudyError(f"run {run!r} was begun with another version of study {study.name!r}")
        return known
    raw = starting_parameters(hub, study)
    manifest = RunManifest(
        run=run,
        study=study.name,
        study_sha256=study.sha256,
        recipe_sha256=recipe_sha256(study.recipe),
        created_at=hub.now(),
        initial_parameters_sha256=parameters.sha256(raw),
        parameters_bytes=len(raw),
    )
    propose(hub, study)
    hub.store.put_if_absent(layout.parameters_key(run, 0, manifest.initial_parameters_sha256), raw)
    hub.write_once(layout.run_key(run), manifest)
    return load_manifest(hub, run)


def load_manifest(hub: Hub, run: str) -> RunManifest:
    """The manifest of a run.

    Raises:
        StudyError: there is no such run in the store.
    """
    manifest = hub.read(layout.run_key(run), RunManifest)
    if manifest is None:
        raise StudyError(f"no run {run!r} in {hub.store_url}; `fedrounds run list` names the runs")
    return manifest


def load_study(hub: Hub, manifest: RunManifest) -> Study:
    """The study of a run, as it was when the run began.

    Raises:
        ContractError: the store lost it or holds another one.
    """
    study = hub.read(layout.study_key(manifest.study, manifest.study_sha256), Study)
    if study is None or study.sha256 != manifest.study_sha256:
        raise ContractError(f"the store has lost study {manifest.study!r} of run {manifest.run!r}")
    return study
