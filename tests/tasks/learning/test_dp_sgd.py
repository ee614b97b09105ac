import numpy as np
import pytest
import torch
from torch import nn

from tasks.codes import Code
from tasks.errors import ContractError, PrivacyError, RefusedError, StudyError
from tasks.learning import batches, dp_sgd, gradients
from tasks.privacy.noise import NoiseSource

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")  # Opacus means it to


def difference(a, b):
    return max(float(np.abs(a[k] - b[k]).max()) for k in a)


def clipped_mean(recipe, parameters, x, y, units, clip):
    """The slow obvious reference: one unit after another by plain autograd, clipped, summed, divided."""
    units = np.arange(len(x)) if units is None else units
    total = {name: np.zeros(value.shape) for name, value in parameters.items()}
    for unit in np.unique(units):
        module = recipe.module()
        module.load_state_dict({k: torch.from_numpy(v) for k, v in parameters.items()}, strict=False)
        rows = units == unit
        recipe.loss(module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).sum().backward()
        gradient = {k: p.grad.numpy().astype(float) for k, p in module.named_parameters()}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            total[name] += g * min(1.0, clip / (norm + 1e-6))
    return {k: v / len(np.unique(units)) for k, v in total.items()}


PERSONS = np.array([3, 3, 3, 7, 7, 9, 1, 1, 1, 1, 4, 9])


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
@pytest.mark.parametrize("name", ["linear", "deep", "wide", "convolution"])
def test_a_full_batch_step_is_the_clipped_mean(name, units, recipe, records, run):
    """The sensitivity that is paid for is clip_norm per unit: a person's records are summed before clipping."""
    model, (x, y) = recipe(name), records()
    start = model.parameters()
    expected = clipped_mean(model, start, x, y, units, clip=0.4)

    new = run(model, x, y, units, clip=0.4)

    assert difference(new, {k: start[k] - 0.5 * expected[k] for k in start}) < 1e-6


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_without_noise_and_clipping_it_is_plain_sgd(optimizer, units, recipe, records, run):
    """The difference between the two modes is the price of privacy and nothing else."""
    model, (x, y) = recipe("deep"), records()
    options = {"epochs": 5, "optimizer": optimizer, "learning_rate": 0.05}

    private = run(model, x, y, units, clip=1e6, **options)

    assert difference(private, run(model, x, y, units, mode="none", **options)) < 1e-5


@pytest.mark.parametrize("name", ["linear", "deep", "wide", "convolution"])
def test_all_ways_to_per_record_gradients_agree(name, recipe, records, run, monkeypatch):
    """Which way is fastest is a matter of speed only."""
    model, (x, y) = recipe(name), records(40)
    results = []
    for ways in [("ghost", "hooks"), ("ew", "hooks"), ("hooks",)]:
        monkeypatch.setattr(gradients, "ways", lambda *_, ways=ways: ways)
        results.append(run(model, x, y, clip=0.3, noise_multiplier=1.0, batch_size=8))

    assert all(difference(results[0], other) < 1e-5 for other in results[1:])


@pytest.mark.parametrize(
    ("name", "sums", "mode"),
    [("linear", False, "ew"), ("convolution", False, "ew"), ("wide", False, "ghost"), ("wide", True, "ew")],
)
def test_the_way_suits_the_module(name, sums, mode, recipe):
    """ew for small models and convolutions, ghost for wide layers, but never where persons are summed."""
    model = recipe(name)
    assert gradients.wrap(model.module, model.loss, (5,), 1.0, sums).mode == mode


class Scale(nn.Module):
    """A layer that neither Opacus nor expanded weights know."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return x * self.factor


def shared():
    """One layer registered in two places."""
    layer = nn.Linear(128, 128)
    return nn.Sequential(nn.Linear(5, 128), layer, nn.Tanh(), layer, nn.Linear(128, 1))


class Twice(nn.Module):
    """One wide layer used twice, which ghost refuses."""

    def __init__(self):
        super().__init__()
        self.first, self.wide, self.last = nn.Linear(5, 128), nn.Linear(128, 128), nn.Linear(128, 1)

    def forward(self, x):
        return self.last(self.wide(self.wide(self.first(x))))


@pytest.mark.parametrize(
    ("make", "mode"),
    [(lambda: nn.Sequential(Scale(), nn.Linear(5, 1)), "hooks"), (shared, "hooks"), (Twice, "ew")],
    ids=["unknown layer", "shared", "twice"],
)
def test_what_one_way_cannot_do_another_does(make, mode, recipe, records, run):
    """A recipe's author need not know the ways."""
    model, (x, y) = recipe(make), records()
    start = model.parameters()
    expected = clipped_mean(model, start, x, y, None, clip=0.4)

    new = run(model, x, y, clip=0.4)

    assert gradients.wrap(model.module, model.loss, (5,), 1.0, sums=False).mode == mode
    assert difference(new, {k: start[k] - 0.5 * expected[k] for k in start}) < 1e-6


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
def test_pieces_do_not_change_the_step(units, recipe, records, run, monkeypatch):
    """A million rows are clipped and summed piece by piece; noise is added once, not per piece."""
    model, (x, y) = recipe("deep"), records()
    whole = run(model, x, y, units, clip=0.3, noise_multiplier=1.0)
    monkeypatch.setattr(batches, "_MOST_ROWS", 2)

    assert difference(whole, run(model, x, y, units, clip=0.3, noise_multiplier=1.0)) < 1e-6


def test_pieces_of_ghost_do_not_change_the_step(recipe, records, run, monkeypatch):
    """Ghost clipping adds up differently inside Opacus."""
    model, (x, y) = recipe("wide"), records()
    whole = run(model, x, y, clip=0.3, noise_multiplier=1.0)
    monkeypatch.setattr(batches, "_MOST_ROWS", 5)

    assert difference(whole, run(model, x, y, clip=0.3, noise_multiplier=1.0)) < 1e-6


def test_the_noise_has_the_promised_size(recipe, records, run):
    """noise_multiplier * clip_norm on the sum, divided by the expected batch, times the learning rate."""
    model, (x, y) = recipe("linear"), records(20)
    start = model.parameters()
    quiet = run(model, x, y, clip=0.7, learning_rate=0.2)

    noise = np.concatenate(
        [
            (new[k] - quiet[k]).ravel()
            for seed in range(400)
            for new in [run(model, x, y, clip=0.7, learning_rate=0.2, noise_multiplier=3.0, seed=seed)]
            for k in start
        ]
    )

    expected = 3.0 * 0.7 / 20 * 0.2
    assert abs(noise.std() / expected - 1) < 4 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 4 * expected / np.sqrt(noise.size)


def test_poisson_batches_are_binomial():
    """The accountant assumes one coin per unit; shuffled batches of fixed size would not be covered."""
    noise = NoiseSource.seeded("poisson")
    sizes = np.array([len(dp_sgd.drawn(60, 0.1, noise)) for _ in range(4000)])

    assert abs(sizes.mean() - 6) < 4 * np.sqrt(5.4 / 4000)
    assert abs(sizes.var() / 5.4 - 1) < 0.1
    assert sizes.min() < 2


def test_a_poisson_step_divides_by_the_expected_batch(recipe, records, run, monkeypatch):
    """Dividing by the drawn number would release it, and change the sensitivity."""
    model, (x, y) = recipe("linear"), records(30)
    start, drawn, seen = model.parameters(), np.array([2, 3, 17, 29]), []
    draws = iter([drawn, np.arange(0), np.arange(0)])
    monkeypatch.setattr(dp_sgd, "drawn", lambda *_: next(draws))

    new = run(model, x, y, clip=0.4, batch_size=10, seen=seen)

    mean_of_drawn = clipped_mean(model, start, x[drawn], y[drawn], None, clip=0.4)
    expected = {k: start[k] - 0.5 * mean_of_drawn[k] * len(drawn) / 10 for k in start}
    assert difference(new, expected) < 1e-6
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["linear", "wide"])
def test_an_empty_draw_is_a_step_of_pure_noise(name, recipe, records, run, monkeypatch):
    """Skipping it would tell that the draw was empty, and it has been paid for."""
    model, (x, y) = recipe(name), records()
    monkeypatch.setattr(dp_sgd, "drawn", lambda *_: np.arange(0))
    seen = []

    quiet = run(model, x, y, seen=seen)
    noisy = run(model, x, y, noise_multiplier=1.0)

    assert seen == [(1, 1)]
    assert difference(quiet, model.parameters()) < 1e-12
    assert 0 < difference(noisy, quiet) < 1


@pytest.mark.parametrize("name", ["linear", "wide"])
def test_the_same_seeded_source_gives_the_same_bits(name, recipe, records, run):
    """Simulation and deployment agree bit for bit; other seeds give other noise."""
    model, (x, y) = recipe(name), records(30)
    options = {"noise_multiplier": 1.0, "batch_size": 8, "epochs": 3}

    a, b, c = (run(model, x, y, seed=seed, **options) for seed in (1, 1, 2))

    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert difference(a, c) > 0.01


def test_dropout_is_reproducible_and_leaves_torch_alone(recipe, records, run):
    """Torch's generator belongs to the caller."""
    model, (x, y) = recipe(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 1))), records(30)
    start = model.parameters()
    torch.manual_seed(1)
    before = torch.get_rng_state()

    a = run(model, x, y, start=start)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    b = run(model, x, y, start=start)

    assert difference(a, b) == 0


def test_a_gradient_that_is_not_finite_is_refused_without_privacy(recipe, records, run):
    """One poisoned record must not become a poisoned model, nor a silent skip."""
    model, (x, y) = recipe("linear"), records()
    x[3, 2] = np.nan

    with pytest.raises(RefusedError) as refused:
        run(model, x, y, mode="none")
    assert refused.value.code is Code.NOT_FINITE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("persons", [False, True])
def test_under_privacy_a_unit_without_a_finite_gradient_counts_as_zero(value, persons, recipe, records, run):
    """A refusal for it would be an answer about one record, without noise; and it may not spoil the sum."""
    model, (x, y) = recipe("linear"), records(12)
    x[3, 2] = value
    units = np.arange(12) if persons else None
    without = np.delete(x, 3, axis=0), np.delete(y, 3), None if units is None else np.delete(units, 3)

    poisoned, clean = run(model, x, y, units), run(model, *without)

    for name in clean:
        np.testing.assert_allclose(poisoned[name], clean[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(5), nn.BatchNorm1d(5, affine=False), nn.InstanceNorm1d(5, track_running_stats=True)],
)
def test_layers_that_mix_records_are_refused(layer, recipe, records, run):
    """With batch norm one record changes other records' gradients, and clipping bounds nothing."""
    model, (x, y) = recipe(lambda: nn.Sequential(layer, nn.Linear(5, 1))), records()

    with pytest.raises(StudyError, match=r"layers \['0'\].*GroupNorm"):
        run(model, x, y)


def test_parameters_of_another_module_are_refused(recipe, records, run):
    """Broadcasting a wrong shape would train something else."""
    model, (x, y) = recipe("linear"), records()

    with pytest.raises(ContractError, match="the recipe's module has parameters"):
        run(model, x, y, start={"weight": np.zeros((1, 4), np.float32), "bias": np.zeros(1, np.float32)})


def test_the_start_is_not_changed(recipe, records, run):
    """The update is new minus start."""
    model, (x, y) = recipe("linear"), records()
    start = model.parameters()

    run(model, x, y, start=start, noise_multiplier=1.0)

    assert difference(start, model.parameters()) == 0


def test_private_training_without_noise_is_refused(recipe, records, run):
    """A forgotten plan must not train in the open under a private study's name."""
    model, (x, y) = recipe("linear"), records()

    with pytest.raises(PrivacyError, match="plan the run first"):
        run(model, x, y, noise_multiplier=0.0)


def test_ghost_leaves_out_such_a_unit_too(recipe, records, run):
    """Its sum cannot be mended, so the step is taken in another way."""
    model, (x, y) = recipe("wide"), records(12)
    x[3, 2] = np.nan

    poisoned = run(model, x, y)

    assert all(np.isfinite(array).all() for array in poisoned.values())
