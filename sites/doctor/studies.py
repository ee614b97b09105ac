"""Checks of each study this site has a source for: approval, recipe, records, columns, counts, budget.

A recipe is somebody's code: one that nobody has approved is neither imported nor
shown a record here. An approved one works behind the agent's walls (apart.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from infra.errors import SealError
from infra.signing import unseal
from sites.doctor import Check, Row
from sites.doctor.apart import apart
from sites.doctor.contact import hub_of
from sites.identity import KEY
from sites.job import Survey, SurveyJob
from sites.ledger import Ledger
from sites.settings import Site, Source
from sites.sources import address
from sites.spending import dataset_of
from sites.uploads import reader_of
from sites.voting import approvals_of
from tasks.codes import Code
from tasks.errors import RefusedError, StudyError
from tasks.recipes import recipe_sha256
from tasks.study import Study


def checks() -> list[Check]:
    return [sources, studies, budget]


def sources(site: Site) -> Iterator[Row]:
    if not site.settings.sources:
        yield Row(
            "sources", "warn", "site.yaml names none", "add one under sources for each study to take part in"
        )
    for name, source in site.settings.sources.items():
        path = address(source, site.base)
        if not os.access(path, os.R_OK):
            if path.exists():
                text, cure = f"{path} cannot be read", "give the agent's user the right to read it"
            else:
                text, cure = f"{path} is not there", "correct its url in site.yaml, or mount its folder"
            yield Row(f"source {name}", "fail", text, cure)
        elif os.access(path, os.W_OK):
            cure = "give the agent's user read access only"
            yield Row(f"source {name}", "warn", f"{path} is readable, and writable too", cure)
        else:
            yield Row(f"source {name}", "ok", f"{path} is readable and not writable")


def studies(site: Site) -> Iterator[Row]:
    for name, source in site.settings.sources.items():
        found = list(published(site, name))
        if not found:
            yield Row(f"study {name}", "ok", "not published yet; the rest is checked when it is")
        for study in found:
            missing = not_approved(site, study)
            if missing:
                text = "published, and not approved here at this hash: nothing of it is looked into or run"
                yield Row(
                    f"study {name} (terms {study.sha256[:8]})", "warn", text, f"fedrounds-site review {name}"
                )
            else:
                yield from _study(site, study, source)


def budget(site: Site) -> Iterator[Row]:
    from tasks.privacy.accountant import epsilon

    limits = site.settings.limits
    with closing(Ledger(site.state, read_only=True)) as ledger:
        for name, source in site.settings.sources.items():
            spent = epsilon(ledger.events(dataset_of(site, source)), limits.delta)
            text = f"epsilon {spent:.3g} of {limits.epsilon:g} reserved or spent at delta {limits.delta:g}"
            empty = spent >= limits.epsilon
            cure = "raise limits.epsilon, or leave further studies to others" if empty else ""
            yield Row(f"budget {name}", "warn" if empty else "ok", text, cure)


def published(site: Site, name: str) -> Iterator[Study]:
    """Versions of a study in the store that the hub signed and that name this site."""
    hub, store = hub_of(site), reader_of(site)
    for key in store.list(f"shared/studies/{name}/") if hub else []:
        raw = store.get(key)
        try:
            study = unseal(raw or b"", Study, hub.name, hub.public_key) if hub else None
        except SealError:
            continue
        if study is not None and site.settings.site in study.sites:
            yield study


def approved(site: Site, name: str) -> Iterator[Study]:
    """Of the published versions of a study those that may run here: no other's recipe is imported."""
    return (study for study in published(site, name) if not not_approved(site, study))


def not_approved(site: Site, study: Study) -> bool:
    """True until this site's people have approved the study with its recipe as it is installed here."""
    if not (site.state / KEY).exists():  # nobody has voted, and no key is made for the question
        return True
    vote = approvals_of(site).standing(site.settings.policy.approval).in_force.get(study.name)
    if vote is None or vote.study_sha256 != study.sha256:
        return True
    try:
        return vote.recipe_sha256 != recipe_sha256(study.recipe)
    except StudyError:  # not installed any more: there is nothing that could run
        return True


def _study(site: Site, study: Study, source: Source) -> Iterator[Row]:
    """The recipe, and what the survey job would find."""
    name = f"study {study.name} (terms {study.sha256[:8]})"
    job = SurveyJob(site=site.settings.site, study=study, source=source, base=site.base)
    try:
        with apart(site) as workplace:
            survey = workplace.run(job, Survey)
    except RefusedError as exc:
        of_code = exc.code in (Code.BAD_SETTINGS, Code.UNKNOWN_RECIPE, Code.TRAINING_FAILED)
        code = "install the recipe's package in the hub's version, or tell the hub"
        yield Row(name, "fail", str(exc), code if of_code else "correct the source in site.yaml, or the file")
        return
    least, limits = site.settings.limits.min_records, site.settings.limits
    text = f"{survey.records} usable records, {survey.units} units in training, {survey.held_out} held out"
    if survey.records < least:
        yield Row(name, "fail", f"{text}; limits.min_records is {least}", "wait for more records")
    elif survey.held_out < site.settings.disclosure.min_held_out:
        yield Row(
            name, "warn", f"{text}: too few to show metrics", "lower disclosure.min_held_out, or accept it"
        )
    elif limits.delta > 1 / survey.units:
        cure = f"choose limits.delta below {1 / survey.units:.1g}, one in the number of people"
        yield Row(name, "warn", f"{text}; delta {limits.delta:g} is more than one in them", cure)
    else:
        yield Row(name, "ok", text)
