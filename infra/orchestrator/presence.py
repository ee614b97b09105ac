"""Sites among Prefect's work pools: `site-<name>` shows a site's last contact and lets the operator pause it.

A mirror, nothing more: no flow is ever scheduled there, and no stock worker
serves pools of this type. All of it is a courtesy: calls go out one after
another in the background, and where Prefect is away nothing waits for it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING

from infra.orchestrator.context import inside

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)

POOL_TYPE = "fedrounds-site"
PREFIX = "site-"
DESCRIPTION = (
    "Mirror of a site; nothing is scheduled here. The site's agent looks into its mailbox in the object store; "
    "the worker's heartbeat is its last contact. Pause this pool, and the next round does not ask the site."
)
HEARTBEAT_S = 30  # what Prefect is told: without a sign for three of them the site counts as offline
MIN_GAP_S = 10.0  # between two heartbeats of one site
FRESH_S = 5.0  # how old an answer of `paused` may be
PATIENCE_S = 2.0  # how long a round may wait for Prefect's answer; then the last known one counts
SILENCE_S = 30.0  # no call after one that failed
PAGE = 200  # most pools in one answer of the server


def heartbeat(site: str, at: float) -> None:
    """Show that the site was heard of; cheap to call often.

    Args:
        site: its name; the pool is made where it is missing.
        at: seconds since 1970, the site's clock: only a newer one than before is a sign of life.
    """
    if inside():
        _mirror().heartbeat(site, at)


def paused(site: str) -> bool:
    """True where the operator paused the site's pool; the answer may be some seconds old."""
    return inside() and _mirror().paused(site)


def _mirror() -> _Mirror:
    from prefect.settings import PREFECT_API_URL

    return _mirror_of(str(PREFECT_API_URL.value()))


@functools.cache
def _mirror_of(url: str) -> _Mirror:
    return _Mirror(url)


class _Mirror:
    """What this process knows and says of all sites at one Prefect server."""

    def __init__(self, url: str):
        from prefect.client.orchestration import SyncPrefectClient

        self._client: SyncPrefectClient = SyncPrefectClient(url, httpx_settings={"timeout": PATIENCE_S})
        self._calls: SimpleQueue[tuple[Callable[[], None], Event]] = SimpleQueue()
        self._pools: dict[str, bool] = {}  # paused? by pool
        self._asked: Event | None = None
        self._asked_at = float("-inf")
        self._heard: dict[str, float] = {}  # the sites' clocks
        self._told: dict[str, float] = {}  # ours, monotonic
        self._silent_until = float("-inf")
        Thread(target=self._work, name="presence", daemon=True).start()

    def later(self, call: Callable[[], None]) -> Event:
        """Do it in the background; the event is set when it is done or has failed."""
        done = Event()
        self._calls.put((call, done))
        return done

    def _work(self) -> None:
        while True:
            call, done = self._calls.get()
            try:
                if time.monotonic() >= self._silent_until:
                    call()
            except Exception as exc:  # noqa: BLE001 - no failure of the show may stop a round
                self._silent_until = time.monotonic() + SILENCE_S
                log.warning("Prefect does not take the sites' presence: %s: %s", type(exc).__name__, exc)
            finally:
                done.set()

    def heartbeat(self, site: str, at: float) -> None:
        newer = at > self._heard.get(site, time.time() - 3 * HEARTBEAT_S)
        now = time.monotonic()
        if newer and now - self._told.get(site, float("-inf")) >= MIN_GAP_S:
            self._heard[site], self._told[site] = at, now
            self.later(lambda: self._tell(site))

    def paused(self, site: str) -> bool:
        pending = self._asked is not None and not self._asked.is_set()
        if not pending and time.monotonic() - self._asked_at > FRESH_S:
            self._asked, self._asked_at = self.later(self._read_pools), time.monotonic()
            self._asked.wait(PATIENCE_S)
        if PREFIX + site not in self._pools:
            self.later(lambda: self.create(site))
        return self._pools.get(PREFIX + site, False)

    def create(self, site: str) -> None:
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectAlreadyExists

        if PREFIX + site in self._pools:
            return
        pool = WorkPoolCreate(
            name=PREFIX + site, type=POOL_TYPE, description=DESCRIPTION, base_job_template={}
        )
        with suppress(ObjectAlreadyExists):
            self._client.create_work_pool(pool)
        self._pools.setdefault(PREFIX + site, False)

    def _tell(self, site: str) -> None:
        self.create(site)
        self._client.send_worker_heartbeat(
            PREFIX + site, f"agent@{site}", heartbeat_interval_seconds=HEARTBEAT_S
        )

    def _read_pools(self) -> None:
        from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterType

        ours = WorkPoolFilter(type=WorkPoolFilterType(any_=[POOL_TYPE]))
        found: dict[str, bool] = {}
        while True:
            page = self._client.read_work_pools(limit=PAGE, offset=len(found), work_pool_filter=ours)
            found |= {pool.name: pool.is_paused for pool in page}
            if len(page) < PAGE:
                break
        self._pools = found
