"""Named arrays: a model's parameters and the updates to them, and their bytes.

Bytes are safetensors, names sorted, so that equal parameters are equal bytes
and have one sha256. No pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

ALIGNMENT = 8  # of the arrays in the file: fewer spaces than this end the header

Parameters = dict[str, NDArray[np.float32]]


def to_bytes(parameters: Parameters) -> bytes:
    """Safetensors bytes of float32 arrays, names sorted."""
    from safetensors.numpy import save

    raw: bytes = save({k: np.ascontiguousarray(parameters[k], dtype=np.float32) for k in sorted(parameters)})
    return raw


def from_bytes(raw: bytes) -> Parameters:
    """Inverse of to_bytes.

    Raises:
        ContractError: not safetensors, not all float32, or more in the header than names, types, shapes and places.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as exc:
        raise ContractError(f"{len(raw)} bytes that are no safetensors") from exc
    wrong = [k for k, v in arrays.items() if v.dtype != np.float32]
    if wrong:
        raise ContractError(f"expected float32 arrays only, got others under {sorted(wrong)[:5]}")
    if not _is_plain(raw):
        raise ContractError(
            "the safetensors header says a thing twice, or carries something beside the arrays"
        )
    return {k: arrays[k] for k in sorted(arrays)}


def _is_plain(raw: bytes) -> bool:
    """True where the header, which was read before, has no metadata, no name twice, and no room for more."""
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    text = header.rstrip(b" ")
    named = json.loads(text)
    shortest = json.dumps(named, separators=(",", ":"), ensure_ascii=False).encode()
    return text == shortest and len(header) - len(text) < ALIGNMENT and "__metadata__" not in named


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def same_form(a: Parameters, b: Parameters) -> bool:
    """True where names and shapes agree."""
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape for k in a)


def is_finite(parameters: Parameters) -> bool:
    return all(bool(np.isfinite(v).all()) for v in parameters.values())


def add(base: Parameters, update: Parameters) -> Parameters:
    """base + update, float32.

    Raises:
        ContractError: names or shapes differ.
    """
    if not same_form(base, update):
        raise ContractError("the update has other names or shapes than the parameters it is for")
    return {k: (base[k] + update[k]).astype(np.float32) for k in base}


def subtract(new: Parameters, base: Parameters) -> Parameters:
    """new - base, float32: the update that turns base into new.

    Raises:
        ContractError: names or shapes differ.
    """
    if not same_form(new, base):
        raise ContractError("cannot subtract parameters of other names or shapes")
    return {k: (new[k] - base[k]).astype(np.float32) for k in base}


def flat(parameters: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """All numbers in one vector, shape (d,): names sorted, each array in C order."""
    return np.concatenate(
        [np.asarray(parameters[k], dtype=np.float64).reshape(-1) for k in sorted(parameters)]
    )


def shaped(vector: NDArray[np.float64], like: Parameters) -> Parameters:
    """Inverse of flat, float32, in the names and shapes of `like`.

    Raises:
        ContractError: another number of numbers.
    """
    return {name: array.astype(np.float32) for name, array in exact(vector, like).items()}


def exact(vector: NDArray[np.float64], like: Parameters) -> dict[str, NDArray[np.float64]]:
    """Like shaped, in the vector's own precision."""
    if vector.shape != (sum(v.size for v in like.values()),):
        raise ContractError(f"a vector of shape {vector.shape} does not fill the parameters")
    result: dict[str, NDArray[np.float64]] = {}
    start = 0
    for name in sorted(like):
        size = like[name].size
        result[name] = vector[start : start + size].reshape(like[name].shape)
        start += size
    return result
