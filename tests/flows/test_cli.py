"""The hub's command line: quick, closed, and honest in its exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.cli import COMMANDS, main

HEAVY = {
    "prefect",
    "mlflow",
    "torch",
    "opacus",
    "pandas",
    "numpy",
    "boto3",
    "scipy",
    "sklearn",
    "rich.console",
}


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_imports_nothing_heavy(name):
    """`--help` answers in a blink because the libraries wait until a command runs."""
    code = (
        "import sys; from flows.cli import main\n"
        "try: main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *name.split()], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "usage: fedrounds" in done.stdout
    assert not name or "examples:" in done.stdout


def test_an_unknown_command_ends_with_2(capsys):
    """argparse's own exit code, with the commands named."""
    with pytest.raises(SystemExit) as end:
        main(["stduy"])

    assert end.value.code == 2
    assert "study" in capsys.readouterr().err


def test_a_group_alone_prints_its_commands(capsys):
    """`fedrounds study` is a question, not an error in silence."""
    assert main(["study"]) == 2
    assert "simulate" in capsys.readouterr().out


def test_a_missing_hub_is_named_with_its_cure(tmp_path, capsys):
    """Exit code 2 and what to type."""
    assert main(["run", "list", "--dir", str(tmp_path)]) == 2
    assert f"fedrounds up --dir {tmp_path}" in capsys.readouterr().err


def test_a_wrong_study_file_names_the_line(tmp_path, capsys):
    """The typo, its line and what was probably meant."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: heart\nrecipe: tasks.recipes.tabular:LogisticRegression\nsites: [a]\nrounds: 1\nquorm: 1\n"
    )

    assert main(["study", "check", str(path)]) == 2
    err = capsys.readouterr().err
    assert "line 5" in err
    assert "quorum" in err
