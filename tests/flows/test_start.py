"""A warm start: a study begins from public parameters or a registered model, and every site knows and holds to it."""

from __future__ import annotations

import numpy as np
import pytest

from flows.cli import main
from flows.studyfile import load_study_file
from infra.errors import FileError
from simulation.audited import with_canaries
from sites.proposals import of_study
from sites.settings import load_site
from sites.terms import changed_terms, sentences
from tasks import begin, layout, parameters
from tasks.begin import load_manifest
from tasks.commit import load_records
from tasks.errors import QuorumError, StudyError
from tasks.recipes import load_recipe
from tasks.records import Registered
from tasks.register import _parent
from tasks.starting import keep_start
from tasks.study import Study
from tests.federation import a_federation, a_study, write_site


def some_parameters(value=0.5):
    own = load_recipe(a_study().recipe, a_study().recipe_settings).initial_parameters(0)
    return {name: np.full_like(array, value) for name, array in own.items()}


def write_start(folder, value=0.5):
    """A file of parameters, and the terms that name it."""
    raw = parameters.to_bytes(some_parameters(value))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "public.safetensors").write_bytes(raw)
    return {"file": "public.safetensors", "sha256": parameters.sha256(raw)}, raw


def world(folder, **study):
    return a_federation(folder), a_study(rounds=1, **study)


def test_a_run_begins_from_the_public_parameters_that_its_study_names(tmp_path):
    """Round 1 trains from these bytes at every site; another start is another result."""
    start, raw = write_start(tmp_path)
    federation, study = world(tmp_path, start=start)
    keep_start(federation.hub, study, tmp_path / "study.yaml")

    run = federation.run(study)
    cold = federation.run(a_study(rounds=1))

    manifest = load_manifest(federation.hub, run)
    assert manifest.initial_parameters_sha256 == parameters.sha256(raw) == start["sha256"]
    warm, other = (load_records(federation.hub, one)[0] for one in (run, cold))
    assert warm.cohort == other.cohort and warm.parameters_sha256 != other.parameters_sha256


def test_a_registered_model_is_found_by_version_and_digest(tmp_path):
    """What MLflow calls version 7 lies in the store; its own digest is what the next study names."""
    federation, first = world(tmp_path)
    run = federation.run(first)
    record = load_records(federation.hub, run)[0]
    marker = Registered(run=run, round=1, model_version=7)
    federation.hub.write_once(layout.registered_key(run, 1), marker)
    start = {"model": "toy", "version": 7, "sha256": record.parameters_sha256}

    again = federation.run(a_study(rounds=1, start=start))

    assert load_manifest(federation.hub, again).initial_parameters_sha256 == record.parameters_sha256
    assert (_parent(a_study(start=start)), _parent(a_study())) == ("7", "none")
    assert _parent(a_study(start=start | {"model": "breast"})) == "breast/7"
    for wrong in ({"version": 8}, {"model": "breast"}, {"sha256": "0" * 64}):
        with pytest.raises(StudyError, match="its tag parameters_sha256 in MLflow"):
            federation.run(a_study(rounds=1, start=start | wrong))


def test_a_hub_that_begins_elsewhere_is_refused_by_every_site(tmp_path, monkeypatch):
    """The people have approved one start; a hub that was taken over sends another, signed and well-formed."""
    start, _ = write_start(tmp_path)
    federation, study = world(tmp_path, start=start)
    keep_start(federation.hub, study, tmp_path / "study.yaml")
    monkeypatch.setattr(begin, "starting_parameters", lambda *_: parameters.to_bytes(some_parameters(9.0)))

    with pytest.raises(QuorumError, match="bad_ticket"):
        federation.run(study)


def test_the_start_is_a_term_that_people_read_and_approve(tmp_path):
    """It changes the digest of the study, stands in its sentences, and shows as a difference."""
    start, _ = write_start(tmp_path)
    warm, site = a_study(start=start), load_site(write_site(tmp_path / "files", "north"))

    said = "\n".join(sentences(of_study(warm, site), site))

    assert warm.sha256 != a_study().sha256 and Study.model_validate_json(warm.to_bytes()) == warm
    assert f"begins from: the parameters in public.safetensors, sha256 {start['sha256']}" in said
    assert any(line.startswith("start.sha256: (absent)") for line in changed_terms(a_study(), warm))
    assert "begins from" not in "\n".join(sentences(of_study(a_study(), site), site))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sha256": "0" * 64}, "is not what the study says"),
        ({"file": "gone.safetensors"}, "cannot be read"),
        ({"model": "toy", "version": 1}, "name one of them"),
        ({"file": None, "model": "toy"}, "name one of them"),
    ],
)
def test_a_start_that_cannot_be_is_refused_with_its_line(tmp_path, change, says):
    """Before anything is published; a wrong digest is told with the one that the file has."""
    start, _ = write_start(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(a_study(rounds=1).model_dump_json(exclude_none=True)[:-1] + ',\n"start": {')
    terms = {key: value for key, value in (start | change).items() if value is not None}
    words = ", ".join(f'"{key}": {value!r}'.replace("'", '"') for key, value in terms.items())
    file.write_text(file.read_text() + words + "}}")

    with pytest.raises(FileError, match=says) as caught:
        load_study_file(file)

    assert "line 2" in str(caught.value)
    assert says != "is not what the study says" or start["sha256"] in str(caught.value)


def test_parameters_of_another_recipe_are_no_start(tmp_path):
    """Other shapes, or numbers that are none: said at the hub, not by every site."""
    federation, _ = world(tmp_path)
    for wrong in ({"weight": np.zeros((1, 2), np.float32)}, some_parameters(np.nan)):
        raw = parameters.to_bytes(wrong)
        (tmp_path / "bad.safetensors").write_bytes(raw)
        study = a_study(start={"file": "bad.safetensors", "sha256": parameters.sha256(raw)})

        with pytest.raises(StudyError, match=r"other names or shapes|not finite"):
            keep_start(federation.hub, study, tmp_path / "study.yaml")


def test_a_study_that_was_never_published_says_where_its_start_comes_from(tmp_path):
    """A schedule on another machine cannot read a file beside study.yaml."""
    start, _ = write_start(tmp_path)
    federation, study = world(tmp_path, start=start)

    with pytest.raises(StudyError, match="fedrounds study publish"):
        federation.run(study)


def test_a_simulation_starts_there_too_and_an_audit_at_the_recipes_own(tmp_path, capsys):
    """The same study file everywhere; a model with canaries has other parameters than any that was published."""
    start, _ = write_start(tmp_path)
    for site in a_study().sites:
        write_site(tmp_path, site)
    file = tmp_path / "study.yaml"
    study = a_study(rounds=1, start=start)
    file.write_text(study.model_dump_json(exclude_none=True))

    assert main(["study", "simulate", str(file), "--sites-dir", str(tmp_path)]) == 0
    assert "Result of run toy-" in capsys.readouterr().out
    assert with_canaries(study, 50).start is None
