"""study.yaml: read strictly, with its recipe's own settings, naming the line of an error."""

from __future__ import annotations

from pathlib import Path

from infra.errors import FileError
from infra.yamlfile import load
from tasks.errors import StudyError
from tasks.recipes import load_recipe, settings_model, study_recipe
from tasks.starting import read_start
from tasks.study import Study, StudyFile


def load_study_file(path: Path) -> Study:
    """The study in `path`.

    Raises:
        FileError: unreadable, or not a study; names each line and its cure.
        StudyError: the recipe is not installed.
    """
    document = load(path, StudyFile)
    study = document.value.agreed()
    if study.plants_canaries:
        raise FileError(
            f"{path}, line {document.line_of('recipe')}: {study.recipe} plants canaries into models; name the "
            f"recipe itself, and audit the study with `fedrounds study audit`"
        )
    try:
        settings = settings_model(study.recipe)
        if settings is not None:
            document.check(settings, "recipe_settings")
        load_recipe(study.recipe, study.recipe_settings)
    except StudyError as exc:
        line = document.line_of("recipe_settings" if study.recipe_settings else "recipe")
        raise FileError(f"{path}, line {line}: {exc}") from exc
    try:
        study_recipe(study)
    except StudyError as exc:
        raise FileError(f"{path}, line {document.line_of('local', 'epochs')}: {exc}") from exc
    if study.start is not None and study.start.file is not None:
        try:
            read_start(study, path)
        except StudyError as exc:
            raise FileError(f"{path}, line {document.line_of('start', 'sha256')}: {exc}") from exc
    return study
