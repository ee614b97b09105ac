"""Worlds with servers: Prefect and MLflow beside the hub; an S3 server behind cables that may fail.

world.py has the plain one, and what all share. Servers that end are started
again, as their machine would do it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flows.reconcile import set_prefect_right
from infra import processes, servers, sessions
from infra.serverfiles import MLFLOW, PREFECT, server_command, server_environment
from infra.tracking import Tracking
from tasks import layout
from tasks.records import RoundRecord
from tests.chaos import disks
from tests.chaos.cables import Cabled
from tests.chaos.world import LOOK_S, ROUNDS, RUN_LIMIT_S, Stuck, World
from tests.services.ceph import Ceph, serve_s3
from tests.services.namespaces import STORE

HUB_DISK_MIB = 256  # for the servers' databases too
LOOK_AT_S3_S = 0.25
PREFIX = "chaos"


class ServersWorld(World):
    """With Prefect's and MLflow's servers, on SQLite in the hub's folder."""

    def __init__(self, folder: Path, rounds: int = ROUNDS, **terms: Any):
        super().__init__(folder, rounds, **terms)
        self._back_at: dict[str, float] = {}

    def signal_server(self, name: str, number: signal.Signals, whole: bool = True) -> None:
        """To all processes of a server, or to the one alone that was started first."""
        found = processes.find(self._servers, name)
        if found is None:
            return
        for pid in sessions.members(sessions.mark(found.pid)) if whole else [found.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_server(self, name: str, away_s: float, whole: bool) -> None:
        self._back_at[name] = time.monotonic() + away_s
        self.signal_server(name, signal.SIGKILL, whole)

    def settle(self) -> None:
        until = time.monotonic() + RUN_LIMIT_S
        while not all(server.healthy for server in servers.state(self.hub)):
            self._revive()
            if time.monotonic() > until:
                raise Stuck(f"the servers did not come back; look into {self._servers}")
            time.sleep(LOOK_S)

    def views(self, records: list[RoundRecord]) -> Iterable[str]:
        """One run, one child a site, one model version a round; nothing that only seems to go on."""
        tracking = Tracking(str(self.hub.mlflow_url))
        versions = tracking.versions(self.study.name, {"run": self.run})
        rounds = sorted(int(version.tags["round"]) for version in versions)
        if rounds != [record.round for record in records]:
            yield f"MLflow has versions of rounds {rounds}"
        shown = {v.tags["round"]: v.tags["parameters_sha256"] for v in versions}
        if any(shown.get(str(r.round)) != r.parameters_sha256 for r in records):
            yield f"MLflow shows other parameters: {shown}"
        runs = tracking.runs(tracking.experiment(self.study.name, {}), {"run": self.run})
        named = sorted(run.tags.get("site", "") for run in runs)
        if named != sorted(["", *self.study.sites]):
            yield f"MLflow has runs of {named}"
        states = {run.tags.get("state") for run in runs if "site" not in run.tags}
        if states != {"FINISHED"}:
            yield f"MLflow says {states} of the run"
        for run in runs:
            yield from self._points(tracking, run.id, run.tags.get("site"))
        set_prefect_right(self.hub)
        left = set_prefect_right(self.hub)
        if left:
            yield f"Prefect still shows {left} as running"

    def _points(self, tracking: Tracking, run: str, site: str | None) -> Iterable[str]:
        key = "global/loss" if site is None else "dp/epsilon"
        steps = [point.step for point in tracking.client.get_metric_history(run, key)]
        if sorted(steps) != list(range(1, self.study.rounds + 1)):
            yield f"MLflow has {key} of {site or 'the run'} at rounds {sorted(steps)}"

    @property
    def _servers(self) -> Path:
        return self.hub.directory / servers.FOLDER

    def _mount(self) -> None:
        super()._mount()
        if disks.why_not() is None:
            mounted = self._stack.enter_context(disks.Disks())
            mounted.add(self.hub.directory, HUB_DISK_MIB)

    def _serve(self) -> None:
        self._stack.callback(servers.stop, self.hub.directory)
        self.hub = servers.start(self.hub)

    def _revive(self) -> None:
        super()._revive()
        for name in (PREFECT, MLFLOW):
            if time.monotonic() < self._back_at.get(name, 0.0) or processes.alive(self._servers, name):
                continue
            self.hit()
            try:
                processes.stop(self._servers, name)  # what outlived its leader
                command, env = server_command(self.hub, name), server_environment(self.hub, name)
                processes.start(self._servers, name, command, env)
            except OSError:  # its disk is full
                self._back_at[name] = time.monotonic() + 0.5


class NetworkWorld(World):
    """A real S3 server, and each site and the hub on a network of its own whose only cable goes there."""

    def _mount(self) -> None:
        """The store has no folder here; sites' disks are filled in the plain world."""

    def _serve(self) -> None:
        self.machines = self._stack.enter_context(Cabled(["hub", *self.study.sites]))
        self._stack.enter_context(
            self.machines.inside("store")
        )  # the harness looks at the store from beside it
        (self.folder / "ceph").mkdir()
        self.ceph = self._stack.enter_context(Ceph(self.folder / "ceph", STORE))
        server = serve_s3(self.ceph)
        self._stack.enter_context(_credentials(server.access_key, server.secret_key))
        self.hub = self.hub.model_copy(update={"store_url": server.url(PREFIX)})
        impatient = Config(
            connect_timeout=LOOK_AT_S3_S, read_timeout=LOOK_AT_S3_S, retries={"total_max_attempts": 1}
        )
        self._client, self._bucket = server.client(config=impatient), server.bucket
        self._looked, self._seen = 0.0, (0, False)
        self._gateway_back_at = 0.0

    @property
    def progress(self) -> int:
        return self._look()[0]

    @property
    def begun(self) -> bool:
        return self._look()[1]

    def play(self, run: str, fault: Callable[[World], Generator[None, None, None]]) -> float:
        self._seen = 0, False
        return super().play(run, fault)

    def kill_store_server(self, away_s: float) -> None:
        self._gateway_back_at = time.monotonic() + away_s
        self.ceph.gateway.kill()
        self.ceph.gateway.wait()

    def settle(self) -> None:
        until = time.monotonic() + RUN_LIMIT_S
        while self.ceph.gateway.poll() is not None or not self.ceph.answers():
            self._revive()
            if time.monotonic() > until:
                raise Stuck("the S3 server did not come back")
            time.sleep(LOOK_S)

    def _place(self, who: str) -> AbstractContextManager[object]:
        return self.machines.inside(who)

    def _site_file(self, site: str) -> Path:
        file = super()._site_file(site)
        file.write_text(file.read_text().replace(self.store.as_uri(), self.hub.store_url))
        return file

    def _revive(self) -> None:
        super()._revive()
        if self.ceph.gateway.poll() is not None and time.monotonic() >= self._gateway_back_at:
            self.ceph.start_gateway()

    def _look(self) -> tuple[int, bool]:
        """Progress, and whether the run has begun; as it was at the last look where the server does not answer."""
        if time.monotonic() >= self._looked + LOOK_AT_S3_S:
            with contextlib.suppress(BotoCoreError, ClientError):
                keys = self._keys(f"hub/runs/{self.run}/")
                done = sum("/rounds/" in key or key.endswith("/ended.json") for key in keys)
                self._seen = done, bool(self._keys(layout.run_key(self.run)))
            self._looked = time.monotonic()
        return self._seen

    def _keys(self, prefix: str) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{PREFIX}/{prefix}")
        return [each["Key"] for each in found.get("Contents", [])]


@contextlib.contextmanager
def _credentials(access_key: str, secret_key: str) -> Iterator[None]:
    """In the environment while the block runs, where agents and hub look for them."""
    ours = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
