"""How often the hub looks while sites answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from infra.hub import Hub
from tasks.follow import SOON_S, Answer, follow_all


class Answers:
    """A site that answers at its n-th look."""

    def __init__(self, site: str, looks: int):
        self.ticket, self._left = SimpleNamespace(site=site), looks

    def look(self) -> Answer | None:
        self._left -= 1
        return None if self._left else Answer(self.ticket.site, self.ticket, None, None)


@pytest.mark.parametrize(
    ("store", "first", "longest"), [("s3://bucket/prefix", SOON_S, 0.5), ("file:///store", 0.01, 0.01)]
)
def test_over_a_network_it_looks_soon_and_then_more_seldom(tmp_path, store, first, longest):
    """An answer is seldom waited for longer than it took; where one has come, the others will soon."""
    rests: list[float] = []
    hub = Hub(directory=tmp_path, store_url=store).with_clock(lambda: 0.0, rests.append)

    found = follow_all(hub, [Answers("a", 10), Answers("b", 12)])

    assert [answer.site for answer in found] == ["a", "b"]
    assert (rests[0], max(rests), rests[9]) == (first, longest, first)
    assert rests[:9] == sorted(rests[:9])
