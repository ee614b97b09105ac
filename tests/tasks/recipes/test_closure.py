"""The sha256 of a recipe: changes with every piece of its code, with nothing else, and runs none of it."""

from __future__ import annotations

import pytest

from tasks.errors import StudyError
from tasks.recipes import recipe_sha256
from tests.packages import install_package

TRAP = "raise SystemExit('ran')\n"
FILES = {
    "__init__.py": TRAP,
    "models/__init__.py": TRAP,
    "models/linear.py": TRAP
    + "import json, their_pkg.base\nclass Model: pass\ndef f():\n    from ..parts import scale\n",
    "base.py": TRAP,
    "parts/__init__.py": TRAP,
    "parts/scale.py": TRAP + "from . import units as u\n",
    "parts/units.py": "x = 1\n",
    "other.py": TRAP,
}
PATH = "their_pkg.models.linear:Model"


@pytest.fixture
def package(monkeypatch, tmp_path):
    return install_package(monkeypatch, tmp_path, "their_pkg", FILES)


def test_it_is_stable_and_nothing_is_run(package):
    """Every module of the package would end the process."""
    assert recipe_sha256(PATH) == recipe_sha256(PATH)


@pytest.mark.parametrize("file", [f for f in FILES if f != "other.py"])
def test_every_module_that_is_reached_counts(package, file):
    """Absolute, relative and late imports, and the packages on the way, are the recipe's code."""
    before = recipe_sha256(PATH)
    (package / file).write_text(FILES[file] + "# changed\n")

    assert recipe_sha256(PATH) != before


def test_a_module_that_is_not_reached_does_not_count(package):
    """A package may grow without a new approval."""
    before = recipe_sha256(PATH)
    (package / "other.py").write_text("changed = True\n")

    assert recipe_sha256(PATH) == before


def test_it_does_not_depend_on_the_place(package, monkeypatch, tmp_path):
    """Hub and sites install where they like."""
    before = recipe_sha256(PATH)
    monkeypatch.undo()
    install_package(monkeypatch, tmp_path / "elsewhere", "their_pkg", FILES)

    assert recipe_sha256(PATH) == before


def test_moved_code_counts(package):
    """Two modules that swap contents are other code, though the same bytes."""
    before = recipe_sha256(PATH)
    (package / "parts" / "units.py").write_text(FILES["base.py"])
    (package / "base.py").write_text(FILES["parts/units.py"])

    assert recipe_sha256(PATH) != before


def test_cycles_end(monkeypatch, tmp_path):
    """Modules may import each other."""
    files = {"a.py": "from their_ring import b\nclass A: pass\n", "b.py": "import their_ring.a\n"}
    install_package(monkeypatch, tmp_path, "their_ring", files)

    assert len(recipe_sha256("their_ring.a:A")) == 64


def test_a_broken_source_is_the_studys_error(package):
    """Said at the site as unknown_recipe."""
    (package / "base.py").write_text("def (:\n")

    with pytest.raises(StudyError, match=r"their_pkg\.base is no Python source"):
        recipe_sha256(PATH)
