"""A sum of all that is opened at once: the same sum, and no way to two of them. Steps of a round have keys of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tasks.errors import SecureSumError
from tasks.secagg.groups import disjoint_groups
from tasks.secagg.messages import SumTerms, Terms
from tasks.secagg.onesum import Pledges, number_of
from tests.tasks.secagg.people import World, some_values


@pytest.fixture(params=[False, True], ids=["bound when it opens", "pledged with the vector"])
def pledged(request) -> bool:
    """The two ways of a site to bind itself to the list of all."""
    return request.param


def test_the_list_of_all_is_opened_without_a_signature(pledged):
    """Any threshold of the sites is enough, as for a list that was agreed to."""
    world = World()
    sum_, values = world.a_sum(), some_values(world)
    masked = world.mask_all(sum_, values, whole=pledged)
    survivors = world.survivors(sum_, masked)
    opened = [world.sites[n].open_whole(sum_, survivors) for n in list(masked)[1:]]

    got = world.open(sum_, masked, world.recover(sum_, survivors, opened))
    assert np.allclose(got, sum(values.values()), atol=world.codec.error)


def test_no_mixture_of_the_two_ways_opens_two_lists(pledged):
    """Whoever opens the whole signs no other list, and the reverse: in every split of four sites one list is stuck."""
    for k in range(5):
        for first in itertools.combinations(range(4), k):
            world = World()
            sum_ = world.a_sum()
            masked = world.mask_all(sum_, some_values(world), whole=pledged)
            names = list(masked)
            everyone = world.survivors(sum_, masked)
            fewer = world.survivors(sum_, {n: masked[n] for n in names[1:]})
            shares = [world.sites[names[i]].open_whole(sum_, everyone) for i in first]
            signed = []
            for i in set(range(1, 4)) - set(first):
                signed.append(world.sites[names[i]].consent(sum_, fewer))
                with pytest.raises(SecureSumError, match="hub shows two"):
                    world.sites[names[i]].open_whole(sum_, everyone)
            for i in set(first) - {0}:
                with pytest.raises(SecureSumError, match="may have opened" if pledged else "hub shows two"):
                    world.sites[names[i]].consent(sum_, fewer)
            both = len(shares) >= world.terms.threshold and len(signed) >= world.terms.threshold
            assert not both
            if len(shares) < world.terms.threshold:
                with pytest.raises(SecureSumError, match="do not open"):
                    world.recover(sum_, everyone, shares)


@pytest.mark.parametrize("noted", [True, None])
def test_a_site_that_has_opened_the_whole_signs_no_smaller_list(noted):
    """It gives the same shares again; one whose version noted nothing may have given them before it fell."""
    world = World()
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world), whole=True)
    everyone = world.survivors(sum_, masked)
    fewer = world.survivors(sum_, {n: masked[n] for n in list(masked)[1:]})
    site = world.sites[list(masked)[1]]
    first = site.open_whole(sum_, everyone)
    newest = site.pledges.sums[-1].model_copy(update={"opened": noted})
    site.pledges = Pledges(sums=(*site.pledges.sums[:-1], newest))

    with pytest.raises(SecureSumError, match="may have opened the sum of all"):
        site.consent(sum_, fewer)
    assert site.open_whole(sum_, everyone) == first


def test_a_site_that_knows_that_it_has_opened_nothing_signs_a_smaller_list():
    """Its vector alone binds it to neither way; then the whole is closed to it, and a repetition is harmless."""
    world = World()
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world), whole=True)
    fewer = world.survivors(sum_, {n: masked[n] for n in list(masked)[1:]})
    site = world.sites[list(masked)[1]]

    assert site.consent(sum_, fewer) == site.consent(sum_, fewer)
    with pytest.raises(SecureSumError, match="hub shows two"):
        site.open_whole(sum_, world.survivors(sum_, masked))


@pytest.mark.parametrize("lack", ["a site", "this site's bytes", "the newest sum", "the newest attempt"])
def test_what_is_not_the_whole_is_not_opened_as_one(lack, pledged):
    """The hub shows a list without one site to some and the full list to others: only the full one opens at once."""
    world = World(steps=2)
    sum_ = world.a_sum()
    masked = world.mask_all(sum_, some_values(world), whole=pledged)
    names = list(masked)
    shown = {n: masked[n] for n in names[:3]} if lack == "a site" else dict(masked)
    if lack == "this site's bytes":
        shown[names[0]] = b"other bytes"
    survivors = world.survivors(sum_, shown)
    if lack == "the newest sum":
        world.mask_all(world.a_sum(step=2), some_values(world), whole=pledged)
    if lack == "the newest attempt" and not pledged:  # one that may be open is followed by no other
        world.mask_all(world.a_sum(attempt=2, parameters="1" * 64), some_values(world))
    elif lack == "the newest attempt":
        world.mask_all(world.a_sum(round=2, attempt=2), some_values(world))
    says = {"a site": "lacks a site", "this site's bytes": "does not hold the vector"}

    before = world.sites[names[0]].pledges
    with pytest.raises(SecureSumError, match=says.get(lack, "an older sum stays closed")):
        world.sites[names[0]].open_whole(sum_, survivors)
    assert world.sites[names[0]].pledges == before


def test_opening_binds_before_the_shares_leave_and_a_repetition_is_harmless():
    """The pledges that come with the shares name the list, so that a later life of the site refuses every other one."""
    world = World()
    sum_ = world.a_sum()
    everyone = world.survivors(sum_, world.mask_all(sum_, some_values(world)))
    site = next(iter(world.sites.values()))
    assert not site.pledges.sums[-1].may_be_open

    first = site.open_whole(sum_, everyone)

    assert site.pledges.sums[-1].survivors_sha256 == everyone.sha256 and site.pledges.sums[-1].may_be_open
    assert site.open_whole(sum_, everyone) == first
    other = everyone.model_copy(update={"masked": everyone.masked | {"site-03": "0" * 64}})
    with pytest.raises(SecureSumError, match="hub shows two"):
        site.open_whole(sum_, other)
    with pytest.raises(SecureSumError, match="may have been opened"):
        site.mask(world.a_sum(attempt=2), [0.0] * 5, world.codec)


def test_asking_for_signatures_after_all_gives_the_same_sum():
    """Too few answered at once, or are of a version before: the same list is agreed to, and its shares are the same."""
    world = World()
    sum_ = world.a_sum()
    everyone = world.survivors(sum_, world.mask_all(sum_, some_values(world)))
    first, *others = world.sites.values()
    at_once = first.open_whole(sum_, everyone)

    consents = [site.consent(sum_, everyone) for site in (first, *others)]

    assert first.unmask(sum_, everyone, consents) == at_once
    assert others[0].open_whole(sum_, everyone) == others[0].unmask(sum_, everyone, consents)


def test_groups_with_all_sites_there_are_opened_at_once():
    """One list, one exchange, and each group's sum; a group that is too small is never masked for."""
    world = World(9, threshold=6)
    groups = disjoint_groups(list(world.sites), 3, 0, "run-1", 1)
    sum_, values = world.a_sum().model_copy(update={"groups": groups}), some_values(world)
    masked = world.mask_all(sum_, values)
    survivors = world.survivors(sum_, masked)

    recovered = world.recover(sum_, survivors, [s.open_whole(sum_, survivors) for s in world.sites.values()])

    assert set(recovered.parts) == set(groups)
    small = sum_.model_copy(update={"groups": ((*groups[0], *groups[1]), groups[2][:2])})
    with pytest.raises(SecureSumError, match="2 sites of a group, and its sum needs 3"):
        next(iter(world.sites.values())).open_whole(small, survivors)


def test_a_step_is_masked_once_and_only_forward():
    """The same step with other parameters, an earlier one, one beyond the round, or the same parameters again."""
    world = World(steps=3)
    site = next(iter(world.sites.values()))
    site.mask(world.a_sum(step=2), np.zeros(5), world.codec, whole=True)

    refused = [
        (world.a_sum(step=2, parameters="7" * 64), "is masked"),
        (world.a_sum(step=1, parameters="8" * 64), "is masked"),
        (world.a_sum(step=4), "no keys for it"),
        (world.a_sum(step=3, parameters=world.a_sum(step=2).parameters_sha256), "the same model"),
        (world.a_sum(step=2, attempt=2, parameters="9" * 64), "the same model"),
    ]
    for sum_, says in refused:
        with pytest.raises(SecureSumError, match=says):
            site.mask(sum_, np.zeros(5), world.codec, whole=True)
    assert site.mask(world.a_sum(step=3), np.zeros(5), world.codec, whole=True)


def test_each_step_has_keys_of_its_own():
    """No two sums of a setup share a number, and a round of one step is numbered as it always was."""
    world = World(rounds=3, steps=4)
    sums = [world.a_sum(round=r, attempt=a, step=s) for r in (1, 2, 3) for a in (1, 2) for s in (1, 2, 3, 4)]
    sums += [world.a_sum(round=r, attempt=a, what="scores") for r in (1, 2, 3) for a in (1, 2)]
    assert sorted(number_of(world.terms, s) for s in sums) == list(range(world.terms.sums))

    one = World(rounds=2)
    numbers = [number_of(one.terms, one.a_sum(round=r, what=w)) for r in (1, 2) for w in ("update", "scores")]
    assert numbers == [0, 1, 4, 5]


def test_a_round_of_one_step_says_nothing_of_steps():
    """Digests of the version before stay as they are."""
    world = World()
    assert "step" not in world.terms.model_dump() and "step" not in world.a_sum().model_dump()
    assert {"steps", "step"} <= set(Terms.model_fields) | set(SumTerms.model_fields)
