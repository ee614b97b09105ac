"""Hub and sites in one process, over one directory store: what `study simulate` and many tests run.

The hub's flow and the sites' agents are the production code. Only three things
differ: the hub's waiting lets the agents work, jobs run inline instead of in a
forked child, and time jumps forward when nobody has anything to do, so that a
deadline costs no real time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flows.training import training
from infra.errors import StoreError
from infra.hub import Hub
from infra.store import open_store
from infra.store.base import Store
from simulation.acquaint import acquaint
from simulation.approving import approve_everywhere
from sites.agent import Agent
from sites.runner import InlineRunner
from sites.settings import Site
from tasks import layout
from tasks.begin import new_run_name
from tasks.card import publish_card
from tasks.proposal import Proposal
from tasks.study import Study

IDLE_STEP_S = 5.0  # how far time jumps when no site has anything to do


class Federation:
    """One hub and some sites; `run` plays a whole study.

    Args:
        folder: the hub's folder, the store and the sites' states are made in it.
        sites: what the sites' files say; their own store and state are not used.
        store: what the sites see; tests put something hostile here.
        approving: the sites' people approve whatever the hub proposes, at once.
        seeded_noise: noise that a repeat draws again; False: from the operating system, as real sites do.
    """

    def __init__(
        self,
        folder: Path,
        sites: Iterable[Site],
        store: Store | None = None,
        approving: bool = True,
        seeded_noise: bool = True,
    ):
        self._ahead, self._approving = 0.0, approving
        self._approved: dict[str, str | None] = {}  # study: tag of the proposal
        url = (folder / "store").absolute().as_uri()
        self.store = store or open_store(url)
        self.hub = Hub(directory=folder / "hub", store_url=url).with_clock(self.now, self.wait)
        self._sites = [
            site.in_simulation(folder / "sites" / site.settings.site, seeded_noise) for site in sites
        ]
        self.agents = {site.settings.site: self._agent(site) for site in self._sites}

    def _agent(self, site: Site) -> Agent:
        """The agent of a site that is enrolled without ceremony: both sides are this process."""
        acquaint(self.hub, site)
        return Agent(site, self.store, InlineRunner(), now=self.now)

    def now(self) -> float:
        return time.time() + self._ahead

    def wait(self, seconds: float) -> None:
        """Let every agent work once; if none had anything to do, time passes."""
        if self._approving:
            with suppress(StoreError):  # away: seen at the next look
                self._approve_new()
        worked = [agent.step() for agent in self.agents.values()]
        if not any(worked):
            self._ahead += max(seconds, IDLE_STEP_S)

    def run(self, study: Study, run: str | None = None) -> str:
        """Play a study to its end and return the run's name. Raises what training raises."""
        publish_card(self.hub)
        return training(hub=self.hub, study=study, run=run or new_run_name(study.name, self.hub.now()))

    def _approve_new(self) -> None:
        for name in dict.fromkeys(name for site in self._sites for name in site.settings.sources):
            found = self.hub.store.get_if_changed(layout.proposal_key(name), self._approved.get(name))
            proposal = found and self.hub.read(layout.proposal_key(name), Proposal)
            study = proposal and self.hub.read(layout.study_key(name, proposal.study_sha256), Study)
            if found and proposal and study:
                approve_everywhere(self._sites, study, proposal)
                self._approved[name] = found.tag
