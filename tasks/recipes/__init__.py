"""The recipe named `module:Class`, from an installed package.

Importing a recipe runs its package's code, so a name from outside is looked at
first: the package must be installed and the class must stand in the module's
source. What identifies the code is closure.py's sha256, which runs nothing.
Light: a recipe, and numpy with it, is imported only by `load_recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tasks.errors import StudyError
from tasks.recipes.closure import (
    check_defined,
    module_files,
    recipe_files,
    recipe_sha256,
    recipe_sources,
    sources_sha256,
)

if TYPE_CHECKING:
    from tasks.recipes.base import Linear, Recipe
    from tasks.study import Study

__all__ = [
    "linear",
    "load_recipe",
    "module_files",
    "recipe_files",
    "recipe_sha256",
    "recipe_sources",
    "settings_model",
    "sources_sha256",
    "study_recipe",
]


def load_recipe(path: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe at `module:Class` with a study's settings.

    Raises:
        StudyError: not installed, no such class, no recipe, or it refuses the settings.
    """
    recipe_class = _recipe_class(path)
    try:
        recipe: Recipe = recipe_class(settings)
    except StudyError:
        raise
    except Exception as exc:
        raise StudyError(
            f"recipe {path} failed on its settings with {type(exc).__name__}: {exc}; "
            f"a recipe says what is wrong by a StudyError"
        ) from exc
    return recipe


def study_recipe(study: Study) -> Recipe:
    """The recipe of a study, able to do what the study asks of it.

    Raises:
        StudyError: as load_recipe, or sites shall take several steps by themselves, and its records do not allow it.
    """
    recipe = load_recipe(study.recipe, study.recipe_settings)
    if study.local_steps > 1:
        linear(recipe)
    return recipe


def linear(recipe: Recipe) -> Linear:
    """The recipe as a logistic regression that says how long its records are.

    Raises:
        StudyError: it is none, or does not say so.
    """
    from tasks.recipes.base import Linear

    if not isinstance(recipe, Linear) or not _own_promise(type(recipe)):
        raise StudyError(
            f"local.epochs above 1 in privacy mode distributed: only of a logistic regression it is known how far one "
            f"record moves several steps, and {type(recipe).__name__} does not say that it is one; use privacy.steps "
            f"instead (steps of all sites in lockstep), or mode local"
        )
    recipe.longest_record()  # a recipe around another one says here that the other is none
    return recipe


def _own_promise(recipe: type) -> bool:
    """True where no class below the one that promises `longest_record` has another loss or model."""
    order = recipe.__mro__

    def at(name: str) -> int:
        return next((i for i, cls in enumerate(order) if name in cls.__dict__), len(order))

    return at("longest_record") <= min(map(at, ("loss", "module", "initial_parameters", "lengths")))


def settings_model(path: str) -> type[BaseModel] | None:
    """The recipe's own model of its settings, its attribute `Settings`; None where it has none.

    With it the reader of study.yaml names the line of a wrong setting.

    Raises:
        StudyError: not installed, no such class, or no recipe.
    """
    model = getattr(_recipe_class(path), "Settings", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _recipe_class(path: str) -> type[Recipe]:
    from tasks.recipes.base import Recipe

    check_defined(path)
    module_name, _, class_name = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as exc:
        raise StudyError(
            f"recipe {path} cannot be imported ({type(exc).__name__}: {exc}); repair it"
        ) from exc
    recipe_class = getattr(module, class_name, None)
    members = [name for name in vars(Recipe) if not name.startswith("_")]
    missing = [name for name in members if not callable(getattr(recipe_class, name, None))]
    if not isinstance(recipe_class, type) or missing:
        raise StudyError(
            f"{path} is no recipe: it lacks {', '.join(missing)}; "
            f"expected a class with every member of tasks.recipes.base.Recipe"
        )
    return recipe_class
