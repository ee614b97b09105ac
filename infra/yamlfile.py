"""YAML files of users: read strictly, every error with its line and its cure.

A file becomes nodes that know their lines (yamlnodes.py), plain values, and a
pydantic model in strict mode. What an error means in plain words is
yamlwords.py's work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml.nodes import Node

from infra import yamlwords
from infra.errors import FileError
from infra.yamlnodes import Key, Problem, YamlSyntaxError, compose, locate, names_in, plain

MAX_BYTES = 1_000_000  # a study of hundreds of features is far smaller; more is a mistake or an attack
MOST_ERRORS = 30  # told of one file; thousands are another kind of file, or an attack

M = TypeVar("M", bound=BaseModel)
N = TypeVar("N", bound=BaseModel)


@dataclass(frozen=True)
class Document(Generic[M]):
    """A file that was read: its model, its plain values, and where each key stands."""

    path: Path
    value: M
    data: Any
    root: Node

    def line_of(self, *keys: Key) -> int:
        """Line, from 1, of a key such as ("privacy", "epsilon"), or of the nearest block that is there."""
        return locate(self.root, keys).line

    def check(self, model: type[N], *prefix: Key) -> N:
        """Validate one part of the file by a model of its own; an absent part counts as an empty one.

        Raises:
            FileError: as `load` does, lines and keys being those of the whole file.
        """
        part = self.data
        for key in prefix:
            part = part.get(key, {}) if isinstance(part, Mapping) else {}
        return _validate(self.path, model, part, self.root, prefix)


def load(path: Path, model: type[M]) -> Document[M]:
    """Read a YAML 1.2 file as a `model`.

    Types are strict (text is no number, a number is no text) but for what YAML
    cannot say: a whole number is a number, a list is a tuple.

    Raises:
        FileError: unreadable, no YAML, or not such a model; one line of text per error, sorted by line.
    """
    try:
        root = compose(_read(path))
    except YamlSyntaxError as exc:
        where = f", line {exc.line}" if exc.line else ""
        raise FileError(f"{path}{where}: not YAML: {exc}") from exc
    if root is None:
        raise FileError(f"{path}, line 1: the file is empty; expected {yamlwords.keys_of(model)}")
    data, problems = plain(root)
    if problems:
        raise _error(path, problems)
    return Document(path, _validate(path, model, data, root, ()), data, root)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise FileError(f"{path}: there is no such file") from exc
    except OSError as exc:
        raise FileError(f"{path}: cannot be read ({exc.strerror}); expected a readable YAML file") from exc
    if len(raw) > MAX_BYTES:
        raise FileError(f"{path}: more than {MAX_BYTES} bytes; expected a small YAML file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise FileError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from exc


def _validate(path: Path, model: type[N], data: Any, root: Node, prefix: tuple[Key, ...]) -> N:
    """Strict validation as JSON has it: exactly YAML's types, lists for tuples."""
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as exc:
        places: dict[tuple[int, str], list[yamlwords.Words]] = {}
        for error in yamlwords.fitting(exc.errors(include_url=False)[:MOST_ERRORS], data):
            line, keys = _place(root, prefix, error)
            places.setdefault((line, yamlwords.dotted(keys)), []).append(yamlwords.explain(error, model))
        problems = [Problem(line, key, yamlwords.joined(words)) for (line, key), words in places.items()]
        raise _error(path, problems, exc.error_count()) from exc


def _place(root: Node, prefix: tuple[Key, ...], error: Mapping[str, Any]) -> tuple[int, tuple[Key, ...]]:
    """Line and full key of one of pydantic's errors."""
    base = locate(root, prefix)
    if base.keys != prefix:  # the part itself is absent
        return base.line, (*prefix, *error["loc"])
    keys, node, line = locate(root, (*prefix, *error["loc"]))
    if error["type"] == "missing":
        return line, (*keys, error["loc"][-1])
    named = _named(names_in(node), error)
    return (locate(root, (*keys, named)).line, (*keys, named)) if named else (line, keys)


def _named(names: list[str], error: Mapping[str, Any]) -> str | None:
    """For an error of a whole block (quorum above sites): the key of the block that its text names first."""
    if error["type"] == "union_tag_invalid":
        return str(error["ctx"]["discriminator"]).strip("'")
    if error["type"] != "value_error":
        return None
    words = re.findall(r"[\w-]+", str(error["ctx"]["error"]))
    return next((word for word in words if word in names), None)


def _error(path: Path, problems: list[Problem], count: int = 0) -> FileError:
    told = sorted(problems)[:MOST_ERRORS]
    lines = [f"{path}, line {p.line}: {p.key + ': ' if p.key else ''}{p.text}" for p in told]
    if max(count, len(problems)) > MOST_ERRORS:
        lines.append(f"{path}: {max(count, len(problems))} errors in all; these are the first")
    return FileError("\n".join(lines))
