"""A clip norm that follows the gradients: where it goes, and that what it is counted by has its noise."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.adaptive import AdaptiveNorm
from tasks.errors import PrivacyError
from tasks.learning import batches, train
from tasks.learning.clipnorm import ClipNorm
from tasks.privacy.counted import split
from tasks.privacy.noise import NoiseSource
from tasks.study import Local, Privacy
from tests.tasks.learning.test_dp_sgd import PERSONS, clipped_mean, difference

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")  # Opacus means it to


def adaptive(now=None, **terms):
    clip_norm = {"start": 20.0, "least": 1e-3, "most": 50.0} | terms
    return ClipNorm(Privacy(mode="local", epsilon=1, delta=1e-5, clip_norm=clip_norm), now)


def trained(recipe, x, y, clip, units=None, multiplier=1e-9, seed=0, start=None, **local):
    privacy = Privacy(mode="local", epsilon=1, delta=1e-5, clip_norm="adaptive")
    return train(
        recipe, start or recipe.parameters(), x, y, units, local=Local(**{"learning_rate": 1e-6} | local),
        privacy=privacy, noise_multiplier=multiplier, noise=NoiseSource.seeded("clip", seed),
        progress=lambda *_: None, clip=clip,
    )  # fmt: skip


def norms(recipe, x, y, units=None):
    """Of the gradient of each unit, one after another."""
    units = np.arange(len(x)) if units is None else units
    found = []
    for unit in np.unique(units):
        rows = units == unit
        mean = clipped_mean(recipe, recipe.parameters(), x[rows], y[rows], units[rows], 1e9)
        found.append(np.sqrt(sum((g**2).sum() for g in mean.values())))
    return np.array(found)


@pytest.mark.parametrize("units", [None, PERSONS], ids=["records", "persons"])
@pytest.mark.parametrize("quantile", [0.3, 0.7])
def test_it_finds_the_quantile_of_the_units_norms(quantile, units, recipe, records):
    """From far too high; a person counts once, with all records together."""
    model, (x, y) = recipe("linear"), records()
    clip = adaptive(quantile=quantile, rate=0.5)

    trained(model, x, y, clip, units, epochs=60)

    shares = [(norms(model, x, y, units) <= clip.now * factor).mean() for factor in (0.8, 1.25)]
    assert shares[0] <= quantile + 0.1 and shares[1] >= quantile - 0.1


def test_a_step_is_clipped_at_what_is_in_force(recipe, records):
    """The sum is clipped where its noise is made for, and moves on only afterwards."""
    model, (x, y) = recipe("linear"), records()
    start, clip = model.parameters(), adaptive(0.4)

    new = trained(model, x, y, clip, learning_rate=0.5)

    expected = clipped_mean(model, start, x, y, None, 0.4)
    assert difference(new, {k: start[k] - 0.5 * expected[k] for k in start}) < 1e-6
    assert clip.now != 0.4


def test_the_second_step_is_clipped_at_where_the_first_has_left_it(recipe, records):
    """Noise and clipping go together: a sum clipped at the old norm with noise for the new one would be too bare."""
    model, (x, y) = recipe("linear"), records()
    both, first = adaptive(0.4), adaptive(0.4)
    twice = trained(model, x, y, both, learning_rate=0.5, epochs=2)
    once = trained(model, x, y, first, learning_rate=0.5)
    second = adaptive(first.now)

    again = trained(model, x, y, second, learning_rate=0.5, start=once)

    assert difference(twice, again) < 1e-6 and both.now == pytest.approx(second.now)


def test_a_wide_model_is_counted_too(recipe, records):
    """Ghost clipping would be faster, and sees no single norm."""
    model, (x, y) = recipe("wide"), records()
    within = (norms(model, x, y) <= 50.0).mean()
    clip = adaptive(50.0, rate=1.0)

    trained(model, x, y, clip)

    assert clip.now == pytest.approx(50 * min(1.0, np.exp(0.5 - within)))


def test_pieces_are_counted_together(recipe, records, monkeypatch):
    """Memory stays flat, and noise is added to the whole count."""
    model, (x, y) = recipe("linear"), records(40)
    found = []
    for most in (4096, 3):
        monkeypatch.setattr(batches, "_MOST_ROWS", most)
        clip = adaptive(1.0)
        trained(model, x, y, clip, batch_size=16, epochs=3, multiplier=0.5)
        found.append(clip.now)

    assert found[0] == found[1] != 1.0


def test_the_count_has_the_noise_that_it_is_paid_for():
    """Of this site's own source, and each unit counts half from the middle: the number drawn shows nowhere."""
    multiplier, expected, rate = 3.0, 40.0, 0.01
    noise, shares = NoiseSource.seeded("count"), []
    for _ in range(20_000):
        clip = adaptive(1.0, rate=rate)
        clip.follow(26, 44, expected, multiplier, noise)
        shares.append(0.5 - np.log(clip.now) / rate)

    accounted = split(multiplier).counting / expected
    assert np.std(shares) == pytest.approx(accounted, rel=5 / np.sqrt(2 * len(shares)))
    assert np.mean(shares) == pytest.approx(
        0.5 + (26 - 22) / expected, abs=5 * accounted / np.sqrt(len(shares))
    )


def test_the_sum_has_the_noise_that_is_left(recipe, records):
    """A little more than without the count, at the clip norm in force."""
    model, (x, y) = recipe("linear"), records(20)
    start = model.parameters()
    quiet = trained(model, x, y, adaptive(0.7), learning_rate=0.2)
    noise = np.concatenate(
        [
            (new[k] - quiet[k]).ravel()
            for seed in range(150)
            for new in [trained(model, x, y, adaptive(0.7), seed=seed, multiplier=3.0, learning_rate=0.2)]
            for k in start
        ]
    )

    expected = split(3.0).gradients * 0.7 / 20 * 0.2
    assert noise.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * noise.size))


def test_nobody_drawn_is_counted_as_nobody(recipe, records, monkeypatch):
    """Half of none: the clip norm moves by noise alone, and the step is taken as it was paid for."""
    from tasks.learning import dp_sgd

    model, (x, y) = recipe("linear"), records()
    monkeypatch.setattr(dp_sgd, "drawn", lambda *_: np.arange(0))
    clip = adaptive(1.0)

    trained(model, x, y, clip)

    assert clip.now == pytest.approx(1.0)


def test_a_clip_norm_that_the_study_does_not_allow_is_refused():
    """Whoever has kept it, and wherever it comes from."""
    fixed = Privacy(mode="local", epsilon=1, delta=1e-5, clip_norm=2.0)
    assert ClipNorm(fixed).now == 2.0 and not ClipNorm(fixed).adapts
    for make in (
        lambda: adaptive(51.0),
        lambda: ClipNorm(fixed, 3.0),
        lambda: ClipNorm(Privacy(mode="none")),
    ):
        with pytest.raises(PrivacyError):
            make()


def test_its_terms_are_those_of_a_bound_on_updates():
    """One word, one class; a rate of its own moves it faster, and the study's default digest does not know it."""
    terms = AdaptiveNorm(start=1.0, rate=1.0)
    assert terms.after(1.0, 1.0) == pytest.approx(np.exp(-0.5))
    assert AdaptiveNorm().after(1.0, 1.0) == pytest.approx(np.exp(-0.1))
    assert "rate" not in AdaptiveNorm().model_dump(exclude_none=True)
