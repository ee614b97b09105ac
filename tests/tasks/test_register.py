"""What registering decides without asking MLflow; tests/services/test_mlflow.py asks it."""

from __future__ import annotations

import pytest

from infra.tracking import Version
from tasks.register import beats, close_run, open_run, register
from tests.rounds import a_hub, a_manifest, a_record, a_study


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
