"""The restore drill in one process: store and hub are lost and come back from a copy; the sites were never away.

What docs/operations.md tells to do, with the servers of a larger installation: tests/services/test_restore.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.training import training
from infra.errors import StoreError
from infra.store import open_store
from simulation.federation import Federation
from tasks.codes import Code
from tasks.commit import load_records
from tasks.errors import ContractError, QuorumError
from tasks.registry import revoke, site_card
from tests.federation import SITES, Tampering, a_federation, a_study
from tests.flows.test_falls import ledger_of

PARTS = ("hub", "shared", "sites")  # of the store, in the order in which they are copied


def copied(federation: Federation, to: Path) -> None:
    """The store, first what names and then what is named; and the hub's folder."""
    store = federation.hub.directory.parent / "store"
    for part in PARTS:
        if (store / part).exists():
            shutil.copytree(store / part, to / "store" / part)
    shutil.copytree(federation.hub.directory, to / "hub")


def restored(federation: Federation, copy: Path) -> None:
    """Everything of the hub is gone, and comes back from the copy."""
    for name in ("store", "hub"):
        shutil.rmtree(federation.hub.directory.parent / name)
        shutil.copytree(copy / name, federation.hub.directory.parent / name)
    federation.hub.__dict__["store"] = open_store(federation.hub.store_url)  # as the hub's new process does


def fallen(federation: Federation, rounds: int, at: int) -> None:
    """A run whose hub ended when all sites had delivered for round `at`, and nothing was committed of it."""

    def fall(key: str, data: bytes) -> bytes:
        if f"/parameters/{at:05d}-" in key:
            raise StoreError("the hub's disk is gone")
        return data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), fall)
    with pytest.raises(StoreError, match="disk is gone"):
        federation.run(a_study(rounds=rounds), run="toy-1")
    federation.hub.__dict__["store"] = open_store(federation.hub.store_url)


def test_a_restored_run_goes_on_and_nobody_trains_again(tmp_path):
    """Updates that the copy holds are used; every round is there once, every site has paid once."""
    federation = a_federation(tmp_path)
    fallen(federation, rounds=3, at=2)
    copied(federation, tmp_path / "copy")

    restored(federation, tmp_path / "copy")
    training(hub=federation.hub, study=a_study(rounds=3), run="toy-1")

    assert [record.round for record in load_records(federation.hub, "toy-1")] == [1, 2, 3]
    for site in SITES:
        assert ledger_of(federation, site) == [(n, 1, "charged") for n in (1, 2, 3)]


def test_a_copy_that_lacks_the_sites_last_answers_costs_one_deadline_and_no_training(tmp_path):
    """Sites ignore a second ticket of a name that they have answered; to the next attempt they send the old update."""
    federation = a_federation(tmp_path)
    fallen(federation, rounds=2, at=1)
    copied(federation, tmp_path / "copy")
    restored(federation, tmp_path / "copy")
    for key in federation.hub.store.list("sites/"):  # a copy of the moment before the tickets of round 1
        if "/toy-1/" in key:
            federation.hub.store.delete(key)

    with pytest.raises(QuorumError, match=Code.NO_ANSWER):
        training(hub=federation.hub, study=a_study(), run="toy-1")
    training(hub=federation.hub, study=a_study(), run="toy-1")

    assert len(load_records(federation.hub, "toy-1")) == 2
    for site in SITES:
        assert ledger_of(federation, site) == [(n, 1, "charged") for n in (1, 2)]


def test_a_run_that_the_sites_have_taken_further_is_refused_and_a_new_one_goes(tmp_path):
    """They remember rounds and models: a hub that was put back by rounds can neither replay nor fork the run."""
    federation = a_federation(tmp_path)
    fallen(federation, rounds=3, at=2)
    copied(federation, tmp_path / "copy")
    training(hub=federation.hub, study=a_study(rounds=3), run="toy-1")
    spent = {site: ledger_of(federation, site) for site in SITES}

    restored(federation, tmp_path / "copy")
    with pytest.raises(QuorumError):
        training(hub=federation.hub, study=a_study(rounds=3), run="toy-1")

    assert len(load_records(federation.hub, "toy-1")) == 2  # as far as the updates in the copy lead
    assert {site: ledger_of(federation, site) for site in SITES} == spent
    training(hub=federation.hub, study=a_study(rounds=3), run="toy-2")
    assert len(load_records(federation.hub, "toy-2")) == 3


def test_an_old_register_is_found_out_by_the_hubs_own_folder(tmp_path):
    """Else a restore would make members again of sites that were revoked."""
    federation = a_federation(tmp_path)
    copied(federation, tmp_path / "copy")
    revoke(federation.hub, "north", "its machine was stolen")
    shutil.rmtree(tmp_path / "copy" / "hub")
    shutil.copytree(federation.hub.directory, tmp_path / "copy" / "hub")  # of today, the store's of yesterday
    restored(federation, tmp_path / "copy")

    with pytest.raises(ContractError, match="older register of site 'north'"):
        site_card(federation.hub, "north")
    assert site_card(federation.hub, "east") is not None
