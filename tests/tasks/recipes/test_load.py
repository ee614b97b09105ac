"""Recipes by name: only installed ones, only recipes, and nothing runs before that is known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.errors import StudyError
from tasks.recipes import load_recipe, settings_model
from tasks.recipes.tabular import LogisticRegression
from tasks.recipes.tabular_settings import TabularSettings
from tests.packages import install_package

SETTINGS = {"target": "y", "positive": 1, "features": {"a": {"kind": "numeric", "range": [0, 1]}}}
RECIPE = """
from tasks.recipes.tabular import LogisticRegression
class Mine(LogisticRegression):
    pass
class Half:
    def columns(self): return ()
class Fragile(LogisticRegression):
    def __init__(self, settings): settings["nope"]
"""


def test_a_recipe_of_ours_is_loaded_with_its_settings():
    """module:Class is all a study says."""
    recipe = load_recipe("tasks.recipes.tabular:LogisticRegression", SETTINGS)

    assert isinstance(recipe, LogisticRegression)
    assert recipe.columns() == ("a",)


def test_a_recipe_of_any_installed_package_is_loaded(monkeypatch, tmp_path):
    """The seam for other people's models."""
    install_package(monkeypatch, tmp_path, "their_models", {"table.py": RECIPE})

    assert load_recipe("their_models.table:Mine", SETTINGS).target() == "y"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("not_there:Model", "package 'not_there' is not installed; install the package"),
        ("os:PathLike", "package 'os' is not installed"),
        ("subprocess:Popen", "package 'subprocess' is not installed"),
        ("tasks.recipes.nope:Model", "has no module tasks.recipes.nope"),
        ("tasks.recipes.tabular:Nope", "defines no class Nope; it defines _Tabular, LogisticRegression, MLP"),
        (
            "tasks.recipes.base:Arrays",
            "tasks.recipes.base:Arrays is no recipe: it lacks columns, target, encode,",
        ),
        ("their_models.table:Half", "is no recipe: it lacks target"),
        ("their_models.broken:Model", "cannot be imported (ZeroDivisionError"),
        ("their_models.table:Fragile", "failed on its settings with KeyError"),
    ],
)
def test_what_is_no_installed_recipe_says_why(monkeypatch, tmp_path, path, said):
    """The text of a StudyError is what `fedrounds study check` prints."""
    files = {"table.py": RECIPE, "broken.py": "1 / 0\nclass Model: pass\n"}
    install_package(monkeypatch, tmp_path, "their_models", files)

    with pytest.raises(StudyError) as caught:
        load_recipe(path, SETTINGS)

    assert said in str(caught.value)


def test_a_file_that_merely_lies_about_is_not_installed(monkeypatch, tmp_path):
    """A module in the working directory is nobody's decision."""
    (tmp_path / "stray.py").write_text("raise SystemExit('ran')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(StudyError, match="'stray' is not installed"):
        load_recipe("stray:Model", {})


def test_a_module_without_the_class_is_not_run(monkeypatch, tmp_path):
    """A name from outside must not make an installed script run."""
    install_package(monkeypatch, tmp_path, "their_models", {"script.py": "raise SystemExit('ran')\n"})

    with pytest.raises(StudyError, match="defines no class Model"):
        load_recipe("their_models.script:Model", {})


def test_wrong_settings_are_the_studys_error():
    """Without lines, which study check adds."""
    with pytest.raises(StudyError, match=r"recipe_settings: features: Field required"):
        load_recipe("tasks.recipes.tabular:LogisticRegression", {"target": "y", "positive": 1})


def test_the_settings_model_is_found():
    """The reader of study.yaml names lines by it."""
    assert settings_model("tasks.recipes.tabular:LogisticRegression") is TabularSettings


def test_asking_for_a_hash_imports_nothing_heavy():
    """The site's agent asks for it and has to stay small."""
    code = (
        "import sys; from tasks.recipes import recipe_sha256; recipe_sha256('tasks.recipes.tabular:MLP');"
        "print(sorted({'numpy', 'torch', 'pandas', 'opacus', 'tasks.recipes.tabular'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
