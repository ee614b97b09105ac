"""What this institution allows, as its own file says. Pure questions; the answer is silence or a refusal."""

from __future__ import annotations

from functools import cache

from sites.job import Survey
from sites.settings import SiteSettings, Source
from tasks.contracts import Code, Ticket
from tasks.errors import RefusedError, StudyError
from tasks.recipes import recipe_sha256
from tasks.study import Study


def approve(study: Study, ticket: Ticket, settings: SiteSettings) -> Source:
    """The source that this site has set aside for the study.

    Raises:
        RefusedError: unknown_study, privacy_refused or unknown_recipe.
    """
    source = settings.sources.get(study.name)
    if source is None:
        raise RefusedError(
            Code.UNKNOWN_STUDY,
            f"site.yaml has no source for study {study.name!r}; add one under sources to take part",
        )
    if study.privacy.mode == "none" and study.name not in settings.privacy_none:
        raise RefusedError(
            Code.PRIVACY_REFUSED,
            f"study {study.name!r} asks for updates without protection and is not named under privacy_none",
        )
    try:
        installed = _installed(study.recipe)
    except StudyError as exc:
        raise RefusedError(Code.UNKNOWN_RECIPE, str(exc)) from exc
    if installed != ticket.recipe_sha256:
        raise RefusedError(
            Code.UNKNOWN_RECIPE,
            f"{study.recipe} is {installed[:12]} here, the hub has {ticket.recipe_sha256[:12]}: "
            f"install the same version on both sides",
        )
    return source


@cache
def _installed(recipe: str) -> str:
    """Once per process: the template holds the code as it was when the agent started, too."""
    return recipe_sha256(recipe)


def check_order(ticket: Ticket, last_round: int) -> None:
    """A run only goes forward: an older round than one this site has trained is a replay of the past.

    Raises:
        RefusedError: bad_ticket.
    """
    if ticket.round < last_round:
        raise RefusedError(
            Code.BAD_TICKET, f"round {ticket.round} of {ticket.run} after round {last_round} was trained"
        )


def check_records(survey: Survey, settings: SiteSettings) -> None:
    """Raises RefusedError: too_few_records."""
    if survey.records < settings.limits.min_records:
        raise RefusedError(
            Code.TOO_FEW_RECORDS,
            f"{survey.records} usable records, limits.min_records is {settings.limits.min_records}",
        )
