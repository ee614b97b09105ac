"""A hub that lies in a secure sum, against real agents after a real run: it learns nothing, and gets a code."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from infra.signing import SigningKey
from tasks import layout
from tasks.codes import Code, Operation
from tasks.commit import load_records
from tasks.contracts import Receipt, Ticket
from tasks.propose import propose
from tasks.registry import ring, site_card
from tasks.relay import find_relayed, read_relayed
from tasks.sealed import open_from_site
from tasks.secagg.messages import Consent, Survivors
from tasks.secagg.relayed import Agreed, Announced, Dealt, Listed, Seating
from tasks.secagg.setup import announce, take_seat
from tests.flows.test_secure import four, secure

RUN = "toy-1"
STUDY = secure(rounds=3)


class Attack:
    """A federation after a run of three rounds, and its hub in the wrong hands."""

    def __init__(self, folder, rule=None):
        self.federation = four(folder, rule)
        self.hub = self.federation.hub
        self.federation.run(secure(rounds=3), RUN)
        self.records = load_records(self.hub, RUN)

    def relayed(self, round_: int, part: str, model):
        found = find_relayed(self.hub, RUN, round_, part)
        assert found is not None
        return read_relayed(self.hub, found, model)

    def ticket_fields(self, operation: Operation, round_: int) -> dict[str, object]:
        """Of a ticket for north, but for its attempt."""
        of = self.records[round_ - 2 if operation.work == Operation.TRAIN else round_ - 1]
        seated = find_relayed(self.hub, RUN, round_, "seated")
        assert seated is not None
        return {
            "run": RUN, "study": "toy", "study_sha256": STUDY.sha256,
            "recipe_sha256": of.recipe_sha256, "site": "north", "round": round_,
            "operation": operation, "parameters_key": of.parameters_key,
            "parameters_sha256": of.parameters_sha256, "relayed_key": seated.key,
            "relayed_sha256": seated.sha256, "nonce": secrets.token_hex(16),
            "issued_at": self.hub.now(), "expires_at": self.hub.now() + 60,
        }  # fmt: skip

    def ask(self, operation: Operation, message, round_: int = 3, **changes) -> Receipt:
        """What north answers to a ticket that passes `message` on."""
        raw = message.model_dump_json().encode() if message else b""
        digest = hashlib.sha256(raw).hexdigest()
        key = layout.sum_key(RUN, round_, "lie", digest)
        self.hub.store.put(key, raw)
        fields = self.ticket_fields(operation, round_) | {
            "relayed_key": key if message else None, "relayed_sha256": digest if message else None,
        }  # fmt: skip
        for attempt in range(20, 99):
            ticket = Ticket.model_validate(fields | {"attempt": attempt} | changes)
            if self.hub.write_once_to(site_card(self.hub, "north"), layout.ticket_key(ticket), ticket):
                break
        ring(self.hub, "north")
        self.federation.agents["north"].step()
        place = layout.answer_key(ticket, "receipt.json")
        raw = self.hub.store.get(place)
        assert raw is not None
        receipt = open_from_site(self.hub, raw, Receipt, site_card(self.hub, "north"), place)
        assert receipt is not None
        return receipt


@pytest.fixture(scope="module")
def attack(tmp_path_factory) -> Attack:
    """Every list was of all sites, and was opened without signatures."""
    return Attack(tmp_path_factory.mktemp("lying-sums"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> Attack:
    """West sent no scores in round 3: the others have signed a list without it."""

    def rule(key: str, data: bytes) -> bytes | None:
        return None if "sites/west/out/" in key and "/00003-01-evaluate/" in key else data

    return Attack(tmp_path_factory.mktemp("lying-lists"), rule)


def seating(attack) -> Seating:
    return attack.relayed(1, "terms", Seating)


@pytest.mark.parametrize(
    "change",
    [
        {"sites": ("east", "north", "south"), "threshold": 3},
        {"threshold": 4},
        {"bits": 32},
        {"first_round": 1},
        {"run": "toy-2"},
        {"study_sha256": "0" * 64},
        {"sites": ("east", "ghost", "north", "south")},
    ],
)
def test_sums_on_other_terms_than_the_study_s(attack, change):
    """Fewer sites, another threshold, rounds of the past, a site that the study does not name."""
    terms = seating(attack).terms.model_copy(update={"first_round": 3, "rounds": 1} | change)
    lie = seating(attack).model_copy(update={"terms": terms})

    assert attack.ask(Operation.ANNOUNCE, lie).refusal == Code.SUM_REFUSED


def test_keys_of_a_site_that_nobody_has_approved(attack):
    """The hub swaps one member's keys for its own: people must look at it first."""
    own = SigningKey.create("west").public_hex
    members = seating(attack).members
    members = members | {"west": members["west"].model_copy(update={"public_key": own})}
    terms = seating(attack).terms.model_copy(update={"first_round": 3, "rounds": 1})

    answer = attack.ask(Operation.ANNOUNCE, Seating(terms=terms, members=members))
    assert answer.refusal == Code.NOT_APPROVED


def test_an_announcement_that_the_hub_has_made_for_a_site(attack):
    """No share is sealed to keys that the site's own approved key has not signed."""
    terms = seating(attack).terms.model_copy(update={"first_round": 3, "rounds": 1})
    said = attack.ask(Operation.ANNOUNCE, Seating(terms=terms, members=seating(attack).members))
    assert said.refusal is None
    forged = {
        site: announce(take_seat(terms, site), SigningKey.create(site).sign)
        for site in ("east", "south", "west")
    }
    own = attack.relayed(1, "directory", Announced).announcements["north"]
    own = type(own).model_validate_json(said.said)
    announcements = forged | {"north": own}
    directory = attack.relayed(1, "directory", Announced).directory.model_copy(
        update={"terms_sha256": terms.sha256, "announced": {s: a.sha256 for s, a in announcements.items()}}
    )

    lie = Announced(directory=directory, announcements=announcements)
    assert attack.ask(Operation.DEAL, lie).refusal == Code.SUM_REFUSED


def test_training_for_the_hub_s_own_eyes(attack):
    """A ticket of a secure study that names no sum gets no update, and costs no epsilon."""
    assert attack.ask(Operation.TRAIN, None).refusal == Code.BAD_TICKET
    assert attack.ask(Operation.EVALUATE, None).refusal == Code.BAD_TICKET


def test_a_second_vector_under_other_keys(attack):
    """A new cohort for a round that is masked already would give two sums of one round."""
    dealt = attack.relayed(3, "seated", Dealt)
    other = dealt.cohort.model_copy(update={"dealt": dict(list(dealt.cohort.dealt.items())[:3])})
    lie = dealt.model_copy(update={"cohort": other})

    assert attack.ask(Operation.TRAIN, lie).refusal == Code.SUM_REFUSED


def lists(attack) -> tuple[Listed, Survivors]:
    """The list of round 3's scores, which north has opened, and the same without one site."""
    listed = attack.relayed(3, "list-scores", Listed)
    fewer = {site: digest for site, digest in listed.survivors.masked.items() if site != "west"}
    return listed, listed.survivors.model_copy(update={"masked": fewer})


def test_a_second_list_of_one_round(attack):
    """The difference of two sums would be the vector of the site that only one of them has."""
    _, other = lists(attack)

    assert attack.ask(Operation.AGREE_SCORES, Listed(survivors=other)).refusal == Code.SUM_REFUSED


def test_a_second_list_after_the_work_was_asked_again(attack):
    """The same bytes are sent again, and what was agreed about them stays agreed; also for a new process."""
    _, other = lists(attack)
    again = attack.ask(Operation.EVALUATE, attack.relayed(3, "seated", Dealt))
    assert again.update is not None

    assert attack.ask(Operation.AGREE_SCORES, Listed(survivors=other)).refusal == Code.SUM_REFUSED

    agents, site = attack.federation.agents, attack.federation.agents["north"].site
    agents["north"] = attack.federation._agent(site)
    assert attack.ask(Operation.AGREE_SCORES, Listed(survivors=other)).refusal == Code.SUM_REFUSED


def test_a_list_of_too_few(attack):
    """A sum of two gives each of them the other's vector."""
    _, other = lists(attack)
    two = other.model_copy(update={"masked": dict(list(other.masked.items())[:2])})

    assert attack.ask(Operation.AGREE_SCORES, Listed(survivors=two)).refusal == Code.SUM_REFUSED


def test_the_list_of_an_older_sum(attack):
    """The update's list again, after the scores were masked; and a list of a sum that never was."""
    listed = attack.relayed(3, "list-update", Listed)
    unknown = listed.survivors.model_copy(update={"sum_sha256": "0" * 64})

    assert attack.ask(Operation.AGREE, listed).refusal == Code.SUM_REFUSED
    assert attack.ask(Operation.AGREE, Listed(survivors=unknown)).refusal == Code.SUM_REFUSED
    assert attack.ask(Operation.AGREE_SCORES, listed).refusal == Code.SUM_REFUSED  # asked as the other kind


@pytest.mark.parametrize("forge", ["too few", "own keys", "one twice"])
def test_shares_without_the_consent_of_enough_sites(signed, forge):
    """Signatures are counted by site and by the keys that were approved."""
    agreed = signed.relayed(3, "agreed-scores", Agreed)
    given = agreed.consents[:2]
    if forge == "own keys":
        draft = Consent(survivors_sha256=agreed.survivors.sha256, site="west", signature="0" * 128)
        given = (
            *given,
            draft.model_copy(update={"signature": SigningKey.create("x").sign(draft.canonical).hex()}),
        )
    if forge == "one twice":
        given = (given[0], given[0], given[0], given[1])

    lie = agreed.model_copy(update={"consents": given})
    assert signed.ask(Operation.OPEN_SCORES, lie).refusal == Code.SUM_REFUSED


def test_shares_for_a_list_that_was_never_agreed_to(signed):
    """Signatures under one list open no other; nor does the list of all, after another was signed."""
    agreed = signed.relayed(3, "agreed-scores", Agreed)
    other = agreed.survivors.model_copy(update={"masked": agreed.survivors.masked | {"west": "0" * 64}})

    for consents in (agreed.consents, ()):
        lie = Agreed(survivors=other, consents=consents)
        assert signed.ask(Operation.OPEN_SCORES, lie).refusal == Code.SUM_REFUSED


def test_what_is_passed_on_from_elsewhere(attack):
    """A ticket points at another run's place, or at bytes of another digest."""
    listed, _ = lists(attack)
    changes = {"relayed_key": layout.sum_key("other", 3, "lie", "0" * 64)}

    assert attack.ask(Operation.AGREE_SCORES, listed, **changes).refusal == Code.BAD_TICKET
    assert attack.ask(Operation.AGREE_SCORES, listed, relayed_sha256="0" * 64).refusal == Code.BAD_TICKET


def test_an_honest_repetition_gives_the_same_answer(attack):
    """The steps above are refused because they lie, not because they come late."""
    listed, _ = lists(attack)

    assert attack.ask(Operation.OPEN_SCORES, listed).said is not None
    assert attack.ask(Operation.AGREE_SCORES, listed).said is not None


def test_an_honest_repetition_of_a_signed_list_gives_the_same_answer(signed):
    """As above, of a list that lacks a site."""
    listed, _ = lists(signed)
    agreed = signed.relayed(3, "agreed-scores", Agreed)

    assert signed.ask(Operation.AGREE_SCORES, listed).said is not None
    assert signed.ask(Operation.OPEN_SCORES, agreed).said is not None


def test_a_state_folder_of_a_backup_masks_nothing_again(tmp_path):
    """Restored as it was before a round whose vector has left: a second one under the same mask would tell."""
    attack = Attack(tmp_path)
    state = attack.federation.agents["north"].site
    for path in (state.state / "outbox" / RUN).glob("00003-*"):
        path.unlink()
    restored = attack.federation._agent(state)
    ticket = Ticket.model_validate(attack.ticket_fields(Operation.TRAIN, 3) | {"attempt": 1})
    attack.hub.write_once_to(site_card(attack.hub, "north"), layout.ticket_key(ticket), ticket)
    ring(attack.hub, "north")

    restored.step()

    answer = restored.outbox.find(layout.ticket_name(ticket))
    assert answer is not None and answer.receipt.refusal == Code.SUM_REFUSED


def test_new_members_need_a_new_approval(attack):
    """Whose keys count is part of what people approve."""
    before = propose(attack.hub, STUDY)
    members = dict(list(before.members.items())[:3])

    assert before.model_copy(update={"members": members}).approval_sha256 != before.approval_sha256
