"""A hub made of a key and a store, and sites with synthetic records: for tests of the site alone."""

from __future__ import annotations

import csv
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from infra.identity import Identity, Public
from infra.sealing import is_encrypted
from infra.store import open_store
from infra.store.base import Store
from sites.agent import Agent
from sites.approvals import Approvals
from sites.identity import pin_hub, read_hub_card
from sites.proposals import of_study
from sites.runner import InlineRunner, Runner
from sites.settings import load_site
from sites.voting import approvals_of, approve
from tasks import layout, parameters
from tasks.codes import WORK, Operation
from tasks.contracts import Card, Progress, Receipt, Ticket
from tasks.errors import StudyError
from tasks.parameters import Parameters
from tasks.proposal import Proposal
from tasks.recipes import load_recipe, recipe_sha256
from tasks.study import Study

RUN = "toy-1"

M = TypeVar("M", bound=BaseModel)


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
    terms = "{seeded_noise: true}" if "seeded_noise" in extra else "{}"
    policy = "" if "policy:" in extra else f"policy: {terms}\n"
    path.write_text(
        f"site: north\nstore: {(folder / 'store').as_uri()}\nsources:\n  toy: {source}\n"
        f"limits: {{epsilon: {epsilon}, delta: 1.0e-3, min_records: 30}}\n{extra}{policy}"
    )
    join(path)
    return path


def join(config: Path, store: Store | None = None) -> None:
    """Make the site obey the hub of its store, where there is one, as a site of the version before does."""
    site = load_site(config)
    raw = (store or open_store(site.settings.store)).get(layout.HUB_CARD)
    if raw is not None:
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        pin_hub(site.state, read_hub_card(raw))


class ToyHub:
    """Signs and publishes what a hub does, and reads what the site answers."""

    def __init__(self, folder: Path, store: Store | None = None):
        self.identity = Identity.create("hub")
        self.key = self.identity.signing
        self.store: Store = store or open_store((folder / "store").as_uri())
        self.config = folder / "north.yaml"
        self.to_approve: list[Study] = []  # as soon as the site has its file
        self.card = Card(role="hub", version="0", **self.identity.public._asdict())
        self.store.put(layout.HUB_CARD, self.key.seal(self.card))

    def publish(self, study: Study, approved: bool = True) -> Parameters:
        """Put the study up, and have the site's people approve it; returns its initial parameters."""
        self.store.put(layout.study_key(study.name, study.sha256), self.key.seal(study))
        if approved:
            self.to_approve.append(study)
            self._approve()
        return load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)

    def propose(self, study: Study, **changes: Any) -> Proposal:
        """Put the study up for the site's people to look at, and nothing more."""
        initial = self.publish(study, approved=False)
        fields: dict[str, Any] = {
            "study": study.name,
            "study_sha256": study.sha256,
            "recipe_sha256": recipe_sha256(study.recipe),
            "operations": WORK,
            "version": "0",
            "parameters_bytes": len(parameters.to_bytes(initial)),
            "proposed_at": time.time(),
        }
        proposal = Proposal.model_validate(fields | changes)
        self.store.put(layout.proposal_key(study.name), self.key.seal(proposal))
        return proposal

    def ticket(self, study: Study, given: Parameters, /, **changes: Any) -> Ticket:
        """A good ticket on published parameters, but for `changes`."""
        raw = parameters.to_bytes(given)
        digest = parameters.sha256(raw)
        run, round_ = changes.get("run", RUN), changes.get("round", 1)
        after = round_ if changes.get("operation") == Operation.EVALUATE else round_ - 1
        fields: dict[str, Any] = {
            "run": run,
            "study": study.name,
            "study_sha256": study.sha256,
            "recipe_sha256": recipe_sha256(study.recipe),
            "site": "north",
            "round": round_,
            "attempt": 1,
            "operation": Operation.TRAIN,
            "parameters_key": layout.parameters_key(run, after, digest),
            "parameters_sha256": digest,
            "nonce": secrets.token_hex(16),
            "issued_at": time.time(),
            "expires_at": time.time() + 60,
        }
        self.store.put(fields["parameters_key"], raw)
        return Ticket(**(fields | changes))

    def send(self, ticket: Ticket) -> Ticket:
        """Encrypted once the site has shown its card, else signed only, as the version before."""
        shown = self.store.get(layout.card_key(ticket.site)) is not None
        to = self.site_card(ticket.site) if shown else Public(ticket.site, "", None)
        return self.send_raw(ticket, self.identity.seal(ticket, [to], layout.ticket_key(ticket)))

    def send_raw(self, ticket: Ticket, raw: bytes) -> Ticket:
        """Put any bytes where the ticket belongs, and ring."""
        self._approve()
        self.store.put(layout.ticket_key(ticket), raw)
        self.store.put(layout.bell_key(ticket.site), secrets.token_hex(8).encode())
        return ticket

    def _approve(self) -> None:
        while self.to_approve and self.config.exists():
            with suppress(StudyError):  # a study that does not name the site, or a recipe that is none
                approve_here(self.config, self.to_approve.pop(0))

    def site_card(self, site: str = "north") -> Card:
        raw = self.store.get(layout.card_key(site))
        assert raw is not None
        from infra.signing import peek

        return peek(raw, Card)[1]

    def open(self, raw: bytes, model: type[M], key: str) -> M:
        """What the site sealed for this hub."""
        return self.identity.open(raw, model, self.site_card(key.split("/")[1]), key)

    def receipt(self, ticket: Ticket) -> Receipt | None:
        """The site's verified answer; None while there is none."""
        raw = self.store.get(layout.answer_key(ticket, "receipt.json"))
        if raw is None:
            return None
        return self.open(raw, Receipt, layout.answer_key(ticket, "receipt.json"))

    def progress(self, ticket: Ticket) -> Progress | None:
        raw = self.store.get(layout.answer_key(ticket, "progress.json"))
        if raw is None:
            return None
        return self.open(raw, Progress, layout.answer_key(ticket, "progress.json"))

    def update(self, ticket: Ticket) -> bytes | None:
        """As the site made it, before it was encrypted for this hub."""
        raw = self.store.get(layout.answer_key(ticket, "update.safetensors"))
        if raw is None or not is_encrypted(raw):
            return raw
        place = layout.update_place(ticket.run, ticket.round)
        return self.identity.decrypt(raw, self.site_card(ticket.site), place)

    def ask(self, agent: Agent, ticket: Ticket) -> Receipt:
        """Send a ticket, let the agent work, return the receipt."""
        self.send(ticket)
        agent.step()
        receipt = self.receipt(ticket)
        assert receipt is not None
        return receipt


def approve_here(config: Path, study: Study, person: str = "ada") -> None:
    """What `fedrounds-site approve` does, unless it may run already."""
    site = load_site(config)
    version = of_study(study, site)
    vote = votes_of(config).standing(site.settings.policy.approval).in_force.get(study.name)
    if vote is None or vote.approval_sha256 != version.approval_sha256:
        approve(site, version, person)


def votes_of(config: Path) -> Approvals:
    return approvals_of(load_site(config))


def an_agent(folder: Path, runner: Runner | None = None, store: Store | None = None, **site: Any) -> Agent:
    """The agent of site `north`, working inline; keywords go to write_site."""
    config = write_site(folder, **site)
    join(config, store)
    loaded = load_site(config)
    return Agent(loaded, store or open_store(loaded.settings.store), runner or InlineRunner())
