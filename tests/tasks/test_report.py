"""What people are told of a committed round, also where the hub falls before it has told them."""

from __future__ import annotations

import importlib

import pytest

from tasks.commit import load_records
from tasks.records import GroupSeen
from tasks.report import report
from tests.federation import SITES, Killed, a_federation, a_study


@pytest.fixture
def told(monkeypatch) -> list[tuple[str, int]]:
    """Events, and the round that each is of."""
    found: list[tuple[str, int]] = []

    def emit(event, *, run, payload):
        found.append((event, payload["round"]))

    monkeypatch.setattr(importlib.import_module("tasks.report"), "emit", emit)
    return found


def test_a_hub_that_falls_between_commit_and_report_leaves_it_to_the_next(tmp_path, told, monkeypatch):
    """Else an automation would never hear of the round, nor of a group that was voted out in it."""
    federation, flow = a_federation(tmp_path), importlib.import_module("flows.round")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(flow, "report", killed)
        federation.run(a_study(deadline_s=1e6), run="toy-1")
    assert len(load_records(federation.hub, "toy-1")) == 1 and not told
    federation._ahead += 120  # its lease is over

    federation.run(a_study(deadline_s=1e6), run="toy-1")

    assert told == [("fedrounds.round.committed", 1), ("fedrounds.round.committed", 2)]


def test_a_group_that_was_voted_out_is_an_event(tmp_path, told):
    """Told from the record alone, as often as somebody asks."""
    federation = a_federation(tmp_path)
    (record,) = load_records(federation.hub, federation.run(a_study(rounds=1, deadline_s=1e6)))
    out = GroupSeen(sites=SITES, rank=0.75, votes=5, dropped=True)
    told.clear()

    for _ in range(2):
        report(federation.hub, record.model_copy(update={"groups": (out,), "voters": 6}))

    assert told == [("fedrounds.round.committed", 1), ("fedrounds.group.dropped", 1)] * 2
