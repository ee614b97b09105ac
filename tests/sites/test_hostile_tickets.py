"""What a hub that was taken over, or a store that lies, can make a site do: nothing but say no.

Every payload here would create the file `canary` if anything in it were executed.
"""

from __future__ import annotations

import json
import pickle
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.signing import Seal, SigningKey, _signed_bytes
from sites.agent import Agent
from tasks import layout, parameters
from tasks.codes import WORK, Code, Operation
from tasks.contracts import Ticket
from tasks.study import Study
from tests.packages import install_package
from tests.sites.builders import RUN, ToyHub, a_study, an_agent


class Bomb:
    """Unpickling it creates the file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def canary(tmp_path):
    """A file that must not come into being, anywhere."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def hub(tmp_path) -> ToyHub:
    return ToyHub(tmp_path)


@pytest.fixture
def agent(tmp_path, hub) -> Agent:
    agent = an_agent(tmp_path)
    agent.step()
    return agent


def sealed(key: SigningKey, kind: str, body: bytes, signer: str | None = None) -> bytes:
    """Any body, properly signed."""
    signer = signer or key.name
    signature = key._key.sign(_signed_bytes(signer, kind, body))
    seal = Seal(
        signer=signer, kind=kind, body=b64encode(body).decode(), signature=b64encode(signature).decode()
    )
    return seal.model_dump_json().encode()


def nothing_happened(hub: ToyHub, agent: Agent, ticket: Ticket) -> None:
    """No answer, no progress, no job, no entry."""
    agent.step()
    assert hub.receipt(ticket) is None
    assert hub.progress(ticket) is None
    assert not (agent.site.state / "ledger.sqlite").exists()


def body_of(ticket: Ticket, **changes: Any) -> bytes:
    return json.dumps(ticket.model_dump(mode="json") | changes).encode()


# --- nobody we know: ignored, since a reply would be a reply to anybody


def test_a_forged_signature_is_ignored(hub, agent):
    """Somebody who can write into the mailbox, without the hub's key."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study))

    hub.send_raw(ticket, SigningKey.create("hub").seal(ticket))

    nothing_happened(hub, agent, ticket)


def test_a_message_of_the_hub_that_is_no_ticket_is_ignored(hub, agent):
    """A signed study in the place of a ticket."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study))

    hub.send_raw(ticket, hub.key.seal(study))

    nothing_happened(hub, agent, ticket)


def test_a_ticket_for_another_site_is_ignored(hub, agent):
    """The store hands one site's ticket to another, under its own name or a fitting one."""
    study = a_study(sites=["north", "south"], quorum=1)
    foreign = hub.ticket(study, hub.publish(study), site="south")
    own = foreign.model_copy(update={"site": "north"})

    hub.send_raw(own, hub.key.seal(foreign))

    nothing_happened(hub, agent, own)
    assert hub.store.list("sites/south/out/") == []


def test_a_ticket_in_the_place_of_another_is_ignored(hub, agent):
    """An old ticket of the hub, replayed as the next round's."""
    study = a_study()
    given = hub.publish(study)
    old, place = hub.ticket(study, given), hub.ticket(study, given, round=2)

    hub.send_raw(place, hub.key.seal(old))

    nothing_happened(hub, agent, place)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04junk",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"x" * 600_000,
        b"!!python/object/apply:pathlib.Path.touch [canary]",
        b"{}",
        b"null",
    ],
    ids=["empty", "pickle", "nested", "deep", "oversized", "yaml", "object", "null"],
)
def test_bytes_that_are_no_message_are_ignored(hub, agent, canary, raw):
    """Unsigned rubbish of every kind."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study))

    hub.send_raw(ticket, raw)

    nothing_happened(hub, agent, ticket)


def test_a_pickle_is_never_opened(hub, agent, canary):
    """As a ticket, and signed by the hub as the body of one."""
    study = a_study()
    ticket, bomb = hub.ticket(study, hub.publish(study)), pickle.dumps(Bomb(canary))

    for raw in (bomb, sealed(hub.key, "ticket", bomb)):
        hub.send_raw(ticket, raw)
        nothing_happened(hub, agent, ticket)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": float("nan")},
        {"issued_at": float("inf")},
        {"round": 10**400},
        {"round": 0},
        {"round": "1"},
        {"attempt": 100},
        {"operation": "exec"},
        {"command": "touch canary"},
        {"run": "../../south"},
        {"run": "/etc"},
        {"study": "a/b"},
        {"protocol": [1]},
        {"parameters_key": "x" * 301},
        {"nonce": "z" * 32},
    ],
    ids=str,
)
def test_a_signed_ticket_of_another_form_is_ignored(hub, agent, changes):
    """The hub's key does not widen the wire format: what the strict model does not know cannot be said."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study))
    if changes == {"round": "1"}:
        changes = {"round": "one"}

    hub.send_raw(ticket, sealed(hub.key, "ticket", body_of(ticket, **changes)))

    nothing_happened(hub, agent, ticket)


def test_deep_nesting_in_a_signed_body_is_ignored(hub, agent):
    """Recursion ends in an error, not in the agent."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study))

    hub.send_raw(ticket, sealed(hub.key, "ticket", b'{"a":' * 50_000 + b"1" + b"}" * 50_000))

    nothing_happened(hub, agent, ticket)


def test_another_hub_is_not_obeyed(tmp_path, hub, agent):
    """The card in the store is replaced; the pinned key stays."""
    study = a_study()
    usurper = ToyHub(tmp_path)  # writes its own card
    ticket = usurper.ticket(study, usurper.publish(study))
    usurper.send(ticket)

    nothing_happened(hub, Agent(agent.site, hub.store, agent.runner), ticket)


# --- the hub itself: answered, with a code


@pytest.mark.parametrize(
    "key",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "shared/runs/toy-1/../../../sites/north/out/card.json",
        "sites/south/out/toy-1/00001-01-train/update.safetensors",
        "hub/keys/hub.key",
        "shared/runs/other-1/parameters/00000-aa.safetensors",
        "shared/runs/toy-1",
        "shared/runs/toy-1/\x00",
        "file:///etc/passwd",
        "",
    ],
)
def test_parameters_from_elsewhere_are_not_fetched(hub, agent, key):
    """Only what lies under the run's own prefix."""
    study = a_study()
    ticket = hub.ticket(study, hub.publish(study), parameters_key=key)

    assert hub.ask(agent, ticket).refusal == Code.BAD_TICKET


def test_a_replay_with_another_body_changes_nothing(hub, agent):
    """The name of an answered ticket is taken; the first answer stands."""
    study = a_study()
    given = hub.publish(study)
    first = hub.ticket(study, given)
    receipt, update = hub.ask(agent, first), hub.update(first)
    other = hub.ticket(study, {k: v + 1 for k, v in given.items()})

    for _ in range(2):
        hub.send(other)
        agent._settled.clear()
        agent.step()

    assert hub.receipt(first) == receipt
    assert hub.update(first) == update


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires_at": 60.0, "issued_at": 0.0}, Code.EXPIRED),
        ({"issued_at": 1e11}, Code.BAD_TICKET),
        ({"protocol": 3}, Code.BAD_TICKET),
        ({"study_sha256": "0" * 64}, Code.BAD_TICKET),
        ({"study": "heart"}, Code.BAD_TICKET),
        ({"round": 4}, Code.BAD_TICKET),
        ({"round": 10**9}, Code.BAD_TICKET),
        ({"parameters_sha256": "0" * 64}, Code.BAD_TICKET),
        ({"recipe_sha256": "0" * 64}, Code.UNKNOWN_RECIPE),
    ],
    ids=str,
)
def test_a_wrong_ticket_of_the_hub_is_refused_with_the_code(hub, agent, changes, code):
    """Each has its word in the closed list."""
    study = a_study()

    receipt = hub.ask(agent, hub.ticket(study, hub.publish(study), **changes))

    assert receipt.refusal == code
    assert receipt.update is None
    assert receipt.scores is None


def test_a_study_that_does_not_name_the_site(hub, agent):
    """Not a party to the agreement."""
    study = a_study(sites=["south"])

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.BAD_TICKET


def test_a_study_under_the_digest_of_another(hub, agent):
    """The store swaps the study for one with easier terms, signed by the hub as well."""
    agreed, easier = (
        a_study(),
        a_study(privacy={"mode": "local", "epsilon": 9, "delta": 1e-3, "clip_norm": 1}),
    )
    given = hub.publish(agreed)
    hub.store.put(layout.study_key("toy", agreed.sha256), hub.key.seal(easier))

    assert hub.ask(agent, hub.ticket(agreed, given)).refusal == Code.BAD_TICKET


@pytest.mark.parametrize("forge", ["stranger", "pickle", "yaml", "nan", "nested"])
def test_a_study_that_is_not_one(hub, agent, canary, forge):
    """What lies under shared/studies is opened as strictly as a ticket."""
    study = a_study()
    given = hub.publish(study)
    body = {
        "stranger": lambda: SigningKey.create("hub").seal(study),
        "pickle": lambda: sealed(hub.key, "study", pickle.dumps(Bomb(canary))),
        "yaml": lambda: sealed(hub.key, "study", b"!!python/name:os.system"),
        "nan": lambda: sealed(hub.key, "study", study.model_dump_json().replace("60", "NaN").encode()),
        "nested": lambda: sealed(hub.key, "study", b'{"recipe_settings":' * 20_000),
    }[forge]()
    hub.store.put(layout.study_key("toy", study.sha256), body)

    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.BAD_TICKET


def test_a_pickle_as_parameters_is_never_opened(hub, agent, canary):
    """The digest fits, and still only safetensors are read."""
    study = a_study()
    hub.publish(study)
    bomb = pickle.dumps(Bomb(canary))
    key = layout.parameters_key(RUN, 0, parameters.sha256(bomb))
    hub.store.put(key, bomb)
    ticket = hub.ticket(study, {}, parameters_key=key, parameters_sha256=parameters.sha256(bomb))

    for operation in WORK:
        asked = ticket.model_copy(update={"operation": operation})
        assert hub.ask(agent, asked).refusal == Code.BAD_TICKET


@pytest.mark.parametrize(
    "recipe",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "pathlib:Path",
        "tasks.parameters:Parameters",
        "tasks.contracts:Ticket",
        "sites.outbox:Outbox",
        "torch.utils.collect_env:SystemEnv",
        "no_such_package:Recipe",
    ],
)
def test_a_recipe_that_is_none_is_refused(hub, agent, canary, recipe):
    """Only a class of an installed package with a recipe's members, of the code that the ticket names."""
    from tasks.errors import StudyError
    from tasks.recipes import recipe_sha256

    study = a_study()
    given = hub.publish(study)
    terms = study.model_dump(exclude_none=True) | {"recipe": recipe, "recipe_settings": {"path": str(canary)}}
    hostile = Study.model_validate(terms)
    hub.store.put(layout.study_key("toy", hostile.sha256), hub.key.seal(hostile))
    hub.to_approve.append(hostile)  # by somebody who did not look
    try:
        digest = recipe_sha256(recipe)
    except StudyError:
        digest = "0" * 64
    ticket = hub.ticket(study, given, study_sha256=hostile.sha256, recipe_sha256=digest)

    assert hub.ask(agent, ticket).refusal in {Code.UNKNOWN_RECIPE, Code.BAD_SETTINGS}


def test_an_installed_package_of_other_code_is_not_even_imported(tmp_path, hub, agent, canary, monkeypatch):
    """Importing runs code, so the digest is compared first."""
    bomb = f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Recipe:\n    pass\n"
    install_package(monkeypatch, tmp_path / "packages", "evil", {"__init__.py": bomb})
    study = a_study()
    given = hub.publish(study)
    hostile = Study.model_validate(study.model_dump(exclude_none=True) | {"recipe": "evil:Recipe"})
    hub.store.put(layout.study_key("toy", hostile.sha256), hub.key.seal(hostile))
    hub.to_approve.append(hostile)  # by somebody who did not look
    ticket = hub.ticket(study, given, study_sha256=hostile.sha256)

    assert hub.ask(agent, ticket).refusal == Code.UNKNOWN_RECIPE
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        {"target": ["sick"], "positive": "yes", "features": {}},
        {"target": "sick", "positive": "yes", "features": "__import__('os')"},
        {"target": "sick", "positive": "yes", "features": {"age": {"kind": "numeric", "range": [0, "1e3"]}}},
        {"target": "sick", "positive": "yes", "features": {"age": {"kind": "eval", "code": "1"}}},
        {
            "target": "sick",
            "positive": {"__class__": "x"},
            "features": {"age": {"kind": "numeric", "range": [0, 1]}},
        },
        {"__reduce__": "x"},
        {},
    ],
    ids=str,
)
def test_recipe_settings_of_unexpected_types_are_refused(hub, agent, settings):
    """The recipe's own strict model reads them, at the site too."""
    study = a_study()
    given = hub.publish(study)
    hostile = Study.model_validate(study.model_dump(exclude_none=True) | {"recipe_settings": settings})
    hub.store.put(layout.study_key("toy", hostile.sha256), hub.key.seal(hostile))
    hub.to_approve.append(hostile)  # by somebody who did not look

    receipt = hub.ask(agent, hub.ticket(study, given, study_sha256=hostile.sha256))

    assert receipt.refusal == Code.BAD_SETTINGS


def test_an_unknown_study_is_refused(hub, agent):
    """No source was set aside for it."""
    study = a_study(name="heart")

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.UNKNOWN_STUDY


def test_every_byte_that_left_lies_in_the_own_mailbox(hub, agent):
    """After all kinds of answers, the store holds nothing of this site elsewhere."""
    study = a_study()
    given = hub.publish(study)
    before = set(hub.store.list(""))
    for changes in ({}, {"round": 9}, {"operation": Operation.EVALUATE}):
        hub.ask(agent, hub.ticket(study, given, **changes))

    new = set(hub.store.list("")) - before

    assert all(key.startswith(("sites/north/out/", "sites/north/in/", "shared/runs/toy-1/")) for key in new)


def test_parameters_above_the_sites_bound_are_not_fetched(tmp_path, hub, caplog):
    """The agent holds them in memory: the site says how much that may be, whatever the hub signs."""
    agent = an_agent(tmp_path, extra="resources: {parameters_mb: 1}\n")
    agent.step()
    study = a_study()
    given = hub.publish(study)
    given["large"] = np.zeros(2**19, dtype=np.float32)

    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.BAD_TICKET
    assert "raise resources.parameters_mb in site.yaml" in caplog.text
