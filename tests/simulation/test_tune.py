"""Private tuning: only the best is shown, its epsilon is that of the choice, and too dear a choice is not begun."""

from __future__ import annotations

import json

import pytest

import simulation.tune as tune
from flows.cli import main
from simulation.settings import events_of, grid
from simulation.tune import LAWS, priced
from sites.settings import load_site
from tasks.contracts import Metrics
from tasks.errors import PrivacyError, StudyError
from tasks.privacy.accountant import epsilon
from tasks.privacy.tuning import Tries
from tests.federation import SITES, a_study, write_site
from tests.simulation.test_audit_distributed import a_shared_study

LOCAL = {"epochs": 1, "batch_size": 32, "learning_rate": 1.0}


def files_of(folder, study, limit=100.0):
    for site in study.sites:
        write_site(folder, site, epsilon=limit)
    file = folder / "study.yaml"
    file.write_text(study.model_dump_json(exclude_none=True))
    return ["study", "tune", str(file), "--sites-dir", str(folder)]


def three_runs(monkeypatch, figures):
    """As many runs as figures, whatever chance says; one that is an error came to nothing."""
    left = list(figures)
    monkeypatch.setattr("tasks.privacy.tuning.draw", lambda *_: len(figures))
    monkeypatch.setattr(tune, "simulated", lambda *_: left.pop(0))


def test_only_the_best_is_shown(tmp_path, monkeypatch, capsys):
    """Neither the others' figures nor how many there were: they would be releases that nobody paid for."""
    words = files_of(tmp_path, a_study(rounds=1))
    three_runs(monkeypatch, [Metrics(auroc=0.61), None, Metrics(auroc=0.87), Metrics(auroc=0.72)])

    assert main([*words, "--over", "privacy.clip_norm=1"]) == 0

    said = capsys.readouterr()
    assert "best:    privacy.clip_norm=1" in said.out and "auroc 0.870" in said.out
    assert "0.610" not in said.out + said.err and "0.720" not in said.out + said.err
    assert "nothing of single runs is shown" in said.err


@pytest.mark.parametrize("study", [a_study(rounds=1, local=LOCAL), a_shared_study()])
def test_a_real_choice_costs_more_than_a_run(tmp_path, monkeypatch, capsys, study):
    """Through real runs, in both modes: one run's epsilon is the study's, the choice's is more, with a run still more."""
    monkeypatch.setattr("tasks.privacy.tuning.draw", lambda *_: 2)
    words = files_of(tmp_path, study)

    assert main([*words, "--over", "privacy.clip_norm=0.5,1", "--tries", "2", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["epsilon_run"] == 3.0 < told["epsilon_choice"] < told["epsilon_with_run"]
    assert told["metrics"]["auroc"] > 0 and told["best"]["privacy.clip_norm"] in (0.5, 1)


def test_a_choice_above_the_limit_is_not_begun(tmp_path, monkeypatch, capsys):
    """A limit of the command, or of a site's own file: refused before the first run."""
    monkeypatch.setattr(tune, "simulated", lambda *_: pytest.fail("a run was begun"))
    words = [*files_of(tmp_path, a_study(rounds=1), limit=5.0), "--over", "privacy.clip_norm=1,2"]

    assert main([*words, "--limit", "4"]) == PrivacyError.exit_code
    assert "above 4; a smaller privacy.epsilon" in capsys.readouterr().err
    assert main(words) == PrivacyError.exit_code
    assert "in the file of north" in capsys.readouterr().err


def test_nothing_drawn_is_a_result_that_costs_the_same(tmp_path, monkeypatch, capsys):
    """A Poisson law may draw no run; saying so is part of what was paid for."""
    words = files_of(tmp_path, a_study(rounds=1))
    three_runs(monkeypatch, [])

    assert main([*words, "--over", "rounds=1,2", "--law", "poisson", "--tries", "1"]) == 1
    said = capsys.readouterr().out
    assert "nothing came of it" in said and "choice:  epsilon" in said


def test_events_of_a_run_have_the_studys_epsilon(tmp_path):
    """What is composed is what receipts count, whichever mode and however batches are drawn."""
    site = load_site(write_site(tmp_path, "north"))
    for study in (a_study(), a_study(local=LOCAL), a_shared_study(rounds=3)):
        spent = epsilon(events_of(study, site), study.privacy.delta)
        assert spent == pytest.approx(3.0, rel=2e-3)


def test_a_choice_is_priced_as_its_dearest_setting(tmp_path):
    """At each order the worst of them: no order of settings makes it cheaper."""
    sites = [load_site(write_site(tmp_path, site, epsilon=100.0)) for site in SITES]
    full, drawn = a_study(), a_study(local=LOCAL)
    both = priced([full, drawn], sites, Tries(LAWS["geometric"], 4.0), None)
    each = [priced([one], sites, Tries(1.0, 4.0), None).choice for one in (full, drawn)]

    assert both == priced([drawn, full], sites, Tries(1.0, 4.0), None)
    assert both.choice >= max(each)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("privacy.epsilon=1,2", "may differ between runs"),
        ("seed=1,2", "may differ between runs"),
        ("recipe_settings.target=a,b", "may differ between runs"),
        ("rounds", "expected KEY=A,B"),
        ("local.epochs=0", "greater than or equal to 1"),
        ("local.speed=1", "Extra inputs"),
    ],
)
def test_what_must_not_differ_is_refused(word, says):
    """The promise, who is held out and what is predicted are the same in every run, or the theorem does not hold."""
    with pytest.raises(StudyError, match=says):
        grid(a_study(), [word])


def test_combinations_are_all_there():
    """Lists are values too; numbers stay numbers."""
    found = grid(a_study(), ["rounds=1,2", "local.batch_size=full,32", "privacy.clip_norm=0.5"])

    assert len(found) == 4 and {choice.study.rounds for choice in found} == {1, 2}
    with pytest.raises(StudyError, match="mode none"):
        grid(a_study(privacy={"mode": "none"}), ["rounds=1,2"])


def test_a_run_that_ends_early_is_no_result(tmp_path):
    """Why is not told: it would say more than the best does."""
    sites = [load_site(write_site(tmp_path, site, epsilon=0.1)) for site in SITES]

    assert tune.simulated(a_study(rounds=1), sites, tmp_path / "study.yaml") is None
