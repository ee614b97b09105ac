"""Builders of a run's records, and a recipe small enough to compute by hand.

For tests of what happens after training: nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from tasks import layout, parameters
from tasks.codes import Code
from tasks.contracts import Metrics, RunManifest, Spent
from tasks.recipes.base import Arrays
from tasks.records import RoundRecord, SiteRound
from tasks.study import Study

SITES = ("east", "north", "south", "west")
BEGAN = 1_790_000_000.0


class Doubler:
    """Score = w * dose, where a missing dose counts 1; ward `b` adds 0.5."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def columns(self) -> tuple[str, ...]:
        return ("dose", "ward")

    def target(self) -> str:
        return "sick"

    def encode(self, table: Mapping[str, NDArray[Any]]) -> Arrays:
        x = self.encode_features(table)
        return Arrays(x, table["sick"].astype(np.float32), np.ones(len(x), dtype=np.bool_))

    def initial_parameters(self, seed: int) -> parameters.Parameters:
        return {"w": np.array([seed], dtype=np.float32)}

    def module(self) -> Any:
        raise NotImplementedError("these tests do not train")

    def loss(self, outputs: Any, targets: Any) -> Any:
        raise NotImplementedError("these tests do not train")

    def encode_features(self, table: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        dose = [1.0 if value is None else float(value) for value in table["dose"]]
        ward = [0.5 if value in ("b", "2") else 0.0 for value in table["ward"]]
        return np.column_stack([dose, ward]).astype(np.float32)

    def example(self) -> dict[str, list[Any]]:
        return {"dose": [0.25, None], "ward": ["a", "b"]}

    def scores(self, arrays: parameters.Parameters, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(x[:, 0] * arrays["w"][0] + x[:, 1], dtype=np.float64)


def a_study(**changes: Any) -> Study:
    terms: dict[str, Any] = {
        "name": "toy",
        "recipe": "tests.rounds:Doubler",
        "sites": SITES,
        "rounds": 4,
        "quorum": 2,
        "privacy": {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.0},
    }
    return Study.model_validate(terms | changes)


def a_manifest(study: Study, run: str = "toy-1") -> RunManifest:
    return RunManifest(
        run=run,
        study=study.name,
        study_sha256=study.sha256,
        recipe_sha256="a" * 64,
        created_at=BEGAN,
        initial_parameters_sha256="b" * 64,
    )


def a_spending(epsilon: float) -> Spent:
    return Spent(
        epsilon=epsilon, delta=1e-3, noise_multiplier=1.5, sample_rate=0.1, steps=10, epsilon_limit=3.0
    )


def a_record(
    number: int,
    *,
    refusing: Mapping[str, Code] | None = None,
    arrays: parameters.Parameters | None = None,
    **changes: Any,
) -> RoundRecord:
    """Round `number` of run toy-1: all sites deliver but those that refuse; by default parameters w = number."""
    raw = parameters_of(number, arrays)
    sites = {
        site: SiteRound(
            state="delivered",
            spent=a_spending(0.5 * number + 0.1 * i),
            metrics=Metrics(auroc=0.6 + 0.05 * i, accuracy=0.7, loss=0.5),
            payload_bytes=100,
        )
        for i, site in enumerate(SITES)
    }
    sites |= {site: SiteRound(state="refused", code=code) for site, code in (refusing or {}).items()}
    terms: dict[str, Any] = {
        "run": "toy-1",
        "study": "toy",
        "round": number,
        "cohort": [site for site, r in sites.items() if r.state == "delivered"],
        "sites": sites,
        "metrics": Metrics(auroc=0.7 + 0.01 * number, accuracy=0.75, loss=0.6 - 0.01 * number),
        "recipe_sha256": "a" * 64,
        "seconds": 1.5,
        "bytes_up": 400,
        "committed_at": BEGAN + 10.0 * number,
    } | changes
    sha256 = parameters.sha256(raw)
    key = layout.parameters_key(terms["run"], number, sha256)
    return RoundRecord(**terms, parameters_key=key, parameters_sha256=sha256)


def parameters_of(number: int, arrays: parameters.Parameters | None = None) -> bytes:
    return parameters.to_bytes(arrays or {"w": np.array([number], dtype=np.float32)})


def commit(hub: Hub, record: RoundRecord, arrays: parameters.Parameters | None = None) -> RoundRecord:
    """Put a record and its parameters where a committed round has them."""
    hub.store.put_if_absent(record.parameters_key, parameters_of(record.round, arrays))
    hub.write_once(layout.commit_key(record.run, record.round), record)
    return record


def a_hub(folder: Path, mlflow_url: str | None) -> Hub:
    return Hub(directory=folder, store_url=(folder / "store").absolute().as_uri(), mlflow_url=mlflow_url)
