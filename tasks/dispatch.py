"""Hub: put a signed ticket into each site's mailbox, and ring its bell.

A ticket that is already there is used again, so that a hub which starts anew
asks nobody twice. A site is asked once more only where its ticket expired
without an answer, or where it had refused and the run was resumed.
"""

from __future__ import annotations

import re
import secrets

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout
from tasks.contracts import Operation, Receipt, Ticket
from tasks.pins import site_key
from tasks.plan import RoundPlan
from tasks.sealed import open_from_site

_ATTEMPT = re.compile(r"/\d{5}-(\d{2})-(\w+)\.json$")


@step(name="dispatch")
def dispatch(
    hub: Hub, plan: RoundPlan, operation: Operation, sites: tuple[str, ...], key: str, sha256: str
) -> dict[str, Ticket]:
    """Ask each of `sites` for `operation` on the parameters under `key`; returns the tickets by site."""
    tickets = {site: _ticket(hub, plan, operation, site, key, sha256) for site in sites}
    for site in sites:
        hub.store.put(layout.bell_key(site), secrets.token_hex(8).encode())
    return tickets


def _ticket(hub: Hub, plan: RoundPlan, operation: Operation, site: str, key: str, sha256: str) -> Ticket:
    last = _last_ticket(hub, plan, operation, site)
    if last is not None and last.parameters_sha256 == sha256 and _still_good(hub, last):
        return last
    ticket = Ticket(
        run=plan.manifest.run,
        study=plan.study.name,
        study_sha256=plan.manifest.study_sha256,
        recipe_sha256=plan.manifest.recipe_sha256,
        site=site,
        round=plan.round,
        attempt=1 if last is None else last.attempt + 1,
        operation=operation,
        parameters_key=key,
        parameters_sha256=sha256,
        nonce=secrets.token_hex(16),
        issued_at=hub.now(),
        expires_at=hub.now() + plan.study.deadline_s,
    )
    hub.write_once(layout.ticket_key(ticket), ticket)
    return hub.read(layout.ticket_key(ticket), Ticket) or ticket


def _last_ticket(hub: Hub, plan: RoundPlan, operation: Operation, site: str) -> Ticket | None:
    keys = hub.store.list(layout.tickets_of_round(site, plan.manifest.run, plan.round))
    attempts = [(m[1], k) for k in keys if (m := _ATTEMPT.search(k)) and m[2] == operation]
    return hub.read(max(attempts)[1], Ticket) if attempts else None


def _still_good(hub: Hub, ticket: Ticket) -> bool:
    raw = hub.store.get(layout.answer_key(ticket, "receipt.json"))
    if raw is None:
        return hub.now() < ticket.expires_at
    receipt = open_from_site(raw, Receipt, ticket.site, site_key(hub, ticket.site))
    if receipt is None or receipt.refusal is not None:
        return hub.now() < ticket.expires_at
    return True
