"""A hub that lies about who is in a sum, before the sum is opened: no two lists open, whatever it shows to whom."""

from __future__ import annotations

import hashlib
import json
import secrets

import pytest

from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import Receipt, Ticket
from tasks.errors import SecureSumError
from tasks.registry import ring, site_card
from tasks.relay import find_relayed, read_relayed
from tasks.sealed import open_from_site
from tasks.secagg.messages import Consent, Survivors, Unmasking
from tasks.secagg.opening import recover
from tasks.secagg.relayed import Agreed, Dealt, Listed
from tests.federation import FOUR, Killed
from tests.flows.test_secure import four, secure

RUN = "toy-1"


class Before:
    """A run whose hub stopped when all vectors of the first round had arrived; then it is in the wrong hands."""

    def __init__(self, folder, rule=None):
        self.federation = four(folder, rule)
        self.hub, waits = self.federation.hub, self.federation.wait

        def wait(seconds):
            waits(seconds)
            if all(self._receipt(self.ticket(site)) for site in FOUR):
                raise Killed

        self.federation.hub = self.hub.with_clock(self.federation.now, wait)
        with pytest.raises(Killed):
            self.federation.run(secure(), RUN)
        self.dealt = read_relayed(self.hub, find_relayed(self.hub, RUN, 1, "seated"), Dealt)
        updates = {site: self._receipt(self.ticket(site)).update for site in FOUR}
        (self.sum_sha256,) = {update.sum_sha256 for update in updates.values()}
        self.masked = {site: update.payload_sha256 for site, update in updates.items()}

    def ticket(self, site: str) -> Ticket:
        return Ticket.model_construct(site=site, run=RUN, round=1, attempt=1, operation=Operation.TRAIN)

    def list(self, without: str | None = None, **digests: str) -> Survivors:
        masked = {site: sha for site, sha in (self.masked | digests).items() if site != without}
        return Survivors(sum_sha256=self.sum_sha256, masked=masked)

    def ask(self, site: str, operation: Operation, message: Listed | Agreed) -> Receipt | None:
        """What a site answers to a ticket that passes `message` on; None: it said nothing."""
        raw = message.model_dump_json().encode()
        digest = hashlib.sha256(raw).hexdigest()
        key = layout.sum_key(RUN, 1, "lie", digest)
        self.hub.store.put(key, raw)
        trained = self.federation.agents[site].outbox.find(layout.ticket_name(self.ticket(site))).ticket
        fields = trained.model_dump(exclude={"uploads"}) | {
            "operation": operation, "relayed_key": key, "relayed_sha256": digest,
            "nonce": secrets.token_hex(16), "issued_at": self.hub.now(), "expires_at": self.hub.now() + 600,
        }  # fmt: skip
        for attempt in range(1, 99):
            ticket = Ticket.model_validate(fields | {"attempt": attempt})
            if self.hub.write_once_to(site_card(self.hub, site), layout.ticket_key(ticket), ticket):
                break
        ring(self.hub, site)
        self.federation.agents[site].step()
        return self._receipt(ticket)

    def open(self, site: str, survivors: Survivors) -> Receipt | None:
        """A list that nobody has signed."""
        return self.ask(site, Operation.OPEN, Listed(survivors=survivors))

    def agree(self, site: str, survivors: Survivors) -> Receipt | None:
        return self.ask(site, Operation.AGREE, Listed(survivors=survivors))

    def restart(self, site: str) -> None:
        self.federation.agents[site] = self.federation._agent(self.federation.agents[site].site)

    def opens(self, survivors: Survivors, receipts: list[Receipt | None]) -> bool:
        """Whether the sum of a list can be opened with these."""
        sum_ = self.federation.agents["north"].outbox.bound(RUN, self.sum_sha256).sum
        shares = [Unmasking.model_validate_json(r.said) for r in receipts if r is not None and r.said]
        try:
            recover(self.dealt.cohort, self.dealt.announcements, sum_, survivors, shares)
        except SecureSumError:
            return False
        return True

    def _receipt(self, ticket: Ticket) -> Receipt | None:
        place = layout.answer_key(ticket, "receipt.json")
        raw = self.hub.store.get(place)
        return (
            open_from_site(self.hub, raw, Receipt, site_card(self.hub, ticket.site), place) if raw else None
        )


def refused(receipt: Receipt | None) -> bool:
    return receipt is not None and receipt.said is None and receipt.refusal == Code.SUM_REFUSED


def test_the_list_of_all_for_some_and_a_smaller_one_for_others(tmp_path):
    """Two open the one, two sign the other; then each is shown the other one, also after a restart, and gives nothing."""
    before = Before(tmp_path)
    everyone, fewer = before.list(), before.list(without="east")

    shares = [before.open(site, everyone) for site in ("east", "north")]
    signed = [before.agree(site, fewer) for site in ("south", "west")]
    assert all(receipt.said for receipt in (*shares, *signed))
    for again in (False, True):
        if again:
            [before.restart(site) for site in FOUR]
        assert refused(before.agree("north", fewer))
        assert refused(before.open("south", everyone))
        assert refused(before.open("west", everyone))

    consents = tuple(Consent.model_validate_json(receipt.said) for receipt in signed)
    one_short = before.ask("south", Operation.OPEN, Agreed(survivors=fewer, consents=consents))
    assert refused(one_short)
    assert not before.opens(everyone, shares) and not before.opens(fewer, [one_short])
    third = before.open("east", everyone)  # of the same site: it counts once
    assert third.said and not before.opens(everyone, [*shares, third])


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Before:
    return Before(tmp_path_factory.mktemp("lists-of-all"))


def test_what_is_no_list_of_all_opens_nothing_without_signatures(before):
    """One without a site, one with other bytes than this site's, one of another sum: and none of them binds."""
    known = before.federation.agents["north"].outbox.pledges(RUN)
    lies = [
        before.list(without="west"),
        before.list(without="north"),
        before.list(north="0" * 64),
        before.list(ghost="0" * 64),
        before.list().model_copy(update={"sum_sha256": "0" * 64}),
    ]

    assert all(refused(before.open("north", lie)) for lie in lies)
    scores = before.ask("north", Operation.OPEN_SCORES, Listed(survivors=before.list()))
    assert scores.said is None and scores.refusal == Code.BAD_TICKET
    before.restart("north")
    assert before.federation.agents["north"].outbox.pledges(RUN) == known
    assert not known.sums[-1].may_be_open


def test_opened_again_and_agreed_to_after_all_it_is_the_same_list_and_the_same_shares(before):
    """A repetition is harmless; another list of all, with a false digest for somebody else, is another list."""
    first = before.open("south", before.list())

    assert first.said and before.open("south", before.list()).said == first.said
    assert before.agree("south", before.list()).said
    before.restart("south")
    assert before.open("south", before.list()).said == first.said
    assert refused(before.open("south", before.list(west="0" * 64)))
    assert refused(before.agree("south", before.list(west="0" * 64)))


def test_what_the_site_is_bound_to_is_on_its_disk_before_a_share_leaves(tmp_path):
    """In the very file of the answer, so that a site that dies while it sends knows it in its next life."""
    seen: list[str | None] = []

    def rule(key: str, data: bytes) -> bytes:
        if key.startswith(f"sites/north/out/{RUN}/") and key.endswith("-open/receipt.json"):
            file = before.federation.agents["north"].outbox.folder / RUN / f"{key.split('/')[4]}.json"
            seen.append(json.loads(file.read_bytes())["bound"]["pledge"]["survivors_sha256"])
            raise Killed(key)
        return data

    before = Before(tmp_path, rule)
    with pytest.raises(Killed):
        before.open("north", before.list())

    assert seen == [before.list().sha256]
    before.federation.store.rule = lambda _key, data: data
    before.restart("north")
    assert refused(before.agree("north", before.list(without="east")))


def test_a_site_that_died_before_its_answer_was_kept_has_given_nothing_and_may_sign_another_list(
    tmp_path, monkeypatch
):
    """Nothing has left, so nothing binds: the round can go on without the site that is lost since."""
    before = Before(tmp_path)

    def killed(*_args, **_more):
        raise Killed

    with monkeypatch.context() as fatal:
        fatal.setattr("sites.outbox.write_durably", killed)
        with pytest.raises(Killed):
            before.open("north", before.list())
    before.hub.store.delete(layout.ticket_key(Ticket.model_construct(
        site="north", run=RUN, round=1, attempt=1, operation=Operation.OPEN)))  # fmt: skip
    before.restart("north")

    assert before.agree("north", before.list(without="east")).said
    assert refused(before.open("north", before.list()))
