"""What a site's people look at: a study as its hub has signed it, or a study file, beside the code installed here.

Runs no code of a recipe. What people decide is voting.py's, how it is told to
them terms.py's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from infra.errors import SealError
from infra.signing import unseal
from infra.store.base import Store
from infra.yamlfile import load
from sites.identity import own_version, pinned_hub
from sites.settings import Site
from sites.uploads import reader_of
from tasks import layout
from tasks.codes import WORK, Operation
from tasks.contracts import Card, Keys
from tasks.errors import ContractError, StudyError
from tasks.proposal import Proposal, approval_sha256
from tasks.recipes import recipe_sources, sources_sha256
from tasks.study import Study, StudyFile


class Version(NamedTuple):
    """One version of a study as it would run here."""

    study: Study
    recipe_sha256: str  # of the code installed at this site
    sources: dict[str, bytes]  # that code, by module
    operations: tuple[Operation, ...]
    parameters_bytes: int | None  # None: the hub has not said yet
    from_hub: bool  # signed by the hub, and the hub has the same code
    members: dict[str, Keys]  # whose keys count in its secure sums, as the hub has said

    @property
    def approval_sha256(self) -> str:
        return approval_sha256(
            self.study.name, self.study.sha256, self.recipe_sha256, self.operations, self.members
        )


def find(text: str, site: Site) -> Version:
    """The study that a person means: a file, or a name that the hub has proposed.

    Raises:
        FileError: the file is wrong.
        ContractError: the hub has not proposed it, or other code than is installed here.
        SealError: what lies in the store is not the hub's.
        StoreError: the store cannot be read.
        StudyError: the recipe is not installed, or the study does not name this site.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # noqa: PTH113 - False for what can be no path
        return of_study(load(path, StudyFile).value.agreed(), site)
    hub = pinned_hub(site.state)
    if hub is None:
        raise SealError(
            "this site knows no hub yet, so no study of a hub can be verified; review a study file"
        )
    return proposed(text, site, reader_of(site), hub)


def proposed(name: str, site: Site, store: Store, hub: Card) -> Version:
    """The version of a study that the hub asks its sites to approve. Raises what find raises."""
    raw = store.get(layout.proposal_key(name)) if _is_name(name) else None
    if raw is None:
        raise ContractError(
            f"the hub has proposed no study {name!r}; it does so with `fedrounds study publish study.yaml`"
        )
    proposal = unseal(raw, Proposal, hub.name, hub.public_key)
    terms = store.get(layout.study_key(name, proposal.study_sha256))
    study = unseal(terms, Study, hub.name, hub.public_key) if terms else None
    if study is None or (study.name, study.sha256, proposal.study) != (name, proposal.study_sha256, name):
        raise ContractError(f"the store does not hold the terms of study {name!r} that the hub has signed")
    version = of_study(study, site)
    if proposal.recipe_sha256 != version.recipe_sha256:
        raise ContractError(
            f"recipe {study.recipe} is {version.recipe_sha256[:12]} here, the hub has "
            f"{proposal.recipe_sha256[:12]} (fedrounds {proposal.version}): install the same version on both sides"
        )
    return version._replace(
        operations=proposal.operations,
        parameters_bytes=proposal.parameters_bytes,
        from_hub=True,
        members=proposal.members,
    )


def of_study(study: Study, site: Site) -> Version:
    """A study with the code that would run for it here. Raises StudyError."""
    if site.settings.site not in study.sites:
        raise StudyError(
            f"study {study.name!r} does not name site {site.settings.site!r}: nothing of it runs here"
        )
    sources = recipe_sources(study.recipe)
    return Version(
        study=study,
        recipe_sha256=sources_sha256(own_version(), sources),  # of the very bytes that people see
        sources=sources,
        operations=WORK,
        parameters_bytes=None,
        from_hub=False,
        members={},
    )


def _is_name(text: str) -> bool:
    return text.replace("-", "").replace("_", "").isalnum() and text.isascii()
