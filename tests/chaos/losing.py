"""A world of four sites, of which one may stay away: the others sign the list without it, and go on.

Three of four open a sum, so that each round and each step has one site to lose. Silence
is noticed sooner than in production. A site that stays away comes back when the run is
over (`settle`): what it has paid and what has left must then agree like everybody's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from sites.outbox import Outbox
from sites.settings import load_site
from tasks import layout
from tests.chaos.world import LOOK_S, ROUNDS, RUN_LIMIT_S, Stuck, World
from tests.federation import FOUR

GRACE = 5.0  # of a round without steps: times that the others took


class LosingWorld(World):
    """As World, with four sites."""

    loses = True
    silent_s, presence_s = 15.0, 3.0  # in production 40 and 12

    def __init__(self, folder: Path, rounds: int = ROUNDS, **terms: Any):
        lockstep = terms.get("privacy", {}).get("steps", 1) > 1
        usual: dict[str, Any] = {
            "sites": FOUR,
            "quorum": 3,
            "secure_aggregation": {"on": True, "threshold": 3},
        }
        super().__init__(folder, rounds, **usual | ({} if lockstep else {"grace": GRACE}) | terms)
        self._stays_s: dict[str, float] = {}  # how long a site stays away once it falls
        self._back_at: dict[str, float] = {}

    def stay_away(self, site: str, seconds: float = math.inf) -> None:
        """When this site falls next it comes back after so long; by default when the run is over."""
        self._stays_s[site] = seconds

    def play(self, run: str, fault: Callable[[World], Generator[None, None, None]]) -> float:
        try:
            return super().play(run, fault)
        finally:
            self._stays_s, self._back_at = {}, {}

    def settle(self) -> None:
        """Until all sites stand again and have sent what still waited."""
        began, until = time.time(), time.monotonic() + RUN_LIMIT_S
        while not all(self._stands(site, began) for site in self.study.sites):
            self._revive()
            if time.monotonic() > until:
                raise Stuck(f"not all sites came back; look into {self.folder}")
            time.sleep(LOOK_S)

    def _stands(self, site: str, began: float) -> bool:
        shown = self.store / layout.presence_key(site)
        if self.agents[site].poll() is not None or not shown.exists() or shown.stat().st_mtime < began:
            return False
        state = load_site(self.folder / "files" / f"{site}.yaml").state
        return not Outbox(state / "outbox").undelivered()

    def _revive(self) -> None:
        for site, agent in self.agents.items():
            if agent.poll() is None:
                continue
            if site not in self._back_at:
                self.hit()
                self.lost[site] += 1
                self._back_at[site] = time.monotonic() + self._stays_s.pop(site, 0.0)
            if time.monotonic() >= self._back_at[site]:
                del self._back_at[site]
                self.start_agent(site)
