"""What a secure sum costs a site and the hub, beside the floor and beside Flower's SecAgg+, in one run.

    python -m benchmarks.secagg [--parameters 10000000] [--sites 16 32] [--flower PYTHON] [--json FILE]

The floor is what no implementation with these masks can avoid: one AES-256-CTR
stream per mask, added to a vector block by block. Ours is encoding, masking
and, at the hub, adding, unmasking and decoding. Flower's functions run in a
Python of their own, so that its versions do not meet ours:

    python -m venv /tmp/flower && /tmp/flower/bin/pip install flwr==1.42.0
    python -m benchmarks.secagg --flower /tmp/flower/bin/python

Seconds of processor time, the best of --repeats taken in turns, so that a busy machine
does not count (all of it runs in one thread). Memory is touched before the clock starts.
Targets at ten million parameters: within 1.5 of the floor, five times Flower's
throughput, at the site and at the hub.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from rich.console import Console
from rich.table import Table

from tasks.secagg import setup
from tasks.secagg.fixedpoint import FixedPoint, word_type
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import masked_chunks, summed_chunks
from tasks.secagg.messages import Terms, default_threshold
from tasks.secagg.scale import Bits

BLOCK = 128 * 1024


def floor(sites: int, length: int, bits: Bits, vectors: int) -> float:
    """Seconds to add `vectors` vectors and one keystream for each of `sites`."""
    kind = word_type(bits)
    size = BLOCK // kind.itemsize
    zeros, key, given = bytes(BLOCK), np.empty(size, dtype=kind), np.full(length, 1, dtype=kind)
    view = memoryview(key.view(np.uint8))  # type: ignore[arg-type]
    streams = [
        Cipher(algorithms.AES(bytes([i]) * 32), modes.CTR(bytes(16))).encryptor() for i in range(sites)
    ]
    total = np.full(length, 1, dtype=kind)
    start = time.process_time()
    for at in range(0, length, size):
        block = total[at : at + size]
        for _ in range(vectors):
            np.add(block, given[at : at + size], out=block)
        for stream in streams:
            stream.update_into(zeros, view)
            np.add(block, key[: block.size], out=block)
    return time.process_time() - start


def our_site(sites: int, values: np.ndarray, bits: Bits) -> tuple[bytes, float]:
    codec = FixedPoint.fitting(1.0, sites, bits)
    seeds = MaskSeeds(
        tuple(bytes([i]) * 32 for i in range(sites // 2)),
        tuple(bytes([i]) * 32 for i in range(sites // 2, sites)),
    )
    out, at = np.full(values.size, 1, dtype=word_type(bits)), 0
    start = time.process_time()
    for words in masked_chunks(_pieces(values), codec, seeds):
        out[at : at + words.size] = words
        at += words.size
    seconds = time.process_time() - start
    return out.tobytes(), seconds


def our_hub(sites: int, masked: bytes, length: int, bits: Bits) -> float:
    codec = FixedPoint.fitting(1.0, sites, bits)
    vectors = [io.BytesIO(masked) for _ in range(sites)]
    seeds = MaskSeeds((), tuple(bytes([i]) * 32 for i in range(sites)))
    start = time.process_time()
    for words in summed_chunks(vectors, seeds, length, bits):
        codec.decode(words)
    return time.process_time() - start


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """As a site reads its tensors: a mebibyte at a time."""
    for start in range(0, values.size, 1 << 18):
        yield values[start : start + (1 << 18)]


def flower(python: str, sites: int, length: int) -> dict[str, Any]:
    script = Path(__file__).with_name("secagg_flower.py")
    done = subprocess.run(
        [python, str(script), str(sites), str(length)],
        check=True,
        capture_output=True,
        text=True,
        cwd=script.parent,
        env={},
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(
    sites: int, length: int, python: str | None, repeats: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Best seconds of each row."""
    values = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(repeats):
        say(f"{sites} sites, turn {turn + 1} of {repeats}")
        bits: Bits
        for bits in (32, 64):
            taken[f"site floor {bits}"].append(floor(sites, length, bits, vectors=0))
            masked, seconds = our_site(sites, values, bits)
            taken[f"site ours {bits}"].append(seconds)
            taken[f"hub floor {bits}"].append(floor(sites, length, bits, vectors=sites))
            taken[f"hub ours {bits}"].append(our_hub(sites, masked, length, bits))
        if python:
            theirs = flower(python, sites, length)
            taken["site flower"].append(theirs["site"])
            taken["hub flower"].append(theirs["hub"])
    taken["setup of 60 rounds, a site"].append(_setup(sites))
    return {name: min(seconds) for name, seconds in taken.items()}


def _setup(sites: int) -> float:
    """Seconds in which one site makes and deals the keys of 60 rounds with two attempts each."""
    names = tuple(f"s{i:03d}" for i in range(sites))
    terms = Terms(run="r", study_sha256="0" * 64, sites=names, threshold=default_threshold(sites), rounds=60)
    seats = [setup.take_seat(terms, name) for name in names]
    few = setup.announce(seats[0], lambda _: bytes(64))
    others = {n: few.model_copy(update={"site": n}) for n in names}  # any keys will do for the time
    directory = setup.directory_of(terms, others.values(), lambda *_: True)
    start = time.process_time()
    setup.announce(seats[0], lambda _: bytes(64))
    setup.deal(seats[0], directory, others, lambda *_: True)
    return time.process_time() - start


def table(results: dict[int, dict[str, float]], length: int) -> Table:
    out = Table(
        title=f"Secure sum of {length:,} parameters, best seconds of a processor", title_justify="left"
    )
    for name in ("what", *(f"{sites} sites" for sites in results)):
        out.add_column(name, justify="left" if name == "what" else "right")
    for name in next(iter(results.values())):
        out.add_row(name, *(f"{figures[name]:.3f}" for figures in results.values()))
    for side in ("site", "hub"):
        for bits in (32, 64):
            ours, least = f"{side} ours {bits}", f"{side} floor {bits}"
            out.add_row(
                f"{side} {bits}: times the floor (1.5)",
                *(f"{f[ours] / f[least]:.2f}" for f in results.values()),
            )
            if f"{side} flower" in next(iter(results.values())):
                ratios = (f"{f[f'{side} flower'] / f[ours]:.1f}" for f in results.values())
                out.add_row(f"{side} {bits}: times Flower's throughput (5)", *ratios)
    return out


def main() -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--flower", metavar="PYTHON", help="a Python that has flwr; without it Flower is left out"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with Console(stderr=True).status("measuring") as status:
        results = {
            sites: measure(sites, args.parameters, args.flower, args.repeats, status.update)
            for sites in args.sites
        }
    Console().print(table(results, args.parameters))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
