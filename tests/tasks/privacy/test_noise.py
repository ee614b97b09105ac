import multiprocessing

import numpy as np
import pytest
from scipy import stats

from tasks.errors import PrivacyError
from tasks.privacy import noise as module
from tasks.privacy.noise import NoiseSource

N = 200_000


def test_the_stream_is_chacha20_of_the_key():
    """A fixed vector: simulations of today can be repeated in years, and no other generator crept in."""
    zero = NoiseSource(bytes(32))
    # RFC 8439, appendix A.1, test vector 1: the first block for key 0, nonce 0, counter 0
    block = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert zero.words(4).tobytes() == block
    normals = [-2.517100322383928, -3.6506499382028714, -0.7255657760450975]
    assert NoiseSource.seeded("a", 1).normal((3,), 2.0) == pytest.approx(normals, rel=1e-9)


def test_the_same_seed_gives_the_same_bits():
    """Simulation and deployment agree bit for bit."""
    one, two = (NoiseSource.seeded("heart", "site-a", 3, 1) for _ in range(2))
    for draw in (lambda s: s.normal((5, 7), 1.5), lambda s: s.coins(10, 0.3), lambda s: s.permutation(9)):
        assert np.array_equal(draw(one), draw(two))


def test_seeds_that_look_alike_are_other_streams():
    """Parts are length-prefixed and typed, so that no two rounds of any study share noise."""
    seeds = [("ab", "c"), ("a", "bc"), ("abc",), (1, 23), (12, 3), ("1", 23), (), ("",)]
    streams = np.array([NoiseSource.seeded(*parts).normal((20_000,), 1.0) for parts in seeds])
    correlation = np.corrcoef(streams) - np.eye(len(seeds))
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_the_system_gives_another_key_each_time():
    """Two attempts of a round must never carry the same noise."""
    assert not np.array_equal(NoiseSource.from_system().uniform(4), NoiseSource.from_system().uniform(4))


def test_normals_are_normal():
    """Mean, spread, tails and shape, to what this many draws can tell."""
    draws = NoiseSource.seeded("normal").normal((N,), 3.0) / 3.0
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.mean()) < 4 / np.sqrt(N)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / N)
    assert abs((draws**4).mean() - 3) < 4 * np.sqrt(96 / N)
    assert 4 < np.abs(draws).max() < 6.5


def test_neighbouring_normals_are_independent():
    """Two draws share a radius inside; nobody may see it, neither in the draws nor in their squares."""
    draws = NoiseSource.seeded("pairs").normal((N,), 1.0)
    half = module._BLOCK // 2
    for lag in (1, 2, half - 1, half, half + 1, module._BLOCK):
        for values in (draws, draws**2):
            assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 5 / np.sqrt(N - lag)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (module._BLOCK + 1,)])
def test_any_shape(shape):
    """Parameters may be scalars, empty, odd or larger than a block."""
    draws = NoiseSource.seeded("shape").normal(shape, 1.0)
    assert draws.shape == shape
    assert draws.dtype == np.float64
    assert np.isfinite(draws).all()


def test_the_extreme_words_give_finite_normals(monkeypatch):
    """log 0 and tan of a right angle are one word in 2^64 away."""
    for word in (0, 2**64 - 1, 2**63):
        monkeypatch.setattr(NoiseSource, "words", lambda _, n, word=word: np.full(n, word, dtype=np.uint64))
        assert np.isfinite(NoiseSource.seeded().normal((4,), 1.0)).all()
        assert 0 < NoiseSource.seeded().uniform(1)[0] < 1


def test_uniforms_and_coins():
    """Poisson sampling is coins; each must fall with its probability, at the ends without exception."""
    source = NoiseSource.seeded("coins")
    assert stats.kstest(source.uniform(N), "uniform").pvalue > 1e-3
    assert abs(source.coins(N, 0.03).mean() - 0.03) < 4 * np.sqrt(0.03 / N)
    assert source.coins(1000, 1.0).all()
    assert not source.coins(1000, 0.0).any()


def test_permutations_hold_everything_once():
    """Each position must be equally likely for each element."""
    source = NoiseSource.seeded("order")
    orders = np.array([source.permutation(5) for _ in range(5000)])
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    counts = np.array([np.bincount(column, minlength=5) for column in orders.T])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_a_new_segment_begins_where_the_last_one_ends(monkeypatch):
    """The block counter must never wrap: that would repeat noise after 256 GiB."""
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 64)
    small = NoiseSource(bytes(32)).words(24)
    pieces = NoiseSource(bytes(32))
    assert np.array_equal(small, np.concatenate([pieces.words(5), pieces.words(19)]))
    assert len({words.tobytes() for words in small.reshape(3, 8)}) == 3


def _draw(source, answers):
    try:
        source.normal((1,), 1.0)
    except PrivacyError:
        answers.put("refused")
    else:
        answers.put("drawn")


def test_a_source_does_not_survive_a_fork():
    """Two children of one parent would add the same noise, and their difference would be bare."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_draw, args=(NoiseSource.from_system(), answers))
    child.start()
    assert answers.get(timeout=20) == "refused"
    child.join()
