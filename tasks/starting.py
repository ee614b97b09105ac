"""Hub: the parameters that a study's runs begin from: its recipe's own, or those that the study names.

Parameters of a file are put into the store where the study is read; those of a
registered model are found there by their digest, since the store is the truth
and MLflow a view. From then on any hub's process can begin a run.
"""

from __future__ import annotations

from pathlib import Path

from infra.hub import Hub
from tasks import layout, parameters
from tasks.contracts import RunManifest
from tasks.errors import ContractError, StudyError
from tasks.parameters import Parameters
from tasks.recipes import load_recipe, study_recipe
from tasks.records import Registered
from tasks.start import Start
from tasks.study import Study

SLACK = 65_536  # bytes that two files of the same arrays may differ by


def starting_parameters(hub: Hub, study: Study) -> bytes:
    """What round 1 of every run of a study trains from. Safe to repeat.

    Raises:
        StudyError: the recipe is not installed, or what the study names is not in the store, or not of this recipe.
    """
    own = study_recipe(study).initial_parameters(study.seed)
    if study.start is None:
        return parameters.to_bytes(own)
    start, most = study.start, len(parameters.to_bytes(own)) + SLACK
    if start.file is not None:
        raw = hub.store.get(layout.start_key(study.name, start.sha256), most)
    else:
        raw = _of_version(hub, start, most)
    if raw is None:
        raise StudyError(f"{hub.store_url} does not hold {start}; {_cure(start)}")
    check_start(study, raw, own)
    return raw


def keep_start(hub: Hub, study: Study, study_file: Path) -> None:
    """Put the parameters of a file beside study.yaml where every run finds them. Safe to repeat.

    Raises:
        StudyError: they are not what the study names, or not there.
    """
    if study.start is not None and study.start.file is not None:
        raw = read_start(study, study_file)
        hub.store.put_if_absent(layout.start_key(study.name, study.start.sha256), raw)
    if study.start is not None:
        starting_parameters(hub, study)


def read_start(study: Study, study_file: Path) -> bytes:
    """The parameters in a file that the study names, which lies beside study.yaml.

    Raises:
        StudyError: absent, or other bytes or arrays than the study names.
    """
    name = study.start.file if study.start is not None else None
    if name is None:
        raise StudyError(f"study {study.name!r} names no file to start from")
    try:
        raw = (study_file.parent / name).read_bytes()
    except OSError as exc:
        raise StudyError(
            f"start.file: {name} beside {study_file.name} cannot be read ({exc.strerror})"
        ) from exc
    check_start(study, raw, load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed))
    return raw


def check_start(study: Study, raw: bytes, own: Parameters) -> None:
    """Raises StudyError where bytes are not what the study starts from, or no parameters of its recipe (`own`)."""
    start, found = study.start, parameters.sha256(raw)
    if start is None or found != start.sha256:
        raise StudyError(f"start.sha256: {start} has sha256 {found}, which is not what the study says")
    try:
        given = parameters.from_bytes(raw)
    except ContractError as exc:
        raise StudyError(f"{start}: {exc}; expected safetensors with float32 arrays alone") from exc
    if not parameters.same_form(given, own):
        shapes = {name: array.shape for name, array in own.items()}
        raise StudyError(
            f"{start} has other names or shapes than the recipe's parameters, which are {shapes}"
        )
    if not parameters.is_finite(given):
        raise StudyError(f"{start} has a number that is not finite")


def _of_version(hub: Hub, start: Start, most_bytes: int) -> bytes | None:
    """The parameters of a registered version, by its runs in the store; None where there is no such version."""
    for key in hub.store.list(layout.runs_prefix()):
        round_ = layout.round_of_parameters(key)
        if not round_ or not key.endswith(f"-{start.sha256[:16]}.safetensors"):
            continue
        run = layout.run_of_parameters(key)
        manifest = hub.read(layout.run_key(run), RunManifest)
        shown = hub.read(layout.registered_key(run, round_), Registered)
        if manifest and shown and (manifest.study, shown.model_version) == (start.model, start.version):
            return hub.store.get(key, most_bytes)
    return None


def _cure(start: Start) -> str:
    if start.file is not None:
        return "`fedrounds study publish` puts it there, from the folder of study.yaml"
    return (
        "its tag parameters_sha256 in MLflow says start.sha256; of another hub's model take the version's "
        "parameters.safetensors, and name it by start.file"
    )
