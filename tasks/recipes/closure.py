"""What code a recipe is: one sha256 over its modules, the same wherever the same code is installed.

Reads files and nothing else: no module of a recipe is imported, so that a site
can compare hashes before it lets any of the code run. Counted are the recipe's
module, the packages it lies in, and what these import, followed inside their
own top-level package; and fedrounds' version. Not seen: imports made from text
at run time, data files, other packages (pin those where they are installed).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from tasks.errors import StudyError

_HOME = Path(__file__).parents[
    2
]  # the folder that fedrounds is installed in, and what is installed beside it


def recipe_sha256(path: str) -> str:
    """The sha256 of the recipe at `module:Class`.

    Raises:
        StudyError: the package is not installed, or has no such module or class.
    """
    return sources_sha256(_own_version(), recipe_sources(path))


def recipe_sources(path: str) -> dict[str, bytes]:
    """The files that `recipe_sha256` is over, by module, in order of the names.

    Raises:
        StudyError: as recipe_sha256.
    """
    return {name: file.read_bytes() for name, file in recipe_files(path).items()}


def recipe_files(path: str) -> dict[str, Path]:
    """Where these files lie. Raises StudyError, as recipe_sha256."""
    return dict(sorted(_closure(check_defined(path)).items()))


def sources_sha256(own_version: str, sources: Mapping[str, bytes]) -> str:
    """The sha256 of a recipe that has these modules, under a version of fedrounds."""
    digest = hashlib.sha256(f"fedrounds {own_version}\0".encode())
    for name, source in sorted(sources.items()):
        digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


def check_defined(path: str) -> str:
    """The module's name, where an installed package defines the class in it.

    Raises:
        StudyError: otherwise.
    """
    module, _, class_name = path.partition(":")
    top = module.partition(".")[0]
    if not _is_installed(top):
        raise StudyError(
            f"recipe {path}: package {top!r} is not installed; install the package that holds it, "
            f"in the same version at the hub and at every site"
        )
    file = _file_of(module)
    if file is None or file.suffix not in SOURCE_SUFFIXES:
        raise StudyError(f"recipe {path}: {top!r} is installed and has no module {module}; correct the name")
    classes = [node.name for node in _tree(module, file).body if isinstance(node, ast.ClassDef)]
    if class_name not in classes:
        known = f"it defines {', '.join(classes)}" if classes else "it defines none"
        raise StudyError(f"recipe {path}: {module} defines no class {class_name}; {known}")
    return module


def _is_installed(top: str) -> bool:
    """True for what lies beside fedrounds' own packages or is of a distribution; not for Python's own."""
    origin, folders = _places(top)
    places = folders or ([origin] if origin else [])
    return any(place.parent == _HOME for place in places) or (
        bool(places) and top in packages_distributions()
    )


def _places(top: str) -> tuple[Path | None, list[Path]]:
    """The file of a top-level module, and the folders of a package. Imports nothing."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None, []
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    return origin, [Path(folder) for folder in (spec.submodule_search_locations or ())]


def _file_of(module: str) -> Path | None:
    """The file of a module, found by its name alone: importlib would import the packages above it."""
    top, *rest = module.split(".")
    origin, folders = _places(top)
    if not rest:
        return origin
    for folder in folders:
        stem = folder.joinpath(*rest)
        for suffix in (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES):
            for file in (stem / f"__init__{suffix}", stem.with_name(stem.name + suffix)):
                if file.is_file():
                    return file
    return None


def _closure(module: str) -> dict[str, Path]:
    """Modules by name: the given one and all it leads to inside its top-level package."""
    return module_files([module], [module.partition(".")[0]])


def module_files(modules: Iterable[str], packages: Iterable[str]) -> dict[str, Path]:
    """Files by module: the given modules, and all that they lead to inside some top-level packages."""
    tops = frozenset(packages)
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        file = None if name in found else _file_of(name)
        if file is None:
            continue
        found[name] = file
        todo.extend(name[:i] for i, c in enumerate(name) if c == ".")  # packages above run first
        if file.suffix in SOURCE_SUFFIXES:
            todo.extend(n for n in _imports(name, file) if n.partition(".")[0] in tops)
    return found


def _imports(module: str, file: Path) -> Iterator[str]:
    """Names of modules that a source may import, at any depth; `from a import b` may mean a.b."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(_tree(module, file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names if alias.name != "*")


def _tree(module: str, file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as exc:
        raise StudyError(f"module {module} is no Python source: {exc}") from exc


def _own_version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0"
