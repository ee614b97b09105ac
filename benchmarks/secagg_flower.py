"""One round of Flower's SecAgg+ with its own functions, timed. Runs under a Python that has flwr, without fedrounds.

    PYTHON benchmarks/secagg_flower.py SITES PARAMETERS

Prints JSON: seconds of a site (quantise, own mask, a mask with each other site,
modulo) and of the hub (add, modulo, take off each own mask, dequantise), as
flwr's secaggplus mod and workflow call them, with their default ranges.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

CLIPPING, TARGET, MODULUS = 8.0, 1 << 22, 1 << 32


def site(values: np.ndarray, sites: int) -> tuple[list[np.ndarray], float]:
    start = time.process_time()
    vector = arithmetic.factor_combine(1, quantize([values], CLIPPING, TARGET))
    shapes = [a.shape for a in vector]
    vector = arithmetic.parameters_addition(vector, pseudo_rand_gen(b"s" * 32, MODULUS, shapes))
    for peer in range(1, sites):
        pair = pseudo_rand_gen(peer.to_bytes(32, "big"), MODULUS, shapes)
        combine = arithmetic.parameters_addition if peer % 2 else arithmetic.parameters_subtraction
        vector = combine(vector, pair)
    vector = arithmetic.parameters_mod(vector, MODULUS)
    return vector, time.process_time() - start


def hub(vector: list[np.ndarray], sites: int) -> float:
    start = time.process_time()
    shapes = [a.shape for a in vector]
    total = [np.zeros(s, dtype=np.int64) for s in shapes]
    for _ in range(sites):
        total = arithmetic.parameters_addition(total, vector)
    total = arithmetic.parameters_mod(total, MODULUS)
    for peer in range(sites):
        own = pseudo_rand_gen(peer.to_bytes(32, "big"), MODULUS, shapes)
        total = arithmetic.parameters_subtraction(total, own)
    total = arithmetic.parameters_mod(total, MODULUS)
    dequantize(arithmetic.factor_extract(total)[1], CLIPPING, TARGET)
    return time.process_time() - start


def main() -> None:
    sites, parameters = int(sys.argv[1]), int(sys.argv[2])
    values = np.random.default_rng(0).uniform(-1, 1, parameters).astype(np.float32)
    vector, seconds = site(values, sites)
    print(json.dumps({"site": seconds, "hub": hub(vector, sites), "version": version("flwr")}))


if __name__ == "__main__":
    main()
