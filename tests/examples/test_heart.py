"""The example study on the four UCI files: it is right, and the records are read as they were published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.yamlfile import load
from sites.settings import load_site
from sites.sources import read
from tasks.metrics import metrics, statistics
from tasks.recipes import load_recipe, settings_model
from tasks.study import Study, StudyFile
from tests.data import ROOT, heart_example

EXAMPLE = ROOT / "examples" / "heart"
COUNTS = {"cleveland": (303, 139), "hungarian": (294, 106), "switzerland": (123, 115), "va": (200, 149)}
MISSING_CHOL = {"cleveland": 0, "hungarian": 23, "switzerland": 123, "va": 56}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return heart_example(tmp_path)


@pytest.mark.parametrize("name", ["study", "many-sites", "distributed"])
def test_its_files_are_right(name):
    """A newcomer's first files must not be the ones with an error; the data are not needed for this."""
    document = load(EXAMPLE / f"{name}.yaml", StudyFile)
    model = settings_model(document.value.recipe)

    assert model is not None
    document.check(model, "recipe_settings")
    assert [load_site(EXAMPLE / f"{s}.yaml").settings.site for s in document.value.sites] == list(
        document.value.sites
    )


def test_a_wrong_recipe_setting_has_its_line(tmp_path):
    """The recipe's own model speaks with the lines of the study's file."""
    path = tmp_path / "study.yaml"
    path.write_text(
        (EXAMPLE / "study.yaml")
        .read_text()
        .replace("kind: numeric, range: [20, 80]", "kind: numeric, rang: [20, 80]")
    )
    document = load(path, Study)

    with pytest.raises(Exception) as caught:
        document.check(settings_model(document.value.recipe), "recipe_settings")

    assert str(caught.value).splitlines() == [
        f"{path}, line 9: recipe_settings.features.age.rang: unknown key; did you mean `range`?",
        f"{path}, line 9: recipe_settings.features.age.range: is missing; add it",
    ]


def test_all_records_are_read_as_published(folder):
    """Counts of records, of diseased ones and of missing cholesterol are those of the data set's description."""
    study = load(folder / "study.yaml", Study).value
    recipe = load_recipe(study.recipe, study.recipe_settings)
    for name in study.sites:
        site = load_site(folder / f"{name}.yaml")

        rows = read(site.settings.sources["heart"], site.base, [*recipe.columns(), recipe.target()])
        arrays = recipe.encode(rows.table)

        assert (rows.n, int(arrays.y.sum())) == COUNTS[name]
        assert sum(v is None for v in rows.table["chol"]) == MISSING_CHOL[name]
        assert arrays.kept.all() and np.abs(arrays.x).max() <= 1


def test_public_ranges_are_enough_to_learn_from(folder):
    """Fitted to all records without privacy: the ceiling of the example (0.88 on records that were not seen)."""
    study = load(folder / "study.yaml", Study).value
    recipe = load_recipe(study.recipe, study.recipe_settings)
    sites = [load_site(folder / f"{name}.yaml") for name in study.sites]
    columns = [*recipe.columns(), recipe.target()]
    parts = [recipe.encode(read(s.settings.sources["heart"], s.base, columns).table) for s in sites]
    x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
    parameters = recipe.initial_parameters(0)
    for _ in range(300):
        residual = (recipe.scores(parameters, x) - y).astype(np.float32)
        parameters["weight"] -= residual @ x / len(y)
        parameters["bias"] -= residual.mean()

    assert metrics(statistics(recipe.scores(parameters, x), y)).auroc == pytest.approx(0.898, abs=0.005)
