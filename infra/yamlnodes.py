"""YAML text to nodes that know their lines, and nodes to plain values.

None of YAML's constructors runs: tags, aliases, merge keys and keys that are no
text are problems, so that a small file cannot become a large or a live thing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from infra import yamlwords

Key = str | int
LONGEST_NUMBER = 400  # characters; no float needs more, and reading a million digits takes minutes

_TAG = "tag:yaml.org,2002:"
_AS_TEXT = (f"{_TAG}str", f"{_TAG}timestamp")  # a date is text: no file of ours has dates


class Problem(NamedTuple):
    """One error of a file: `line` counts from 1, `key` says where in it, `text` what and how to cure it."""

    line: int
    key: str
    text: str


class Place(NamedTuple):
    """How far a path of keys leads: the keys that exist, the node under them, and its line from 1."""

    keys: tuple[Key, ...]
    node: Node
    line: int


class YamlSyntaxError(Exception):
    """The text is no YAML; `line` from 1, or 0 where it is not known."""

    def __init__(self, line: int, text: str):
        super().__init__(text)
        self.line = line


def compose(text: str) -> Node | None:
    """The tree of a document; None for one without content. Raises YamlSyntaxError."""
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as exc:
        raise YamlSyntaxError(_line(exc), yamlwords.syntax(exc.problem or str(exc.context))) from exc
    except YAMLError as exc:
        raise YamlSyntaxError(0, yamlwords.syntax(str(exc).splitlines()[0])) from exc
    except RecursionError as exc:
        raise YamlSyntaxError(0, "nested too deeply; expected a few levels of keys") from exc
    return node


def _line(error: MarkedYAMLError) -> int:
    """Where a person should look: for something left open, where it began."""
    opened = "end of stream" in str(error.problem) or "simple key" in str(error.context)
    marks = [error.context_mark, error.problem_mark] if opened else [error.problem_mark, error.context_mark]
    return next((mark.line + 1 for mark in marks if mark is not None), 0)


def plain(node: Node) -> tuple[Any, list[Problem]]:
    """The node as dict, list, text, number, bool or None, and what no file of ours may hold."""
    reader = _Reader()
    return reader.value(node, (), node.start_mark.line), reader.problems


def locate(root: Node, path: tuple[Key, ...]) -> Place:
    """Follow a path; parts that lead nowhere (pydantic names the members of a union) are skipped."""
    node, line = root, root.start_mark.line
    keys: list[Key] = []
    for part in path:
        child = _child(node, part)
        if child is not None:
            node, line = child
            keys.append(part)
    return Place(tuple(keys), node, line + 1)


def names_in(node: Node) -> list[str]:
    """The keys of a block; empty for any other node."""
    return [str(key.value) for key, _ in node.value] if isinstance(node, MappingNode) else []


def _child(node: Node, part: Key) -> tuple[Node, int] | None:
    """The value under a key or index, and the line where the key or the item stands, from 0."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item, item.start_mark.line
    return None


class _Reader:
    """Turns nodes into plain values; collects problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._seen: set[int] = set()

    def value(self, node: Node, keys: tuple[Key, ...], line: int) -> Any:
        """`line` is where the node is named, from 0; the node itself knows where it was first written."""
        if id(node) in self._seen:  # an alias: ten of them in each other are a bomb
            return self._problem(
                line, keys, "found an alias (*name), expected the value itself; write it out"
            )
        self._seen.add(id(node))
        if isinstance(node, SequenceNode):
            items = enumerate(node.value)
            return [self.value(item, (*keys, i), max(line, item.start_mark.line)) for i, item in items]
        if isinstance(node, MappingNode):
            return self._mapping(node, keys)
        try:
            return _scalar(str(node.tag), node.value)
        except ValueError as exc:
            return self._problem(node.start_mark.line, keys, str(exc))

    def _mapping(self, node: MappingNode, keys: tuple[Key, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if key is None or key_node.tag not in _AS_TEXT:
                self._problem(line, keys, "found a key that is no text, expected a name; put it in quotes")
            elif key in result:
                text = "found a second time, expected once; remove one of them"
                self._problem(line, (*keys, key), text)
            else:
                result[key] = self.value(value_node, (*keys, key), line)
        return result

    def _problem(self, line: int, keys: tuple[Key, ...], text: str) -> None:
        self.problems.append(Problem(line + 1, yamlwords.dotted(keys), text))


def _scalar(tag: str, text: str) -> Any:
    """A scalar's value by its tag. Raises ValueError with the words of a problem."""
    if tag in _AS_TEXT:
        return text
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return text.lower() in ("true", "yes", "on")  # the last two only under a %YAML 1.1 directive
    digits = text.replace("_", "").lower()
    if len(digits) > LONGEST_NUMBER and tag in (f"{_TAG}int", f"{_TAG}float"):
        raise ValueError(f"found a number of {len(digits)} digits, expected one that can be read")
    try:
        if tag == f"{_TAG}int":
            return int(digits, 0) if digits.lstrip("+-")[:2] in ("0x", "0o", "0b") else int(digits)
        if tag == f"{_TAG}float":
            return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as exc:
        raise ValueError(f"found {text[:40]}, expected a number that can be read") from exc
    raise ValueError(f"found the tag {tag.removeprefix(_TAG)}, expected a plain value; remove the tag")
