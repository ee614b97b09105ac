import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import SecureSumError
from tasks.secagg.fixedpoint import FixedPoint
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import MaskStream, masked_chunks, summed_chunks
from tasks.secagg.messages import Terms
from tasks.secagg.onesum import Pledges, mask_seeds, pledge
from tasks.secagg.setup import Member
from tests.tasks.secagg.people import World, some_values


def total(values, names):
    return np.sum([values[n] for n in names], axis=0)


@given(st.data(), st.integers(3, 9), st.sampled_from([32, 64]))
@settings(max_examples=15, deadline=None)
def test_the_sum_is_the_sum_of_the_survivors_whoever_falls_and_when(data, sites, bits):
    """Any sites may be lost before the upload, and any others after it, down to the threshold."""
    world = World(sites=sites, rounds=1, attempts=1, bits=bits)
    may_fall = sites - world.terms.threshold
    fallen = data.draw(st.lists(st.sampled_from(sorted(world.sites)), max_size=may_fall, unique=True))
    cut = data.draw(st.integers(0, len(fallen)))
    lost, silent = fallen[:cut], fallen[cut:]
    values = some_values(world)

    result = world.play(values, lost=lost, silent=silent)

    assert np.abs(result - total(values, set(world.sites) - set(lost))).max() <= world.codec.error + 1e-15


def test_one_setup_serves_many_rounds():
    """Rounds need no new setup, and a site that was lost in one round is back in the next."""
    world = World(sites=4, rounds=3)
    for round in (1, 2, 3):
        values = some_values(world, seed=round)
        lost = [sorted(world.sites)[round]]
        result = world.play(values, lost=lost, round=round)
        assert np.allclose(result, total(values, set(world.sites) - set(lost)), atol=1e-12)


def test_fifty_sites_with_a_third_lost():
    """The largest federation that the protocol is made for."""
    world = World(sites=50, rounds=1, attempts=1)
    values = some_values(world, length=3)
    names = sorted(world.sites)
    result = world.play(values, lost=names[:9], silent=names[-7:])
    assert np.allclose(result, total(values, names[9:]), atol=1e-12)


def test_one_site_below_the_threshold_opens_nothing():
    """The hub learns that it must wait or try again, and nothing else."""
    world = World(sites=6)
    names = sorted(world.sites)
    with pytest.raises(SecureSumError, match="answers do not open"):
        world.play(some_values(world), silent=names[:2])
    with pytest.raises(SecureSumError, match="a sum needs 5"):
        world.play(some_values(world), lost=names[:2], round=2)


def test_a_site_that_never_dealt_is_not_in_the_cohort():
    """Its masks could not be taken off; the others go on without it."""
    world = World(sites=4)
    del world.dealings["site-02"]
    from tasks.secagg import setup

    world.cohort = setup.cohort_of(world.terms, world.directory, world.dealings.values())
    del world.sites["site-02"]
    for site in world.sites.values():
        site.member = setup.join(site.seat, world.cohort, world.announcements, world.dealings, site.verify)
    values = some_values(world)
    assert np.allclose(world.play(values), total(values, world.sites), atol=1e-12)


def test_states_survive_their_json():
    """The caller keeps them on disk; a byte that is lost would be another mask."""
    world = World(sites=3)
    world.play(some_values(world))
    site = world.sites["site-00"]
    assert Member.model_validate_json(site.member.model_dump_json()) == site.member
    assert Pledges.model_validate_json(site.pledges.model_dump_json()) == site.pledges
    assert site.seat.run_secret not in repr(site.member)
    assert site.member.shares["site-01"][:64] not in repr(site.member)


def test_every_step_gives_the_same_when_it_is_repeated():
    """A crash between any two steps costs nothing: setup, consent and shares come out byte for byte again."""
    world = World(sites=4)
    before = (world.announcements, world.directory, world.dealings, world.cohort)
    world.set_up()
    assert (world.announcements, world.directory, world.dealings, world.cohort) == before
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors)
    assert world.agree(sum_, survivors) == consents
    site = world.sites["site-03"]
    assert site.unmask(sum_, survivors, consents) == site.unmask(sum_, survivors, consents)


def test_masks_are_the_same_in_pieces_of_any_length():
    """A site masks tensor by tensor, the hub opens block by block."""
    seeds, codec = MaskSeeds((b"a" * 32, b"b" * 32), (b"c" * 32,)), FixedPoint.fitting(1.0, 3, 32)
    values = np.random.default_rng(0).uniform(-1, 1, 100_003)
    cut = np.split(values, [1, 2, 40_000, 40_001])
    whole = np.concatenate([block.copy() for block in masked_chunks([values], codec, seeds)])
    pieces = np.concatenate([block.copy() for block in masked_chunks(cut, codec, seeds)])
    opened = np.concatenate(
        list(
            summed_chunks([io.BytesIO(whole.tobytes())], MaskSeeds(seeds.minus, seeds.plus), values.size, 32)
        )
    )
    assert np.array_equal(whole, pieces)
    assert np.allclose(codec.decode(opened), values, atol=codec.error)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_vector_of_the_wrong_length_is_refused(wrong):
    """Short or long, it would shift or cut the sum."""
    seeds = MaskSeeds((), ())
    vectors = [io.BytesIO(bytes(8 * 10)), io.BytesIO(bytes(8 * (10 + wrong)))]
    with pytest.raises(SecureSumError, match="words"):
        list(summed_chunks(vectors, seeds, 10, 64))


def test_memory_is_flat_in_the_number_of_masks():
    """49 masks on a large vector take one block beside it."""
    words = np.zeros(2_000_000, dtype=np.uint64)
    stream = MaskStream(MaskSeeds(tuple(bytes([i]) * 32 for i in range(49)), ()), 64)
    tracemalloc.start()
    stream.apply(words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": ("a", "b"), "threshold": 2},
        {"sites": ("b", "a", "c")},
        {"sites": ("a", "a", "b", "c")},
        {"threshold": 2},
        {"threshold": 5},
        {"min_cohort": 2},
        {"min_cohort": 5},
        {"rounds": 501},
        {"bits": 16},
    ],
)
def test_terms_that_protect_nobody_are_refused(wrong):
    """Fewer than three sites, or half of them enough for a second list, and the hub could learn one vector."""
    right = {"run": "r", "study_sha256": "0" * 64, "sites": ("a", "b", "c", "d"), "threshold": 3, "rounds": 5}
    Terms(**right)
    with pytest.raises(ValueError):
        Terms(**right | wrong)


def test_rounds_outside_the_setup_have_no_keys():
    """The text says what to do."""
    world = World(rounds=2, attempts=2)
    site = world.sites["site-00"]
    for terms in ({"round": 3}, {"round": 1, "attempt": 3}):
        with pytest.raises(SecureSumError, match="next block"):
            mask_seeds(site.member, site.pledges, world.a_sum(**terms))


def test_no_two_sums_share_a_mask():
    """Round, attempt, parameters, length and scale are all in every seed."""
    world = World(rounds=2)
    site = world.sites["site-00"]
    sums = [
        world.a_sum(),
        world.a_sum(attempt=2),
        world.a_sum(what="scores"),
        world.a_sum(round=2),
        world.a_sum(parameters="f" * 64),
        world.a_sum(length=6),
        world.a_sum().model_copy(update={"scale_bits": 3}),
    ]
    seeds = [s for sum_ in sums for part in mask_seeds(site.member, Pledges(), sum_) for s in part]
    assert len(set(seeds)) == len(seeds) == 4 * len(sums)


def test_a_pledge_binds_to_the_next_sum_only():
    """pledge refuses what mask_seeds refuses, should a caller mix them up."""
    world = World()
    site = world.sites["site-00"]
    pledges = pledge(site.member, Pledges(), world.a_sum(attempt=2), "0" * 64)
    with pytest.raises(SecureSumError, match="same bytes"):
        pledge(site.member, pledges, world.a_sum(attempt=2), "1" * 64)
