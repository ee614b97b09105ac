"""What the bytes of an update are, looked at without numpy and without trusting who wrote them.

The agent is light, so this is plain Python: 40 MB take about 0.7 s. Only one
spelling is let pass, the canonical one (names sorted, float32, no gap, no
metadata, as tasks/parameters.py writes it): the bytes then hold the numbers and
nothing beside them, in no order, padding or field of its own.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import Any, NamedTuple

from tasks.errors import ContractError

MOST_HEADER_BYTES = 8 * 2**20
MOST_TENSORS = 100_000
ALIGNED = 8  # safetensors fills the header with spaces up to it
WORD_BYTES = 8  # of a noised integer, before it is a word of the ring
AT_ONCE = 16_384  # numbers that are looked at together; hypot takes them as arguments

Form = dict[str, tuple[int, ...]]
"""Shapes by name."""


def numbers_of(form: Form) -> int:
    """How many numbers arrays of these shapes have."""
    return sum(math.prod(shape) for shape in form.values())


class Tensors(NamedTuple):
    """An update's form, and where its numbers begin."""

    form: Form
    begin: int

    @property
    def numbers(self) -> int:
        return numbers_of(self.form)


def read_tensors(raw: bytes) -> Tensors:
    """The form of canonical safetensors bytes.

    Raises:
        ContractError: anything else, by so much as a space.
    """
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 2 <= size <= min(MOST_HEADER_BYTES, len(raw) - 8):
        raise ContractError(f"{len(raw)} bytes that are no safetensors")
    header = raw[8 : 8 + size]
    form = _form(header)
    numbers = numbers_of(form)
    if len(raw) != 8 + size + 4 * numbers or header != _canonical(form):
        raise ContractError(
            f"{len(raw)} bytes of safetensors that hold more, or are spelled otherwise, than tensors"
        )
    return Tensors(form, 8 + size)


def form_of(raw: bytes) -> Form:
    """Names and shapes in safetensors bytes of somebody else, however they are spelled.

    Raises:
        ContractError: there are none to be read.
    """
    size = int.from_bytes(raw[:8], "little")
    return _form(raw[8 : 8 + min(size, MOST_HEADER_BYTES)])


def norm(raw: bytes, tensors: Tensors) -> float:
    """Euclidean norm of all numbers; not finite where one of them is not."""
    numbers = memoryview(raw)[tensors.begin :].cast("f")  # little-endian, as is every machine that we run on
    parts = [math.hypot(*numbers[i : i + AT_ONCE]) for i in range(0, len(numbers), AT_ONCE)]
    return math.hypot(*parts) if all(map(math.isfinite, parts)) else math.nan


def word_norm(words: bytes) -> float:
    """Euclidean norm of 64-bit integers."""
    numbers = memoryview(words).cast("q")
    parts = [math.hypot(*numbers[i : i + AT_ONCE]) for i in range(0, len(numbers), AT_ONCE)]
    return math.hypot(*parts)


def _form(header: bytes) -> Form:
    """Names and shapes; whether the rest is as it should be, the spelling shows."""
    try:
        found = json.loads(header.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ContractError("a header of safetensors that is no JSON") from exc
    if not isinstance(found, dict) or not 0 < len(found) <= MOST_TENSORS:
        raise ContractError("a header of safetensors without tensors, or with too many")
    return {name: _shape(entry) for name, entry in found.items() if name != "__metadata__"}


def _shape(entry: Any) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) > 16:
        raise ContractError("a header of safetensors with an entry that is no tensor")
    if not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ContractError("a tensor of an impossible shape")
    return tuple(shape)


def _canonical(form: Form) -> bytes:
    """The only header that a form has."""
    ends = list(accumulate((4 * math.prod(form[name]) for name in sorted(form)), initial=0))
    entries = {
        name: {"dtype": "F32", "shape": list(form[name]), "data_offsets": [ends[i], ends[i + 1]]}
        for i, name in enumerate(sorted(form))
    }
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ContractError("a tensor's name is no text") from exc
    return text + b" " * (-len(text) % ALIGNED)
