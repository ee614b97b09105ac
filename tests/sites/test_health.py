"""The doctor's short form: closed words in the receipt, at the price of a look."""

from __future__ import annotations

import time
from collections import namedtuple

import pytest

from sites.agent import Agent
from sites.doctor import short
from sites.doctor.short import LastLook, concerns, keep_look
from tasks.codes import Concern
from tasks.contracts import Ticket
from tests.sites.builders import ToyHub, a_study, an_agent

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def scene(tmp_path, monkeypatch) -> tuple[Agent, Ticket]:
    """A site of which nothing is amiss, and a ticket for it."""
    hub, study = ToyHub(tmp_path), a_study()
    agent = an_agent(tmp_path, extra="")
    monkeypatch.setattr(short.os, "access", lambda path, mode: False)  # root may write everything
    monkeypatch.setattr(short.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(short, "memory", lambda: 10**12)
    return agent, hub.ticket(study, hub.publish(study))


def test_a_healthy_site_says_that_it_has_looked(scene):
    """Empty is not the same as unknown."""
    agent, ticket = scene

    assert concerns(agent.site, ticket, time.time()) == ()


@pytest.mark.parametrize(
    ("word", "spoil"),
    [
        ("disk_low", lambda m, a: m.setattr(short.shutil, "disk_usage", lambda p: Usage(1, 1, 10**6))),
        ("memory_low", lambda m, a: m.setattr(short, "memory", lambda: 10**6)),
        ("source_writable", lambda m, a: m.setattr(short.os, "access", lambda path, mode: True)),
        ("key_exposed", lambda m, a: (a.site.state / "site.key").chmod(0o644)),
        ("doctor_failed", lambda m, a: keep_look(a.site, LastLook(at=1, version="1", failed=("disk",)))),
        ("doctor_skipped", lambda m, a: keep_look(a.site, LastLook(at=1, version="1", skipped=True))),
    ],
)
def test_what_is_amiss_has_its_word(scene, monkeypatch, word: Concern, spoil):
    """Each from its cause."""
    agent, ticket = scene

    spoil(monkeypatch, agent)

    assert word in concerns(agent.site, ticket, time.time())


def test_a_ticket_from_the_future_is_a_clock_that_is_off(scene):
    """A site whose clock is behind takes old tickets for good ones."""
    agent, ticket = scene

    assert concerns(agent.site, ticket, ticket.issued_at - 61) == ("clock_off",)
    assert concerns(agent.site, ticket, ticket.issued_at - 59) == ()


def test_the_receipt_carries_it(tmp_path):
    """A refusal does as well: what is amiss may be why."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)

    trained = hub.ask(agent, hub.ticket(study, given))
    refused = hub.ask(agent, hub.ticket(study, given, round=9))

    assert trained.health is not None
    assert "seeded_noise" in trained.health
    assert refused.refusal is not None
    assert "seeded_noise" in (refused.health or ())
