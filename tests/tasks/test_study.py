"""Terms of a study that say who takes part: what is impossible is refused with its line and the cure."""

from __future__ import annotations

import pytest

from flows.studyfile import load_study_file
from infra.errors import FileError
from tasks.study import Study
from tests.federation import a_study

FILE = """\
name: toy
recipe: tasks.recipes.tabular:LogisticRegression
recipe_settings:
  target: sick
  positive: "yes"
  features: {age: {kind: numeric, range: [0, 100]}}
sites: [north, east, south]
rounds: 2
quorum: 2
secure_aggregation: off
privacy: {mode: none}
"""


def test_a_study_without_the_newer_keys_keeps_its_digest():
    """Runs that were begun, and sites that approved the study, know it by this digest."""
    old = "8d86c45a2b101928cbc7c207940f5b56ec6df8f9622a3fa1e39ad5aedbf680b2"
    assert a_study().sha256 == a_study(cohort="all", late_updates="drop", on_low_quorum="pause").sha256 == old


@pytest.mark.parametrize(
    "terms",
    [
        {"cohort": {"fraction": 0.67}},
        {"cohort": {"sites": 2, "weights": {"north": 2.0}, "always": ["east"], "over_select": 0.5}},
        {"grace": 1.5},
        {"late_updates": "fold"},
        {"on_low_quorum": "repeat"},
        {"cool_down": {"after": 2, "rounds": 1}},
    ],
)
def test_each_newer_key_is_a_term_of_the_study(terms):
    """What changes who takes part changes the digest that sites agree to, and survives the store."""
    study = a_study(**terms)

    assert study.sha256 != a_study().sha256
    assert Study.model_validate_json(study.to_bytes()) == study


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cohort: {fraction: 0.5, sites: 2}", "keep one of them"),
        ("cohort: {sites: 4}", "4 sites of 3 cannot be asked"),
        ("cohort: {sites: 1}", "quorum 2 is more than the 1 sites of a cohort"),
        ("cohort: {over_select: 0.5}", "need sites or fraction"),
        ("cohort: {sites: 2, always: [west]}", "west, which is not among"),
        ("cohort: {sites: 2, weights: {west: 2}}", "west, which is not among"),
        ("cohort: {sites: 2, weights: {north: 0}}", "that of north must lie above 0"),
        ("cohort: most", "cohort"),
        ("grace: -1", "grace"),
        ("late_updates: keep", "late_updates"),
        ("on_low_quorum: ignore", "on_low_quorum"),
        ("cool_down: {after: 0}", "cool_down.after"),
    ],
)
def test_what_cannot_work_is_refused_with_its_line_and_the_cure(tmp_path, line, words):
    """Before the first byte moves."""
    file = tmp_path / "study.yaml"
    file.write_text(FILE + line + "\n")

    with pytest.raises(FileError) as caught:
        load_study_file(file)

    assert words in str(caught.value)
    assert "line 12" in str(caught.value) or "line 9" in str(caught.value)
