"""Where everything lies in the object store. The only place that spells a key.

shared/        hub writes, sites read: card, studies, runs, parameters
sites/<s>/in/  hub writes, site s reads: bell, membership and tickets
sites/<s>/out/ site s writes, hub reads: card, enrolment, presence, answers
hub/           hub only: register of sites, leases, commits
"""

from __future__ import annotations

import re

from tasks.codes import WORK, Operation
from tasks.contracts import Receipt, Ticket

HUB_CARD = "shared/hub.json"
STEP_PARTS = ("step.masked", "step.json")  # of an answer, in a round in lockstep
SAID_PARTS = ("receipt.json", "update.safetensors", "update.masked", *STEP_PARTS)  # all but progress


def study_key(study: str, sha256: str) -> str:
    return f"shared/studies/{study}/{sha256}.json"


def studies_prefix() -> str:
    return "shared/studies/"


def start_key(study: str, sha256: str) -> str:
    """Parameters that a study begins from, where these are not its recipe's own."""
    return f"{studies_prefix()}{study}/start-{sha256}.safetensors"


def proposal_key(study: str) -> str:
    """The newest version of a study that the hub asks its sites to approve."""
    return f"{studies_prefix()}{study}/proposed.json"


def run_key(run: str) -> str:
    return f"shared/runs/{run}/run.json"


def parameters_prefix(run: str) -> str:
    return f"shared/runs/{run}/parameters/"


def parameters_key(run: str, round_: int, sha256: str) -> str:
    """Parameters after a round; round 0 holds the initial ones. The digest keeps two candidates of a round apart."""
    return f"{parameters_prefix(run)}{round_:05d}-{sha256[:16]}.safetensors"


def round_of_parameters(key: str) -> int | None:
    """The round after which parameters came to be, by their key; None where no parameters lie."""
    found = re.fullmatch(r"shared/runs/[^/]+/parameters/([0-9]{5})-[0-9a-f]{16}\.safetensors", key)
    return int(found[1]) if found else None


def run_of_parameters(key: str) -> str:
    """The run in a key of `parameters_key`."""
    return key.split("/")[2]


def sums_prefix(run: str) -> str:
    return f"shared/runs/{run}/sums/"


def sum_key(run: str, round_: int, part: str, sha256: str) -> str:
    """What the hub passes on for secure sums in a round; `part` says which step it is for."""
    return f"{sums_prefix(run)}{round_:05d}-{part}-{sha256[:16]}.json"


def inbox(site: str) -> str:
    return f"sites/{site}/in/tickets/"


def bell_key(site: str) -> str:
    """Overwritten with anything new: the one key that an idle agent polls."""
    return f"sites/{site}/in/bell"


def cancel_key(site: str, run: str) -> str:
    """The hub's word that a run was cancelled; beside the tickets, not among them."""
    return f"sites/{site}/in/cancelled/{run}.json"


def ticket_name(ticket: Ticket | Receipt) -> str:
    return work_name(ticket.run, ticket.round, ticket.attempt, ticket.operation)


def work_name(run: str, round_: int, attempt: int, operation: str) -> str:
    return f"{run}/{round_:05d}-{attempt:02d}-{operation}"


def tickets_of_run(site: str, run: str) -> str:
    return f"{inbox(site)}{run}/"


def round_of_ticket(key: str) -> int | None:
    """The round in a ticket's key; None where the store lists what no hub has put there."""
    number = key.rpartition("/")[2].partition("-")[0]
    return int(number) if re.fullmatch(r"[0-9]{5}", number) else None


def tickets_of_round(site: str, run: str, round_: int) -> str:
    """Prefix of all attempts and operations of a round."""
    return f"{inbox(site)}{run}/{round_:05d}-"


def ticket_key(ticket: Ticket) -> str:
    return f"{inbox(ticket.site)}{ticket_name(ticket)}.json"


def sites_prefix() -> str:
    return "sites/"


def card_key(site: str) -> str:
    return f"sites/{site}/out/card.json"


def presence_key(site: str) -> str:
    return f"sites/{site}/out/presence.json"


def update_place(run: str, round_: int) -> str:
    """What an update is encrypted for, whichever attempt of the round sends it: its bytes stay the same."""
    return f"update/{run}/{round_:05d}"


def answer_key(ticket: Ticket | Receipt, part: str) -> str:
    """part: one of answer_parts."""
    return f"sites/{ticket.site}/out/{ticket_name(ticket)}/{part}"


def name_of_answer(key: str) -> str:
    """`ticket_name` of the ticket that a key of answer_key belongs to."""
    return key.split("/", 3)[3].rpartition("/")[0]


def round_of_answer(key: str) -> tuple[str, int]:
    """Run and round in a key of answer_key."""
    run, _, work = name_of_answer(key).partition("/")
    return run, int(work[:5])


def answer_parts(ticket: Ticket) -> dict[str, bool]:
    """All that a site writes for one attempt, and whether it is written once or overwritten.

    A site that may not write gets an address for each of these with the ticket, and for nothing else.
    """
    parts = {"receipt.json": True}
    if ticket.operation not in WORK:  # a step of a secure sum: what it says is in its receipt
        return parts
    parts["progress.json"] = False
    if ticket.steps is not None:  # of the step that the sites are at: its vector, and what is said of it
        parts |= {"step.masked": False, "step.json": False}
    if ticket.relayed_key is not None:  # for a secure sum
        return {"update.masked": False, **parts}
    return {"update.safetensors": False, **parts} if ticket.operation == Operation.TRAIN else parts


def runs_prefix() -> str:
    return "shared/runs/"


def pin_key(site: str) -> str:
    """Where the version before kept a site's card; read, never written."""
    return f"hub/sites/{site}.json"


def members_prefix(site: str) -> str:
    return f"hub/sites/{site}/members/"


def invitations_prefix(site: str) -> str:
    return f"hub/sites/{site}/invitations/"


def numbered(prefix: str, number: int) -> str:
    return f"{prefix}{number:05d}.json"


def register_prefix() -> str:
    return "hub/sites/"


def member_key(site: str) -> str:
    """The hub's newest word on a site, in the site's mailbox."""
    return f"sites/{site}/in/member.json"


def enrolments_prefix(site: str) -> str:
    return f"sites/{site}/out/enrolments/"


def enrolment_key(site: str, public_key: str) -> str:
    """One place for each key that answers, so that two who claim one name do not overwrite each other."""
    return f"{enrolments_prefix(site)}{public_key}.json"


def kit_answer_key(site: str, number: int) -> str:
    """Where a site that may not write answers its kit: known when the kit is made, before the site has a key."""
    return f"{enrolments_prefix(site)}kit-{number:05d}.json"


def addresses_key(site: str) -> str:
    """Where a site that may not write finds the addresses of what belongs to no ticket."""
    return f"sites/{site}/in/addresses.json"


def succession_key(site: str, number: int) -> str:
    return f"sites/{site}/out/successions/{number:05d}.json"


def leaving_key(site: str) -> str:
    return f"sites/{site}/out/leaving.json"


def lease_prefix(study: str) -> str:
    return f"hub/leases/{study}/"


def commit_prefix(run: str) -> str:
    return f"hub/runs/{run}/rounds/"


def commit_key(run: str, round_: int) -> str:
    return f"{commit_prefix(run)}{round_:05d}.json"


def relayed_key(run: str, round_: int, part: str) -> str:
    """Which of those counts: written once."""
    return f"hub/runs/{run}/sums/{round_:05d}-{part}.json"


def lockstep_prefix(run: str) -> str:
    """What the hub shows to the sites of a round in lockstep, by round."""
    return f"shared/runs/{run}/lockstep/"


def beat_key(run: str, round_: int) -> str:
    """Overwritten with each thing that the sites of the round are to do next."""
    return f"{lockstep_prefix(run)}{round_:05d}/beat"


def step_parameters_key(run: str, round_: int, step: int, sha256: str) -> str:
    """Parameters after a step that are too large for a message."""
    return f"{lockstep_prefix(run)}{round_:05d}/{step:05d}-{sha256[:16]}.safetensors"


def steps_prefix(run: str) -> str:
    return f"hub/runs/{run}/steps/"


def step_key(run: str, round_: int, step: int) -> str:
    """The commit of one step; gone when its round is committed."""
    return f"{steps_prefix(run)}{round_:05d}/{step:05d}.json"


def round_of_step(key: str, run: str) -> int | None:
    """The round of what lies under one of the two prefixes; None where the store lists what no hub has put there."""
    for prefix in (lockstep_prefix(run), steps_prefix(run)):
        found = re.match(r"([0-9]{5})/", key.removeprefix(prefix)) if key.startswith(prefix) else None
        if found:
            return int(found[1])
    return None


def tail_key(run: str, round_: int) -> str:
    """Sum of those parameters of a round in lockstep that are averaged at the run's end."""
    return f"hub/runs/{run}/tails/{round_:05d}"


def ended_key(run: str) -> str:
    return f"hub/runs/{run}/ended.json"


def paused_key(run: str) -> str:
    return f"hub/runs/{run}/paused.json"


def registered_prefix(run: str) -> str:
    return f"hub/runs/{run}/registered/"


def registered_key(run: str, round_: int) -> str:
    return f"{registered_prefix(run)}{round_:05d}.json"
