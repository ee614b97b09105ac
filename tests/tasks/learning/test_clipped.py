import numpy as np
import pytest
import torch

from tasks.learning.clipped import ClippedSums
from tasks.parameters import flat
from tests.tasks.learning.test_dp_sgd import PERSONS

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")  # Opacus means it to


def summed(recipe, x, y, units=None, clip=0.4):
    return ClippedSums(recipe, x, y, units, clip_norm=clip).at(recipe.parameters())


def slow(recipe, x, y, units, clip):
    """One unit after another by plain autograd in double precision: gradients of its records added, clipped, added."""
    parameters, total = recipe.parameters(), 0.0
    for unit in np.unique(units):
        module = recipe.module().double()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(torch.from_numpy(parameters[name]))
        rows = units == unit
        x_, y_ = (torch.from_numpy(a[rows].astype(float)) for a in (x, y))
        recipe.loss(module(x_), y_).sum().backward()
        gradient = flat({name: p.grad.numpy() for name, p in module.named_parameters()})
        total += gradient * min(1.0, clip / (np.linalg.norm(gradient) + 1e-6))
    return total


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
@pytest.mark.parametrize("name", ["linear", "deep", "wide", "convolution"])
def test_it_is_the_sum_of_the_clipped_gradients_of_units(name, units, recipe, records):
    """The order is that of the flat parameters, and a person's records count together."""
    model, (x, y) = recipe(name), records()
    expected = slow(model, x, y, np.arange(len(x)) if units is None else units, 0.4)

    assert np.abs(summed(model, x, y, units) - expected).max() < 1e-12


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
def test_one_unit_moves_the_sum_by_no_more_than_clip_norm(units, recipe, records):
    """The whole promise of the noise hangs on it; in float32 the others' rounding would move the sum, too."""
    model, (x, y) = recipe("deep"), records()
    identity = np.arange(len(x)) if units is None else units
    whole = summed(model, x * 50, y, units, clip=0.1)
    for unit in np.unique(identity):
        left = identity != unit
        moved = whole - summed(model, x[left] * 50, y[left], None if units is None else units[left], clip=0.1)
        assert 0 < np.linalg.norm(moved) <= 0.1


def test_a_unit_that_is_not_finite_adds_nothing(recipe, records):
    """A refusal for it would tell the hub one bit without noise."""
    model, (x, y) = recipe(), records()
    broken = np.concatenate([x, np.full((1, 5), np.inf, np.float32)])

    assert np.array_equal(summed(model, broken, np.append(y, np.float32(1))), summed(model, x, y))


def test_it_is_made_once_and_asked_in_each_step(recipe, records):
    """Nothing of one step is left in the next."""
    model, (x, y) = recipe("deep"), records()
    sums = ClippedSums(model, x, y, PERSONS, clip_norm=0.4)
    first, elsewhere = sums.at(model.parameters()), sums.at(model.parameters(seed=1))

    assert np.array_equal(first, sums.at(model.parameters())) and not np.allclose(first, elsewhere)
