"""A site whose credentials only read, on the real S3 server: from its kit to its farewell, and what a liar gets."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from flows.cli import main
from flows.commands.site_list import site_facts
from flows.results import results
from flows.training import training
from infra.errors import FileError, SealError, StoreError, UploadClosedError
from infra.hub import Hub
from infra.store.signer import Signer
from simulation.acquaint import enrol
from simulation.approving import approve_everywhere
from sites.agent import Agent
from sites.auditread import lines
from sites.doctor import contact, rights
from sites.enrol import answer, look
from sites.farewell import leave
from sites.identity import own_identity
from sites.job import JOB
from sites.ledger import Ledger
from sites.runner import InlineRunner
from sites.settings import Site, load_site
from sites.template import site_yaml
from sites.uploads import store_of
from tasks import layout
from tasks.card import publish_card
from tasks.contracts import Presence
from tasks.errors import QuorumError
from tasks.invitations import answers, confirm, invite
from tasks.propose import propose
from tasks.registry import member, site_card
from tasks.succession import ask_for_new_keys, take_new_keys
from tests.federation import a_study, write_site

pytestmark = pytest.mark.s3


class Counting(InlineRunner):
    """Says how often it trained."""

    trained = 0

    def run(self, folder: Path, watch: Any) -> None:
        self.trained += '"kind":"train"' in (folder / JOB).read_text()
        super().run(folder, watch)


class World(NamedTuple):
    hub: Hub
    site: Site
    clock: list[float]  # seconds that hub and agent are ahead of the store

    def now(self) -> float:
        return time.time() + self.clock[0]

    def agent(self) -> Agent:
        return Agent(self.site, store_of(self.site), Counting(), now=self.now)

    def run(self, agent: Agent, **terms: Any) -> str:
        """Play a study of this one site; time jumps where the agent has nothing to do."""

        def wait(seconds: float) -> None:
            try:
                worked = agent.step()
            except StoreError:
                worked = False
            self.clock[0] += 0 if worked else max(seconds, 5.0)

        study = a_study(sites=["north"], quorum=1, **terms)
        hub = self.hub.with_clock(self.now, wait)
        approve_everywhere([self.site], study, propose(hub, study))
        return training(hub=hub, study=study, run="toy-1")


@pytest.fixture
def world(tmp_path, s3_server, s3_url, monkeypatch) -> World:
    """Hub and site with credentials of their own; the bucket's policy lets the site's read its mailbox and shared/."""
    bucket, keys = (
        f"federation-{uuid.uuid4().hex[:8]}",
        s3_server.ceph.add_user(f"fedrounds-{uuid.uuid4().hex[:8]}"),
    )
    s3_server.client().create_bucket(Bucket=bucket)
    profiles = {"hub": (s3_server.access_key, s3_server.secret_key), "site": keys}
    (tmp_path / "aws").write_text(
        "".join(
            f"[{name}]\naws_access_key_id={a}\naws_secret_access_key={b}\n"
            for name, (a, b) in profiles.items()
        )
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    url = f"s3://{bucket}/pre?endpoint={quote(s3_server.endpoint)}&region=us-east-1"
    user = s3_server.client(keys).list_buckets()["Owner"]["ID"]
    policy = [
        "site",
        "policy",
        "north",
        "--kind",
        "ceph",
        "--uploads",
        "presigned",
        "--apply",
        "--store",
        url,
    ]
    assert main([*policy, "--principal", f"arn:aws:iam:::user/{user}"]) == 0
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    hub = Hub(directory=tmp_path / "hub", store_url=f"{url}&profile=hub")
    hub.save()
    publish_card(hub)
    return World(hub, load_site(_site_yaml(tmp_path, f"{url}&profile=site")), [0.0])


def _site_yaml(folder: Path, store: str) -> Path:
    path = write_site(folder / "files", "north")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("store:")]
    path.write_text("\n".join([f"store: '{store}'", "uploads: presigned", *lines]) + "\n")
    return path


def joined(world: World) -> World:
    enrol(world.hub, world.site, uploads="presigned")
    return world


def entries(site: Site) -> list[Any]:
    ledger = Ledger(site.state, site="north", read_only=True)
    try:
        return list(ledger.rows())
    finally:
        ledger.close()


def test_a_whole_study_with_credentials_that_only_read(world, capsys):
    """Kit, confirmation, signs of life, rounds, scores: all written to addresses that the hub signed."""
    kit = invite(world.hub, "north", 1, uploads="presigned")
    assert "uploads: presigned" in site_yaml(kit)
    for _ in range(2):  # a repeat finds its own answer
        assert answer(kit, world.site) == "asked"
    (found,) = answers(world.hub, "north")
    confirm(world.hub, "north", found)
    assert look(world.site, kit.hub, store_of(world.site)).state == "confirmed"
    agent = world.agent()

    world.run(agent)

    result = results(world.hub, "toy-1")
    assert [r["sites"]["north"]["state"] for r in result["rounds"]] == ["delivered"] * 2
    assert result["final"]["metrics"]["auroc"] > 0.6
    key = layout.presence_key("north")
    raw = world.hub.store.get(key)
    assert world.hub.identity.open(raw, Presence, site_card(world.hub, "north"), key).approved
    assert world.hub.store.get(layout.card_key("north")) is None  # the hub knows it, and nobody signed for it
    rows = [row for check in (*contact.checks(), *rights.checks()) for row in check(world.site)]
    assert {row.name: row.state for row in rows if row.state != "ok"} in ({}, {"version": "warn"})
    assert "write to the own mailbox" in next(row.text for row in rows if row.name == "others denied")


def test_an_expired_address_costs_no_training(world):
    """The store was away until the addresses had expired: the next attempt brings others, and the same bytes leave."""
    agent, sign = joined(world).agent(), world.hub.signer.sign
    send, store = agent.mailbox.store._http, agent.mailbox.store

    def away(method: str, url: str, *rest: Any) -> Any:
        if "/update.safetensors" in url:
            raise StoreError("away", passing=True)
        return send(method, url, *rest)

    store._http, world.hub.signer.sign = away, lambda key, _seconds, once: sign(key, 1, once)
    with pytest.raises(QuorumError, match="no_answer"):
        world.run(agent, rounds=1)
    made = agent.outbox.find("toy-1/00001-01-train")
    kept = agent.outbox.payload(made)
    assert agent.runner.trained == 1 and kept is not None
    until = time.monotonic() + 30
    while store.is_open(layout.answer_key(made.ticket, "receipt.json")) and time.monotonic() < until:
        time.sleep(0.1)
    store._http, world.hub.signer.sign = send, sign
    assert not agent.step()  # it stays where it is, and holds nothing up

    world.run(agent, rounds=1)

    (first,) = results(world.hub, "toy-1")["rounds"]
    assert first["sites"]["north"]["attempts"] == 2
    second = agent.outbox.find("toy-1/00001-02-train").ticket
    assert world.hub.store.get(layout.answer_key(second, "update.safetensors"), len(kept)) == kept
    assert world.hub.store.get(layout.answer_key(made.ticket, "update.safetensors"), len(kept)) is None
    assert agent.runner.trained == 1 and len(entries(world.site)) == 1
    assert agent.outbox.undelivered() == []


def test_an_agent_that_starts_anew_sends_to_the_addresses_of_its_outbox(world):
    """The ticket is kept with the answer, addresses and all."""
    agent = joined(world).agent()

    def away(*_: Any) -> Any:
        raise StoreError("away", passing=True)

    agent.mailbox.store._http = away
    with pytest.raises(QuorumError):
        world.run(agent, rounds=1, deadline_s=600)
    (unsent,) = agent.outbox.undelivered()

    again = world.agent()
    again.step()

    assert again.runner.trained == 0
    assert world.hub.store.get(layout.answer_key(unsent.ticket, "receipt.json")) == unsent.sealed.encode()


@pytest.mark.parametrize("lie", ["another host", "another site", "none"])
def test_a_lying_hub_sends_no_update_elsewhere(world, lie):
    """Refused with an audit line before a row is read; the refusal itself still goes where it should."""
    agent, sign = joined(world).agent(), world.hub.signer.sign
    sent: list[str] = []
    send = agent.mailbox.store._http

    def lying(key: str, seconds: float, once: bool) -> str:
        good = sign(key, seconds, once)
        if not key.endswith("update.safetensors"):
            return good
        return (
            good.replace("127.0.0.1", "127.0.0.2")
            if lie == "another host"
            else good.replace("north", "south")
        )

    def seen(method: str, url: str, *rest: Any) -> Any:
        sent.append(url.partition("?")[0])
        return send(method, url, *rest)

    agent.mailbox.store._http = seen
    if lie == "none":
        with pytest.raises(QuorumError, match="no_answer"):
            _without_addresses(world, agent)
    else:
        world.hub.signer.sign = lying
        with pytest.raises(QuorumError, match="bad_ticket"):
            world.run(agent, rounds=1)

    assert not [place for place in sent if "update" in place or "127.0.0.2" in place or "south" in place]
    assert entries(world.site) == [] and agent.runner.trained == 0
    events = [line.event for line in lines(world.site.state)]
    assert next(e.code for e in events if e.event == "ticket_refused") == "bad_ticket"


def _without_addresses(world: World, agent: Agent) -> None:
    """The hub's register forgets the mark."""
    from tasks.registry import next_word, write

    write(world.hub, "north", next_word(world.hub, member(world.hub, "north"), uploads="credentials"))
    world.run(agent, rounds=1)


def test_new_keys_and_a_farewell_go_to_addresses_too(world):
    """`site rotate` and `leave` need no write access either; addresses are renewed by `site list`."""
    agent = joined(world).agent()
    agent.step()
    old = own_identity("north", world.site.state).public
    ask_for_new_keys(world.hub, "north")
    agent.step()
    assert take_new_keys(world.hub, "north").uploads == "presigned"
    agent.step()
    assert own_identity("north", world.site.state).public != old
    agent.close()

    world.hub.store.delete(layout.addresses_key("north"))
    with pytest.raises(UploadClosedError, match="no address"):
        leave(world.site, store_of(world.site), time.time(), wipe=False)
    site_facts(world.hub)
    leave(world.site, store_of(world.site), time.time(), wipe=False)

    assert site_facts(world.hub)[0]["state"] == "left"


def test_a_kit_is_answered_once(world, tmp_path):
    """A thief who is first keeps the site's answer out: the site is told, and nobody confirms."""
    kit = invite(world.hub, "north", 1, uploads="presigned")
    thief = Site(world.site.settings, world.site.base, tmp_path / "thief")
    answer(kit, thief)

    with pytest.raises(SealError, match="answered before"):
        answer(kit, world.site)
    (found,) = answers(world.hub, "north")
    assert found.card.public_key == own_identity("north", thief.state).public.public_key
    answer(invite(world.hub, "north", 1, uploads="presigned"), world.site)
    assert [one.problem for one in answers(world.hub, "north")].count("") == 1


def test_kit_and_file_must_say_the_same_way(world):
    """Else the site would wait for addresses that nobody signs, or the hub sign what nobody uses."""
    with pytest.raises(FileError, match="uploads: credentials"):
        answer(invite(world.hub, "north", 1), world.site)
    elsewhere = invite(world.hub, "north", 1, uploads="presigned")
    with pytest.raises(FileError, match="not for the store"):
        answer(
            elsewhere.model_copy(update={"answer_to": "https://evil.example/x?X-Amz-Expires=1"}), world.site
        )


def test_only_an_s3_store_signs(tmp_path):
    """A folder knows no addresses, and a signature no more than seven days."""
    hub = Hub(directory=tmp_path / "hub", store_url=(tmp_path / "store").as_uri())
    hub.save()
    words = [
        "site",
        "add",
        "north",
        "--out",
        str(tmp_path / "k"),
        "--uploads",
        "presigned",
        "--dir",
        str(hub.directory),
    ]

    assert main(words) == 4
    assert main([*words, "--expires-days", "14"]) == 2
    with pytest.raises(StoreError):
        Signer.from_url(hub.store_url)
