import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PrivacyError
from tasks.privacy.accountant import epsilon, trajectory
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.events import GaussianEvent

ROOT = Path(__file__).parents[3]


def an_event(noise=1.0, rate=0.01, steps=100):
    return GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)


HISTORIES = [
    ([an_event(5, 1, 20)], 1e-3, 2.735),
    ([an_event(0.7, 0.01, 2000)], 1e-5, 6.22),
    ([an_event(0.8, 0.1, 50)], 1e-3, 5.26),
    ([an_event(10, 0.01, 100_000)], 1e-6, 1.372),  # a grid of 1e-3 would say 1.49 here
    ([an_event(200, 0.1, 100)], 1e-3, 0.00247),
]


@pytest.mark.parametrize(("events", "delta", "expected"), HISTORIES)
def test_values_of_the_notes(events, delta, expected):
    """Published and measured values; 1 % is the promise to users, 0.5 % ours."""
    assert epsilon(events, delta) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(("events", "delta"), [(events, delta) for events, delta, _ in HISTORIES])
def test_tighter_than_renyi_and_equal_to_googles_accountant(events, delta):
    """Two independent accountants: one is an upper bound, one, on a fine grid, nearly the truth."""
    import dp_accounting

    def composed(accountant):
        for event in events:
            step = dp_accounting.PoissonSampledDpEvent(
                event.sample_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
            )
            accountant.compose(step, event.steps)
        return accountant.get_epsilon(delta)

    orders = [1 + x / 10 for x in range(1, 100)] + list(range(11, 1000, 7))
    assert epsilon(events, delta) <= composed(dp_accounting.rdp.RdpAccountant(orders)) * 1.0001
    fine = dp_accounting.pld.PLDAccountant(
        value_discretization_interval=2e-5 if events[0].noise_multiplier > 5 else 2e-4
    )
    assert epsilon(events, delta) == pytest.approx(composed(fine), rel=0.005)


def opacus_epsilon(kind, history, delta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accountant = kind()
        accountant.history = history
        return accountant.get_epsilon(delta=delta)


@pytest.mark.parametrize(("events", "delta"), [(events, delta) for events, delta, _ in HISTORIES[:3]])
def test_within_one_percent_of_opacus_prv(events, delta):
    """Data scientists will compare with Opacus' best accountant."""
    from opacus.accountants import PRVAccountant

    history = [(e.noise_multiplier, e.sample_rate, e.steps) for e in events]
    assert epsilon(events, delta) == pytest.approx(opacus_epsilon(PRVAccountant, history, delta), rel=0.01)


def test_opacus_gdp_accountant_under_reports():
    """Why the product never certifies with it: 5.19 where the truth is above 6.2."""
    from opacus.accountants import GaussianAccountant

    approximate = opacus_epsilon(GaussianAccountant, [(0.7, 0.01, 2000)], 1e-5)

    assert approximate == pytest.approx(5.19, abs=0.01)
    assert approximate < 0.85 * epsilon([an_event(0.7, 0.01, 2000)], 1e-5)


def test_the_product_does_not_know_that_accountant():
    """The name of an accountant is one line in a keyword argument, easily slipped in."""
    sources = [
        p
        for folder in ("tasks", "sites", "infra", "flows", "simulation")
        for p in (ROOT / folder).rglob("*.py")
    ]
    named = [
        p for p in sources if any(word in p.read_text() for word in ('"gdp"', "'gdp'", "GaussianAccountant"))
    ]
    assert sources
    assert not named


def test_rounds_passed_as_epochs_are_found_out():
    """FLamby's published curve: 15 rounds of 100 batches of 4, calibrated as 15 epochs.

    At the hospital with 30 records the run labelled epsilon 1 spent 4.2: the accountant counts steps.
    """
    rate = 1 / math.ceil(30 / 4)
    noise = noise_multiplier(1.0, 1e-4, rate, steps=int(15 / rate))

    assert epsilon([an_event(noise, rate, int(15 / rate))], 1e-4) <= 1.0
    assert epsilon([an_event(noise, rate, 15 * 100)], 1e-4) == pytest.approx(4.2, abs=0.05)


def test_an_empty_history_costs_nothing():
    """A new site, and a run before its first round."""
    assert epsilon([], 1e-5) == 0.0


@given(
    st.lists(
        st.tuples(st.floats(0.3, 100), st.sampled_from([1.0, 0.3, 0.01]), st.integers(1, 300)),
        min_size=1,
        max_size=3,
    ),
    st.floats(-8, -2).map(lambda x: 10**x),
)
@settings(max_examples=12, deadline=None)
def test_order_does_not_matter_and_more_costs_more(values, delta):
    """Events are only added; more steps, less noise, a higher rate or a smaller delta never cost less."""
    events = [an_event(*value) for value in values]
    cost = epsilon(events, delta)
    slack = 1 + 5e-3  # each value may be that much too large

    assert epsilon(events[::-1], delta) == pytest.approx(cost, rel=1e-6, abs=1e-9)
    assert epsilon([*events, events[0]], delta) * slack >= cost
    assert epsilon(events, delta / 10) * slack >= cost
    first = events[0].model_copy(update={"noise_multiplier": events[0].noise_multiplier / 1.5})
    assert epsilon([first, *events[1:]], delta) * slack >= cost
    first = events[0].model_copy(update={"sample_rate": 1.0})
    assert epsilon([first, *events[1:]], delta) * slack >= cost


def test_equal_events_are_one_longer_event():
    """Twenty rounds of thirty steps are six hundred steps, exactly."""
    assert epsilon([an_event(5, 0.3, 30)] * 20, 1e-5) == epsilon([an_event(5, 0.3, 600)], 1e-5)


def test_a_mixed_history_is_tighter_than_its_sum():
    """A full-batch study and a subsampled one on the same people compose together."""
    full, sampled = an_event(10, 1, 30), an_event(1, 0.02, 400)
    parts = [epsilon([event], 1e-5) for event in (full, sampled)]
    assert max(parts) < epsilon([full, sampled], 1e-5) < 0.9 * sum(parts)


def test_coarser_is_never_below():
    """The search for noise runs on a coarse grid; it must not come out cheaper."""
    history = [an_event(2, 0.05, 500)]
    assert epsilon(history, 1e-5) <= epsilon(history, 1e-5, coarseness=5) < 1.1 * epsilon(history, 1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("before", [[], [an_event(3, 0.05, 40), an_event(20, 1, 10)]])
def test_a_trajectory_is_epsilon_after_each_round(rate, before):
    """What a site reports after round r is the epsilon of all r rounds."""
    event = an_event(6, rate, 5)
    after = trajectory(event, 4, 1e-5, before)
    assert after == pytest.approx([epsilon([*before, *[event] * r], 1e-5) for r in (1, 2, 3, 4)], rel=2e-3)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_an_impossible_delta_is_refused(delta):
    """delta 0 has no Gaussian mechanism, and delta 1 promises nothing."""
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([an_event()], delta)


def test_a_delta_too_small_to_certify_is_refused():
    """Infinity must not reach a receipt, nor pass as a number."""
    with pytest.raises(PrivacyError, match="too small to certify"):
        epsilon([an_event(1, 0.1, 1000)], 1e-40)


def test_the_hub_counts_without_torch():
    """Accounting runs at the hub and in light children."""
    code = (
        "import sys; from tasks.privacy import accountant, budget, calibration; "
        "assert 'numpy' not in sys.modules and 'dp_accounting' not in sys.modules; "
        "from tasks.privacy.events import GaussianEvent as E; "
        "accountant.epsilon([E(noise_multiplier=1.0, sample_rate=0.1, steps=3)], 1e-5); "
        "assert not {'torch', 'opacus'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
