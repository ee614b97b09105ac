"""What is wrong in a user's file, in plain words: what was found, what was expected, how to cure it.

Knows pydantic's closed list of error types and the JSON schema of a model, and
nothing of files or lines: those are yamlfile.py's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list such as [a, b]",
    "tuple_type": "a list such as [a, b]",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}
_PATTERNS = {  # the patterns that our files use, as a person would say them
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "a name of small letters, digits, - and _, at most 63",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "module:Class, such as tasks.recipes.tabular:LogisticRegression",
}
_OF_BLOCKS = ("missing", "extra_forbidden", "value_error", "union_tag_invalid", "union_tag_not_found")
_NUMBERS = ("int_type", "float_type")
_LONGEST = 40  # of a found text


class Words(NamedTuple):
    """One error. Where `found` is None, `expected` is the whole sentence."""

    found: str | None
    expected: str
    cure: str = ""


def explain(error: Mapping[str, Any], model: type[BaseModel]) -> Words:
    """Put one of pydantic's errors into words; `model` is the one that raised it."""
    kind, value, context = str(error["type"]), error.get("input"), error.get("ctx", {})
    sentence = _sentence(kind, error, model)
    if sentence:
        return Words(None, sentence)
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return Words(found(value), _PATTERNS.get(pattern, f"text of the form {pattern}"))
    if kind == "union_tag_invalid":
        return Words(found(context["tag"]), _or(str(context["expected_tags"]).replace("'", "").split(", ")))
    text = _EXPECTED[kind].format_map(context).replace("'", "") if kind in _EXPECTED else str(error["msg"])
    return Words(found(value), text, _cure(kind, value))


def _sentence(kind: str, error: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """The whole text of errors that are about a key, or that our own validators raise."""
    loc, context = error["loc"], error.get("ctx", {})
    if kind == "missing":
        return "is missing; add it"
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return f"`{key}` is missing; add it: {_or(_tags(model, loc, key))}"
    if kind == "extra_forbidden":
        return _unknown(str(loc[-1]), allowed_keys(model, loc[:-1]))
    return str(context["error"]) if kind in ("value_error", "assertion_error") else None


def fitting(errors: Sequence[Mapping[str, Any]], data: Any) -> list[Mapping[str, Any]]:
    """Where a value may be of several types and is a block of keys, what is wrong with it as that; all other errors.

    Args:
        errors: pydantic's, of one file.
        data: what was validated.
    """
    wrong_shape = [e for e in errors if _is_of_a_union(e, data) and e["type"] not in _OF_BLOCKS]
    told = [e for e in errors if e not in wrong_shape]
    places = {tuple(e["loc"][:n]) for e in told for n in range(len(e["loc"]) + 1)}
    return [e for e in errors if e in told or tuple(e["loc"][:-1]) not in places]


def _is_of_a_union(error: Mapping[str, Any], data: Any) -> bool:
    """True where an error of a block of keys is about one of the types that the block may be of."""
    value = error.get("input")
    return isinstance(value, dict) and value == _value_at(data, error["loc"][:-1])


def _value_at(data: Any, loc: Sequence[str | int]) -> Any:
    """What stands at a place of pydantic's, whose names of types are no keys."""
    for part in loc:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]  # type: ignore[index]
    return data


def joined(words: Sequence[Words]) -> str:
    """One text for one place; several where a value may be of several types and is none of them."""
    first, unique = words[0], list(dict.fromkeys(w.expected for w in words))
    if first.found is None:
        return "; ".join(unique)
    cure = f"; {first.cure}" if first.cure and len(unique) == 1 else ""
    return f"found {first.found}, expected {_or(unique)}{cure}"


def found(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'text "{value if len(value) <= _LONGEST else value[:_LONGEST] + "…"}"'
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a block of keys" if isinstance(value, dict) else str(value)


def dotted(keys: Sequence[str | int]) -> str:
    """("local", "epochs") as local.epochs; entries of lists count from 1."""
    text = ""
    for key in keys:
        text += f"[entry {key + 1}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def keys_of(model: type[BaseModel]) -> str:
    """The keys of a file, for one that has none."""
    names = [f"`{name}`" for name, field in model.model_fields.items() if field.is_required()]
    return f"the keys {', '.join(names)}" if names else "a block of keys"


def syntax(problem: str) -> str:
    """What ruamel found, and what it mostly comes from."""
    if "\\t" in problem:
        return "a tab in the indentation; indent with spaces"
    if "expected ':'" in problem:
        return f"{problem}; write `key: value`, with a space after the colon"
    if "another document" in problem:
        return "a second document (---); put one document into a file"
    return (
        f"{problem}; look for a missing quote, bracket or colon, or a wrong indentation, here or just above"
    )


def allowed_keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that a model knows at a place of pydantic's (with the tags of unions in it)."""
    schemas = _schemas_at(model, loc)
    return list(dict.fromkeys(key for s in schemas for key in s.get("properties", {})))


def _tags(model: type[BaseModel], loc: Sequence[str | int], key: str) -> list[str]:
    tags = [
        s["properties"][key].get("const") for s in _schemas_at(model, loc) if key in s.get("properties", {})
    ]
    return [str(tag) for tag in tags if tag is not None]


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Made once: a file may be wrong in a thousand places."""
    return model.model_json_schema()


def _schemas_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[dict[str, Any]]:
    """JSON schemas, references resolved, that may hold at a place."""
    root = _schema(model)
    here = list(_flat(root, root))
    for part in loc:
        inner = [s for schema in here for s in _inner(schema, part)]
        if inner:
            here = [s for schema in inner for s in _flat(schema, root)]
        else:  # the tag of a union's member
            tagged = [
                s for s in here if any(p.get("const") == part for p in s.get("properties", {}).values())
            ]
            here = tagged or here
    return here


def _inner(schema: Mapping[str, Any], part: str | int) -> list[dict[str, Any]]:
    rest = schema.get("items") if isinstance(part, int) else schema.get("additionalProperties")
    inner = schema.get("properties", {}).get(part, rest)
    return [inner] if isinstance(inner, dict) else []


def _flat(schema: dict[str, Any], root: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema with its reference followed, or the members of a union, each so."""
    if "$ref" in schema:
        yield from _flat(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for member in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from _flat(member, root)
    if "properties" in schema or "additionalProperties" in schema or "items" in schema:
        yield schema


def _unknown(key: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    if not allowed:
        return "unknown key; remove it"
    return f"unknown key; the keys here are {', '.join(f'`{name}`' for name in allowed)}"


def _cure(kind: str, value: Any) -> str:
    if kind in _NUMBERS and isinstance(value, str) and re.fullmatch(r"\s*[+-]?[\d.]+(e[+-]?\d+)?\s*", value):
        return "remove the quotes"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "put it in quotes"
    return "write it as a list" if kind in ("list_type", "tuple_type") and value is not None else ""


def _or(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}" if texts else "a value"
