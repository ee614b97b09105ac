"""A study's terms in plain language, and what is new against a version that was approved before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from typing import Any

from infra.fingerprint import six_words
from infra.signing import MAX_SEALED_BYTES
from sites.deliver import HEADER_SLACK
from sites.proposals import Version
from sites.settings import Site
from tasks.study import Study

NOISE = {
    "none": "it is as it is, WITHOUT protection by noise.",
    "local": "it is protected by noise that is added here, before it leaves.",
    "distributed": "it has this site's share of the noise, which protects it only together with the others' shares.",
}


def sentences(version: Version, site: Site) -> list[str]:
    """What would happen here, for somebody who decides about it."""
    return [*_what(version, site), *_privacy(version.study, site), *_leaves(version, site)]


def _what(version: Version, site: Site) -> Iterator[str]:
    study, source = version.study, site.settings.sources.get(version.study.name)
    others = [name for name in study.sites if name != site.settings.site]
    yield f"Study {study.name}, version {version.approval_sha256[:12]}"
    yield f"  with: {', '.join(others) or 'nobody else'}; at least {study.needed} of {len(study.sites)} sites a round"
    yield from _members(version, site)
    yield "  signed by the hub" if version.from_hub else "  from a file: not compared with what the hub has"
    yield f"  code: {study.recipe}, sha256 {version.recipe_sha256}, installed at this site"
    if study.start is not None:
        yield f"  begins from: {study.start}, sha256 {study.start.sha256}; round 1 trains from nothing else here"
    yield f"  operations: {', '.join(sorted(version.operations))}"
    yield (
        f"  reads: {source.url}" + (f", persons by column {source.person!r}" if source.person else "")
        if source
        else "  reads: nothing; site.yaml names no source for this study, so it cannot run here"
    )
    when = (
        f"by the schedule {study.schedule.cron} ({study.schedule.timezone})" if study.schedule else "by hand"
    )
    steps = f" of {study.steps} steps in lockstep" if study.steps > 1 else ""
    steps += f" of {study.local_steps} local steps" if study.local_steps > 1 else ""
    most = f"each {study.deadline_s:g} s at most"
    yield f"  how long: {study.rounds} rounds{steps} a run, {most}; runs are started {when}"


def _members(version: Version, site: Site) -> Iterator[str]:
    """Whose keys would count in secure sums: a hub that makes up a site could see through them."""
    others = {name: keys for name, keys in version.members.items() if name != site.settings.site}
    if not version.study.secure_aggregation.on:
        return
    if not others:
        yield "  keys of the others: not said; only what the hub proposes can be approved for secure sums"
        return
    yield "  keys of the others, as the hub says; compare the words with each site once, by telephone:"
    for name, keys in sorted(others.items()):
        yield f"    {name}: {six_words(keys.public_key, keys.agreement_key)}"


def _privacy(study: Study, site: Site) -> Iterator[str]:
    privacy, limits = study.privacy, site.settings.limits
    yield f"  who sees what: {_sees(study)}"
    yield (
        "    Others see the combined parameters, from which the noise of all sites is not removed."
        if (privacy.mode != "none")
        else "    Others see the combined parameters."
    )
    if study.aggregation.weights:
        most = study.aggregation.weights.most
        yield (
            f"    This site counts by the rough number of its records, {most:g} times at most; the hub learns what all "
            f"sites of a sum count together."
        )
    if study.aggregation.adaptive:
        bound = study.aggregation.adaptive
        yield (
            f"    Each update is shortened to a norm that the hub says in each round, from {bound.least:g} to "
            f"{bound.most:g}; whether it was longer goes with it, as one bit"
            + (" of a sum." if study.secure_aggregation.on else ".")
            + (" That follows from the noised update, and spends nothing." if privacy.mode == "local" else "")
        )
    if study.aggregation.validation:
        yield (
            "    Each round's model is also scored without each group: every such score is one more release about the "
            "same held-out records, in a sum of all sites. All sites can read those models, and from them the sums of "
            "groups."
        )
        yield (
            "    This site votes (disclosure.votes): the hub sees one bit for each group, without noise, and can make "
            "models by which that bit tells whether one certain record is held out here."
            if site.settings.disclosure.votes
            else "    This site does not vote on groups; it would with disclosure: {votes: true} in site.yaml."
        )
    if privacy.epsilon is None or privacy.delta is None:
        yield "  privacy: none, and nothing is counted in the ledger"
        return
    unit = "person" if getattr(site.settings.sources.get(study.name), "person", None) else "record"
    yield (
        f"  privacy of one {unit}: epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for a whole run, "
        f"gradients clipped at {_clipping(study)}; every run spends it anew"
    )
    if privacy.mode == "distributed":
        yield from _against(study, site, unit)
    if privacy.mode == "local":
        yield f"    one round by itself: epsilon {epsilon_of_a_round(study, limits.min_records):.4g}"
    yield f"    this site stops at epsilon {limits.epsilon:g} (delta {limits.delta:g}) for all studies on the same data"


def _clipping(study: Study) -> str:
    terms = study.privacy.adaptive_clip
    if terms is None:
        return f"{study.privacy.first_clip:g}"
    return (
        f"{terms.start:g} at first, then near quantile {terms.quantile:g} of their norms, as this site counts "
        f"({terms.least:g} to {terms.most:g}; with noise, said in each receipt, covered by the same epsilon)"
    )


def _against(study: Study, site: Site, unit: str) -> Iterator[str]:
    """Against whom how much is promised, at the end of a whole run."""
    from tasks.privacy.shared import mechanism_of

    run = mechanism_of(study, 1)
    seen = run.views(study.privacy.delta or 0.0, delivered=run.sites - study.may_be_lost)
    charged = seen._asdict()[site.settings.policy.charge]
    who = (
        f"of {run.sites} sites" if not study.aggregation.groups else f"site of a group of {run.sites} or more"
    )
    some = (
        f"against the hub and {run.missing} of the other sites (lost ones among them) {seen.hub_with_missing:.3g}, "
        if run.missing
        else ""
    )
    yield (
        f"    each {who} adds a share of the noise; epsilon against the hub {seen.hub:.3g}, {some}"
        f"against the hub and all other sites together {seen.all_others:.3g}"
    )
    if study.sample_rate < 1:
        yield (
            f"    each {unit} is in a sum with probability {study.sample_rate:g}, by a coin of this site's own that "
            f"nobody else ever sees; all epsilons rest on that, and on the noise"
        )
    if study.local_steps > 1:
        yield (
            f"    this site takes {study.local_steps} steps by itself in a round, and adds up where they lead: "
            f"one record moves that by {run.bound:g} at most, which the noise is made for"
        )
    if study.steps > 1:
        yield (
            f"    {study.rounds * study.steps} sums of gradients are seen in a run, {study.steps} in a round; a round "
            f"is paid for as a whole before a row is read"
        )
    yield f"    the ledger of this site counts epsilon {charged:.3g} (policy.charge: {site.settings.policy.charge})"


def _sees(study: Study) -> str:
    secure, noise = (
        study.secure_aggregation,
        NOISE.get(study.privacy.mode, f"privacy mode {study.privacy.mode}"),
    )
    if not secure.on:
        return f"The hub sees each update of this site; {noise}"
    sums = f"sums of at least {study.needed} sites, of updates and of figures of held-out records"
    if study.aggregation.groups:
        sums = (
            f"sums of updates of groups of at least {secure.min_cohort} sites, and sums of figures of held-out records "
            f"of at least {study.needed}"
        )
    return f"Nobody sees an update of this site: the hub learns {sums}. Each update by itself: {noise}"


def epsilon_of_a_round(study: Study, units: int) -> float:
    """Epsilon of one round at the study's delta; with full batches it is the same for any number of units."""
    from tasks.bands import public_units
    from tasks.learning.schedule import schedule
    from tasks.privacy.accountant import epsilon
    from tasks.privacy.calibration import noise_multiplier
    from tasks.privacy.events import GaussianEvent

    total, delta = study.privacy.epsilon, study.privacy.delta
    if total is None or delta is None:
        return float("inf")
    rate, steps, _ = schedule(study.local, public_units(units))
    noise = noise_multiplier(total, delta, rate, steps * study.rounds)
    return epsilon([GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)], delta)


def _leaves(version: Version, site: Site) -> Iterator[str]:
    disclosure, size = site.settings.disclosure, version.parameters_bytes
    bound = (
        f"at most {size + HEADER_SLACK} bytes"
        if size
        else "as many bytes as the model (not said by the hub yet)"
    )
    if version.study.secure_aggregation.on:
        bound = f"masked in words of {version.study.secure_aggregation.bits} bits, {bound} before"
    updates = (
        f"{version.study.steps} vectors (one for each step)" if version.study.steps > 1 else "one update"
    )
    yield f"  leaves, each round: {updates}, {bound}; signed messages of at most {MAX_SEALED_BYTES} bytes each:"
    yield (
        f"    receipt (epsilon, batch share in bands, figures of held-out records to {disclosure.decimals} decimals, "
        f"from {disclosure.min_held_out} records on), progress"
    )
    yield "  never leaves: a record, a column's values, a text of an error, this site's other studies"


def modules(version: Version) -> list[tuple[str, str, int]]:
    """Name, sha256 and bytes of each module of the recipe."""
    return [(name, hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in version.sources.items()]


def changed_terms(before: Study, after: Study) -> list[str]:
    """A line for each term that is not the same: `privacy.epsilon: 3.0 -> 5.0`."""
    old, new = dict(_flat(before.model_dump(mode="json"))), dict(_flat(after.model_dump(mode="json")))
    return [
        f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def changed_sources(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """A unified diff of each module that is not the same."""
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, b""), after.get(name, b"")
        if old != new or (name in before) != (name in after):
            texts = [raw.decode(errors="replace").splitlines() for raw in (old, new)]
            lines += unified_diff(texts[0], texts[1], f"approved/{name}", f"new/{name}", lineterm="")
    return lines


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)
