"""One setup, several sums a round: each group's sum is opened, and nothing smaller."""

import hashlib

import numpy as np
import pytest

from tasks.errors import SecureSumError
from tasks.secagg.groups import disjoint_groups
from tasks.secagg.masks import MaskStream
from tests.tasks.secagg.people import World, some_values


class Grouped(World):
    def __init__(self, sites=9, **terms):
        super().__init__(sites, **terms)
        self.groups = disjoint_groups(list(self.sites), 3, 0, "run-1", 1)

    def a_sum(self, groups=None, **terms):
        plain = super().a_sum(**terms)
        return plain.model_copy(update={"groups": self.groups if groups is None else groups})

    def opened(self, masked, recovered):
        """Each group's sum, as the hub makes it."""
        found = {}
        for part, seeds in recovered.parts.items():
            total = sum(np.frombuffer(masked[site], dtype="<u8") for site in part)
            MaskStream(seeds, 64).apply(total)
            found[part] = self.codec.decode(total)
        return found


@pytest.fixture
def world():
    return Grouped(threshold=6)


def play(world, values, lost=()):
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, values, [n for n in world.sites if n not in lost])
    survivors = world.survivors(sum_, masked)
    consents = world.agree(sum_, survivors)
    answers = [world.sites[n].unmask(sum_, survivors, consents) for n in survivors.masked]
    return masked, survivors, world.recover(sum_, survivors, answers)


def test_each_groups_sum_is_opened(world):
    """All of them, each right, by one list and one round of answers."""
    values = some_values(world)

    masked, _, recovered = play(world, values)

    found = world.opened(masked, recovered)
    assert set(found) == set(world.groups) and len(found) == 3
    for group, total in found.items():
        assert total == pytest.approx(sum(values[site] for site in group), abs=1e-9)


def test_what_opens_the_groups_opens_no_smaller_sum(world):
    """Every proper part of a group, with all seeds that the hub has: uniform words."""
    masked, _, recovered = play(world, some_values(world, length=400))
    seeds = {
        site: seed for part, s in recovered.parts.items() for site, seed in zip(part, s.minus, strict=True)
    }

    for group in world.groups:
        for part in (group[:1], group[:2], group[1:]):
            words = sum(np.frombuffer(masked[site], dtype="<u8") for site in part)
            for site in part:
                own = recovered.parts[group]._replace(plus=(), minus=(seeds[site],))
                MaskStream(own, 64).apply(words)
            high = words >> np.uint64(61)  # a value would have its three top bits alike
            assert len(set(high.tolist())) == 8


def test_masks_reach_no_further_than_the_group(world):
    """A site of another group is not needed, and its keys open nothing here."""
    sum_, site = world.a_sum(), world.groups[0][0]
    from tasks.secagg import onesum

    seeds = onesum.mask_seeds(world.sites[site].member, world.sites[site].pledges, sum_)

    assert len(seeds.plus) + len(seeds.minus) == len(world.groups[0])


def test_a_group_that_lost_a_site_is_left_out_whole_and_the_others_are_opened(world):
    """Two of three would show too much of each; their vectors stay hidden by their own masks."""
    values, lost = some_values(world), world.groups[1][0]

    masked, survivors, recovered = play(world, values, lost=[lost])

    assert set(recovered.parts) == {world.groups[0], world.groups[2]}
    assert set(survivors.masked) == {*world.groups[0], *world.groups[2]}
    found = world.opened(masked, recovered)
    assert found[world.groups[0]] == pytest.approx(sum(values[s] for s in world.groups[0]), abs=1e-9)


def test_a_larger_group_bears_a_loss():
    """Four, of which three are enough: the lost site's masks are taken out of its own group alone."""
    world = Grouped(12)
    values, lost = some_values(world), world.groups[0][1]

    masked, _, recovered = play(world, values, lost=[lost])

    found = world.opened(masked, recovered)
    left = tuple(s for s in world.groups[0] if s != lost)
    assert set(found) == {left, *world.groups[1:]}
    for part, total in found.items():
        assert total == pytest.approx(sum(values[site] for site in part), abs=1e-9)


def test_a_list_with_two_sites_of_a_group_gets_no_consent(world):
    """A hub that leaves out one site of three is refused by everybody, as long as one is honest."""
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world))
    digests = {n: hashlib.sha256(m).hexdigest() for n, m in masked.items()}
    del digests[world.groups[1][0]]
    whole = world.survivors(sum_, masked)
    torn = whole.model_copy(update={"masked": digests})

    for site in digests:
        with pytest.raises(SecureSumError, match="2 sites of a group, and its sum needs 3"):
            world.sites[site].consent(sum_, torn)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: (g[1], g[2]), "joins no other"),
        (lambda g: (*g, g[0]), "not sites of the cohort"),
        (lambda g: ((*g[0], g[1][0]), g[1], g[2]), "not sites of the cohort"),
        (lambda g: ((*g[0], g[1][0]), g[1][1:], g[2]), "fewer than 3 sites"),
    ],
    ids=["one left out", "one twice", "overlapping", "one too small"],
)
def test_a_site_masks_nothing_for_groups_that_are_unsafe(world, change, text):
    """Before a byte leaves: it has keys for one vector a round, and groups that it can check."""
    sum_ = world.a_sum(groups=change(world.groups))

    with pytest.raises(SecureSumError, match=text):
        world.sites[world.groups[0][0]].mask(sum_, np.zeros(5), world.codec)


def test_groups_are_bound_into_every_mask(world):
    """Told other groups, a site's masks are other masks: what two sites were told differently does not open."""
    other = disjoint_groups(list(world.sites), 3, 1, "run-1", 1)
    assert world.a_sum().sha256 != world.a_sum(groups=other).sha256 != super(Grouped, world).a_sum().sha256


def test_a_sum_of_all_is_named_as_it_was():
    """Its digest has no word of groups: published vectors hold."""
    assert b"groups" not in World(4).a_sum().canonical
