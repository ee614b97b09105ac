"""The documents keep up with the code: commands and refusal codes are all explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.cli import COMMANDS
from sites.cli import COMMANDS as SITE_COMMANDS
from tasks.codes import Code

ROOT = Path(__file__).parents[1]
PAGES = "\n".join(p.read_text() for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


@pytest.mark.parametrize("code", list(Code))
def test_every_refusal_code_is_explained(code):
    """A person who reads a code finds what to do."""
    assert f"| `{code}` |" in (ROOT / "docs" / "refusals.md").read_text()


def test_no_explained_code_is_gone():
    """A code that no longer exists is not explained."""
    rows = [
        line.split("`")[1]
        for line in (ROOT / "docs" / "refusals.md").read_text().splitlines()
        if line[:3] == "| `"
    ]

    assert set(rows) == {str(code) for code in Code}


@pytest.mark.parametrize(
    "name", [f"fedrounds {n}" for n in COMMANDS] + [f"fedrounds-site {n}" for n in SITE_COMMANDS]
)
def test_every_command_stands_in_a_page(name):
    """Nobody has to find a command by chance."""
    words = name.split()
    assert name in PAGES or (len(words) > 2 and f"{words[1]} {words[2]}" in PAGES)


THREATS = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_test_of_the_threat_model_exists():
    """A defence is listed with what shows it; a renamed test takes its line along."""
    named = re.findall(r"`(tests/[^`]+)`", THREATS)
    found = [name for name in named if re.fullmatch(r"tests/[\w/]+\.py::test_\w+", name)]

    assert sorted(set(named) - set(found)) == []
    assert len(found) > 50
    for file, _, test in (name.partition("::") for name in found):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
