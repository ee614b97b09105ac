"""From the stored objects of a real run nobody puts one site's vector together, until `threshold` sites help."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tasks import parameters
from tests.attacks.reconstruct import RUN, Intruder
from tests.federation import FOUR
from tests.flows.test_secure import last, of, secure, weights

FIVE, THRESHOLD, LATE = (*FOUR, "xena"), 3, "xena"


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A run of five sites, of which three open a sum; what one says of the scores comes when that is over."""
    late: dict[str, bytes] = {}

    def rule(key, data):
        if f"sites/{LATE}/out/" not in key or not key.endswith("-evaluate/receipt.json"):
            return data
        late[key] = data
        return None

    found = of(FIVE, tmp_path_factory.mktemp("reconstruct"), rule)
    found.run(secure(rounds=1, sites=FIVE, secure_aggregation={"on": True, "threshold": THRESHOLD}), RUN)
    for key, data in late.items():
        found.hub.store.put(key, data)
    return found


@pytest.fixture(params=["update", "scores"])
def intruder(request, federation):
    """Makes somebody who attacks one of the two sums, with these sites on the same side."""
    bounds = federation.agents["north"].outbox._run(RUN).bounds.values()
    sum_ = next(bound.sum for bound in bounds if bound.sum.what == request.param)

    def make(*sites: str, reads_receipts: bool = True) -> Intruder:
        folders = {site: federation.agents[site].site.state for site in sites}
        return Intruder(federation.hub, sum_, folders, reads_receipts)

    return make


def honest(*corrupt: str) -> list[str]:
    return [site for site in FIVE if site not in corrupt]


def test_an_outsider_with_the_whole_store_gets_nothing(intruder):
    """Without the hub's key no share is read: not even the sum comes out."""
    outsider = intruder(reads_receipts=False)

    assert not outsider.comes_out(*outsider.survivors.masked)
    assert not any(outsider.comes_out(site) for site in FIVE)


def test_the_hub_gets_the_sum_and_no_part_of_it(intruder):
    """No single vector, and no sum of fewer than the survivors; nor the vector that came too late for the list."""
    hub = intruder()
    survivors = tuple(hub.survivors.masked)

    assert hub.comes_out(*survivors)
    for size in range(1, len(survivors)):
        for sites in itertools.combinations(survivors, size):
            assert not hub.comes_out(*sites)
    assert not hub.comes_out(LATE)


def test_the_hub_with_one_site_less_than_the_threshold_gets_the_sum_of_the_others(intruder):
    """Whichever two of the five tell it everything: each other vector stays hidden, also by pairs."""
    for corrupt in itertools.combinations(FIVE, THRESHOLD - 1):
        hub, others = intruder(*corrupt), honest(*corrupt)
        left = [site for site in others if site in hub.survivors.masked]

        assert hub.comes_out(*left)
        assert not any(hub.comes_out(site) for site in others)
        if len(left) > 2:
            assert not any(hub.comes_out(*pair) for pair in itertools.combinations(left, 2))


def test_sites_without_the_hub_get_nothing(intruder):
    """One less than the threshold, with everything that is stored."""
    for corrupt in itertools.combinations(FIVE, THRESHOLD - 1):
        sites = intruder(*corrupt, reads_receipts=False)
        assert not any(sites.comes_out(site) for site in honest(*corrupt))


def test_with_as_many_sites_as_the_threshold_every_vector_comes_out(federation, intruder):
    """What the threshold means, and the proof that the attempts above are in earnest."""
    hub = intruder("east", "north", "south")
    survivors = tuple(hub.survivors.masked)

    assert all(hub.comes_out(site) for site in survivors)
    total = hub.stripped(survivors)
    assert np.allclose(sum(hub.stripped((site,)) for site in survivors), total, atol=1e-6)
    if len(survivors) == len(FIVE):  # the updates: what they add up to is the model's way
        record = last(federation.hub, RUN)
        raw = federation.hub.store.get(
            federation.agents["north"].outbox.find(f"{RUN}/00001-01-train").ticket.parameters_key
        )
        base = parameters.from_bytes(raw)
        moved = weights(federation.hub, record) - np.concatenate([base[n].ravel() for n in sorted(base)])
        assert np.allclose(total / len(FIVE), moved, atol=1e-6)
