"""Updates that come late: dropped, folded into the next round, or the rule of an asynchronous study."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infra.store import open_store
from sites.ledger import Ledger
from tasks import layout, parameters
from tasks.codes import Code
from tasks.commit import load_records
from tests.federation import Tampering, a_federation, a_study, plain_update

LATE = {"grace": 1.0, "rounds": 3, "deadline_s": 3600}


class Slow:
    """An agent that sleeps until `rounds` rounds are committed, and one round after each time it worked."""

    def __init__(self, federation, site: str, rounds: int):
        self.agent, self.federation, self.until = federation.agents[site], federation, rounds
        self.agent.step()  # it has shown its card before

    def step(self) -> bool:
        if len(load_records(self.federation.hub, "toy-1")) < self.until:
            return False
        return self.agent.step()


def arrays(federation, key: str):
    return parameters.from_bytes(federation.store.get(key))


def update(federation, site: str, round_: int):
    key = f"sites/{site}/out/toy-1/{round_:05d}-01-train/update.safetensors"
    return parameters.from_bytes(plain_update(federation, key, federation.store.get(key)))


def charged(federation, site: str) -> list[int]:
    agent = federation.agents[site]
    ledger = Ledger(getattr(agent, "agent", agent).site.state, site=site, read_only=True)
    rounds = [row.entry.round for row in ledger.rows() if row.state == "charged"]
    ledger.close()
    return rounds


def test_a_late_update_is_folded_into_the_next_round_once_and_damped(tmp_path):
    """It counts 1 / sqrt(2) among four updates, also for the same site's update on time."""
    federation = a_federation(tmp_path)
    federation.agents["south"] = Slow(federation, "south", rounds=1)

    one, two, three = load_records(
        federation.hub, federation.run(a_study(**LATE, late_updates="fold"), "toy-1")
    )

    assert one.sites["south"].code == Code.TOO_LATE
    assert (one.folded, two.folded, three.folded) == ({}, {"south": 1}, {})
    on_time = [update(federation, site, 2) for site in ("east", "north", "south")]
    late, base = update(federation, "south", 1), arrays(federation, one.parameters_key)
    for name, array in arrays(federation, two.parameters_key).items():
        total = sum(u[name].astype(np.float64) for u in on_time) + late[name] / math.sqrt(2)
        np.testing.assert_allclose(array, base[name] + total / 4, rtol=1e-5)
    assert two.bytes_up > three.bytes_up
    assert charged(federation, "south") == [1, 2, 3]


def test_by_default_a_late_update_is_dropped_and_its_privacy_was_spent(tmp_path):
    """The site has made and sent it: its ledger counts it whatever the hub does with it."""
    federation = a_federation(tmp_path)
    federation.agents["south"] = Slow(federation, "south", rounds=1)

    records = load_records(federation.hub, federation.run(a_study(**LATE), "toy-1"))

    assert all(record.folded == {} for record in records)
    assert records[1].sites["south"].code is None
    assert charged(federation, "south") == [2, 3]  # the ticket of round 1 was taken back before it woke


def test_a_site_that_is_late_and_then_silent_has_still_paid(tmp_path):
    """Its epsilon stands in the record of the round that used its update."""
    federation = a_federation(tmp_path)
    slow = federation.agents["south"] = Slow(federation, "south", rounds=1)

    def lose(key: str, data: bytes) -> bytes | None:
        return None if "/in/tickets/toy-1/00002-" in key and "/south/" in key else data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), lose)
    study = a_study(**LATE | {"rounds": 2}, late_updates="fold")
    records = load_records(federation.hub, federation.run(study, "toy-1"))

    assert slow.agent.outbox.bases("toy-1")[-1].round == 1
    assert records[1].sites["south"].code == Code.TOO_LATE
    assert records[1].folded == {"south": 1}
    assert records[1].cohort == ("east", "north", "south")
    assert records[1].sites["south"].spent.epsilon > 0


ASYNC = {"rounds": 4, "quorum": 1, "asynchronous": {"buffer": 2}, "deadline_s": 3600}


def test_an_asynchronous_study_commits_a_round_with_every_full_buffer(tmp_path):
    """Two fast sites go on; the slow one's update of round 1 goes into round 3 for 1 / sqrt(3)."""
    federation = a_federation(tmp_path)
    federation.agents["south"] = Slow(federation, "south", rounds=2)
    began = federation.now()

    records = load_records(federation.hub, federation.run(a_study(**ASYNC), "toy-1"))

    assert [r.working for r in records] == [{"south": 1}, {"south": 1}, {}, {}]
    assert [r.folded for r in records] == [{}, {}, {"south": 2}, {}]
    assert [r.cohort for r in records] == [("east", "north")] * 2 + [("east", "north", "south")] * 2
    assert records[2].sites["south"].metrics.auroc is not None  # it scores the model that its update is in
    assert charged(federation, "south") == [1, 4]
    assert charged(federation, "north") == [1, 2, 3, 4]
    assert federation.now() - began < 3600
    three, base = arrays(federation, records[2].parameters_key), arrays(federation, records[1].parameters_key)
    fresh = [update(federation, site, 3) for site in ("east", "north")]
    for name, array in three.items():
        total = sum(u[name].astype(np.float64) for u in fresh) + update(federation, "south", 1)[
            name
        ] / math.sqrt(3)
        np.testing.assert_allclose(array, base[name] + total / 3, rtol=1e-5)


def test_an_asynchronous_run_resumes_with_the_tickets_that_are_out(tmp_path):
    """Killed in round 2: the slow site is not asked a second time, and its update is used once."""
    federation = a_federation(tmp_path)
    federation.agents["south"] = Slow(federation, "south", rounds=2)

    def fall(key: str, data: bytes) -> bytes:
        if key == layout.commit_key("toy-1", 2):
            raise KeyboardInterrupt
        return data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), fall)
    with pytest.raises(KeyboardInterrupt):
        federation.run(a_study(**ASYNC), "toy-1")
    federation.hub.__dict__["store"] = open_store(federation.hub.store_url)
    records = load_records(federation.hub, federation.run(a_study(**ASYNC), "toy-1"))

    assert [r.folded for r in records] == [{}, {}, {"south": 2}, {}]
    assert charged(federation, "south") == [1, 4]
