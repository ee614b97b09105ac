"""A store whose lists are behind, as some S3 servers' are: what is read and created by name is not."""

from __future__ import annotations

import pytest

from flows.training import training
from infra.errors import StoreError
from infra.store import open_store
from infra.store.base import Store
from sites.agent import LIST_EVERY_S, LIST_SOON_S
from tasks import layout, lease
from tasks.codes import Operation
from tasks.commit import load_records
from tasks.errors import LeaseError
from tasks.records import Lease
from tasks.registry import history, revoke, ring, site_card
from tasks.tickets import last_ticket
from tests.federation import SITES, Tampering, a_federation, a_study
from tests.flows.test_falls import lease_of_another, ledger_of


class Behind(Tampering):
    """Shows every list as it was when it was asked for first."""

    def __init__(self, store: Store):
        super().__init__(store, lambda _key, data: data)
        self.shown: dict[str, list[str]] = {}
        self.looks = 0

    def list(self, prefix: str) -> list[str]:
        self.looks += 1
        return self.shown.setdefault(prefix, self.inner.list(prefix))


def test_a_run_goes_on_although_the_hub_never_sees_a_new_list(tmp_path):
    """From before the first round to the end: nobody trains twice, nothing is committed twice, fences go up."""
    federation = a_federation(tmp_path)
    hub, study = federation.hub, a_study(rounds=3)
    behind = Behind(open_store(hub.store_url))

    def fall(key: str, data: bytes) -> bytes:
        if "/parameters/00002-" in key:
            raise StoreError("the hub's power fails")
        return data

    hub.__dict__["store"] = behind
    behind.rule = fall
    with pytest.raises(StoreError, match="power"):
        federation.run(study, run="toy-1")
    behind.rule = lambda _key, data: data
    training(hub=hub, study=study, run="toy-1")

    records = load_records(hub, "toy-1")
    assert [record.round for record in records] == [1, 2, 3]
    assert [record.cohort for record in records] == [tuple(sorted(SITES))] * 3
    assert records[0].fence < records[1].fence
    for site in SITES:
        assert ledger_of(federation, site) == [(n, 1, "charged") for n in (1, 2, 3)]


def test_a_living_hub_is_found_that_no_list_shows(tmp_path):
    """Also where it has renewed its lease often since, and put old numbers away."""
    federation = a_federation(tmp_path)
    hub = federation.hub
    behind = hub.__dict__["store"] = Behind(hub.store)
    lease_of_another(hub, 1, -900)
    assert behind.list(layout.lease_prefix("toy"))
    for number in range(2, lease.KEPT):
        lease_of_another(hub, number, 600)

    with (
        pytest.raises(LeaseError, match=rf"going on \(lease {lease.KEPT}\)"),
        lease.lease(hub.with_clock(hub.now, lambda _: lease_of_another(hub, lease.KEPT, 600)), "toy"),
    ):
        pytest.fail("two hubs have the study")


def test_a_lease_that_is_named_and_not_there_stops_the_hub(tmp_path):
    """The list is further behind than old leases last: to begin at 1 again would let two hubs play."""
    federation = a_federation(tmp_path)
    hub = federation.hub
    hub.__dict__["store"] = Behind(hub.store)
    lease_of_another(hub, 1, -900)
    hub.store.list(layout.lease_prefix("toy"))
    hub.store.delete(f"{layout.lease_prefix('toy')}{1:012d}.json")

    with pytest.raises(StoreError, match="what it lists is behind"), lease.lease(hub, "toy"):
        pytest.fail("the hub believed that there was no lease")


def test_old_leases_are_put_away_and_the_last_ones_stay(tmp_path, monkeypatch):
    """They are how a list that is behind leads to the newest."""
    federation = a_federation(tmp_path)
    clock = [federation.now()]
    hub = federation.hub.with_clock(lambda: clock[0], lambda _: None)
    with lease.lease(hub, "toy"):
        for _ in range(lease.KEPT + 9):
            clock[0] += lease.LIFETIME_S / 2
            lease.keep(hub, "toy")
        left = hub.store.list(layout.lease_prefix("toy"))

    assert len(left) == lease.KEPT
    assert hub.read(left[-1], Lease).number == lease.KEPT + 10


def test_a_revoked_site_is_revoked_although_no_list_shows_it(tmp_path):
    """Also on a machine that has never seen the newer word."""
    federation = a_federation(tmp_path)
    behind = Behind(federation.hub.store)
    elsewhere = federation.hub.model_copy(update={"directory": tmp_path / "elsewhere"})
    elsewhere.__dict__["store"] = behind
    assert behind.list(layout.members_prefix("north"))
    revoke(federation.hub, "north", "its keys are lost")

    assert site_card(elsewhere, "north") is None
    assert [one.state for one in history(elsewhere, "north")] == ["confirmed", "revoked"]


def test_the_latest_attempt_is_found_that_no_list_shows(tmp_path):
    """Else an answered ticket would be taken for the last one."""
    federation = a_federation(tmp_path)
    hub = federation.hub
    run = federation.run(a_study(rounds=1))
    first = federation.agents["north"].outbox.answered(run, 1, Operation.TRAIN)[0]
    behind = hub.__dict__["store"] = Behind(hub.store)
    assert not behind.list(layout.tickets_of_round("north", run, 1))
    for attempt in (1, 2):
        ticket = first.model_copy(update={"attempt": attempt})
        hub.write(layout.ticket_key(ticket), ticket)

    assert last_ticket(hub, run, "north", 1, Operation.TRAIN).attempt == 2


def test_a_bell_without_a_new_ticket_makes_the_agent_look_again_soon(tmp_path):
    """The list is behind the bell; half a minute lost in every round would be too much, looking all the time too."""
    federation = a_federation(tmp_path)
    agent, behind = federation.agents["north"], Behind(federation.hub.store)
    clock = [federation.now()]
    agent.now, agent.mailbox.store = lambda: clock[0], behind
    ring(federation.hub, "north")
    looks = []
    for passed in (0.0, LIST_SOON_S, LIST_SOON_S, LIST_EVERY_S):
        clock[0] += passed
        agent.step()
        looks.append(behind.looks)

    assert looks == [1, 2, 2, 3]
