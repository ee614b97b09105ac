"""Hub: never two runs of a study at once, kept in the store and not by Prefect.

A lease is a numbered object that is created once; the highest number counts
until it expires. Renewing creates the next number. Two hubs that reach for the
same number meet at the store's put-if-absent, and exactly one has it. The
number goes into every commit: it tells which hub wrote it (commit.py). The last
numbers are kept, so that a store's list that is behind still leads to the newest.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from infra.errors import StoreError
from infra.hub import Hub
from tasks import layout
from tasks.errors import LeaseError
from tasks.records import Lease

log = logging.getLogger(__name__)

LIFETIME_S = 60.0  # a hub that died blocks its study no longer than this
LOOK_S = 1.0  # between two looks at the lease of a hub that may be dead
KEPT = 20  # numbers; renewing takes one each half LIFETIME_S, so a list may be 10 minutes behind
HOLDER = secrets.token_hex(16)  # this process
_NUMBER = re.compile(r"/(\d{12})\.json$")
_held: dict[tuple[str, str], Lease] = {}  # by store and study
_renewing = threading.Lock()  # sites are followed by threads, and one of them renews


@contextmanager
def lease(hub: Hub, study: str) -> Iterator[Lease]:
    """Hold a study while the block runs; `keep` inside it renews.

    A lease that is not renewed is a dead hub's: it is waited for, at most LIFETIME_S.

    Raises:
        LeaseError: another hub holds the study and is alive.
    """
    place = hub.store_url, study
    if place in _held:
        raise _going_on(_held[place])
    last = _last(hub, study)
    if last is not None:
        last = _outlast(hub, last)
    _held[place] = _take(hub, study, 1 if last is None else last.number + 1)
    try:
        yield _held[place]
    finally:
        with suppress(StoreError):  # it runs out by itself
            _give_back(hub, _held.pop(place))


def keep(hub: Hub, study: str) -> None:
    """Renew the lease this process holds, when half of it is over. Without a lease: nothing to do.

    Raises:
        LeaseError: the lease expired and another hub has it now; this one must stop.
    """
    with _renewing:
        held = _held.get((hub.store_url, study))
        if held is None or hub.now() < held.expires_at - LIFETIME_S / 2:
            return
        _held[hub.store_url, study] = _take(hub, study, held.number + 1)
        for key in hub.store.list(layout.lease_prefix(study))[:-KEPT]:
            hub.store.delete(key)


def fence(hub: Hub, study: str) -> int:
    """The number of the lease that this process holds now, looked up in the store; 0 without one.

    Raises:
        LeaseError: another hub has taken the study.
    """
    keep(hub, study)
    held = _held.get((hub.store_url, study))
    if held is None:
        return 0
    newest = _last(hub, study)
    if newest is not None and newest.number > held.number:
        raise _taken(study, newest.number)
    return held.number


def holder(hub: Hub, study: str, slack_s: float = 0.0) -> str | None:
    """Which process holds the study now, as its lease says, or held it `slack_s` ago; None where none does."""
    last = _last(hub, study)
    return last.holder if last is not None and last.expires_at > hub.now() - slack_s else None


def _give_back(hub: Hub, held: Lease) -> None:
    newest = _last(hub, held.study)
    if newest is not None and newest.number == held.number:  # else it is a successor's study now
        over = held.model_copy(update={"number": held.number + 1, "expires_at": hub.now()})
        hub.write_once(_key(held.study, over.number), over)


def _outlast(hub: Hub, last: Lease) -> Lease:
    """Wait until a lease is over; returns the one that counts then. Its holder may have gone in peace meanwhile."""
    until = min(last.expires_at, hub.now() + LIFETIME_S)
    if hub.now() < until:
        log.warning(
            "study %r is held by another hub (lease %d). If that one is dead, this run begins in %.0f s.",
            last.study,
            last.number,
            until - hub.now(),
        )
    while hub.now() < until:
        hub.wait(min(LOOK_S, max(0.0, until - hub.now())))
        newest = _last(hub, last.study)
        if newest is not None and newest.number != last.number:
            if newest.expires_at > hub.now():
                raise _going_on(newest)
            return newest
    return last


def _take(hub: Hub, study: str, number: int) -> Lease:
    mine = Lease(study=study, number=number, holder=HOLDER, expires_at=hub.now() + LIFETIME_S)
    if not hub.write_once(_key(study, number), mine):
        raise _taken(study, number)
    newest = _last(hub, study)
    if newest is not None and newest.number > number:  # the number was free because a successor tidied up
        hub.store.delete(_key(study, number))
        raise _taken(study, newest.number)
    return mine


def _taken(study: str, number: int) -> LeaseError:
    return LeaseError(f"another hub took study {study!r} (lease {number}); this one stops")


def _going_on(held: Lease) -> LeaseError:
    return LeaseError(
        f"another run of study {held.study!r} is going on (lease {held.number}). "
        f"Wait for it, or look with `fedrounds run list`."
    )


def _last(hub: Hub, study: str) -> Lease | None:
    numbers = [m[1] for m in map(_NUMBER.search, hub.store.list(layout.lease_prefix(study))) if m]
    newest = hub.latest(int(max(numbers, default=0)), lambda number: _key(study, number))
    found = hub.read(_key(study, newest), Lease) if newest else None
    if newest and found is None:
        raise StoreError(
            f"{hub.store_url} names lease {newest} of study {study!r} and does not have it: what it lists is "
            f"behind; try again in some minutes",
            passing=True,
        )
    return found


def _key(study: str, number: int) -> str:
    return f"{layout.lease_prefix(study)}{number:012d}.json"
