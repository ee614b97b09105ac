"""Checks of the four records in the state folder: each is still what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from infra.errors import InfraError
from sites.audit import FILE as AUDIT
from sites.auditread import TornTailError, decided, verified
from sites.doctor import Check, Row
from sites.egressfile import FILE as EGRESS
from sites.egressfile import noted_egress
from sites.identity import KEY
from sites.ledger import Ledger
from sites.settings import Site
from sites.voting import approvals_of

CURE = "restore the whole state folder from one backup, or find out who changed it"


def checks() -> list[Check]:
    return [ledger, audit, votes, egress]


def ledger(site: Site) -> Iterator[Row]:
    try:
        with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as opened:
            count = opened.head.entries
    except InfraError as exc:
        yield Row("ledger", "fail", str(exc), CURE)
    else:
        yield Row("ledger", "ok", f"its chain is whole: {count} entries")


def audit(site: Site) -> Iterator[Row]:
    if not (site.state / AUDIT).exists() and not (site.state / "audit.head").exists():
        yield Row("audit log", "ok", "not begun yet: the first start begins it")
        return
    try:
        head, _ = verified(site.state, site.settings.site)
    except TornTailError as exc:
        yield Row(
            "audit log", "warn", str(exc), "start the agent; then compare audit.torn with what was done last"
        )
    except InfraError as exc:
        yield Row("audit log", "fail", str(exc), CURE)
    else:
        yield Row("audit log", "ok", f"its chain is whole: {head.entries} lines")


def votes(site: Site) -> Iterator[Row]:
    """What people have decided, against what the audit log noted of it."""
    if not (site.state / KEY).exists():  # nobody has voted, and no key is made for the question
        yield Row("approvals", "ok", "nobody has decided anything yet")
        return
    try:
        book = approvals_of(site)
        doubted = [study for study in sorted(decided(site.state)) if not book.borne_out(study)]
        count = len(book.entries())
    except InfraError as exc:
        yield Row("approvals", "fail", str(exc), CURE)
        return
    if doubted:
        cure = "put the newest approvals.jsonl and approvals.head back, or reject and approve these anew"
        text = (
            f"the audit log knows other decisions than the votes on {', '.join(doubted)}: nothing of it runs"
        )
        yield Row("approvals", "fail", text, cure)
    else:
        yield Row("approvals", "ok", f"{count} votes, as the audit log notes them")


def egress(site: Site) -> Iterator[Row]:
    if not (site.state / EGRESS).exists():
        yield Row("egress records", "ok", "nothing has left yet")
        return
    try:
        count = len(noted_egress(site.state, site.settings.site))
    except InfraError as exc:
        yield Row("egress records", "fail", str(exc), CURE)
    else:
        yield Row("egress records", "ok", f"{count}, each signed, each in the audit log")
