"""What this institution allows, as its own file says.

`decide` is pure: terms, ticket, study and facts in, a decision with its rule
out; the agent obeys it and `fedrounds-site policy test` prints it. Costs are
known only when a round is planned, and are decided then, by the same rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sites.deliver import HEADER_SLACK
from sites.installed import check_recipe
from sites.job import Cost, Survey
from sites.outbox import Base
from sites.policyterms import Policy
from sites.settings import SiteSettings, Source
from sites.votes import Vote
from tasks.codes import Code, Operation
from tasks.contracts import Ticket
from tasks.errors import RefusedError
from tasks.study import Study


class Facts(NamedTuple):
    """What a decision depends on beside the ticket and the site's file."""

    now: float  # seconds since 1970
    rounds_today: int = 0  # other rounds that this site has trained since midnight
    cost: Cost | None = None  # None: not known yet
    missing_approval: str = ""  # what the site's people still have to do; empty where they have


class Decision(NamedTuple):
    """`rule` and `line_key` name the key of site.yaml that decided; `text` stays at the site."""

    allow: bool
    code: Code | None = None
    rule: str = ""
    line_key: tuple[str, ...] = ()
    text: str = ""


ALLOWED = Decision(allow=True, text="no rule of site.yaml denies it")


def decide(settings: SiteSettings, operation: Operation, study: Study, facts: Facts) -> Decision:
    """May this site do `operation` for `study` now? The first rule that denies decides."""
    denials = (*_denials(settings, operation, study, facts), check_cost(settings.policy, facts.cost))
    return next((denial for denial in denials if not denial.allow), ALLOWED)


def check_cost(policy: Policy, cost: Cost | None) -> Decision:
    """The policy's caps on epsilon; a cost that is not known yet denies nothing yet."""
    if cost is None:
        return ALLOWED
    for key, asked, cap in (
        ("epsilon_per_round", cost.round, policy.epsilon_per_round),
        ("epsilon_per_run", cost.run, policy.epsilon_per_run),
        ("epsilon_per_study", cost.study, policy.epsilon_per_study),
    ):
        if cap is not None and asked > cap:
            text = f"epsilon {asked:.4g} would be spent, {cap:g} is allowed, at the site's own delta"
            return _no(Code.BUDGET_EXHAUSTED, ("policy", key), text)
    return ALLOWED


def obey(decision: Decision) -> None:
    """Raises RefusedError: the decision denies."""
    if decision.code is not None:
        raise RefusedError(decision.code, f"{decision.rule} of site.yaml: {decision.text}")


def _denials(settings: SiteSettings, operation: Operation, study: Study, facts: Facts) -> Iterator[Decision]:
    policy = settings.policy
    if study.name not in settings.sources:
        text = f"no source for study {study.name!r}; add one under sources to take part"
        yield _no(Code.UNKNOWN_STUDY, ("sources",), text)
    if study.privacy.mode == "none" and study.name not in settings.privacy_none:
        text = f"study {study.name!r} asks for updates without protection and is not named under privacy_none"
        yield _no(Code.PRIVACY_REFUSED, ("privacy_none",), text)
    if study.plants_canaries and not settings.testing.canaries:
        text = f"{study.recipe} plants canaries into models; it is for audits on local files"
        yield _no(Code.POLICY_REFUSED, ("testing", "canaries"), text)
    if settings.testing.seeded_noise and not policy.seeded_noise and study.privacy.mode != "none":
        text = "testing.seeded_noise asks for noise that anybody can compute and take away, and no rule allows it"
        yield _no(Code.PRIVACY_REFUSED, ("policy", "seeded_noise"), text)
    if study.privacy.mode == "distributed" and policy.full_noise:
        text = f"study {study.name!r} asks for a share of the noise, and each update must have all of it: mode local"
        yield _no(Code.PRIVACY_REFUSED, ("policy", "full_noise"), text)
    if study.local_steps > 1 and _has_persons(settings, study):
        text = (
            f"study {study.name!r} takes {study.local_steps} local steps in a round, whose bound is of single records: "
            f"persons take part in a study with local.epochs 1, or with privacy.steps"
        )
        yield _no(Code.PRIVACY_REFUSED, ("sources", study.name, "person"), text)
    if study.steps > 1 and policy.hold_for_human:
        text = f"study {study.name!r} takes {study.steps} steps in lockstep, and each answer waits for a person here"
        yield _no(Code.POLICY_REFUSED, ("policy", "hold_for_human"), text)
    if policy.studies is not None and study.name not in policy.studies:
        yield _no(
            Code.POLICY_REFUSED, ("policy", "studies"), f"study {study.name!r} is not among the allowed"
        )
    if operation.work not in policy.operations:
        allowed = ", ".join(policy.operations) or "nothing"
        yield _no(
            Code.POLICY_REFUSED, ("policy", "operations"), f"{operation} is asked, {allowed} is allowed"
        )
    hours = policy.hours
    if hours is not None and not hours.hold(facts.now):
        text = f"it is not {hours.begin} to {hours.to} {hours.timezone} on {', '.join(hours.days)}"
        yield _no(Code.OUTSIDE_HOURS, ("policy", "hours"), text)
    most = policy.rounds_per_day
    if operation.work == Operation.TRAIN and most is not None and facts.rounds_today >= most:
        text = f"{facts.rounds_today} rounds were trained today, {most} are allowed"
        yield _no(Code.POLICY_REFUSED, ("policy", "rounds_per_day"), text)
    if facts.missing_approval:
        yield _no(Code.NOT_APPROVED, ("policy", "approval"), facts.missing_approval)


def _has_persons(settings: SiteSettings, study: Study) -> bool:
    source = settings.sources.get(study.name)
    return source is not None and source.person is not None


def _no(code: Code, line_key: tuple[str, ...], text: str) -> Decision:
    return Decision(False, code, ".".join(line_key), line_key, text)


def approve(study: Study, ticket: Ticket, settings: SiteSettings, facts: Facts) -> Source:
    """The source that this site has set aside for the study.

    Raises:
        RefusedError: unknown_study, privacy_refused, policy_refused, outside_hours, unknown_recipe or not_approved.
    """
    decision = decide(settings, ticket.operation, study, facts)
    if decision.code != Code.NOT_APPROVED:
        obey(decision)
    check_recipe(study.recipe, ticket.recipe_sha256)  # what no approval cures is said first
    obey(decision)
    return settings.sources[study.name]


def check_study(ticket: Ticket, known: Collection[str]) -> None:
    """A run has one study, from its first round to its last.

    What one study has paid for, such as an evaluation, is not another one's; and no term changes on the way.

    Raises:
        RefusedError: bad_ticket.
    """
    if any(sha256 != ticket.study_sha256 for sha256 in known):
        raise RefusedError(
            Code.BAD_TICKET, f"run {ticket.run} was begun with another study, or with other terms"
        )


def check_start(ticket: Ticket, study: Study) -> None:
    """The first round trains from what this site's people have approved, where the study names it.

    Raises:
        RefusedError: bad_ticket.
    """
    if study.start is None or (ticket.round, ticket.operation) != (1, Operation.TRAIN):
        return
    if ticket.parameters_sha256 != study.start.sha256:
        raise RefusedError(
            Code.BAD_TICKET,
            f"round 1 of {ticket.run} starts from {ticket.parameters_sha256[:12]}, and the approved study from "
            f"{study.start.sha256[:12]}",
        )


def check_order(ticket: Ticket, bases: Sequence[Base]) -> None:
    """A run only goes forward, on one line of models: what this site remembers of it binds the hub.

    An honest hub commits a round once, and every update of the next one starts from what it committed. So
    these are replays, rollbacks or forks, whoever made them:

    - a round before the last that this site has trained;
    - training in a round that it has trained already, from other parameters;
    - training on, or scoring, parameters that it trained on in an earlier round, with others in between.

    Not refused, since honest hubs do it: the same parameters in the very next round, which a round that moved
    nothing leaves behind; and a round that starts from other parameters than this site has scored at the end
    of the one before, which a round below its quorum and played again does. A hub that was put back to a
    backup older than this site's memory is refused as well: its run cannot go on, a new one can.

    Args:
        ticket: the hub's.
        bases: of the run's updates, oldest first.

    Raises:
        RefusedError: bad_ticket.
    """
    if not bases:
        return
    last, of = bases[-1], f"{ticket.operation} in round {ticket.round} of {ticket.run}"
    if ticket.round < last.round:
        raise RefusedError(Code.BAD_TICKET, f"{of} after round {last.round} was trained")
    moved = {ticket.parameters_sha256, *ticket.candidates} - {last.sha256}
    if moved and ticket.operation == Operation.TRAIN and ticket.round == last.round:
        raise RefusedError(Code.BAD_TICKET, f"{of} from other parameters than it was trained from before")
    if any(base.sha256 in moved for base in bases):
        raise RefusedError(Code.BAD_TICKET, f"{of} on the parameters of an earlier round")


def check_evaluation(ticket: Ticket, trained: Sequence[Ticket], evaluated: Sequence[Ticket]) -> None:
    """One model of a round is scored, with its candidates, and only in a round that this site has trained.

    Scores carry no noise: asked for often, with parameters made for it, they would tell single records. So
    each answer hangs on an update that the ledger has paid for.

    Raises:
        RefusedError: bad_ticket.
    """
    if not trained:
        raise RefusedError(
            Code.BAD_TICKET,
            f"an evaluation in round {ticket.round} of {ticket.run}, where nothing was trained",
        )
    asked = (ticket.parameters_sha256, ticket.candidates)
    if any((other.parameters_sha256, other.candidates) != asked for other in evaluated):
        raise RefusedError(
            Code.BAD_TICKET, f"a second model to score in round {ticket.round} of {ticket.run}"
        )


def check_candidates(ticket: Ticket, study: Study) -> None:
    """Other models beside the one to score: each tells more of the held-out records, and people must have agreed.

    Raises:
        RefusedError: bad_ticket.
    """
    if not ticket.candidates:
        return
    if study.aggregation.validation is None or ticket.operation != Operation.EVALUATE:
        raise RefusedError(
            Code.BAD_TICKET,
            f"candidates to {ticket.operation}, and the approved study has no validation of groups",
        )
    most = len(study.sites) // study.secure_aggregation.min_cohort
    if len(ticket.candidates) > most:  # before any of them is fetched
        raise RefusedError(
            Code.BAD_TICKET, f"{len(ticket.candidates)} candidates, and there are {most} groups at most"
        )


def check_bound(parameters_bytes: int, vote: Vote) -> None:
    """The model is as big as it was when it was approved: an update is as big as the model.

    Raises:
        RefusedError: bad_ticket.
    """
    most = vote.parameters_bytes
    if most is not None and parameters_bytes > most + HEADER_SLACK:
        raise RefusedError(
            Code.BAD_TICKET,
            f"the parameters have {parameters_bytes} bytes; a model of {most} bytes was approved",
        )


def check_records(survey: Survey, settings: SiteSettings) -> None:
    """Raises RefusedError: too_few_records."""
    if survey.records < settings.limits.min_records:
        raise RefusedError(
            Code.TOO_FEW_RECORDS,
            f"{survey.records} usable records, limits.min_records is {settings.limits.min_records}",
        )
