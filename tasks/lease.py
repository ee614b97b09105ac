"""Hub: never two runs of a study at once, kept in the store and not by Prefect.

A lease is a numbered object that is created once; the highest number counts
until it expires. Renewing creates the next number. Two hubs that reach for the
same number meet at the store's put-if-absent, and exactly one has it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from infra.hub import Hub
from tasks import layout
from tasks.contracts import Lease
from tasks.errors import LeaseError

LIFETIME_S = 60.0  # a hub that died blocks its study no longer than this
HOLDER = secrets.token_hex(16)  # this process
_held: dict[tuple[str, str], Lease] = {}  # by store and study


@contextmanager
def lease(hub: Hub, study: str) -> Iterator[Lease]:
    """Hold a study while the block runs; `keep` inside it renews.

    Raises:
        LeaseError: another hub holds the study.
    """
    last = _last(hub, study)
    if last is not None and last.expires_at > hub.now():
        raise LeaseError(
            f"another run of study {study!r} is going on (lease {last.number}, for another "
            f"{last.expires_at - hub.now():.0f} s at least). Wait for it, or look with `fedrounds run list`."
        )
    held = _take(hub, study, 1 if last is None else last.number + 1)
    _held[hub.store_url, study] = held
    try:
        yield held
    finally:
        held = _held.pop((hub.store_url, study))
        hub.write_once(_key(held.study, held.number + 1), _next(hub, held, lifetime=0))


def keep(hub: Hub, study: str) -> None:
    """Renew the lease this process holds, when half of it is over. Without a lease: nothing to do.

    Raises:
        LeaseError: the lease expired and another hub has it now; this one must stop.
    """
    held = _held.get((hub.store_url, study))
    if held is None or hub.now() < held.expires_at - LIFETIME_S / 2:
        return
    _held[hub.store_url, study] = _take(hub, study, held.number + 1)
    if held.number > 1:
        hub.store.delete(_key(study, held.number - 1))


def _take(hub: Hub, study: str, number: int) -> Lease:
    mine = Lease(study=study, number=number, holder=HOLDER, expires_at=hub.now() + LIFETIME_S)
    if not hub.write_once(_key(study, number), mine):
        raise LeaseError(f"another hub took study {study!r} (lease {number}); this one stops")
    return mine


def _last(hub: Hub, study: str) -> Lease | None:
    keys = hub.store.list(layout.lease_prefix(study))
    return hub.read(keys[-1], Lease) if keys else None


def _next(hub: Hub, held: Lease, lifetime: float) -> Lease:
    return Lease(study=held.study, number=held.number + 1, holder=HOLDER, expires_at=hub.now() + lifetime)


def _key(study: str, number: int) -> str:
    return f"{layout.lease_prefix(study)}{number:012d}.json"
