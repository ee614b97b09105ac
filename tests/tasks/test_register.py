"""What registering decides without asking MLflow; tests/services/test_mlflow.py asks it."""

from __future__ import annotations

import pytest

from infra.tracking import Run, Version
from tasks.register import beats, close_run, open_run, register
from tasks.trackedrun import TrackedRun
from tests.rounds import SITES, a_hub, a_manifest, a_record, a_study


def a_version(number: int, run: str = "toy-1", **metrics: float) -> Version:
    return Version(number, {"run": run} | {key: f"{value:.6f}" for key, value in metrics.items()})


def test_a_hub_without_mlflow_registers_nothing(tmp_path):
    """A simulation has no servers and runs the same flow."""
    hub, study = a_hub(tmp_path, None), a_study()

    said = [
        open_run(hub, study, a_manifest(study)),
        register(hub, study, a_manifest(study), a_record(1)),
        close_run(hub, study, a_manifest(study), [a_record(1)], "FINISHED"),
    ]

    assert said == [None, None, None]


@pytest.mark.parametrize(
    ("made", "champion", "takes_it"),
    [
        (a_version(1), None, True),
        (a_version(2, auroc=0.8), a_version(1, auroc=0.7), True),
        (a_version(2, auroc=0.6), a_version(1, auroc=0.7), False),
        (a_version(2, auroc=0.7), a_version(1, auroc=0.7), True),  # a tie in one run: the later
        (a_version(9, "toy-2", auroc=0.7), a_version(1, auroc=0.7), False),  # a later run must be better
        (a_version(9, "toy-2", auroc=0.71), a_version(1, auroc=0.7), True),
        (a_version(2, loss=0.4), a_version(1, loss=0.5), True),  # no AUROC: the lowest loss
        (a_version(2, loss=0.4), a_version(1, auroc=0.5), False),
        (a_version(2), a_version(1, loss=0.9), False),
        (a_version(1, auroc=0.7), a_version(1, auroc=0.7), False),  # it is the champion already
    ],
)
def test_the_champion_is_the_best_validated(made, champion, takes_it):
    """The alias is what people load: a worse model must never get it."""
    assert beats(made, champion) is takes_it


class Noting:
    """MLflow's side of a run, which only notes whose points came."""

    def __init__(self):
        self.batches = []

    def log(self, run, points, tags=None):
        self.batches.append((run, [p.step for p in points]))


def test_a_long_run_keeps_no_round_that_mlflow_shows():
    """A hub that plays for months must not grow with its rounds' records; nor may a round be left out."""
    noting = Noting()
    children = {site: Run(site, {}, "") for site in SITES}
    run = TrackedRun(noting, "1", Run("parent", {}, ""), children, None, begun=0)

    kept = []
    for number in range(1, 31):
        run.add(a_record(number))
        run.tell_sites(at_most=1)  # what a short round has left for them
        kept.append(len(run.untold))
    run.tell_sites(at_most=len(children))

    assert max(kept) <= len(children)
    assert run.untold == {}
    assert {
        site: sorted({n for child, steps in noting.batches if child == site for n in steps}) for site in SITES
    } == {site: list(range(1, 31)) for site in SITES}
    assert run.spent_by(30)["east"] == a_record(30).sites["east"].spent.epsilon
