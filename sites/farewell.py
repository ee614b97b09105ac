"""Leaving a hub: a last signed word, then the keys are destroyed. Ledger and audit log stay.

Every step may be repeated after a fall: the last word is kept before it is
sent, and sent before the key that signed it is destroyed. What the log's head
was signed with can still be checked, by the public key in card.json.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from infra.errors import FileError
from infra.keyfile import replace_private, sync_folder
from infra.store.base import Store
from sites.audit import FILE as AUDIT
from sites.audit import TORN as AUDIT_TORN
from sites.audit import Audit
from sites.auditchain import HEAD as AUDIT_HEAD
from sites.auditevents import Membership
from sites.auditread import verified
from sites.deliver import Delivery
from sites.egressfile import FILE as EGRESS
from sites.identity import AGREEMENT, FORMER, HUB, KEY, LAST_CARD, hub_of, own_card, own_identity
from sites.ledger import Ledger
from sites.membership import FAREWELL, WORD
from sites.newkeys import NEXT_AGREEMENT, NEXT_KEY
from sites.settings import Site
from sites.uploads import learn_standing
from tasks import layout
from tasks.membership import Leaving

SECRETS = (KEY, AGREEMENT, NEXT_KEY, NEXT_AGREEMENT)
KEPT = (AUDIT, AUDIT_HEAD, AUDIT_TORN, EGRESS, FORMER, LAST_CARD, HUB, WORD, FAREWELL, "agent.lock")


def leave(site: Site, store: Store, now: float, wipe: bool) -> None:
    """Tell the hub, destroy the keys, and with `wipe` all else but ledger and audit log.

    Raises:
        FileError: this site is not enrolled, or has left.
        StoreError: the hub cannot be told; nothing was destroyed, call again.
    """
    hub, state, name = hub_of(site.state), site.state, site.settings.site
    if not (state / KEY).exists():
        _destroy_all(state, wipe)  # where a fall came between
        raise FileError("this site has left already; its keys are destroyed")
    identity = own_identity(name, state)
    audit = Audit(state, identity.signing)
    if not (state / FAREWELL).exists():
        audit.note(Membership(state="left", word=0, public_key=identity.public.public_key))
        audit.secure()
        said = _last_word(site, now, wipe)
        sealed = identity.seal(said, [hub, identity.public], layout.leaving_key(name))
        replace_private(state / FAREWELL, sealed)
    learn_standing(store, name, hub, identity)
    Delivery(store, identity, hub, audit).leaving(name, (state / FAREWELL).read_bytes())
    audit.secure()
    replace_private(state / LAST_CARD, own_card(identity).model_dump_json().encode())
    _destroy_all(state, wipe)


def _destroy_all(state: Path, wipe: bool) -> None:
    for secret in SECRETS:
        _destroy(state / secret)
    if wipe:
        _wipe(state)
    sync_folder(state)


def _last_word(site: Site, now: float, wipe: bool) -> Leaving:
    head, _ = verified(site.state, site.settings.site)
    with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
        return Leaving(
            site=site.settings.site,
            at=now,
            keys_destroyed=True,
            wiped=wipe,
            ledger_entries=ledger.head.entries,
            ledger_hash=ledger.head.hash,
            audit_lines=head.entries,
            audit_hash=head.hash,
        )


def _destroy(path: Path) -> None:
    """Overwrite and remove. What a copying file system or a backup still holds, nobody's program can reach."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()


def _wipe(state: Path) -> None:
    for path in state.iterdir():
        if path.name in KEPT or path.name.startswith("ledger"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
