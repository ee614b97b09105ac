"""A hub made of a key and a store, and sites with synthetic records: for tests of the site alone."""

from __future__ import annotations

import csv
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np

from infra.signing import SigningKey, unseal
from infra.store import open_store
from infra.store.base import Store
from sites.agent import Agent
from sites.job import InlineRunner, Runner
from sites.settings import load_site
from tasks import layout, parameters
from tasks.contracts import Card, Operation, Progress, Receipt, Ticket
from tasks.parameters import Parameters
from tasks.recipes import load_recipe, recipe_sha256
from tasks.study import Study

RUN = "toy-1"


def a_study(**changes: Any) -> Study:
    """One site, three rounds, two numbers and a category."""
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
        "sites": ["north"],
        "rounds": 3,
        "quorum": 1,
        "local": {"epochs": 1, "batch_size": "full", "optimizer": "sgd", "learning_rate": 1.0},
        "privacy": {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.0},
    }
    return Study.model_validate(terms | changes)


def write_records(path: Path, n: int = 120) -> None:
    """Two records for each of n / 2 patients."""
    generator = np.random.default_rng(7)
    age, dose = generator.uniform(0, 100, n), generator.uniform(0, 10, n)
    sick = age / 100 + dose / 10 + generator.normal(0, 0.3, n) > 1.0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "dose", "ward", "sick", "patient"])
        for i in range(n):
            label = "yes" if sick[i] else "no"
            writer.writerow([f"{age[i]:.1f}", f"{dose[i]:.2f}", "ab"[i % 2], label, f"p{i // 2}"])


def write_site(
    folder: Path,
    n: int = 120,
    *,
    epsilon: float = 10.0,
    extra: str = "testing: {seeded_noise: true}\n",
    source: str = "{url: 'csv:north.csv'}",
) -> Path:
    """Records and site.yaml of site `north`; returns the yaml's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "north.csv", n)
    path = folder / "north.yaml"
    path.write_text(
        f"site: north\nstore: {(folder / 'store').as_uri()}\nsources:\n  toy: {source}\n"
        f"limits: {{epsilon: {epsilon}, delta: 1.0e-3, min_records: 30}}\n{extra}"
    )
    return path


class ToyHub:
    """Signs and publishes what a hub does, and reads what the site answers."""

    def __init__(self, folder: Path, store: Store | None = None):
        self.key = SigningKey.create("hub")
        self.store: Store = store or open_store((folder / "store").as_uri())
        card = Card(name="hub", role="hub", public_key=self.key.public_hex, version="0")
        self.store.put(layout.HUB_CARD, self.key.seal(card))

    def publish(self, study: Study) -> Parameters:
        """Put the study up; returns its initial parameters."""
        self.store.put(layout.study_key(study.name, study.sha256), self.key.seal(study))
        return load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)

    def ticket(self, study: Study, given: Parameters, /, **changes: Any) -> Ticket:
        """A good ticket on published parameters, but for `changes`."""
        raw = parameters.to_bytes(given)
        digest = parameters.sha256(raw)
        fields: dict[str, Any] = {
            "run": RUN,
            "study": study.name,
            "study_sha256": study.sha256,
            "recipe_sha256": recipe_sha256(study.recipe),
            "site": "north",
            "round": 1,
            "attempt": 1,
            "operation": Operation.TRAIN,
            "parameters_key": layout.parameters_key(RUN, 0, digest),
            "parameters_sha256": digest,
            "nonce": secrets.token_hex(16),
            "issued_at": time.time(),
            "expires_at": time.time() + 60,
        }
        self.store.put(fields["parameters_key"], raw)
        return Ticket(**(fields | changes))

    def send(self, ticket: Ticket) -> Ticket:
        return self.send_raw(ticket, self.key.seal(ticket))

    def send_raw(self, ticket: Ticket, raw: bytes) -> Ticket:
        """Put any bytes where the ticket belongs, and ring."""
        self.store.put(layout.ticket_key(ticket), raw)
        self.store.put(layout.bell_key(ticket.site), secrets.token_hex(8).encode())
        return ticket

    def site_card(self, site: str = "north") -> Card:
        raw = self.store.get(layout.card_key(site))
        assert raw is not None
        from infra.signing import peek

        return peek(raw, Card)[1]

    def receipt(self, ticket: Ticket) -> Receipt | None:
        """The site's verified answer; None while there is none."""
        raw = self.store.get(layout.answer_key(ticket, "receipt.json"))
        if raw is None:
            return None
        return unseal(raw, Receipt, ticket.site, self.site_card(ticket.site).public_key)

    def progress(self, ticket: Ticket) -> Progress | None:
        raw = self.store.get(layout.answer_key(ticket, "progress.json"))
        if raw is None:
            return None
        return unseal(raw, Progress, ticket.site, self.site_card(ticket.site).public_key)

    def update(self, ticket: Ticket) -> bytes | None:
        return self.store.get(layout.answer_key(ticket, "update.safetensors"))

    def ask(self, agent: Agent, ticket: Ticket) -> Receipt:
        """Send a ticket, let the agent work, return the receipt."""
        self.send(ticket)
        agent.step()
        receipt = self.receipt(ticket)
        assert receipt is not None
        return receipt


def an_agent(folder: Path, runner: Runner | None = None, store: Store | None = None, **site: Any) -> Agent:
    """The agent of site `north`, working inline; keywords go to write_site."""
    loaded = load_site(write_site(folder, **site))
    return Agent(loaded, store or open_store(loaded.settings.store), runner or InlineRunner())
