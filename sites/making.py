"""What a site makes of an approved ticket, privacy set aside: an update, or scores, closed for the hub's eyes.

Rows are read in jobs (job.py); what they leave is looked at (examine.py) before it becomes an answer.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode

from sites.deliver import HEADER_SLACK
from sites.desk import Desk, Done, Task
from sites.examine import examine, examine_words
from sites.hiding import Masked
from sites.job import Scored, ScoreJob, Trained, TrainJob
from sites.payload import WORD_BYTES
from sites.settings import Site
from sites.spending import known_noise
from sites.workplace import Workplace
from tasks import layout
from tasks.adaptive import is_within
from tasks.bands import band, public_units
from tasks.codes import Code
from tasks.contracts import MOST_INSIDE_BYTES, Scores, Spent, Update
from tasks.errors import RefusedError
from tasks.privacy.events import GaussianEvent
from tasks.privacy.shared import mechanism_of
from tasks.study import Study


def make_update(
    task: Task, desk: Desk, workplace: Workplace, event: GaussianEvent | None, spent: Spent | None
) -> Done:
    """Train, take the protected update over from the job, and close it for the hub's eyes."""
    site = desk.site
    job = TrainJob(
        site=site.settings.site,
        study=task.study,
        source=task.source,
        base=site.base,
        round=task.ticket.round,
        attempt=task.ticket.attempt,
        event=event,
        noise=known_noise(site.state, task.ticket),
        seeded_noise=site.settings.testing.seeded_noise,
        threads=site.settings.resources.threads,
        update_norm=task.bound,
        clip_norm=desk.outbox.clip_norm(task.ticket.run, task.ticket.round),
        weight=task.weight,
    )
    trained = workplace.run(job, Trained, task.given)
    if spent is not None and task.study.privacy.adaptive_clip is not None:
        spent = spent.model_copy(update={"clip_norm": _allowed(trained.clip_norm, task.study)})
    shown = band(task.survey.records) if site.settings.disclosure.records else None
    if task.study.privacy.mode == "distributed":
        masked = _words(task, workplace, job.noise)
        return masked_answer(masked, spent)._replace(first_line_at=trained.began_at, records=shown)
    payload = workplace.update(len(task.given) + HEADER_SLACK)
    batch = event.sample_rate * public_units(task.survey.units) if event else 0.0
    size = examine(
        payload, task.given, task.study, event, batch, site.settings.policy, task.bound, task.weight
    )
    if task.hiding is not None:
        said = [task.weight] if task.study.aggregation.weights else []
        if task.bound and task.study.aggregation.adaptive:
            said.append(is_within(size / task.weight, task.bound))
        task.hiding.mask(payload, workplace, said)
        del payload
        return masked_answer(task.hiding.masked(workplace), spent)._replace(
            first_line_at=trained.began_at, records=shown
        )
    if desk.hub.agreement_key is not None:  # noised is not masked: whoever reads the store need not see it
        place = layout.update_place(task.ticket.run, task.ticket.round)
        payload = desk.identity.encrypt(payload, desk.hub, place)
    update = Update(payload_sha256=_sha256(payload), payload_bytes=len(payload), spent=spent)
    return Done(update=update, payload=payload, first_line_at=trained.began_at, records=shown)


def _allowed(clip_norm: float | None, study: Study) -> float:
    """A clip norm that a job has come to. Raises RefusedError: training_failed: none that the study allows."""
    terms = study.privacy.adaptive_clip
    if terms is None or clip_norm is None or not terms.least <= clip_norm <= terms.most:
        raise RefusedError(
            Code.TRAINING_FAILED, "training ended with a clip norm that the study does not allow"
        )
    return clip_norm


def _words(task: Task, workplace: Workplace, noise: float | None) -> Masked:
    """The noised words of a job, hidden: they are an update to nobody, and never leave as they are."""
    if task.hiding is None:
        raise RefusedError(Code.BAD_TICKET, "privacy mode distributed without a secure sum")
    length = task.hiding.sum.length
    words = workplace.update(WORD_BYTES * length)
    examine_words(words, mechanism_of(task.study, length, noise), public_units(task.survey.units))
    task.hiding.mask_words(words, workplace)
    del words
    return task.hiding.masked(workplace)


def masked_answer(masked: Masked, spent: Spent | None) -> Done:
    """A masked vector as an answer. What it binds this site to is kept with it."""
    inside = len(masked.payload) <= MOST_INSIDE_BYTES  # one write less, and three of the books
    update = Update(
        payload_sha256=masked.bound.pledge.masked_sha256,
        payload_bytes=len(masked.payload),
        spent=spent,
        sum_sha256=masked.bound.sum.sha256,
        vector=b64encode(masked.payload).decode() if inside else None,
    )
    return Done(update=update, payload=masked.payload, bound=masked.bound)


def make_scores(task: Task, site: Site, workplace: Workplace) -> Done:
    """Score the parameters on held-out records, as the disclosure rule lets it be known; candidates are voted on."""
    job = ScoreJob(
        site=site.settings.site,
        study=task.study,
        source=task.source,
        base=site.base,
        min_held_out=site.settings.disclosure.min_held_out,
        decimals=site.settings.disclosure.decimals,
        candidates=len(task.candidates),
    )
    scored = workplace.run(job, Scored, task.given, task.candidates)
    if task.hiding is None:
        return Done(scores=scored.scores, first_line_at=scored.began_at)
    if not len(scored.others) == len(scored.votes) == len(task.candidates):
        raise RefusedError(Code.TRAINING_FAILED, "the job has scored another number of candidates")
    task.hiding.mask_statistics([scored.scores.statistics, *scored.others], workplace)
    own = Scores(metrics=scored.scores.metrics) if site.settings.disclosure.own_figures else None
    votes = scored.votes if task.candidates and site.settings.disclosure.votes else None
    return masked_answer(task.hiding.masked(workplace), None)._replace(
        scores=own, votes=votes, first_line_at=scored.began_at
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
