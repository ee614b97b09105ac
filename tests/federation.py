"""Hub and sites in one process for tests, over a store that a test may make hostile.

`a_federation(tmp_path)` gives a whole federation with synthetic records;
`Tampering` drops, delays, corrupts or replaces single objects on their way.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from infra.hub import Hub
from infra.store import open_store
from infra.store.base import Store
from infra.store.through import Through
from simulation.approving import approve_everywhere
from simulation.federation import Federation
from sites.settings import load_site
from tasks import layout
from tasks.propose import propose
from tasks.registry import site_card
from tasks.study import Study

SITES = ("north", "east", "south")
FOUR = ("east", "north", "south", "west")
SIX, NINE = (tuple(f"s{i}" for i in range(n)) for n in (6, 9))  # enough for groups

Rule = Callable[[str, bytes], bytes | None]


class Killed(BaseException):
    """The process is gone, in the middle of a write: nothing after it runs."""


class Tampering(Through):
    """A store whose writes pass through `rule(key, data)`: other bytes, or None to lose the object."""

    def __init__(self, store: Store, rule: Rule):
        super().__init__(store)
        self.rule = rule

    def put(self, key: str, data: bytes) -> None:
        changed = self.rule(key, data)
        if changed is not None:
            self.inner.put(key, changed)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        changed = self.rule(key, data)
        return True if changed is None else self.inner.put_if_absent(key, changed)


def a_study(**changes: Any) -> Study:
    """A study of three sites and two rounds on two numbers and a category."""
    terms: dict[str, Any] = {
        "name": "toy",
        "recipe": "tasks.recipes.tabular:LogisticRegression",
        "recipe_settings": {
            "target": "sick",
            "positive": "yes",
            "features": {
                "age": {"kind": "numeric", "range": [0, 100]},
                "dose": {"kind": "numeric", "range": [0, 10], "missing": 5},
                "ward": {"kind": "category", "values": ["a", "b"]},
            },
        },
        "sites": SITES,
        "rounds": 2,
        "quorum": 2,
        "deadline_s": 60,
        "local": {"epochs": 1, "batch_size": "full", "optimizer": "sgd", "learning_rate": 1.0},
        "privacy": {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.0},
    }
    return Study.model_validate(terms | changes)


def write_site(folder: Path, site: str, n: int = 120, extra: str = "", epsilon: float = 10.0) -> Path:
    """Synthetic records and a site.yaml for one site; returns the yaml's path."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(sum(site.encode()))
    age, dose = generator.uniform(0, 100, n), generator.uniform(0, 10, n)
    sick = age / 100 + dose / 10 + generator.normal(0, 0.3, n) > 1.0
    with (folder / f"{site}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "dose", "ward", "sick", "patient"])
        for i in range(n):
            writer.writerow(
                [f"{age[i]:.1f}", f"{dose[i]:.2f}", "ab"[i % 2], "yes" if sick[i] else "no", f"p{i // 2}"]
            )
    path = folder / f"{site}.yaml"
    terms = "{seeded_noise: true}" if "seeded_noise" in extra else "{}"
    policy = "" if "policy:" in extra else f"policy: {terms}\n"
    path.write_text(
        f"site: {site}\n"
        f"store: {(folder / 'store').as_uri()}\n"
        f"sources:\n  toy: {{url: 'csv:{site}.csv'}}\n"
        f"limits: {{epsilon: {epsilon}, delta: 1.0e-3, min_records: 30}}\n{extra}{policy}"
    )
    return path


def a_federation(tmp_path: Path, rule: Rule | None = None, **sites: dict[str, Any]) -> Federation:
    """A federation of the three sites; keyword `north={"n": 10}` changes what write_site gets."""
    files = [write_site(tmp_path / "files", site, **sites.get(site, {})) for site in SITES]
    return _federation(tmp_path, files, rule)


def a_federation_of(
    names: Iterable[str], tmp_path: Path, rule: Rule | None = None, **file: Any
) -> Federation:
    """A federation of other sites than the three; `file` is what write_site gets for each."""
    return _federation(tmp_path, [write_site(tmp_path / "files", site, **file) for site in names], rule)


def _federation(tmp_path: Path, files: Iterable[Path], rule: Rule | None) -> Federation:
    folder = tmp_path / "federation"
    store = open_store((folder / "store").absolute().as_uri())
    return Federation(folder, [load_site(f) for f in files], Tampering(store, rule) if rule else store)


def approve_at(hub: Hub, files: Iterable[Path], study: Study) -> None:
    """Propose a study, and let the people of these sites approve it."""
    approve_everywhere([load_site(file) for file in files], study, propose(hub, study))


def plain_update(federation: Federation, key: str, data: bytes) -> bytes:
    """What a site has encrypted under the key of an update."""
    _, site, _, run, name, _ = key.split("/")
    card = site_card(federation.hub, site)
    assert card is not None
    return federation.hub.identity.decrypt(data, card, layout.update_place(run, int(name[:5])))
