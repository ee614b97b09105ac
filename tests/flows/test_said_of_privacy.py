"""What an operator reads of privacy mode distributed: what a round is, and against whom an epsilon holds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flows.cli import main
from flows.results import results
from flows.show import result_table
from simulation.federation import Federation
from sites.settings import load_site
from sites.terms import _privacy
from tasks.modelcard import privacy
from tests.federation import NINE, SITES, a_study, write_site

PRIVACY = {"mode": "distributed", "epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0, "people": 400}
FOUR = (*SITES, "west")


def shared(**changes):
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    terms = {"sites": FOUR, "quorum": 3, "rounds": 1, "privacy": PRIVACY, "secure_aggregation": {"on": True}}
    return type(a_study()).model_validate(base | terms | changes)


def shown(folder, study):
    files = [write_site(folder / "files", site, epsilon=1e4) for site in study.sites]
    world = Federation(folder / "world", [load_site(file) for file in files])
    text = io.StringIO()
    Console(file=text, width=120).print(result_table(results(world.hub, world.run(study, "toy-1"))))
    return " ".join(text.getvalue().split())


def test_the_result_says_against_whom_its_epsilon_is(tmp_path):
    """1.0 is against the hub and one site; the same rounds are 1.8 against the hub and all other sites together."""
    text = shown(tmp_path, shared())

    assert "ε spent is against the hub and 1 of the other sites" in text
    assert "against the hub alone it is 1.000, against the hub and all other sites together 1.8" in text


def test_nobody_is_counted_who_is_not_there(tmp_path, capsys):
    """Nine sites in groups of three lose none: `and 0 of the sites` would be no sentence."""
    nine = shared(
        sites=NINE,
        quorum=7,
        aggregation={"rule": "median", "groups": True},
        privacy=PRIVACY | {"people": 900},
    )
    file = tmp_path / "study.yaml"
    file.write_text(nine.model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) == 0
    said = [*capsys.readouterr().out.splitlines(), privacy(nine)]
    said += _privacy(nine, load_site(write_site(tmp_path, "s0")))
    assert any("-DP against the hub, clip norm 1" in line for line in said)
    assert not [line for line in said if " 0 of the " in line]


def test_of_mode_local_nothing_is_added(tmp_path):
    """That epsilon is against everybody."""
    assert "against" not in shown(tmp_path, a_study(rounds=1))


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (shared(), "rounds   1, each one step on all records of all sites"),
        (a_study(), "rounds   2, each of 1 epoch, batch full"),
        (a_study(local={"epochs": 3, "batch_size": 32}), "rounds   2, each of 3 epochs, batches of 32"),
    ],
)
def test_study_check_says_what_a_round_is(tmp_path, capsys, study, words):
    """In mode distributed nobody trains epochs."""
    file = tmp_path / "study.yaml"
    file.write_text(study.model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) == 0
    assert words in capsys.readouterr().out


def test_study_check_shows_who_is_with_whom_and_what_a_vote_gives_away(tmp_path, capsys):
    """Hospitals that are alike should not be in one group: people see the groups before anything runs."""
    six = tuple("abcdef")
    terms = {"rule": "median", "groups": True, "validation": "leave_one_out"}
    study = a_study(
        sites=six, quorum=6, privacy={"mode": "none"}, secure_aggregation={"on": True}, aggregation=terms
    )
    file = tmp_path / "study.yaml"
    file.write_text(study.model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) == 0

    said = capsys.readouterr().out
    assert " | ".join(", ".join(group) for group in study.groups(six, "", 1)) in said
    assert (
        "sites whose file says disclosure: {votes: true} vote: one bit about held-out records for each group"
        in said
    )
