"""When a plan holds for a later round, and that it never lets more through than was planned."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

from sites.ledger import Entry, Ledger
from sites.settings import Limits
from sites.spending import Standing
from tasks.privacy.accountant import epsilon
from tasks.privacy.budget import afford
from tasks.privacy.events import GaussianEvent

counts = st.integers(0, 30)


def a_standing(**changes) -> Standing:
    fields = {
        "study_sha256": "a" * 64,
        "units": 100,
        "others": "0" * 64,
        "limits": Limits(epsilon=10.0, delta=1e-3),
        "reserved": 0,
        "released": 0,
        "left": 20,
    }
    return Standing.model_validate(fields | changes)


def test_round_after_round_the_first_plan_holds():
    """One more reserved and released, one less to go."""
    planned = a_standing()

    assert all(planned.holds_for(a_standing(reserved=r, released=r, left=20 - r)) for r in range(20))


def test_rounds_that_were_left_out_are_no_trouble():
    """A site that was away for some rounds spends less than planned."""
    assert a_standing().holds_for(a_standing(reserved=3, released=3, left=10))


def test_whatever_asks_for_more_is_planned_again():
    """Other spending, other limits, other records, or a reservation that led to nothing."""
    planned = a_standing(reserved=5, released=5, left=15)

    assert not planned.holds_for(a_standing(reserved=6, released=5, left=15))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, units=99))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, others="1" * 64))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, study_sha256="b" * 64))
    other = Limits(epsilon=5.0, delta=1e-3)
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, limits=other))


@given(counts, counts, counts, counts, counts, counts)
def test_a_plan_that_holds_covers_all_that_may_still_be_spent(r0, x0, l0, r1, x1, l1):
    """Reserved and released rounds at the run's end stay within those that the plan was made for."""
    then = a_standing(reserved=r0, released=x0, left=l0)
    now = a_standing(reserved=r1, released=x1, left=l1)

    if then.holds_for(now):
        assert r1 + l1 <= r0 + l0
        assert x1 >= x0
        assert x1 - x0 < l0 or l1 == 0


@pytest.mark.filterwarnings("ignore")
def test_a_ledger_stops_what_a_label_of_epsilon_one_has_not_paid_for(tmp_path):
    """FLamby's example plans 15 epochs with Opacus and trains 15 rounds of 100 steps: it spends four times its label."""
    data = DataLoader(TensorDataset(torch.zeros(30, 13), torch.zeros(30, 1)), batch_size=4)
    model = torch.nn.Linear(13, 1)
    _, planned, batches = PrivacyEngine(accountant="rdp").make_private_with_epsilon(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), data_loader=data,
        target_epsilon=1.0, target_delta=1e-4, epochs=15, max_grad_norm=1.0,
    )  # fmt: skip
    a_round = GaussianEvent(
        noise_multiplier=planned.noise_multiplier, sample_rate=1 / len(batches), steps=100
    )

    rounds = 0
    with closing(Ledger(tmp_path, site="north")) as ledger:
        while afford(ledger.events("heart"), [a_round], 1.0, 1e-4).ok:
            rounds += 1
            entry = Entry(dataset="heart", study="s", run="r", round=rounds, attempt=1, event=a_round)
            ledger.reserve(entry)
            ledger.charge(entry.key)

    assert epsilon([a_round] * 15, 1e-4) > 3.5
    assert 1 <= rounds < 3
