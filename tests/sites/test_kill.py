"""kill -9 at every step between reserving and sending: nothing is forgotten, nothing is paid twice."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.store import open_store
from sites import ledgerfile
from sites.agent import Agent
from sites.auditread import verified
from sites.ledger import Ledger
from sites.outbox import Outbox
from sites.runner import InlineRunner
from sites.settings import load_site
from tasks import layout
from tasks.codes import Code
from tasks.contracts import Ticket
from tasks.parameters import Parameters
from tests.sites.builders import ToyHub, a_study, write_site

ROOT = Path(__file__).parents[2]
STEPS = [  # what is called while a ticket is worked on, in order; killed before and after each
    "sites.round.surveyed",
    "sites.round.plan_round",
    "sites.round.reserve",
    "sites.ledgerfile.write_head",
    "sites.round.note_reserved",
    "sites.round.make_update",
    "sites.outbox.Outbox.keep",
    "sites.ledger.Ledger.charge",
    "sites.round.note_charged",
    "sites.deliver.Delivery.answer",
    "sites.outbox.Outbox.delivered",
]
CASES = [f"{when}-{step}" for step in STEPS for when in ("before", "after")]

DYING = """
import importlib, os, signal, sys
from pathlib import Path
import opacus, pandas, torch, dp_accounting, tasks.recipes.tabular, sites.train, sites.protect, sites.survey
from infra.store import open_store
from sites.agent import Agent
from sites.runner import InlineRunner
from sites.settings import load_site

def arm(when, path):
    parts = path.split(".")
    owner = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:-1]:
        owner = getattr(owner, part)
    real = getattr(owner, parts[-1])
    def dies(*args, **more):
        if parts[-1] == "write_head" and not args[1].entries:
            return real(*args)  # the head of the new, empty ledger
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, parts[-1], dies)

for case in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        site = load_site(Path(sys.argv[1]) / case / "north.yaml")
        agent = Agent(site, open_store(site.settings.store), InlineRunner())
        arm(*case.split("-", 1))
        agent.step()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, case
"""


class Killed(NamedTuple):
    """One site after its agent was killed, and its hub."""

    folder: Path
    hub: ToyHub
    ticket: Ticket
    given: Parameters

    def agent(self) -> Agent:
        site = load_site(self.folder / "north.yaml")
        return Agent(site, open_store(site.settings.store), InlineRunner())


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, Killed]:
    """Every case in one go: the libraries are loaded once, each case is a process of its own."""
    top, made = tmp_path_factory.mktemp("killed"), {}
    for case in CASES:
        hub, study = ToyHub(top / case), a_study()
        write_site(top / case)
        given = hub.publish(study)
        made[case] = Killed(
            top / case, hub, hub.send(hub.ticket(study, given, expires_at=time.time() + 900)), given
        )
    ended = subprocess.run(
        [sys.executable, "-c", DYING, str(top), *CASES], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return made


def rounds(state: Path) -> list[tuple[int, str]]:
    ledgerfile._checked.clear()
    with closing(Ledger(state, read_only=True)) as ledger:
        return [(row.entry.attempt, row.state) for row in ledger.rows()]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_agent_goes_on_and_has_paid_once(killed, case):
    """Whatever was reserved stays; an update that was kept is sent, one that was not is not made again for free."""
    site = killed[case]
    state = site.folder / "north.state"
    reserved = CASES.index(case) >= CASES.index("after-sites.round.reserve")
    kept = Outbox(state / "outbox").find(layout.ticket_name(site.ticket))
    paid = rounds(state)
    if reserved and not case.startswith("before-sites.ledgerfile"):
        assert [attempt for attempt, _ in paid] == [1]

    agent = site.agent()
    for _ in range(2):
        agent.step()
        agent._list_at = 0.0

    receipt = site.hub.receipt(site.ticket)
    assert [attempt for attempt, _ in rounds(state)] == [1]  # one debit, however often the ticket was seen
    if kept is not None:
        assert receipt == kept.receipt
    elif paid:
        assert paid == [(1, "reserved")]
        assert receipt.refusal == Code.TRAINING_FAILED
    if receipt.update is not None:
        assert rounds(state) == [(1, "charged")]
        sent = site.hub.store.get(layout.answer_key(site.ticket, "update.safetensors"))
        assert len(sent) == receipt.update.payload_bytes

    again = site.hub.ask(agent, site.hub.ticket(a_study(), site.given, attempt=2))
    if receipt.update is not None:
        assert len(rounds(state)) == 1  # kept bytes are sent again and cost nothing
        assert again.update == receipt.update
    else:
        assert again.update is not None
        assert len(rounds(state)) == 2
    agent.close()
    assert verified(state, "north")[0].entries > 4
