"""Checks of what the site's credentials can do in the store: its own mailbox, and nothing else.

The only way to know what is denied is to try it. What is tried writes a constant
text and takes it away again where it went through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from infra.errors import StoreError
from infra.identity import Identity
from sites.deliver import Delivery
from sites.doctor import Check, Row
from sites.settings import Site
from sites.uploads import reader_of

NEIGHBOUR = "fedrounds-doctor-neighbour"  # no site has this name by accident
LOAD_BYTES = 256 * 1024
SLOW = 100_000  # bytes a second: a model of 10 MB takes 100 s
DENY = "ask the store's owner to limit these credentials (`fedrounds site policy` prints how)"


def checks() -> list[Check]:
    return [others, throughput]


def others(site: Site) -> Iterator[Row]:
    store, name = reader_of(site), site.settings.site
    delivery = Delivery(store, Identity.create(name))
    tries: dict[str, Callable[[], object]] = {
        "read another site's mailbox": lambda: store.get(f"sites/{NEIGHBOUR}/out/card.json"),
        "list all mailboxes": lambda: store.list("sites/"),
        "list the hub's own": lambda: store.list("hub/"),
        "write to another site's mailbox": lambda: delivery.trespass(f"sites/{NEIGHBOUR}/out/probe"),
        "write to the hub's own": lambda: delivery.trespass("hub/doctor-probe"),
        "write to shared": lambda: delivery.trespass("shared/doctor-probe"),
    }
    if site.settings.uploads == "presigned":
        tries["write to the own mailbox"] = lambda: delivery.trespass(f"sites/{name}/out/probe")
    allowed = [what for what, attempt in tries.items() if _goes_through(attempt)]
    if not allowed:
        yield Row("others denied", "ok", f"these credentials cannot: {', '.join(tries)}")
    elif site.settings.store.startswith("file:"):
        cure = "for one machine and for tests; between institutions use an S3 store with a key for each site"
        yield Row("others denied", "warn", "the store is a folder, which keeps nobody apart", cure)
    else:
        yield Row("others denied", "warn", f"these credentials can {', '.join(allowed)}", DENY)


def throughput(site: Site) -> Iterator[Row]:
    if site.settings.uploads == "presigned":
        yield Row("throughput", "ok", "not measured: these credentials write nothing")
        return
    delivery = Delivery(reader_of(site), Identity.create(site.settings.site))
    began = time.monotonic()
    delivery.probe(LOAD_BYTES)
    rate = 2 * LOAD_BYTES / max(time.monotonic() - began, 1e-6)
    text = f"{rate / 1e6:.1f} MB/s, {LOAD_BYTES // 1024} KiB there and back"
    if rate < SLOW:
        yield Row(
            "throughput", "warn", text, "ask who runs the network; else the study needs a longer deadline_s"
        )
    else:
        yield Row("throughput", "ok", text)


def _goes_through(attempt: Callable[[], object]) -> bool:
    """Raises StoreError where the server is away: then nobody knows."""
    try:
        attempt()
    except StoreError as exc:
        if exc.passing:
            raise
        return False
    return True
