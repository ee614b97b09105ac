"""Tensors from outside: arrays of float32 that are as large as their bytes, or refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from tasks import parameters
from tasks.errors import ContractError
from tests.fuzz.effort import HOSTILE, efforts, nearly, tried

GOOD = parameters.to_bytes({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)})


def safetensors(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BOMBS = {
    "header longer than the file": safetensors(b"{}", b"", 2**40),
    "header of 2**64": safetensors(b"{}", b"", 2**64 - 1),
    "header of 64 MB": safetensors(b" " * 64_000_000 + b"{}", b""),
    "nested header": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
    "overlapping": safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "the same bytes a thousand times": safetensors(
        {str(i): tensor(0, 4, [1]) for i in range(1000)}, bytes(4)
    ),
    "shape too large": safetensors({"a": tensor(0, 4, [2**40])}, bytes(4)),
    "shape that overflows": safetensors({"a": tensor(0, 4, [2**33, 2**33])}, bytes(4)),
    "shape that wraps to nothing": safetensors({"a": tensor(0, 0, [2**32, 2**32])}, b""),
    "offsets backwards": safetensors({"a": tensor(4, 0, [1])}, bytes(4)),
    "offsets outside": safetensors({"a": tensor(0, 2**40, [2**38])}, bytes(4)),
    "a hole": safetensors({"a": tensor(4, 8, [1])}, bytes(8)),
    "trailing bytes": GOOD + bytes(100),
    "float64": safetensors({"a": tensor(0, 8, [1], "F64")}, bytes(8)),
    "bfloat16": safetensors({"a": tensor(0, 2, [1], "BF16")}, bytes(2)),
    "an unknown type": safetensors({"a": tensor(0, 4, [1], "PY")}, bytes(4)),
    "float8": safetensors({"a": tensor(0, 1, [1], "F8_E4M3")}, bytes(1)),
    "a pickle": b"\x80\x04cos\nsystem\n.",
    "nothing": b"",
    "one name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "metadata": safetensors({"__metadata__": {"row": "1,2,3"}, "a": tensor(0, 4, [1])}, bytes(4)),
    "spaces in the header": safetensors(b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "negative shape": safetensors({"a": tensor(0, 4, [-1])}, bytes(4)),
    "a hundred dimensions": safetensors({"a": tensor(0, 4, [1] * 100)}, bytes(4)),
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_and_takes_no_memory(raw):
    """At most a few times what came in, whatever the header promises."""
    tracemalloc.start()
    try:
        with pytest.raises(ContractError):
            parameters.from_bytes(raw)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(raw) + 2_000_000
    finally:
        tracemalloc.stop()


@efforts
def test_bytes_are_arrays_or_are_refused(effort):
    """What is read has as many bytes as it came from, and writes itself again."""

    def check(raw: bytes) -> None:
        try:
            found = parameters.from_bytes(raw)
        except ContractError:
            return
        assert sum(v.nbytes for v in found.values()) <= len(raw)
        again = parameters.from_bytes(parameters.to_bytes(found))
        assert parameters.same_form(found, again)
        assert abs(len(raw) - len(parameters.to_bytes(found))) < parameters.ALIGNMENT

    entry = st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(["F32", "F64", "I8", "BOOL", "U64", "F16"]), HOSTILE),
            "shape": st.one_of(st.lists(st.integers(-1, 5), max_size=4), HOSTILE),
            "data_offsets": st.one_of(st.lists(st.integers(-1, 40), min_size=2, max_size=2), HOSTILE),
        }
    )
    headers = st.dictionaries(st.text(max_size=5), st.one_of(entry, HOSTILE), max_size=4)
    made = st.builds(safetensors, headers, st.binary(max_size=40))
    tried(effort, 150, st.one_of(nearly(GOOD), made), check)
