"""The code of recipes as it is installed here: now, and when this agent first looked.

Both matter: the template holds modules as they were when the agent started,
and a job imports others from disk as they are now. Hashing takes a good part of
a second, so it is done again only where a file has changed.
"""

from __future__ import annotations

from pathlib import Path

from tasks.codes import Code
from tasks.errors import RefusedError, StudyError
from tasks.recipes import recipe_files, recipe_sha256

_Stamp = tuple[tuple[Path, int, int, int], ...]
_first: dict[str, str] = {}  # by recipe
_last: dict[str, tuple[_Stamp, str]] = {}


def check_recipe(recipe: str, wanted: str) -> None:
    """The recipe here is the code that the hub named, and the code that this agent has started with.

    Raises:
        RefusedError: unknown_recipe.
    """
    try:
        now = _sha256(recipe)
    except StudyError as exc:
        raise RefusedError(Code.UNKNOWN_RECIPE, str(exc)) from exc
    if now != wanted:
        raise RefusedError(
            Code.UNKNOWN_RECIPE,
            f"{recipe} is {now[:12]} here, the hub has {wanted[:12]}: install the same version on both sides",
        )
    if now != _first[recipe]:
        raise RefusedError(
            Code.UNKNOWN_RECIPE,
            f"{recipe} was changed on disk while the agent ran, which may still hold parts of the old code: "
            f"start the agent again",
        )


def _sha256(recipe: str) -> str:
    known = _last.get(recipe)
    if known is not None and _stamp([file for file, *_ in known[0]]) == known[0]:
        return known[1]
    files = list(recipe_files(recipe).values())
    stamp = _stamp([*files, *sorted({file.parent for file in files})])  # a folder: for modules that are added
    digest = recipe_sha256(recipe)
    _last[recipe] = stamp, digest
    _first.setdefault(recipe, digest)
    return digest


def _stamp(files: list[Path]) -> _Stamp:
    found = []
    for file in files:
        try:
            facts = file.stat()
        except FileNotFoundError:
            found.append((file, 0, 0, 0))
        else:
            found.append((file, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)
