"""Counts of usable records, kept as long as neither study nor recipe nor file change."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sites.audit import Audit
from sites.job import Survey, SurveyJob
from sites.notes import note_read
from sites.settings import Site, Source
from sites.sources import fingerprint
from sites.workplace import Workplace
from tasks.codes import Code
from tasks.contracts import Sha256, Ticket
from tasks.errors import RefusedError
from tasks.study import Study


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Sha256
    survey: Survey


def surveyed(
    ticket: Ticket, study: Study, source: Source, site: Site, workplace: Workplace, audit: Audit
) -> Survey:
    """The study's counts here, from the state folder or from a job.

    Raises:
        RefusedError: the records cannot be read.
    """
    try:
        facts = (ticket.study_sha256, ticket.recipe_sha256, fingerprint(source, site.base))
    except OSError as exc:
        raise RefusedError(
            Code.UNREADABLE_DATA,
            f"{source.url} cannot be opened ({exc.strerror}); correct its url in site.yaml",
        ) from exc
    of = hashlib.sha256("|".join(facts).encode()).hexdigest()
    path = site.state / "surveys" / f"{study.name}.json"
    known = _read(path)
    if known is not None and known.of == of:
        return known.survey
    job = SurveyJob(site=site.settings.site, study=study, source=source, base=site.base)
    note_read(audit, ticket, source)
    survey = workplace.run(job, Survey)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_Kept(of=of, survey=survey).model_dump_json().encode())
    return survey


def _read(path: Path) -> _Kept | None:
    try:
        return _Kept.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
