"""A site's outbox, ledger and audit log and the power: killed between any two calls, started again, then cut."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from infra.signing import SigningKey
from sites import ledgerfile
from sites.answer import Answer
from sites.audit import Audit
from sites.auditevents import AgentStopped
from sites.job import Planned
from sites.journal import Bound, Journal, bounds_of
from sites.ledger import Entry, Ledger
from sites.outbox import Outbox
from sites.settings import Limits
from sites.spending import RunPlan, Standing, keep_plan, known_plan
from sites.stopfile import halt, halted
from tasks.codes import Operation
from tasks.contracts import Receipt, Spent, Ticket, Update
from tasks.privacy.events import GaussianEvent
from tasks.secagg.messages import SumTerms
from tasks.secagg.onesum import Pledge
from tests.crash.disk import Choose, Disk
from tests.federation import Killed

KEY = SigningKey.create("north")
PAYLOAD = b"an update"


def worst(_choices: int) -> int:
    """Of all that POSIX allows, what is oldest."""
    return 0


KILLS = [*range(12), 15, 19]  # beyond the last, a life ends by itself
CUTS: list[Choose] = [worst, *(random.Random(seed).randrange for seed in range(1))]


def lived(tmp_path: Path, kill: int, cut: int, life: Callable[[Path], None]) -> Disk:
    """The disk after a life that was killed, a whole second one, and a power cut."""
    places = [tmp_path / f"{kill}-{cut}-{name}" for name in ("before", "after")]
    for place in places:
        place.mkdir()
    disk = Disk(places[0])
    with suppress(Killed), disk.watching(kill):
        life(disk.root)
    disk.bury()
    ledgerfile._checked.clear()
    with disk.watching():
        life(disk.root)
    ledgerfile._checked.clear()
    return disk.power_cut(places[1], CUTS[cut])


def an_answer() -> Answer:
    facts = {"run": "toy-1", "round": 1, "attempt": 1, "operation": Operation.TRAIN, "site": "north"}
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    ticket = Ticket(
        **facts,
        study="toy",
        study_sha256=digest,
        recipe_sha256=digest,
        parameters_key="shared/p",
        parameters_sha256=digest,
        nonce="0" * 32,
        issued_at=1.0,
        expires_at=2.0,
    )
    update = Update(payload_sha256=digest, payload_bytes=len(PAYLOAD), spent=None)
    receipt = Receipt(**facts, ticket_sha256=ticket.sha256, update=update, delivered_at=1.0)
    return Answer(ticket=ticket, receipt=receipt, sealed=KEY.seal(receipt).decode())


def an_entry(round_: int) -> Entry:
    event = GaussianEvent(noise_multiplier=1.5, sample_rate=0.25, steps=5)
    return Entry(dataset="d", study="heart", run="run-1", round=round_, attempt=1, event=event)


@pytest.mark.parametrize("cut", range(len(CUTS)))
def test_an_answer_that_was_kept_is_kept(tmp_path, cut):
    """Its privacy is paid; without it the round would have to be paid again."""
    answer = an_answer()

    for kill in KILLS:
        disk = lived(tmp_path, kill, cut, lambda state: Outbox(state / "outbox").keep(answer, PAYLOAD))
        kept = Outbox(disk.root / "outbox")

        assert kept.find(answer.name) == answer, f"killed at call {kill}"
        assert kept.payload(answer) == PAYLOAD
        disk.close()


@pytest.mark.parametrize("cut", range(len(CUTS)))
def test_what_was_reserved_counts_after_a_power_cut(tmp_path, cut):
    """Rows were read in the belief that it does; the chain is whole, and a killed life costs no entry twice."""

    def life(state: Path) -> None:
        ledger = Ledger(state, site="north")
        try:
            for round_ in (1, 2):
                ledger.reserve(an_entry(round_))
                ledger.charge(an_entry(round_).key)
        finally:
            ledger.close()

    for kill in KILLS:
        disk = lived(tmp_path, kill, cut, life)
        ledger = Ledger(disk.root, site="north")

        assert [(row.entry, row.state) for row in ledger.rows()] == [(an_entry(n), "charged") for n in (1, 2)]
        ledger.close()
        disk.close()


@pytest.mark.parametrize("cut", range(len(CUTS)))
def test_lines_that_were_secured_stay_in_the_log(tmp_path, cut):
    """They are secured before bytes leave: what has left is noted, whatever the power does."""

    def life(state: Path) -> None:
        audit = Audit(state, KEY, now=lambda: 1.0)
        audit.note(AgentStopped(version="1.0.1"))
        audit.secure()
        audit.note(AgentStopped(version="1.0.2"))
        audit.secure()

    for kill in KILLS:
        disk = lived(tmp_path, kill, cut, life)
        Audit(disk.root, KEY)
        lines = (disk.root / "audit.jsonl").read_text()

        assert "1.0.1" in lines and "1.0.2" in lines, f"killed at call {kill}"
        disk.close()


@pytest.mark.parametrize("cut", range(len(CUTS)))
def test_a_runs_plan_stays(tmp_path, cut):
    """Its noise was calibrated for the whole run; made again it would have to be paid for what was reserved since."""
    limits, event = (
        Limits(epsilon=3.0, delta=1e-5),
        GaussianEvent(noise_multiplier=1.5, sample_rate=1.0, steps=1),
    )
    standing = Standing(
        study_sha256="a" * 64, units=9, others="b" * 64, limits=limits, reserved=0, released=0, left=2
    )
    plan = RunPlan(standing=standing, planned=Planned(event=event, trajectory=(0.5, 0.9), epsilon_after=0.9))

    for kill in KILLS:
        disk = lived(tmp_path, kill, cut, lambda state: keep_plan(state, "toy-1", plan))

        assert known_plan(disk.root, "toy-1") == plan, f"killed at call {kill}"
        disk.close()


def test_a_step_that_was_kept_is_kept(tmp_path):
    """Its vector has left: a later life that did not know it would mask another one with the same stream."""
    ticket = an_answer().ticket.model_copy(update={"steps": 3})
    event = GaussianEvent(noise_multiplier=1.5, sample_rate=1.0, steps=3)
    spent = Spent(epsilon=1, delta=1e-5, noise_multiplier=1.5, sample_rate=1, steps=3, epsilon_limit=3)

    def life(state: Path) -> None:
        journal = Journal.known(state / "outbox", ticket)
        journal = journal or Journal.begin(state / "outbox", ticket, event, spent)
        for step in range(journal.newest.sum.step + 1 if journal.newest else 1, 4):
            journal.keep(*a_step(step))
        journal.close()

    for kill in range(1, 24, 2):
        disk = lived(tmp_path, kill, 0, life)
        kept = list(bounds_of(disk.root / "outbox", "toy-1"))

        assert [bound for _, bound in kept] == [a_step(n)[0] for n in (1, 2, 3)], f"killed at call {kill}"
        assert Journal.known(disk.root / "outbox", ticket).payload == a_step(3)[1]
        disk.close()


def a_step(number: int) -> tuple[Bound, bytes]:
    """What a site is bound to in a step, and its vector."""
    vector = bytes([number]) * 16
    digest = hashlib.sha256(vector).hexdigest()
    place = {"round": 1, "attempt": 1, "step": number, "parameters_sha256": f"{number:064x}"}
    sum_ = SumTerms(run="toy-1", cohort_sha256="a" * 64, length=2, bits=64, scale_bits=0, **place)
    return Bound(sum=sum_, pledge=Pledge(sum_sha256=sum_.sha256, masked_sha256=digest, **place)), vector


def test_a_switch_that_was_thrown_stays_thrown(tmp_path):
    """Who stopped the agent for a reason must not find it at work after a power cut."""
    for kill in range(6):
        disk = lived(tmp_path, kill, 0, lambda state: halt(state, "stop", "inspection"))
        found = halted(disk.root)

        assert found is not None and found.mode == "stop"
        disk.close()
