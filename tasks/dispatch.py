"""Hub: put a signed ticket into each site's mailbox, and ring its bell.

A ticket that is already there is used again, so that a hub which starts anew
asks nobody twice. A site is asked once more only where its ticket expired
without an answer, where it had refused and the run was resumed, or where its
job failed and the round still has time.
"""

from __future__ import annotations

import re
import secrets

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout
from tasks.contracts import Code, Operation, Receipt, Ticket
from tasks.errors import ContractError
from tasks.lease import keep
from tasks.pins import site_key
from tasks.plan import RoundPlan
from tasks.sealed import open_from_site

ATTEMPTS = 3  # of one site in one round; each costs the site a debit of its own
WORTH_A_RETRY = frozenset({Code.TRAINING_FAILED})  # any other refusal would come again

_ATTEMPT = re.compile(r"/\d{5}-(\d{2})-(\w+)\.json$")


@step(name="dispatch")
def dispatch(
    hub: Hub, plan: RoundPlan, operation: Operation, sites: tuple[str, ...], key: str, sha256: str
) -> dict[str, Ticket]:
    """Ask each of `sites` for `operation` on the parameters under `key`; returns the tickets by site."""
    tickets = {site: _ticket(hub, plan, operation, site, key, sha256) for site in sites}
    for site in sites:
        _ring(hub, site)
    return tickets


def ask_again(hub: Hub, plan: RoundPlan, refused: Ticket, code: Code) -> Ticket | None:
    """A new attempt of a ticket whose job failed, due when the first was; None where it is not worth one.

    Raises:
        LeaseError: another hub has taken the study.
    """
    if code not in WORTH_A_RETRY or refused.attempt >= ATTEMPTS or hub.now() >= refused.expires_at:
        return None
    ticket = _write(hub, plan, _anew(hub, refused))
    _ring(hub, refused.site)
    return ticket


def _ring(hub: Hub, site: str) -> None:
    hub.store.put(layout.bell_key(site), secrets.token_hex(8).encode())


def _anew(hub: Hub, ticket: Ticket) -> Ticket:
    return ticket.model_copy(
        update={"attempt": ticket.attempt + 1, "nonce": secrets.token_hex(16), "issued_at": hub.now()}
    )


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
    return _write(hub, plan, ticket)


def _write(hub: Hub, plan: RoundPlan, ticket: Ticket) -> Ticket:
    keep(hub, plan.study.name)  # a hub that slept past its lease asks nobody
    hub.write_once(layout.ticket_key(ticket), ticket)
    return _read(hub, layout.ticket_key(ticket)) or ticket


def _read(hub: Hub, key: str) -> Ticket | None:
    """The ticket of a key, if it was written for this very place: the store may hold out another one of ours.

    Raises:
        ContractError: a ticket of another place.
    """
    ticket = hub.read(key, Ticket)
    if ticket is not None and layout.ticket_key(ticket) != key:
        raise ContractError(
            f"the store shows {layout.ticket_key(ticket)} under {key}; is it being tampered with?"
        )
    return ticket


def _last_ticket(hub: Hub, plan: RoundPlan, operation: Operation, site: str) -> Ticket | None:
    keys = hub.store.list(layout.tickets_of_round(site, plan.manifest.run, plan.round))
    attempts = [(m[1], k) for k in keys if (m := _ATTEMPT.search(k)) and m[2] == operation]
    return _read(hub, max(attempts)[1]) if attempts else None


def _still_good(hub: Hub, ticket: Ticket) -> bool:
    """True where the site may yet answer, or has delivered."""
    raw = hub.store.get(layout.answer_key(ticket, "receipt.json"))
    if raw is None:
        return hub.now() < ticket.expires_at
    receipt = open_from_site(raw, Receipt, ticket.site, site_key(hub, ticket.site))
    return receipt is not None and receipt.refusal is None
