"""The command line `fedrounds-site`: quick help, and facts that a person can act on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.signing import SigningKey
from sites.cli import main
from sites.commands.budget import more_rounds
from sites.identity import HUB
from sites.ledger import Entry, Row
from sites.loop import only_agent
from tasks import layout
from tasks.contracts import Card
from tasks.privacy.budget import afford
from tasks.privacy.events import GaussianEvent
from tests.sites.builders import ToyHub, a_study, an_agent, write_site

ROOT = Path(__file__).parents[2]
LEAVES_ALONE = ("torch", "opacus", "numpy", "pandas", "scipy", "prefect", "mlflow", "boto3", "rich")


def doctor(config: Path, capsys) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--config", str(config), "--json"])
    return code, {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


@pytest.mark.parametrize("words", [["--help"], ["start", "--help"], ["doctor", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    """Half a second at most: the libraries of training are not touched."""
    script = (
        "import sys\nfrom sites.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as exc: assert exc.code == 0\n"
        f"print([m for m in {LEAVES_ALONE!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_without_a_command_the_help_is_shown(capsys):
    """And the exit code says that nothing was done."""
    assert main([]) == 2
    assert "fedrounds-site doctor --config site.yaml" in capsys.readouterr().out


def test_a_wrong_file_is_one_line_with_the_cure(tmp_path, capsys):
    """No traceback."""
    path = write_site(tmp_path)
    path.write_text(path.read_text().replace("min_records", "min_record"))

    assert main(["start", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "min_record" in error


def test_two_agents_on_one_state_folder_are_one_too_many(tmp_path, capsys):
    """They would spend from one ledger at once."""
    ToyHub(tmp_path)
    path = write_site(tmp_path)
    state = tmp_path / "north.state"

    with only_agent(state):
        assert main(["start", "--config", str(path)]) == 2

    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_the_doctor_finds_a_healthy_site_ready(tmp_path, capsys):
    """After a first start with a hub and a published study."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    agent.step()
    hub.publish(a_study())

    code, rows = doctor(tmp_path / "north.yaml", capsys)

    assert code == 0
    assert len(rows) >= 12
    assert not [row for row in rows.values() if row["state"] == "fail"]
    study = next(row for name, row in rows.items() if name.startswith("study toy"))
    assert "120 usable records" in study["text"]
    assert rows["hub"]["state"] == "ok"
    assert rows["store"]["state"] == "ok"


def test_the_doctor_leaves_no_probe_and_makes_no_key(tmp_path, capsys):
    """It looks."""
    hub = ToyHub(tmp_path)
    path = write_site(tmp_path)

    doctor(path, capsys)

    assert hub.store.list("sites/") == []
    names = sorted(p.name for p in (tmp_path / "north.state").iterdir())
    assert names == ["doctor.json", "hub.json"]  # what it remembers, and the enrolment


def test_every_row_that_is_not_ok_has_a_cure(tmp_path, capsys):
    """A hub that was exchanged, a source that is gone, a study for other columns."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    agent.step()
    hub.publish(a_study())
    stranger = SigningKey.create("hub")
    card = Card(name="hub", role="hub", public_key=stranger.public_hex, version="0")
    hub.store.put(layout.HUB_CARD, stranger.seal(card))
    (tmp_path / "north.csv").unlink()

    code, rows = doctor(tmp_path / "north.yaml", capsys)

    assert code == 1
    failed = {name.split()[0] for name, row in rows.items() if row["state"] == "fail"}
    assert failed == {"hub", "source", "study"}
    assert all(row["cure"] for row in rows.values() if row["state"] != "ok")


def test_the_doctor_says_what_is_wrong_with_the_settings(tmp_path, capsys):
    """Then there is nothing else to look at."""
    path = write_site(tmp_path)
    path.write_text("site: [")

    code, rows = doctor(path, capsys)

    assert code == 1
    assert list(rows) == ["settings"]


def test_the_doctor_says_that_a_store_cannot_be_written(tmp_path, capsys):
    """The most frequent trouble at a new site."""
    path = write_site(tmp_path)
    (tmp_path / "file").write_text("x")
    path.write_text(path.read_text().replace("/store\n", "/file/store\n"))

    code, rows = doctor(path, capsys)

    assert code == 1
    assert rows["store"]["state"] == "fail"


def test_the_doctor_prints_lines_for_people(tmp_path, capsys):
    """A mark, a name, a fact; a cure below."""
    ToyHub(tmp_path)
    main(["doctor", "--config", str(write_site(tmp_path))])

    out = capsys.readouterr().out
    assert "ok    python" in out
    assert "-> remove testing from site.yaml" in out
    assert "0 failed" in out


def test_the_budget_is_what_the_ledger_says(tmp_path, capsys):
    """Two rounds of a run on one data set."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    spent = [hub.ask(agent, hub.ticket(study, given, round=r)).update.spent for r in (1, 2)]

    assert main(["budget", "--config", str(tmp_path / "north.yaml"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    (dataset,) = facts["datasets"]
    assert dataset["epsilon"] == pytest.approx(spent[-1].epsilon)
    assert dataset["left"] == pytest.approx(10 - spent[-1].epsilon)
    assert dataset["studies"]["toy"] == {
        "epsilon": pytest.approx(spent[-1].epsilon),
        "spent": pytest.approx(spent[-1].epsilon),
        "reserved": 0,
        "runs": 1,
        "rounds": 2,
        "unfinished": 0,
        "more_rounds": dataset["studies"]["toy"]["more_rounds"],
    }


def test_the_budget_fits_80_columns(tmp_path, capsys, monkeypatch):
    """A terminal, a ticket, a mail: no heading and no figure is cut."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))
    monkeypatch.setenv("COLUMNS", "80")

    assert main(["budget", "--config", str(tmp_path / "north.yaml")]) == 0

    out = capsys.readouterr().out
    words = (
        "epsilon",
        "spent",
        "reserved",
        "left",
        "runs",
        "rounds",
        "unfinished",
        "more",
        str(tmp_path / "north.csv"),
    )
    assert not [word for word in words if word not in out]
    assert "…" not in out


@pytest.mark.parametrize("event", [(2.0, 1.0, 3), (1.5, 0.3, 4)], ids=["full", "sampled"])
def test_as_many_more_rounds_fit_as_the_ledger_would_take(event):
    """One round more than said would be refused; the last one said is not. Reserved and mixed histories count."""
    noise, rate, steps = event
    own = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)
    other = GaussianEvent(noise_multiplier=3.0, sample_rate=1.0, steps=2)
    entries = [
        Entry(dataset="d", study=study, run="r-1", round=i + 1, attempt=1, event=each)
        for i, (study, each) in enumerate([("b", other), ("a", own)])
    ]
    rows = [Row(id=i + 1, entry=entry, state="reserved", at=0.0) for i, entry in enumerate(entries)]

    fit = more_rounds(rows, rows[-1], 10.0, 1e-5)

    assert fit > 1
    assert afford([other, own], [own] * fit, 10.0, 1e-5).ok
    assert not afford([other, own], [own] * (fit + 1), 10.0, 1e-5).ok
    assert more_rounds(rows, rows[-1], 0.01, 1e-5) == 0


def test_the_budget_of_a_new_site_is_untouched(tmp_path, capsys):
    """Nothing is written by looking."""
    path = write_site(tmp_path)

    assert main(["budget", "--config", str(path)]) == 0

    said = capsys.readouterr().out
    assert "epsilon 10 at" in said and "nothing was spent yet" in said
    assert not (tmp_path / "north.state" / HUB).exists()
