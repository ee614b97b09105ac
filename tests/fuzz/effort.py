"""How hard a property is tried, and bytes that are nearly right.

Each property runs twice: short in `make test`, long in `make test-long`. What
it asks of a reader is always the same: a value, or one of our own errors;
never another exception, whatever the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONG = 100  # times the short effort

efforts = pytest.mark.parametrize(
    "effort",
    [
        pytest.param(1, id="short"),
        pytest.param(LONG, id="long", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)


def tried(effort: int, examples: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run `check` on `examples` values, times `effort`."""
    bounds = settings(
        max_examples=examples * effort,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=effort == 1,  # `make test` says the same every time; the long effort looks for news
    )
    bounds(given(strategy)(check))()


HOSTILE = st.sampled_from(
    [
        None, True, -1, 0, 10**400, -(2**63), 1e308, "", "x" * 5000, "\x00", "\u202e", "\ud800", "../../etc/passwd",
        "/etc/passwd", "1", "NaN", "🧨" * 50, [], {}, [[]], {"": {}}, {"__class__": "x"}, {"$ref": "#"}, [None] * 3000,
        {str(i): i for i in range(300)},
    ]
)  # fmt: skip
LITERALS = ["NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "-0", "0x1", "01", '"\\ud800"', '"\\u0000"']
LITERALS += ["[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000, "1" * 200_000]


@st.composite
def changed_json(draw: st.DrawFn, value: Any) -> bytes:
    """JSON text of a value with a part replaced, added, doubled or taken away."""
    tree = json.loads(json.dumps(value))
    places = list(_places(tree))
    text = None
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "literal", "add", "remove", "double"]))
        if what == "replace":
            holder[key] = draw(HOSTILE)
        elif what == "literal":
            holder[key] = "@@"
            text = draw(st.sampled_from(LITERALS))
        elif what == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=20))] = draw(HOSTILE)
        elif what == "remove" and isinstance(holder, dict):
            holder.pop(key, None)
        elif what == "double" and isinstance(holder, dict) and key in holder:
            return json.dumps(tree).replace("{", "{" + json.dumps(key) + ": 1, ", 1).encode()
    raw = json.dumps(tree)
    return (raw if text is None else raw.replace('"@@"', text)).encode()


def _places(tree: Any) -> Any:
    """(holder, key) of every value below the top."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


@st.composite
def changed_bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes with some flipped, cut, doubled or put in."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = draw(st.integers(at, min(len(data), at + 64)))
        what = draw(st.sampled_from(["flip", "cut", "double", "put", "truncate"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at:end]
        elif what == "double":
            data[at:at] = data[at:end]
        elif what == "put":
            data[at:at] = draw(st.binary(max_size=16))
        else:
            del data[at:]
    return bytes(data)


def nearly(raw: bytes) -> st.SearchStrategy[bytes]:
    """Anything at all, and what is nearly `raw`."""
    return st.one_of(st.binary(max_size=200), changed_bytes(raw), changed_bytes(raw))
