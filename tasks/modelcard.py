"""What MLflow shows of a run: cards in markdown, metrics, parameters.

Written for a stranger. Nothing here says more than a round's record: no row
count, no path, no host, no error text. Sending it is register.py's work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from tasks.contracts import Metrics, RunManifest
from tasks.records import RoundRecord, SiteRound
from tasks.study import NEWER, Study

MAX_ROWS = 25  # MLflow keeps 5000 characters of a description
MAX_LIST = 1000  # characters of a list of names


def study_card(study: Study, columns: Sequence[str]) -> str:
    """Of the registered model: what it is, how private, how to use it."""
    return f"""\
**{study.name}**: one model that {len(study.sites)} institutions train together with fedrounds; their \
records stay with them. Each version is the model after one round.

- Sites: {names(study.sites)}
- Input: raw columns {names(columns)}; recipe `{study.recipe}`
- Output: `score`, the probability of the positive class
- Privacy: {privacy(study)}{_begins(study)}
- Alias `champion`: the best AUROC (else the lowest loss) on the held-out records of all sites
- Alias `latest`: the newest version

Where fedrounds is installed with its hub extra:

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/{study.name}@champion")
model.predict(table)  # a pandas DataFrame with the raw columns
```

Tested on held-out records of these sites only: elsewhere it needs a validation first."""


def run_card(study: Study, manifest: RunManifest, last: RoundRecord | None) -> str:
    """Of the parent run."""
    begin = (
        f"Run `{manifest.run}` of study **{study.name}**: up to {study.rounds} rounds between "
        f"{len(study.sites)} sites. A step of a chart is a round; each site has a child run; "
        f"each round is a version of the registered model `{study.name}`.\n\nPrivacy: {privacy(study)}."
    )
    return begin if last is None else f"{begin}\n\nAfter round {last.round}: {figures(last.metrics)}."


def site_card(study: Study, site: str) -> str:
    """Of a site's child run."""
    return (
        f"Site **{site}** in study {study.name}. `local/*`: the round's model on this site's own held-out "
        f"records, as far as the site shows them. `dp/epsilon`: what the site's people have paid for this "
        f"run so far. Points arrive in batches, at the latest when the run ends."
    )


def round_card(study: Study, record: RoundRecord, spent: Mapping[str, float]) -> str:
    """Of a model version.

    Args:
        study: what the sites agreed on.
        record: the committed round.
        spent: per site, what its people have paid for the run up to this round.
    """
    shown = list(record.sites.items())[:MAX_ROWS]
    table = [
        _row("site", "this round", "epsilon so far (limit)", "AUROC", "accuracy", "loss"),
        "|---|---|---|---|---|---|",
        *(_row(n, _state(s), _epsilon(study, spent.get(n)), *_cells(s.metrics)) for n, s in shown),
    ]
    if len(record.sites) > MAX_ROWS:
        table.append(_row(f"and {len(record.sites) - MAX_ROWS} more", "see their child runs", "", "", "", ""))
    rows = "\n".join(table)
    return f"""\
Model after **round {record.round}** of run `{record.run}`; {len(record.cohort)} of {len(record.sites)} \
sites took part in the round.{_late(record)}{dropped(record)} All held-out records together: {figures(record.metrics)}.

Privacy: {privacy(study)}. {summed(record)} Parameters sha256: `{record.parameters_sha256}`.

{rows}"""


def _begins(study: Study) -> str:
    if study.start is None:
        return ""
    return f"\n- Begins from {study.start}, sha256 `{study.start.sha256}`; what that has cost is not counted here"


def summed(record: RoundRecord) -> str:
    """How much the hub saw of one site, in a sentence."""
    how = record.summed
    if how is None:
        return "Secure aggregation off: the hub saw each site's update."
    steps = record.lockstep
    if record.groups:
        least = min(len(group.sites) for group in record.groups)
        seen = f"{len(record.groups)} sums of groups of {least} sites or more"
    elif steps is not None:
        seen = f"{len(steps.sites)} sums of the gradients of {min(steps.sites)} sites or more, a step each,"
    else:
        seen = f"the sum of {len(record.cohort)} updates"
    votes = " but its votes on the groups" if record.voters else ""
    return (
        f"Secure aggregation: the hub saw {seen} and the sum of their figures, never one site's{votes}; "
        f"{how.threshold} of {how.sites} sites must agree to open a sum."
    )


def dropped(record: RoundRecord) -> str:
    """Which group the sites have voted out, in a sentence; nothing where they have not."""
    out = next((group for group in record.groups if group.dropped), None)
    if out is None:
        return ""
    return f" Left out: the group {names(out.sites)}, by {out.votes} of {record.voters} votes."


def settings(study: Study) -> dict[str, str]:
    """The parameters of a run and of its models."""
    shown = {
        "rounds": study.rounds,
        "quorum": study.quorum,
        "deadline_s": study.deadline_s,
        "seed": study.seed,
        "recipe": study.recipe,
        "sites": len(study.sites),
        "evaluation.holdout_fraction": study.evaluation.holdout_fraction,
    }
    said = study.model_dump(mode="json", include=set(NEWER), exclude_none=True)
    shown |= {key: json.dumps(value) if isinstance(value, dict) else value for key, value in said.items()}
    shown |= {f"local.{key}": value for key, value in study.local.model_dump().items()}
    combined = study.aggregation.model_dump(exclude_none=True)
    shown |= {f"aggregation.{key}": value for key, value in combined.items()}
    private = study.privacy.model_dump(exclude_none=True).items()
    shown |= {f"privacy.{key}": json.dumps(v) if isinstance(v, dict) else v for key, v in private}
    return {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in shown.items()}


def round_metrics(record: RoundRecord, spent: Mapping[str, float]) -> dict[str, float]:
    """Metrics of the parent run: few and fixed. What is undefined in this round is left out."""
    aurocs = [s.metrics.auroc for s in record.sites.values() if s.metrics.auroc is not None]
    shown = {f"global/{key}": value for key, value in record.metrics.model_dump().items()}
    shown["fair/auroc_min"] = min(aurocs, default=None)
    if spent:
        shown["dp/epsilon_max"] = max(spent.values())
        shown["dp/epsilon_mean"] = sum(spent.values()) / len(spent)
    shown |= {
        "round/sites": len(record.cohort),
        "round/missing": sum(site.code is not None for site in record.sites.values()),
        "round/seconds": record.seconds,
        "round/bytes_up": record.bytes_up,
        "round/update_norm": record.update_norm,
        "round/counted": record.counted,
        "round/dropped": sum(len(group.sites) for group in record.groups if group.dropped)
        if record.voters
        else None,
        "round/votes": max((group.votes or 0 for group in record.groups), default=0)
        if record.voters
        else None,
    }
    return {key: float(value) for key, value in shown.items() if value is not None}


def site_metrics(site: SiteRound) -> dict[str, float]:
    """Metrics of a site's child run."""
    shown = {f"local/{key}": value for key, value in site.metrics.model_dump().items()}
    if site.spent is not None:
        shown["dp/epsilon"] = site.spent.epsilon
        shown["dp/noise_multiplier"] = site.spent.noise_multiplier
        shown["dp/sample_rate"] = site.spent.sample_rate
        shown["dp/epsilon_limit"] = site.spent.epsilon_limit
        if site.spent.against is not None:
            shown["dp/epsilon_hub"] = site.spent.against.hub
            shown["dp/epsilon_hub_with_missing"] = site.spent.against.hub_with_missing
            shown["dp/epsilon_all_others"] = site.spent.against.all_others
        shown["dp/sensitivity"] = site.spent.sensitivity
        shown["dp/clip_norm"] = site.spent.clip_norm
        shown["dp/epsilon_reckoned"] = 1.0 if site.reckoned else None
    return {key: float(value) for key, value in shown.items() if value is not None}


def epsilons(records: Iterable[RoundRecord]) -> dict[str, float]:
    """Per site, what a model has cost after these rounds, in order: a site that left early has still paid."""
    return {name: s.spent.epsilon for r in records for name, s in r.sites.items() if s.spent is not None}


def names(values: Sequence[str]) -> str:
    """`a, b, c`, cut at MAX_LIST characters with the number of all."""
    text = ", ".join(values)
    if len(text) <= MAX_LIST:
        return text
    return text[:MAX_LIST].rpartition(", ")[0] + f", … ({len(values)} in all)"


def privacy(study: Study) -> str:
    """The guarantee in a sentence."""
    terms, many = study.privacy, study.local_steps > 1
    if terms.mode == "none":
        return "no differential privacy in this study"
    if terms.mode == "distributed":
        return (
            f"the sums that a whole run shows are differentially private, epsilon at most {terms.epsilon:g} at delta "
            f"{terms.delta:g} against the hub{talking(study)}; each site adds a share of the noise, "
            f"and against the hub and all other sites together less is left (dp/epsilon_all_others)"
            + (f"; a sum is of {study.local_steps} local steps, with noise for as many" if many else "")
            + (
                f"; a record is in a sum with probability {study.sample_rate:g}"
                if study.sample_rate < 1
                else ""
            )
        )
    return (
        f"what each site sends in a whole run is differentially private by itself, "
        f"epsilon at most {terms.epsilon:g} at delta {terms.delta:g}, noise added at the site"
    )


def talking(study: Study) -> str:
    """Who may talk to the hub while the epsilon of mode distributed holds: ` and 2 of the sites`, or nobody."""
    return f" and {study.missing} of the sites" if study.missing else ""


def figures(metrics: Metrics) -> str:
    """`AUROC 0.912, accuracy 0.870, loss 0.310`; undefined ones are left out."""
    known = {"AUROC": metrics.auroc, "accuracy": metrics.accuracy, "loss": metrics.loss}
    return ", ".join(f"{k} {v:.3f}" for k, v in known.items() if v is not None) or "no metrics"


def _late(record: RoundRecord) -> str:
    if not record.folded:
        return ""
    late = ", ".join(f"{name} by {rounds}" for name, rounds in record.folded.items())
    return f" Late updates are in it, damped by their age in rounds: {late}."


def _state(site: SiteRound) -> str:
    state = site.state if site.code is None else f"{site.state}: {site.code}"
    return f"{state}; epsilon reckoned by the hub" if site.reckoned else state


def _epsilon(study: Study, spent: float | None) -> str:
    if study.privacy.mode == "none":
        return "no guarantee"
    return "none reported" if spent is None else f"{spent:.3f} ({study.privacy.epsilon:g})"


def _cells(metrics: Metrics) -> list[str]:
    return ["–" if v is None else f"{v:.3f}" for v in (metrics.auroc, metrics.accuracy, metrics.loss)]


def _row(*cells: str) -> str:
    """A row of a table. MLflow prints tables without space between columns, hence the space inside."""
    return "| " + " | ".join(f"{cell}&ensp;" for cell in cells) + " |"
