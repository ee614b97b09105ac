"""Hub: propose a study to its sites, so that their people can look at it before any ticket comes.

A proposal names terms, code and operations by hash, and how big the model is.
Whether a site has approved it is approval.py's question.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from infra.hub import Hub
from tasks import layout, parameters
from tasks.codes import WORK
from tasks.contracts import Keys
from tasks.proposal import Proposal
from tasks.recipes import load_recipe, recipe_sha256
from tasks.registry import site_card
from tasks.study import Study


def propose(hub: Hub, study: Study) -> Proposal:
    """Publish a study's terms, and name them as the version that sites should approve. Safe to repeat.

    Raises:
        StudyError: the recipe is not installed or refuses its settings.
    """
    initial = load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)
    wanted = Proposal(
        study=study.name,
        study_sha256=study.sha256,
        recipe_sha256=recipe_sha256(study.recipe),
        operations=WORK,
        version=_own_version(),
        parameters_bytes=len(parameters.to_bytes(initial)),
        proposed_at=hub.now(),
        members=_members(hub, study),
    )
    hub.write_once(layout.study_key(study.name, study.sha256), study)
    known = hub.read(layout.proposal_key(study.name), Proposal)
    if known is not None and known.model_copy(update={"proposed_at": wanted.proposed_at}) == wanted:
        return known
    hub.write(layout.proposal_key(study.name), wanted)
    return wanted


def approved_version(hub: Hub, study: Study) -> Proposal:
    """The version that the sites were asked to approve last; proposed now where it is another one.

    A run goes on with the members that it was approved with: a site that enrols meanwhile, or has new keys, makes
    nobody wait for anybody's approval.
    """
    known = hub.read(layout.proposal_key(study.name), Proposal)
    same = known is not None and (known.study_sha256, known.recipe_sha256) == (
        study.sha256,
        recipe_sha256(study.recipe),
    )
    return known if known is not None and same else propose(hub, study)


def _members(hub: Hub, study: Study) -> dict[str, Keys]:
    """Whose keys count in the study's secure sums: sites that have enrolled. Others join by an approval anew."""
    if not study.secure_aggregation.on:
        return {}
    cards = ((site, site_card(hub, site)) for site in study.sites)
    return {
        site: Keys(public_key=card.public_key, agreement_key=card.agreement_key)
        for site, card in cards
        if card is not None and card.agreement_key is not None
    }


def _own_version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0"
