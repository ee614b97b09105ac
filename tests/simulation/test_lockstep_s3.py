"""A round in lockstep on the real S3 server, by real agents, each with credentials of its own that do no more than they must."""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.cli import main
from flows.training import training
from infra.hub import Hub
from simulation.acquaint import enrol
from simulation.deployment import PATIENCE_S, start_agent, stop, wait_for_agents
from sites.egressfile import noted_egress
from sites.ledger import Ledger
from sites.settings import load_site
from tasks import layout
from tasks.approval import presence_of
from tasks.card import publish_card
from tasks.commit import load_records
from tests.federation import FOUR, approve_at, write_site
from tests.flows.test_distributed import shared

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.long]

STEPS = 20
WAYS = dict.fromkeys(FOUR, "credentials") | {"south": "presigned", "west": "presigned"}


@pytest.fixture
def store(tmp_path, s3_server, s3_url, monkeypatch) -> str:
    """Address of a bucket in which each site's own profile may use its mailbox, and half of them only read it."""
    bucket = f"federation-{uuid.uuid4().hex[:8]}"
    s3_server.client().create_bucket(Bucket=bucket)
    url = f"s3://{bucket}/pre?endpoint={quote(s3_server.endpoint)}&region=us-east-1"
    profiles = {"hub": (s3_server.access_key, s3_server.secret_key)}
    for site, uploads in WAYS.items():
        profiles[site] = s3_server.ceph.add_user(f"fedrounds-{uuid.uuid4().hex[:8]}")
        user = s3_server.client(profiles[site]).list_buckets()["Owner"]["ID"]
        words = [
            "--policy-only",
            "--kind",
            "ceph",
            "--uploads",
            uploads,
            "--principal",
            f"arn:aws:iam:::user/{user}",
        ]
        assert main(["site", "policy", site, *words, "--store", url, "--apply"]) == 0
    lines = [
        f"[{name}]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"
        for name, (key, secret) in profiles.items()
    ]
    (tmp_path / "aws").write_text("".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return url


def site_file(folder: Path, site: str, store: str) -> Path:
    path = write_site(folder / "files", site, epsilon=1e4)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("store:")]
    own = f"store: '{store}&profile={site}'"
    path.write_text("\n".join([own, f"uploads: {WAYS[site]}", *kept]) + "\n")
    return path


def wait_for_all(hub: Hub) -> None:
    """Until each agent has shown a sign of life; the card of one that may only read is known from its enrolment."""
    wait_for_agents(hub, [site for site in FOUR if WAYS[site] == "credentials"])
    until = time.monotonic() + PATIENCE_S
    while any(presence_of(hub, site) is None for site in FOUR):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.timeout(900)
def test_a_round_in_lockstep_on_s3_with_credentials_of_each_sites_own(tmp_path, store):
    """All sites are in all steps, those that may only read too; ledgers and both logs say so; no step is left over."""
    hub = Hub(directory=tmp_path / "hub", store_url=f"{store}&profile=hub")
    hub.save()
    publish_card(hub)
    files = {site: site_file(tmp_path, site, store) for site in FOUR}
    study = shared(rounds=2, privacy={"steps": STEPS}, deadline_s=300)
    try:
        for site, file in files.items():
            enrol(hub, load_site(file), uploads=WAYS[site])
            start_agent(hub, site, file)
        wait_for_all(hub)
        approve_at(hub, files.values(), study)
        run = training(hub=hub, study=study)
    finally:
        stop(hub.directory)

    records = load_records(hub, run)
    assert [record.cohort for record in records] == [FOUR, FOUR]
    assert [record.lockstep.sites for record in records] == [(4,) * STEPS] * 2
    assert not hub.store.list(layout.lockstep_prefix(run)) and not hub.store.list(layout.steps_prefix(run))
    for site, file in files.items():
        state = load_site(file).state
        words = [r for r in noted_egress(state, site) if r.key.endswith("step.json")]
        assert (
            len(words) >= 2 * STEPS
        )  # in each step a vector; shares where the others' were not enough before
        with closing(Ledger(state, site=site, read_only=True)) as ledger:
            rows = [(row.entry.round, row.entry.event.steps, row.state) for row in ledger.rows()]
        assert rows == [(1, STEPS, "charged"), (2, STEPS, "charged")]
