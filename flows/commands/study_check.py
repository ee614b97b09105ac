"""Read a study file and say whether it is right: every key, the recipe, its settings, the numbers together.

examples:
  fedrounds study check study.yaml
  fedrounds study check study.yaml --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_json, print_json

if TYPE_CHECKING:
    from tasks.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from tasks.modelcard import talking

    study = load_study_file(args.file)
    if args.json:
        print_json({"study": study.name, "sha256": study.sha256, "terms": study.model_dump(mode="json")})
        return 0
    privacy = study.privacy
    print(f"{args.file} is right: study {study.name!r}, terms {study.sha256[:12]}")
    print(f"  recipe   {study.recipe}")
    if study.start is not None:
        print(f"  start    {study.start}, sha256 {study.start.sha256[:16]}…")
    print(f"  sites    {', '.join(study.sites)} (quorum {study.needed}, deadline {study.deadline_s:g} s)")
    for line in (*_seen(study), *_combined(study), *_taking_part(study)):
        print(f"           {line}")
    print(f"  rounds   {study.rounds}, {_training(study)}")
    if privacy.mode == "none":
        print("  privacy  none: updates are sent as they are; each site must allow this study by name")
    elif privacy.mode == "distributed":
        print(
            f"  privacy  distributed: the sums of a whole run are ({privacy.epsilon:g}, {privacy.delta:g})-DP "
            f"against the hub{talking(study)}, clip norm {privacy.first_clip:g}"
        )
        for line in _advice(study):
            print(f"           {line}")
        if study.sample_rate < 1:
            print(
                f"           each site draws its records in secret, anew for each sum: about "
                f"{study.sample_rate * (privacy.people or 0):.0f} of {privacy.people} in all"
            )
        if study.local_steps > 1:
            print(
                f"           one record moves a sum by {study.local_steps} clip norms at most, which the noise is made "
                f"for; no site may have more than about {privacy.people} records"
            )
    else:
        print(
            f"  privacy  {privacy.mode}: each site's updates of the whole run are "
            f"({privacy.epsilon:g}, {privacy.delta:g})-DP, clip norm {privacy.first_clip:g}"
        )
        if privacy.adaptive_clip:
            terms = privacy.adaptive_clip
            print(
                f"           which adapts at each site, towards quantile {terms.quantile:g} of its gradients' norms, "
                f"within {terms.least:g} to {terms.most:g}; what counts them is covered by the same epsilon"
            )
    return 0


def _advice(study: Study) -> list[str]:
    """A clip norm that needs no tuning, where the recipe knows how long a record can be."""
    from tasks.errors import StudyError
    from tasks.recipes import linear, load_recipe

    try:
        longest = linear(load_recipe(study.recipe, study.recipe_settings)).longest_record()
    except StudyError:  # of other recipes nobody knows it
        return []
    choice = f"a clip norm of {longest / 4:.2g} is a good choice, {longest / 2:.2g} clips none at first"
    return [f"by its ranges no record is longer than {longest:.3g}: {choice}"]


def _training(study: Study) -> str:
    """What a site does in each round."""
    if study.privacy.mode == "distributed":
        if study.local_steps > 1:
            return f"each of {study.local_steps} steps of each site by itself, on all of its records, and one sum"
        whom = "all records" if study.sample_rate == 1 else f"{study.sample_rate:.3g} of the records"
        if study.steps == 1:
            return f"each one step on {whom} of all sites"
        total = study.rounds * study.steps
        return f"each of {study.steps} steps in lockstep on {whom} of all sites, {total} steps in all"
    epochs, batch = study.local.epochs, study.local.batch_size
    size = "batch full" if batch == "full" else f"batches of {batch}"
    return f"each of {epochs} epoch{'s' if epochs > 1 else ''}, {size}"


def _seen(study: Study) -> list[str]:
    """What the hub sees of the sites."""
    secure = study.secure_aggregation
    if not secure.on:
        return ["secure aggregation off: the hub sees each site's update"]
    least = secure.min_cohort if study.aggregation.groups else study.needed
    lines = [f"secure aggregation on: the hub sees sums of at least {least} sites' updates, never one"]
    if study.aggregation.groups:
        lines += _grouped(study)
    if study.privacy.mode != "distributed":  # there rounding is part of the noise
        lines.append(
            f"words of {secure.bits} bits: rounding moves a sum by {secure.error(study.asked):.0e} at most, "
            f"numbers up to {secure.largest:g} fit"
        )
    if study.needed > study.quorum:
        lines.append(
            f"{'a round' if study.aggregation.groups else 'a sum'} needs {study.needed} updates, so the quorum "
            f"{study.quorum} counts as {study.needed}"
        )
    return lines


def _grouped(study: Study) -> list[str]:
    """Which sums of groups there are, and what they cost where each has noise of its own."""
    sizes = study.sums
    drawn = "drawn anew each round" if study.groups_change else "the same in every round"
    lines = [
        f"{len(sizes)} groups of {' to '.join(map(str, sorted({sizes[0], sizes[-1]})))} sites, {drawn}, "
        f"combined by {study.aggregation.rule}"
    ]
    if not study.groups_change:
        lines.append(" | ".join(", ".join(group) for group in study.groups(study.sites, "", 1)))
    if study.privacy.mode == "distributed":
        of_all = study.asked / study.secure_aggregation.least(study.asked)
        price = (study.asked / (sizes[0] - study.missing) / of_all) ** 0.5
        lines.append(
            f"each group's sum has all the noise: in a step it is {price:.2g} times that of one sum of all sites, and "
            f"the rule adds its own"
        )
    return lines


def _combined(study: Study) -> list[str]:
    """How far one update may reach, and who may be left out; nothing, where it is as far as it likes."""
    lines = _bounded(study)
    if study.aggregation.validation:
        lines += [
            "sites also score the model without each group, and half of them or more may vote one out",
            "sites whose file says disclosure: {votes: true} vote: one bit about held-out records for each group",
            "the hub sees each site's bits, and the models go to all sites",
        ]
    return lines


def _bounded(study: Study) -> list[str]:
    bound, weights = study.aggregation.update_norm, study.aggregation.weights
    lines = []
    if weights:
        lines = [
            f"a site counts one for every {weights.per} records, by their band, and {weights.most:g} at most; the hub "
            f"sees what all of them count together"
        ]
    if bound is None:
        return lines
    if isinstance(bound, float):
        return [*lines, f"each update is shortened to norm {bound:g}"]
    cost = {"local": "no privacy: it follows from noised updates", "none": "nothing, and is not noised"}
    return [
        *lines,
        f"each update is shortened to a norm that adapts: {bound.start:g} at first, then towards quantile "
        f"{bound.quantile:g} of the updates' norms, within {bound.least:g} to {bound.most:g}",
        f"what says so is one bit of each site; it costs {cost[study.privacy.mode]}",
    ]


def _taking_part(study: Study) -> list[str]:
    """What the study says beyond: all sites are asked, and waited for until the deadline."""
    lines, cohort, n = [], study.cohort, len(study.sites)
    if not cohort.is_all:
        drawn = f"{cohort.asked(n)} of {n}, drawn from seed, run and round"
        least = f"; {study.needed} are enough when time is over" if study.needed < cohort.size(n) else ""
        lines.append(f"each round asks {drawn}, and waits for {cohort.size(n)} updates{least}")
    if study.asynchronous:
        lines.append(f"asynchronous: a round with every {study.asynchronous.buffer} updates")
    if study.grace is not None:
        lines.append(f"after the quorum it waits {study.grace:g} x the median site's time")
        lines.append(f"late updates: {study.late_updates}")
    if study.cool_down:
        rest, after = study.cool_down.rounds, study.cool_down.after
        lines.append(f"a site rests for {rest} rounds after {after} failures in a row")
    if study.on_low_quorum == "repeat":
        lines.append("below the quorum a round is played again by itself")
    return lines
