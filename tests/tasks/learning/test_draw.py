"""Poisson sampling: each unit by a coin of its own, and nothing to be seen of how many were drawn."""

import numpy as np
import pytest
from scipy import stats

from tasks.learning import clipped
from tasks.learning.batches import NOBODY
from tasks.learning.clipped import ClippedSums
from tasks.learning.draw import drawn, evened, worked_on
from tasks.learning.stepper import Stepper
from tasks.privacy.noise import NoiseSource
from tests.tasks.learning.test_clipped import slow
from tests.tasks.learning.test_dp_sgd import PERSONS

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")  # Opacus means it to

FALSE_ALARM = 1e-9


def table(units=60, rate=0.1, sums=4000):
    """Which unit was in which sum, shape (sums, units), with a source of its own for each sum as at a site."""
    found = np.zeros((sums, units), dtype=bool)
    for i in range(sums):
        found[i, drawn(units, rate, NoiseSource.seeded("draw", rate, i))] = True
    return found


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.9])
def test_each_unit_is_drawn_as_often_as_the_accountant_assumes(rate):
    """Its frequency is binomial, the first unit's and the last one's alike, and so is the size of a draw."""
    found = table(rate=rate)
    sums, units = found.shape
    for seen in found.sum(axis=0):
        assert stats.binomtest(int(seen), sums, rate).pvalue > FALSE_ALARM / units
    sizes = found.sum(axis=1)
    expected = units * rate * (1 - rate)
    assert stats.binomtest(int(sizes.sum()), sums * units, rate).pvalue > FALSE_ALARM
    assert abs(sizes.var() / expected - 1) < 6.5 * np.sqrt((2 + 1 / expected) / sums)  # a fixed size has none


def test_no_coin_tells_another():
    """Neither two units of a sum nor one unit in two sums: a shuffled batch would show in both."""
    found = table(rate=0.3) - 0.3
    sums, units = found.shape
    limit = 6.5 / np.sqrt(sums)  # a correlation of independent coins is beyond it less than once in 10^10
    together = np.corrcoef(found.T) - np.eye(units)
    assert np.abs(together).max() < limit
    for lag in (1, 2, 10):
        later = (found[lag:] * found[:-lag]).mean(axis=0) / 0.21
        assert np.abs(later).max() < 1.2 * limit


def test_a_coin_is_never_likelier_than_its_rate():
    """Compared as a 64-bit whole number: the smallest one is yes, the first beyond is no."""

    class Words(NoiseSource):
        def words(self, n):
            return np.array([0, 2**62 - 1, 2**62, 2**64 - 1], dtype=np.uint64)

    assert Words(bytes(32)).coins(4, 0.25).tolist() == [True, True, False, False]
    assert Words(bytes(32)).coins(4, 1.0).all()
    assert not Words(bytes(32)).coins(4, 2.0**-70).any()


def test_a_draw_of_all_needs_no_coin():
    """Full batches use the source as they always have: their runs stay what they were."""
    first, second = NoiseSource.seeded("x"), NoiseSource.seeded("x")
    assert drawn(5, 1.0, first).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(first.words(4), second.words(4))


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
@pytest.mark.parametrize("name", ["linear", "deep", "convolution"])
def test_the_sum_is_of_the_drawn_units_alone(name, units, recipe, records, monkeypatch):
    """Those that are worked on beside them, so that nobody sees how many were drawn, add nothing."""
    model, (x, y) = recipe(name), records()
    identity = np.arange(len(x)) if units is None else units
    for chosen in (np.array([0, 3, 4]), np.array([2]), NOBODY):
        monkeypatch.setattr(clipped, "drawn", lambda *_, chosen=chosen: chosen)
        inside = np.isin(identity, np.unique(identity)[chosen])
        expected = slow(model, x[inside], y[inside], identity[inside], 0.4) if len(chosen) else 0.0
        sums = ClippedSums(model, x, y, units, clip_norm=0.4)
        for most in (sums._stepper._most, 2):  # in one piece, and in pieces of which one has both kinds
            sums._stepper._most = most
            got = sums.at(model.parameters(), sample_rate=0.2)
            assert np.abs(got - expected).max() < 1e-12


def test_a_sum_takes_as_long_whatever_was_drawn(recipe, records, monkeypatch):
    """Whoever knew all coins but one could read that one from the number of records that were worked on."""
    model, (x, y) = recipe("linear"), records(400)
    sums, seen = ClippedSums(model, x, y, None, clip_norm=0.4), []
    losses = Stepper._losses
    monkeypatch.setattr(Stepper, "_losses", lambda self, rows: seen.append(len(rows)) or losses(self, rows))
    noise = NoiseSource.seeded("even")
    for _ in range(20):
        sums.at(model.parameters(), noise, 0.1)

    assert set(seen) == {worked_on(400, 0.1)} and worked_on(400, 0.1) < 120


def test_somebody_with_many_records_does_not_show(recipe, records, monkeypatch):
    """One person has half of all records: a sum with them has as many rows as one without."""
    model, (x, y) = recipe("linear"), records(400)
    persons = np.concatenate([np.zeros(200, dtype=np.int64), np.arange(1, 201)])
    sums, seen = ClippedSums(model, x, y, persons, clip_norm=0.4), []
    losses = Stepper._losses
    monkeypatch.setattr(Stepper, "_losses", lambda self, rows: seen.append(len(rows)) or losses(self, rows))
    worked = []
    for chosen in (NOBODY, np.array([0]), np.array([0, 7]), np.array([7])):
        monkeypatch.setattr(clipped, "drawn", lambda *_, chosen=chosen: chosen)
        seen.clear()
        sums.at(model.parameters(), sample_rate=0.05)
        worked.append(sum(seen))

    assert worked == [400] * 4


def test_idle_units_are_others(recipe):
    """As many as are missing; a draw beyond all that is foreseen is worked on as it is."""
    draw = evened(np.array([1, 2]), 1000, 0.01)
    assert len(draw.chosen) + len(draw.idle) == worked_on(1000, 0.01)
    assert not set(draw.chosen) & set(draw.idle) and len(set(draw.idle)) == len(draw.idle)
    assert len(evened(np.arange(900), 1000, 0.01).idle) == 0
    assert worked_on(10, 0.5) == 10 and len(evened(np.arange(10), 10, 1.0).idle) == 0


@pytest.mark.parametrize("mean", [1.0, 10.0, 1000.0])
def test_hardly_any_draw_is_larger_than_the_work(mean):
    """Less than one in 10^13: over all sums of a run nobody will see one."""
    units = 10**6
    assert stats.binom.sf(worked_on(units, mean / units), units, mean / units) < 1e-13
