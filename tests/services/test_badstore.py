"""A study with real agents whose store is a bad S3 server: everybody's way to it fails all the time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from infra.hub import Hub
from simulation.acquaint import acquaint
from simulation.approving import approve_everywhere
from simulation.deployment import start_agent, stop, wait_for_agents
from sites.settings import load_site
from tasks.card import publish_card
from tasks.propose import propose
from tasks.study import Study
from tests.chaos.invariants import violations
from tests.federation import SITES, a_study, write_site
from tests.services.badstore import bad_store
from tests.services.storefaults import often
from tests.services.ways import through

pytestmark = [pytest.mark.s3, pytest.mark.slow]


class Stage(NamedTuple):
    """What the invariants of the chaos harness look at; no process was touched."""

    folder: Path
    hub: Hub  # with an honest way to the store
    study: Study
    run: str
    lost: Mapping[str, int] = MappingProxyType(dict.fromkeys(SITES, 0))
    loses: bool = False

    def orphans(self) -> list[int]:
        return []

    def views(self, _records: object) -> tuple[str, ...]:
        return ()  # neither Prefect nor MLflow looks on


def played(folder: Path, s3_server, s3_url: str, seed: int, share: float) -> tuple[Stage, set[str]]:
    """A whole run through the proxy; returns what there is to judge, and what kinds of requests were disturbed."""
    from flows.training import training

    study = a_study(deadline_s=240)
    honest = Hub(directory=folder / "hub", store_url=s3_url)
    with bad_store(s3_server.endpoint) as bad:
        hub = honest.model_copy(update={"store_url": through(s3_url, bad.url)})
        files = {
            site: write_site(
                folder / "files", site, extra="testing: {seeded_noise: true}\n", epsilon=10_000.0
            )
            for site in SITES
        }
        publish_card(honest)
        try:
            for site, file in files.items():
                file.write_text(
                    file.read_text().replace((folder / "files" / "store").as_uri(), hub.store_url)
                )
                acquaint(honest, load_site(file))
                start_agent(hub, site, file)
            wait_for_agents(honest, list(SITES))
            approve_everywhere([load_site(f) for f in files.values()], study, propose(honest, study))
            bad.plan = often(seed, share)
            training(hub=hub, study=study, run="toy-1")
        finally:
            stop(hub.directory)
        disturbed = {kind for kind, _ in bad.done}
    return Stage(folder, honest, study, "toy-1"), disturbed


@pytest.mark.timeout(600)
def test_a_study_survives_a_bad_store(tmp_path, s3_server, s3_url):
    """One request in twenty fails: nothing is lost, trained twice, paid twice, committed twice or left behind."""
    stage, disturbed = played(tmp_path, s3_server, s3_url, seed=1, share=0.05)

    assert violations(stage) == []
    assert disturbed >= {"GET", "LIST", "PUT"}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 8))
def test_a_study_survives_a_very_bad_store(tmp_path, s3_server, s3_url, seed):
    """One in three, with other seeds: whatever meets whatever."""
    stage, disturbed = played(tmp_path, s3_server, s3_url, seed, share=0.33)

    assert violations(stage) == []
    assert disturbed >= {"GET", "LIST", "PUT"}
