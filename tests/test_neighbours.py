"""Neighbouring versions: what protocol 1 wrote is read as what it was (tests/vectors/README.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.results import results
from infra.hub import Hub
from infra.signing import SigningKey, unseal
from sites.cli import main
from sites.identity import own_identity, pinned_hub
from sites.outbox import Outbox
from tasks import layout, parameters
from tasks.codes import Code
from tasks.contracts import Card, Presence, Progress, Receipt, RunManifest, Ticket
from tasks.records import Lease, Registered, RoundRecord, RunEnd
from tasks.study import Study
from tests.federation import a_study
from tests.sites.builders import write_site

VECTORS = Path(__file__).parent / "vectors" / "protocol-1"
STORE = VECTORS / "store"
KEYS = {
    name: SigningKey.load_or_create(name, path)
    for name, path in {n: VECTORS / "keys" / n for n in ("hub", "north", "east", "south")}.items()
}

MODELS = {
    "shared/hub.json": Card,
    "shared/studies/**/*.json": Study,
    "shared/runs/toy-1/run.json": RunManifest,
    "hub/sites/*.json": Card,
    "hub/leases/**/*.json": Lease,
    "hub/runs/toy-1/rounds/*.json": RoundRecord,
    "hub/runs/toy-1/ended.json": RunEnd,
    "hub/runs/toy-1/registered/*.json": Registered,
    "sites/*/in/tickets/**/*.json": Ticket,
    "sites/*/out/card.json": Card,
    "sites/*/out/presence.json": Presence,
    "sites/*/out/**/progress.json": Progress,
    "sites/*/out/**/receipt.json": Receipt,
}


@pytest.fixture
def hub(tmp_path) -> Hub:
    """The hub of that run, at the time of its tickets, over a copy of the store."""
    shutil.copytree(STORE, tmp_path / "store")
    shutil.copytree(VECTORS / "keys", tmp_path / "hub" / "keys", copy_function=_as_key)
    hub = Hub(directory=tmp_path / "hub", store_url=(tmp_path / "store").as_uri())
    clock = [hub.read(layout.run_key("toy-1"), RunManifest).created_at + 5]

    def wait(seconds: float) -> None:
        clock[0] += seconds + 5

    return hub.with_clock(lambda: clock[0], wait)


def _as_key(source: str, target: str) -> None:
    shutil.copyfile(source, f"{target}.key")


@pytest.mark.parametrize("pattern", MODELS)
def test_every_kind_of_message_is_read(pattern):
    """Under the key of whoever signed it, with nothing lost."""
    paths = list(STORE.glob(pattern))
    assert paths

    for path in paths:
        parts = path.relative_to(STORE).parts
        signer = parts[1] if parts[0] == "sites" and parts[2] == "out" else "hub"
        message = unseal(path.read_bytes(), MODELS[pattern], signer, KEYS[signer].public_hex)

        assert json.loads(message.model_dump_json(exclude_unset=True))


def test_no_message_of_the_run_is_left_out():
    """The table above is whole."""
    known = {path for pattern in MODELS for path in STORE.glob(pattern)}

    assert {path for path in STORE.rglob("*") if path.suffix == ".json"} == known


def test_a_hub_shows_a_run_of_an_earlier_version(hub):
    """Upgrading the hub loses no history."""
    result = results(hub, "toy-1")

    assert result["state"] == "finished"
    assert result["final"]["sites"]["south"]["code"] == Code.TOO_FEW_RECORDS


def test_a_hub_takes_the_answers_of_sites_of_an_earlier_version(hub):
    """The hub was upgraded in the middle of a round: it reads the sites' receipts, and nobody trains again."""
    from flows.training import training

    committed = hub.read(layout.commit_key("toy-1", 1), RoundRecord)
    for key in (layout.commit_key("toy-1", 1), layout.ended_key("toy-1"), layout.registered_key("toy-1", 1)):
        hub.store.delete(key)
    for key in hub.store.list("hub/leases/"):
        hub.store.delete(key)
    tickets = hub.store.list("sites/")

    training(hub=hub, study=a_study(rounds=1), run="toy-1")

    again = hub.read(layout.commit_key("toy-1", 1), RoundRecord)
    assert again.parameters_sha256 == committed.parameters_sha256
    assert again.sites["north"].spent == committed.sites["north"].spent
    assert {k for k in hub.store.list("sites/") if "/in/tickets/" in k} <= set(tickets)


def test_an_optional_field_that_is_added_changes_no_tickets_name():
    """A later version reads a ticket of this one: both must name it alike in receipts."""

    class Later(Ticket):
        added: int | None = None

    path = next((STORE / "sites").glob("*/in/tickets/**/*.json"))
    ticket = unseal(path.read_bytes(), Ticket, "hub", KEYS["hub"].public_hex)

    assert Later(**ticket.model_dump()).sha256 == ticket.sha256
    assert Later(**ticket.model_dump(), added=1).sha256 != ticket.sha256


def test_parameters_of_an_earlier_version_are_read():
    """And written again they are the same bytes."""
    for path in STORE.rglob("*.safetensors"):
        assert parameters.to_bytes(parameters.from_bytes(path.read_bytes())) == path.read_bytes()


@pytest.fixture
def site(tmp_path) -> Path:
    """site.yaml of north beside the state folder that an earlier version left."""
    path = write_site(tmp_path)
    shutil.copytree(VECTORS / "state-north", tmp_path / "north.state")
    (tmp_path / "north.state" / "site.key").chmod(0o600)
    return path


@pytest.mark.parametrize("words", [["ledger", "verify"], ["audit", "verify"], ["audit", "show"], ["budget"]])
def test_a_site_opens_what_an_earlier_version_left(site, words, capsys):
    """An upgrade touches neither ledger nor audit log, and both still verify."""
    assert main([*words, "--config", str(site)]) == 0


def test_a_site_keeps_its_key_its_hub_and_its_answers(site):
    """Upgrades never re-issue keys, and no ticket is worked on twice."""
    state = site.parent / "north.state"

    assert own_identity("north", state).signing.public_hex == KEYS["north"].public_hex
    assert pinned_hub(state).public_key == KEYS["hub"].public_hex
    answer = Outbox(state / "outbox").find("toy-1/00001-01-train")
    assert (
        answer.sealed.encode() == (STORE / "sites/north/out/toy-1/00001-01-train/receipt.json").read_bytes()
    )
    assert Outbox(state / "outbox").bases("toy-1")[-1].round == 1
