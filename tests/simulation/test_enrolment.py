"""Enrolment between a hub and sites that share a store and nothing else: the functions behind the commands."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main as hub_main
from flows.commands.site_add import store_hint
from flows.commands.site_list import site_facts
from flows.commands.status import site_facts as status_facts
from flows.training import training
from infra.errors import FileError, SealError
from infra.hub import Hub
from infra.identity import Identity
from infra.signing import peek
from simulation.acquaint import acquaint, enrol
from simulation.approving import approve_everywhere
from sites import newkeys
from sites.agent import Agent
from sites.auditread import verified
from sites.belonging import Belonging
from sites.cli import main as site_main
from sites.enrol import answer, look, own_words, read_kit
from sites.farewell import leave
from sites.identity import AGREEMENT, KEY, own_card, own_identity, pin_hub
from sites.membership import last_word, must_be_enrolled, standing
from sites.runner import InlineRunner
from sites.settings import Site, load_site
from sites.template import site_yaml
from sites.uploads import store_of
from tasks import layout
from tasks.card import hub_card, publish_card
from tasks.contracts import Card, Presence, Receipt
from tasks.errors import ContractError, QuorumError
from tasks.invitations import answers, confirm, invite
from tasks.membership import Enrolment, Kit
from tasks.propose import propose
from tasks.registry import member, revoke, site_card
from tasks.sealed import open_from_site
from tasks.succession import ask_for_new_keys, new_keys, take_new_keys
from tests.federation import Killed, a_study, write_site


@pytest.fixture
def hub(tmp_path) -> Hub:
    made = Hub(directory=tmp_path / "hub", store_url=(tmp_path / "files" / "store").as_uri())
    made.save()
    publish_card(made)
    return made


@pytest.fixture
def north(tmp_path) -> Site:
    return load_site(write_site(tmp_path / "files", "north"))


def an_agent(site: Site) -> Agent:
    return Agent(site, store_of(site), InlineRunner())


def said(hub: Hub, site: str = "north") -> Presence | None:
    """The site's last sign of life, as far as the hub accepts it."""
    key = layout.presence_key(site)
    raw = hub.store.get(key)
    return open_from_site(hub, raw, Presence, site_card(hub, site), key) if raw else None


def in_state(site: Site, name: str) -> Site:
    """The same site.yaml on another machine."""
    return Site(site.settings, site.base, site.base / name)


def test_from_kit_to_member(hub, north, tmp_path):
    """The whole way, and who knows what at each step."""
    kit = invite(hub, "north", expires_days=1)
    (tmp_path / "kit.json").write_text(kit.model_dump_json())

    assert answer(read_kit(tmp_path / "kit.json"), north) == "asked"
    assert site_card(hub, "north") is None
    with pytest.raises(FileError, match="not confirmed"):
        must_be_enrolled(north.state)
    (found,) = answers(hub, "north")
    assert found.words == own_words(north) and not found.problem
    confirm(hub, "north", found)
    assert look(north, kit.hub, store_of(north)).state == "confirmed"

    an_agent(north).step()
    assert said(hub) is not None
    assert {(north.state / name).stat().st_mode & 0o777 for name in (KEY, AGREEMENT)} == {0o600}


def test_the_kit_holds_no_secret_and_the_hub_keeps_no_token(hub):
    """It travels by e-mail; the store is read by others."""
    kit = invite(hub, "north", expires_days=1)
    secrets = [(hub.directory / "keys" / name).read_text().strip() for name in ("hub.key", "hub.x25519")]

    assert not any(secret in kit.model_dump_json() for secret in secrets)
    assert not any(kit.token.encode() in (hub.store.get(key) or b"") for key in hub.store.list(""))


def test_what_a_site_answers_is_read_by_the_hub_alone(hub, north):
    """Whoever reads the store finds no token to answer with."""
    kit = invite(hub, "north", expires_days=1)
    answer(kit, north)
    raw = hub.store.get(hub.store.list(layout.enrolments_prefix("north"))[0]) or b""

    with pytest.raises(SealError):
        peek(raw, Enrolment)


def test_enrolling_again_changes_nothing(hub, north):
    """An upgrade, a second call, a kit that was sent twice: the keys stay."""
    kit = invite(hub, "north", expires_days=1)
    for _ in range(3):
        answer(kit, north)
    keys = own_identity("north", north.state).public

    confirm(hub, "north", answers(hub, "north")[0])
    look(north, kit.hub, store_of(north))

    assert answer(kit, north) == "confirmed" and own_identity("north", north.state).public == keys
    assert len(hub.store.list(layout.enrolments_prefix("north"))) == 1


def test_a_stolen_kit_makes_nobody_a_member(hub, north):
    """The thief answers first and is answered, no more; both words are shown, and one must be named."""
    kit = invite(hub, "north", expires_days=1)
    answer(kit, in_state(north, "thief"))
    answer(kit, north)
    found = answers(hub, "north")
    assert len(found) == 2 and site_card(hub, "north") is None
    command = ["site", "confirm", "north", "--dir", str(hub.directory)]

    assert hub_main([*command, "--yes"]) == 2
    assert site_card(hub, "north") is None
    assert hub_main([*command, "--words", "able able able able able able"]) == 2
    assert hub_main([*command, "--words", own_words(north)]) == 0

    assert site_card(hub, "north") == own_card(own_identity("north", north.state))


def test_a_site_whose_name_was_given_to_a_thief_says_so(hub, north):
    """The operator did not compare: the real site refuses to believe it is a member."""
    kit = invite(hub, "north", expires_days=1)
    answer(kit, in_state(north, "thief"))
    (thief,) = answers(hub, "north")
    answer(kit, north)
    confirm(hub, "north", thief)

    with pytest.raises(SealError, match="other keys"):
        look(north, kit.hub, store_of(north))
    assert standing(north.state) == "asked"


@pytest.mark.parametrize("spoil", ["replayed", "expired", "another", "superseded"])
def test_a_token_counts_once_and_in_time(hub, north, spoil):
    """Replayed after its use, too late, of another site, of a kit that was sent before the newest."""
    kit = invite(hub, "north", expires_days=1)
    if spoil == "replayed":
        answer(kit, in_state(north, "first"))
        confirm(hub, "north", answers(hub, "north")[0])
        revoke(hub, "north", "test")
        hub.store.delete(hub.store.list(layout.enrolments_prefix("north"))[0])
    if spoil == "another":
        kit = invite(hub, "south", expires_days=1).model_copy(update={"site": "north"})
    if spoil == "superseded":
        invite(hub, "north", expires_days=1)
    answer(kit, north)
    if spoil == "expired":
        hub = hub.with_clock(lambda: time.time() + 2 * 86_400, time.sleep)

    (found,) = answers(hub, "north")

    assert found.problem
    with pytest.raises(FileError, match="token"):
        confirm(hub, "north", found)


def test_an_expired_kit_is_not_answered(hub, north):
    """The site says it before a key is made."""
    kit = invite(hub, "north", expires_days=1)

    with pytest.raises(FileError, match="expired"):
        answer(kit, north, now=lambda: kit.expires_at + 1)
    assert not (north.state / KEY).exists()


def test_nothing_is_written_for_a_kit_that_is_too_late_or_for_a_file_that_cannot_be(hub, tmp_path, capsys):
    """A site.yaml of a dead kit, or a site that is invited for ever by nobody's kit, would only mislead."""
    kit = invite(hub, "north", expires_days=1).model_copy(update={"expires_at": time.time() - 1})
    (tmp_path / "kit.json").write_text(kit.model_dump_json())
    late = ["enrol", str(tmp_path / "kit.json"), "--config", str(tmp_path / "new" / "site.yaml")]
    nowhere = [
        "site",
        "add",
        "south",
        "--out",
        str(tmp_path / "no" / "kit.json"),
        "--dir",
        str(hub.directory),
    ]

    assert site_main(late) != 0
    assert "expired" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert hub_main(nowhere) != 0
    assert "make it first" in capsys.readouterr().err
    assert [facts["site"] for facts in site_facts(hub)] == ["north"]


def test_publish_names_the_sites_whose_keys_are_missing(hub, north, tmp_path, capsys):
    """Who approves now would have to approve again when they have joined."""
    enrol(hub, north)
    terms = a_study().model_dump(mode="json", exclude_none=True) | {"secure_aggregation": "on"}
    (tmp_path / "study.yaml").write_text(json.dumps(terms))

    assert hub_main(["study", "publish", str(tmp_path / "study.yaml"), "--dir", str(hub.directory)]) == 0

    said = capsys.readouterr().out
    assert "east, south: no keys yet" in said
    assert "north: no keys" not in said


@pytest.mark.parametrize("field", ["public_key", "agreement_key"])
def test_a_kit_that_was_changed_on_its_way_is_found_by_its_words(hub, tmp_path, field):
    """A thief puts his own key into the e-mail; then the words are wrong, or they are others on the telephone."""
    kit = invite(hub, "north", expires_days=1)
    forged = kit.hub.model_copy(update={field: getattr(Identity.create("x").public, field)})
    path = tmp_path / "kit.json"
    path.write_text(kit.model_copy(update={"hub": forged}).model_dump_json())

    with pytest.raises(FileError, match="six words"):
        read_kit(path)


def test_a_kit_of_another_hub_is_refused_by_the_words_that_were_told(hub, north, tmp_path, capsys):
    """--hub-words: what the operator said on the telephone."""
    stranger = Hub(directory=tmp_path / "other", store_url=(tmp_path / "otherstore").as_uri())
    path = tmp_path / "kit.json"
    path.write_text(invite(stranger, "north", expires_days=1).model_dump_json())
    told = invite(hub, "north", expires_days=1).hub_words

    config = str(tmp_path / "files" / "north.yaml")
    assert site_main(["enrol", str(path), "--config", config, "--hub-words", told]) == 3

    assert "tell the hub's operator" in capsys.readouterr().err
    assert standing(north.state) == "stranger"


def test_a_member_obeys_no_second_hub(hub, north, tmp_path):
    """Another kit, however good, changes nothing."""
    enrol(hub, north)
    stranger = Hub(directory=tmp_path / "other", store_url=(tmp_path / "otherstore").as_uri())

    with pytest.raises(SealError, match="obeys the hub"):
        answer(invite(stranger, "north", expires_days=1), north)


def test_a_lost_hub_comes_back_with_its_key_folder_and_only_with_it(hub, north, tmp_path):
    """Restored on another machine it knows its sites; made anew it is a stranger, and is told so."""
    enrol(hub, north)
    restored = Hub(directory=tmp_path / "restored", store_url=hub.store_url)
    shutil.copytree(hub.directory / "keys", restored.directory / "keys")

    publish_card(restored)
    assert site_card(restored, "north") == site_card(hub, "north")
    an_agent(north).step()
    assert said(restored) is not None
    with pytest.raises(SealError, match="Restore that hub's key folder"):
        publish_card(Hub(directory=tmp_path / "anew", store_url=hub.store_url))


def test_adding_a_site_touches_no_other(hub, north, tmp_path):
    """Not one object of it is written again."""
    enrol(hub, north)
    before = {key: hub.store.get(key) for key in hub.store.list("") if "north" in key}

    enrol(hub, load_site(write_site(tmp_path / "files", "east")))

    assert {key: hub.store.get(key) for key in hub.store.list("") if "north" in key} == before


def test_a_revoked_site_stops_at_its_next_look_and_is_refused_at_once(hub, north, tmp_path):
    """Others go on; a restart is refused with the cure."""
    east = load_site(write_site(tmp_path / "files", "east"))
    for site in (north, east):
        enrol(hub, site)
    agents = [an_agent(site) for site in (north, east)]
    for agent in agents:
        agent.step()

    revoke(hub, "north", "contract ended")
    assert said(hub) is None and said(hub, "east") is not None
    hub.store.delete(layout.presence_key("north"))
    for agent in agents:
        agent.step()

    assert not agents[0].home.member and agents[1].home.member
    agents[0].show_presence(always=True)
    assert hub.store.get(layout.presence_key("north")) is None
    with pytest.raises(FileError, match="revoked"):
        must_be_enrolled(north.state)


def test_a_store_that_hides_a_revocation_is_found_out_on_both_sides(hub, north):
    """Rolled back to the word before: the site keeps what it has seen, and so does the hub."""
    enrol(hub, north)
    agent = an_agent(north)
    agent.step()
    before = hub.store.get(layout.member_key("north")) or b""
    word = revoke(hub, "north", "test")
    agent.step()
    hub.store.put(layout.member_key("north"), before)
    hub.store.delete(layout.numbered(layout.members_prefix("north"), word.number))

    agent.home.look(agent.mailbox, idle=True)
    assert not agent.home.member
    with pytest.raises(ContractError, match="older register"):
        member(hub, "north")


def test_a_revoked_site_comes_back_with_other_keys(hub, north):
    """The old ones may be in somebody's hands; ledger and audit log go on."""
    enrol(hub, north)
    an_agent(north).close()
    old = own_identity("north", north.state).public
    lines = verified(north.state, "north")[0].entries
    revoke(hub, "north", "stolen laptop")
    look(north, hub_card(hub), store_of(north))

    enrol(hub, north)

    assert own_identity("north", north.state).public.public_key != old.public_key
    assert verified(north.state, "north")[0].entries > lines
    an_agent(north).step()
    assert said(hub) is not None


def rotated(hub: Hub, site: Site) -> None:
    """One exchange from the hub's request to the site's promotion, as often as it takes."""
    ask_for_new_keys(hub, "north")
    an_agent(site).step()
    take_new_keys(hub, "north")
    an_agent(site).step()


def test_new_keys_follow_the_old_ones(hub, north):
    """Signed with both; the old key is refused from then on."""
    enrol(hub, north)
    old = own_identity("north", north.state)
    agent = an_agent(north)
    agent.step()

    ask_for_new_keys(hub, "north")
    agent.step()
    assert take_new_keys(hub, "north") is not None
    agent.step()

    card = site_card(hub, "north")
    assert (
        card is not None
        and card == own_card(own_identity("north", north.state))
        and card.public_key != old.public.public_key
    )
    agent.show_presence(always=True)
    assert said(hub) is not None
    key = layout.presence_key("north")
    raw = old.seal(Presence(site="north", at=1.0, version="1"), [hub.identity.public], key)
    assert open_from_site(hub, raw, Presence, card, key) is None
    agent.close()
    assert verified(north.state, "north")


def test_new_keys_wait_for_an_open_ticket(hub, north):
    """An answer under the old key may be on its way."""
    enrol(hub, north)
    ask_for_new_keys(hub, "north")
    an_agent(north).step()
    card = site_card(hub, "north")
    assert card is not None and new_keys(hub, member(hub, "north")) is not None
    ticket = a_ticket(hub)
    hub.write_once_to(card, layout.ticket_key(ticket), ticket)

    assert take_new_keys(hub, "north") is None
    hub.store.delete(layout.ticket_key(ticket))
    assert take_new_keys(hub, "north") is not None


def a_ticket(hub: Hub):
    from tasks.codes import Operation
    from tasks.contracts import Ticket

    return Ticket(
        run="toy-1", study="toy", study_sha256="0" * 64, recipe_sha256="0" * 64, site="north", round=1, attempt=1,
        operation=Operation.TRAIN, parameters_key="shared/runs/toy-1/x", parameters_sha256="0" * 64,
        nonce="0" * 32, issued_at=hub.now(), expires_at=hub.now() + 60,
    )  # fmt: skip


def test_an_answer_that_waits_follows_the_new_keys(hub, tmp_path):
    """Made under the old keys, kept for a person, sent under the new ones: the hub opens it, and nothing is made twice."""
    north = load_site(write_site(tmp_path / "files", "north", extra="policy: {hold_for_human: true}\n"))
    enrol(hub, north)
    agent, ahead, old = an_agent(north), [0.0], own_identity("north", north.state).public.public_key
    ask_for_new_keys(hub, "north")
    agent.step()  # the new keys are shown while nothing waits

    def wait(seconds: float) -> None:
        ahead[0] += 0 if agent.step() else seconds + 5

    study, late = (
        a_study(sites=["north"], quorum=1, rounds=1),
        hub.with_clock(lambda: time.time() + ahead[0], wait),
    )
    approve_everywhere([north], study, propose(hub, study))
    with pytest.raises(QuorumError, match="no_answer"):
        training(hub=late, study=study, run="toy-1")
    (held,) = agent.outbox.undelivered()
    before = agent.outbox.payload(held)

    assert take_new_keys(late, "north") is not None
    agent.step()
    assert own_identity("north", north.state).public.public_key != old
    agent.outbox.release(held.name)
    agent.step()

    key = layout.answer_key(held.ticket, "receipt.json")
    said_now = open_from_site(hub, hub.store.get(key), Receipt, site_card(hub, "north"), key)
    assert said_now == held.receipt
    assert hub.store.get(layout.answer_key(held.ticket, "update.safetensors"), len(before)) == before
    assert agent.outbox.undelivered() == []


STEPS: dict[str, tuple[object, str]] = {
    "request kept": (Belonging, "_obey"),
    "new keys made": (newkeys, "succession"),
    "audit head": (newkeys, "sign_head_anew"),
    "one key moved": (newkeys, "_move_in"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_between_any_two_steps_of_a_rotation_loses_nothing(hub, north, monkeypatch, step, after):
    """The agent dies there once; started again, it ends with the new keys and a whole log."""
    enrol(hub, north)
    an_agent(north).close()
    old = own_identity("north", north.state).public.public_key
    killed = [False]
    place, name = STEPS[step]
    monkeypatch.setattr(place, name, mortal(getattr(place, name), after, killed))

    for _ in range(3):
        try:
            rotated(hub, north)
        except Killed:
            continue
        break

    assert killed[0]
    card = site_card(hub, "north")
    assert (
        card is not None and card.public_key != old and card == own_card(own_identity("north", north.state))
    )
    assert verified(north.state, "north")
    assert not (north.state / newkeys.NEXT_KEY).exists()


def mortal(inner: Callable[..., object], after: bool, killed: list[bool]) -> Callable[..., object]:
    """The function, which dies once: before it does anything, or when all is done."""

    def call(*args: object, **kwargs: object) -> object:
        if killed[0]:
            return inner(*args, **kwargs)
        killed[0] = True
        if after:
            inner(*args, **kwargs)
        raise Killed

    return call


def test_one_key_file_moved_and_not_the_other(hub, north):
    """Between two renames: the next start moves the second."""
    enrol(hub, north)
    ask_for_new_keys(hub, "north")
    an_agent(north).step()
    card = take_new_keys(hub, "north").card
    word = look(north, hub_card(hub), store_of(north))
    assert word is not None and word.card == card
    newkeys.sign_head_anew(
        north.state / "audit.head", own_identity("north", north.state).public.public_key,
        newkeys.next_identity("north", north.state).signing,
    )  # fmt: skip
    (north.state / newkeys.NEXT_KEY).replace(north.state / KEY)

    an_agent(north).close()

    assert own_card(own_identity("north", north.state)) == card
    assert verified(north.state, "north")


@pytest.mark.parametrize("wipe", [False, True])
def test_a_site_that_leaves_destroys_its_keys_and_keeps_its_books(hub, north, wipe, capsys):
    """The hub reads a signed receipt and shows `left`; the log can still be verified."""
    enrol(hub, north)
    an_agent(north).close()
    command = ["leave", "--config", str(north.base / "north.yaml"), "--yes", *(["--wipe"] if wipe else [])]

    assert site_main(command) == 0

    (fact,) = site_facts(hub)
    assert fact["state"] == "left" and "ledger" in fact["reason"] and site_card(hub, "north") is None
    assert not [p for p in north.state.iterdir() if p.suffix in (".key", ".x25519")]
    assert verified(north.state, "north")[0].entries > 3
    assert (north.state / "outbox").exists() is not wipe
    assert site_main(["start", "--config", str(north.base / "north.yaml")]) == 2
    assert "left" in capsys.readouterr().err


def test_a_site_that_has_left_waits_for_no_approval(hub, north):
    """The operator is not sent after people who are gone."""
    enrol(hub, north)
    propose(hub, a_study(sites=("north",), quorum=1))
    before = status_facts(hub)[0]["waits_for_approval"]
    leave(north, store_of(north), hub.now(), wipe=False)

    site_facts(hub)  # reads the farewell
    (fact,) = status_facts(hub)

    assert before and fact["state"] == "left" and fact["waits_for_approval"] == []


def test_a_fall_while_leaving_is_taken_up_again(hub, north, monkeypatch):
    """The last word is kept before it is sent, and the key that signed it goes last."""
    from sites import farewell

    enrol(hub, north)
    killed = [False]
    monkeypatch.setattr(farewell, "_destroy", mortal(farewell._destroy, True, killed))
    with pytest.raises(Killed):
        leave(north, store_of(north), time.time(), wipe=False)

    with pytest.raises(FileError, match="left"):
        leave(north, store_of(north), time.time(), wipe=False)
    an_old = [p.name for p in north.state.iterdir() if p.suffix in (".key", ".x25519")]
    assert an_old == []


def test_a_site_of_the_version_before_stays_enrolled_and_gains_a_key(hub, north):
    """First-sight pins: the signing key stays, the key to encrypt to comes on a card that it has signed."""
    identity = own_identity("north", north.state)
    (north.state / AGREEMENT).unlink()
    old_hub = Card(name="hub", role="hub", public_key=hub.key.public_hex, version="0.1")
    pin_hub(north.state, old_hub)
    pinned = Card(name="north", role="site", public_key=identity.public.public_key, version="0.1")
    hub.write(layout.pin_key("north"), pinned)
    assert standing(north.state) == "confirmed" and site_card(hub, "north") == pinned

    an_agent(north).step()

    card = site_card(hub, "north")
    assert card is not None and card.public_key == pinned.public_key and card.agreement_key
    assert member(hub, "north").number == 1
    agent = an_agent(north)
    agent.step()
    assert agent.home.hub.agreement_key == hub.identity.public.agreement_key
    assert last_word(north.state, agent.home.hub).number == 1


def test_a_card_that_the_pinned_key_did_not_sign_adds_nothing(hub, north):
    """The store puts its own key to encrypt to beside a known name."""
    mine, thief = Identity.create("north"), Identity.create("north")
    hub.write(layout.pin_key("north"), own_card(mine).model_copy(update={"agreement_key": None}))
    forged = own_card(mine).model_copy(update={"agreement_key": thief.public.agreement_key})
    hub.store.put(layout.card_key("north"), thief.signing.seal(forged))

    assert site_card(hub, "north").agreement_key is None


def test_the_commands_from_kit_to_a_healthy_site(hub, tmp_path, capsys):
    """What the page on enrolment says, as written: four commands, and a site.yaml that allows nothing."""
    kit, config = tmp_path / "kit.json", tmp_path / "hospital" / "site.yaml"
    where = ["--dir", str(hub.directory)]
    assert hub_main(["site", "add", "hospital-a", "--out", str(kit), *where]) == 0
    assert site_main(["enrol", str(kit), "--config", str(config), "--wait-s", "0"]) == 0
    words = own_words(load_site(config))
    assert hub_main(["site", "confirm", "hospital-a", "--words", words, *where]) == 0
    capsys.readouterr()

    assert site_main(["enrol", str(kit), "--config", str(config)]) == 0

    out = capsys.readouterr().out
    assert "hospital-a is enrolled" in out and words in out and " 0 failed" in out
    assert "Compare" not in out, "a member is not sent to the telephone again"
    settings = load_site(config).settings
    assert not settings.sources and settings.limits.epsilon < 1e-5
    assert hub_main(["site", "list", "--json", *where]) == 0
    (fact,) = json.loads(capsys.readouterr().out)
    assert (fact["site"], fact["state"], fact["words"]) == ("hospital-a", "confirmed", [words])
    Kit.model_validate_json(kit.read_text())


def test_what_the_written_site_yaml_suggests_can_be_uncommented(hub, tmp_path):
    """A person takes the # away, and the line is where it belongs."""
    config = tmp_path / "site.yaml"
    lines = site_yaml(invite(hub, "north", expires_days=1)).splitlines()
    keys = ("  # hours:", "  # epsilon_per_round:", "  # hold_for_human:")
    config.write_text(
        "\n".join(line.replace("# ", "", 1) if line.startswith(keys) else line for line in lines)
    )

    policy = load_site(config).settings.policy

    assert policy.hours and policy.epsilon_per_round == 0.5 and policy.hold_for_human


def test_nobody_is_confirmed_where_nobody_can_be_asked(hub, north, capsys, monkeypatch):
    """A script without a terminal confirms no stranger, and is told how it is done."""
    answer(invite(hub, "north", expires_days=1), north)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    assert hub_main(["site", "confirm", "north", "--dir", str(hub.directory)]) == 2

    assert "--words" in capsys.readouterr().err
    assert member(hub, "north") is None


def test_the_kits_maker_is_told_what_the_store_needs():
    """One key pair per site, for its own mailbox alone: the command that prints how."""
    (line,) = store_hint("s3://bucket/prefix", "hospital-a")
    assert "fedrounds site policy hospital-a --kind" in line
    assert store_hint("file:///srv/store", "hospital-a") == []


def test_an_existing_site_yaml_is_not_overwritten(hub, north, tmp_path):
    """Only identity is added."""
    config, kit = tmp_path / "files" / "north.yaml", tmp_path / "kit.json"
    before = config.read_bytes()
    kit.write_text(invite(hub, "north", expires_days=1).model_dump_json())

    assert site_main(["enrol", str(kit), "--config", str(config), "--wait-s", "0"]) == 0

    assert config.read_bytes() == before and standing(north.state) == "asked"


def test_who_is_not_enrolled_does_not_start(north, capsys):
    """With the cure."""
    assert site_main(["start", "--config", str(north.base / "north.yaml")]) == 2
    assert "fedrounds-site enrol kit.json" in capsys.readouterr().err


def test_acquaintance_may_be_made_again(hub, north):
    """A simulation and a test may call it at every start."""
    words = [acquaint(hub, north) for _ in range(2)]

    assert words[0] == words[1] and standing(north.state) == "confirmed"


def test_the_commands_of_a_member(hub, north, capsys):
    """Revoke and rotate, as a person types them."""
    enrol(hub, north)
    where = ["--dir", str(hub.directory)]
    assert hub_main(["site", "rotate", "north", "--wait-s", "0", *where]) == 0
    assert "not yet" in capsys.readouterr().out
    an_agent(north).step()
    assert hub_main(["site", "rotate", "north", *where]) == 0
    assert "new keys" in capsys.readouterr().out
    assert hub_main(["site", "add", "north", "--out", str(Path(north.base) / "k"), *where]) == 2
    assert hub_main(["site", "revoke", "north", "--reason", "test", *where]) == 0
    assert hub_main(["site", "revoke", "north", "--reason", "test", *where]) == 2
