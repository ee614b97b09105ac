"""Hub: a run in MLflow as this process knows it, so that a round need not ask.

Opened by finding what an earlier process made, and making the rest; forgotten
on a failure, so that the next try looks again. What happens to a run is
register.py's story.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.hub import Hub
from infra.tracking import NOTE, Point, Run, Tracking, Version
from tasks import modelcard, participation
from tasks.commit import load_records
from tasks.contracts import RunManifest
from tasks.records import RoundRecord
from tasks.study import Study

PARTICIPATION = "participation.csv"
CHAMPION = "champion"  # `latest` needs no alias: MLflow keeps that name for the newest version
# MLflow would show the account and the script of whoever started the hub.
ANONYMOUS = {"mlflow.user": "fedrounds", "mlflow.source.name": "fedrounds", "mlflow.source.type": "PROJECT"}
# Without its kind MLflow asks every visitor whether this is a language model.
KIND = {"mlflow.experimentKind": "custom_model_development"}


@dataclass
class TrackedRun:
    """One run's places in MLflow, and what has been sent there.

    A round's record is kept until all child runs show it: a long run must not fill the hub's memory.
    """

    tracking: Tracking
    experiment: str
    parent: Run
    children: dict[str, Run]
    champion: Version | None
    begun: int  # rounds up to this one may have been registered in part by an earlier process
    lines: dict[int, str] = field(default_factory=dict)  # of the table of participation, by round
    spent: dict[int, dict[str, float]] = field(default_factory=dict)  # each site's epsilon, by round
    untold: dict[int, RoundRecord] = field(default_factory=dict)  # rounds that a child run lacks
    told: dict[str, set[int]] = field(default_factory=dict)  # site: rounds that its child run shows

    def add(self, record: RoundRecord) -> None:
        """Take in a committed round, to be told. Safe to repeat."""
        self.lines[record.round] = participation.lines_of(record)
        self.spent[record.round] = modelcard.epsilons([record])
        self.untold[record.round] = record

    def spent_by(self, round_: int) -> dict[str, float]:
        """What each site has spent when this round is over."""
        return {
            site: spent for n in sorted(self.spent) if n <= round_ for site, spent in self.spent[n].items()
        }

    def tell_sites(self, at_most: int) -> None:
        """Send child runs the points they lack, one batch for a site; those that lack most come first."""
        lacking = {site: self._lacking(site) for site in self.children}
        first = sorted((site for site in lacking if lacking[site]), key=lambda site: -len(lacking[site]))
        for site in first[: max(0, at_most)]:
            rounds = lacking[site]
            points = [p for r in rounds for p in points_of(r, modelcard.site_metrics(r.sites[site]))]
            codes = {r.round: r.sites[site].code for r in rounds if r.sites[site].code}
            tags = {"refusal": str(codes[max(codes)]), "refusal_round": str(max(codes))} if codes else {}
            self.tracking.log(self.children[site].id, points, tags=tags)
            self.told.setdefault(site, set()).update(r.round for r in rounds)
        self._drop_told()

    def tell_participation(self) -> None:
        """Put who took part in all rounds so far beside the run: one call."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / PARTICIPATION
            file.write_text(participation.table(self.lines))
            self.tracking.attach(self.parent, file)

    def _lacking(self, site: str) -> list[RoundRecord]:
        told = self.told.get(site, set())
        return [r for n, r in sorted(self.untold.items()) if site in r.sites and n not in told]

    def _drop_told(self) -> None:
        lacking = {record.round for site in self.children for record in self._lacking(site)}
        self.untold = {number: self.untold[number] for number in lacking}


_known: dict[tuple[str, str], TrackedRun] = {}


@contextmanager
def tracked(hub: Hub, study: Study, manifest: RunManifest) -> Iterator[TrackedRun]:
    """The run in MLflow, found or made.

    Raises:
        ServiceError: MLflow does not answer.
    """
    key = (str(hub.mlflow_url), manifest.run)
    try:
        if key not in _known:
            _known[key] = _open(hub, study, manifest)
        yield _known[key]
    except BaseException:
        _known.pop(key, None)
        raise


def is_known(hub: Hub, run: str) -> bool:
    """True where this process has opened the run and nothing failed since."""
    return (str(hub.mlflow_url), run) in _known


def forget(hub: Hub, run: str) -> None:
    """Drop what is known of a run that has ended."""
    _known.pop((str(hub.mlflow_url), run), None)


def points_of(record: RoundRecord, metrics: dict[str, float]) -> list[Point]:
    """The metrics at the round's step and time: a repeat gives equal points. Steps in lockstep have their own."""
    points = [Point(key, value, record.round, record.committed_at) for key, value in metrics.items()]
    steps = record.lockstep
    if steps is None:
        return points
    first = (record.round - 1) * len(steps.sites) + 1
    figures = {"lockstep/sites": [float(n) for n in steps.sites], "lockstep/moved": list(steps.moved)}
    return points + [
        Point(key, value, first + i, record.committed_at)
        for key, values in figures.items()
        for i, value in enumerate(values)
    ]


def _open(hub: Hub, study: Study, manifest: RunManifest) -> TrackedRun:
    tracking = Tracking(str(hub.mlflow_url))
    about = "A run is one training of the study: it has a child run for each site and a model for each round."
    experiment = tracking.experiment(study.name, KIND | {NOTE: about})
    found = tracking.runs(experiment, {"run": manifest.run})
    parents = [run for run in found if "site" not in run.tags]
    parent = parents[0] if parents else None
    if parent is None:
        tags = _parent_tags(study, manifest)
        parent = tracking.create_run(experiment, manifest.run, tags, manifest.created_at)
    children = {run.tags["site"]: run for run in reversed(found) if "site" in run.tags}
    for site in study.sites:
        if site not in children:
            tags = _child_tags(study, manifest, site, parent)
            children[site] = tracking.create_run(experiment, site, tags, manifest.created_at)
    champion = tracking.version_with_alias(study.name, CHAMPION)
    records = load_records(hub, manifest.run)
    run = TrackedRun(tracking, experiment, parent, children, champion, begun=len(records))
    for record in records:
        run.add(record)
    return run


def _parent_tags(study: Study, manifest: RunManifest) -> dict[str, str]:
    terms = study.privacy
    return ANONYMOUS | {
        "run": manifest.run,
        "study": study.name,
        "study_sha256": manifest.study_sha256,
        "recipe_sha256": manifest.recipe_sha256,
        "privacy": terms.mode,
        "secure_aggregation": "on" if study.secure_aggregation.on else "off",
        "epsilon_limit": "none" if terms.epsilon is None else f"{terms.epsilon:g}",
        "delta": "none" if terms.delta is None else f"{terms.delta:g}",
        "sites": ", ".join(study.sites),
        "fedrounds": _own_version(),
    }


def _child_tags(study: Study, manifest: RunManifest, site: str, parent: Run) -> dict[str, str]:
    return ANONYMOUS | {
        "mlflow.parentRunId": parent.id,
        "run": manifest.run,
        "study": study.name,
        "site": site,
        NOTE: modelcard.site_card(study, site),
    }


def _own_version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:
        return "source tree"
