"""An audit of the real pipeline: it finds nothing in a right one, and each mistake that pipelines have had."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import simulation.audited as audit_module
from flows.cli import main
from flows.studyfile import load_study_file
from infra.errors import FileError
from simulation.audit import as_json, disclosed
from simulation.audited import RECIPE, run_audited, with_canaries
from simulation.canaries import COLUMN, PARAMETER, WithCanaries, plant
from simulation.inference import membership
from sites.policy import Facts, decide
from sites.settings import Disclosure, load_site
from sites.sources import read
from tasks.codes import WORK
from tasks.errors import PrivacyError, QuorumError, StudyError
from tasks.learning import dp_sgd
from tasks.learning.schedule import Schedule, schedule
from tasks.privacy.noise import NoiseSource
from tasks.privacy.onerun import find
from tests.federation import NINE, SITES, Tampering, a_study, write_site

LOCAL = {"epochs": 2, "batch_size": "full", "learning_rate": 0.1}


def audited(folder: Path, canaries=300, person=False, **study):
    files = [write_site(folder / "files", site) for site in SITES]
    if person:
        for file in files:
            file.write_text(file.read_text().replace(".csv'", ".csv', person: patient"))
    terms = a_study(**{"rounds": 1, "local": LOCAL} | study)
    return run_audited(
        terms, [load_site(f) for f in files], canaries, folder / "audit", random.Random(7), seeded_noise=True
    )


def found(seen):
    return find(seen.canaries, seen.epsilon, seen.delta)


def test_a_right_pipeline_is_not_accused(tmp_path):
    """The bound lies below the claim, no alarm; mu is what the noise was made for. Nothing is left but a report."""
    seen = audited(tmp_path)

    result = found(seen)

    assert not result.alarm
    assert result.epsilon_lower_bound < 3.0
    assert set(seen.epsilon) == set(SITES) and max(seen.epsilon.values()) == pytest.approx(3.0, rel=1e-3)
    assert result.together.mu == pytest.approx(result.together.mu_claimed, abs=0.45)
    report = as_json(
        "toy",
        "0" * 64,
        seen,
        result,
        {s.settings.site: membership(seen.study, s, seen.parameters) for s in seen.sites},
    )
    north = report["sites"]["north"]
    assert north["members"] + north["strangers"] == 120, "canaries are nobody's records"
    assert abs(north["membership_auc"] - 0.5) < 4 * north["membership_error"]
    assert json.loads(json.dumps(report)) == report

    kept = disclosed(report, seen.sites)["sites"]["north"]  # by the hub
    assert not {"members", "strangers"} & kept.keys()
    assert kept["membership_auc"] == round(north["membership_auc"], 3)
    strict = [
        site.settings.model_copy(update={"disclosure": Disclosure(min_held_out=1000)}) for site in seen.sites
    ]
    shy = [replace(site, settings=settings) for site, settings in zip(seen.sites, strict, strict=True)]
    assert disclosed(report, shy)["sites"]["north"]["membership_auc"] is None


def test_persons_and_drawn_batches_are_audited_as_they_are(tmp_path):
    """Two records each, clipped by person; Poisson draws, whose noise is composed otherwise."""
    seen = audited(tmp_path, person=True, local={"epochs": 2, "batch_size": 32, "learning_rate": 0.1})

    result = found(seen)

    assert not result.alarm
    assert 0.2 < result.together.mu < result.together.mu_claimed + 0.4


def fault_in_clipping(monkeypatch):
    right = dp_sgd._optimizer
    monkeypatch.setattr(dp_sgd, "_optimizer", lambda wrapped, local, _clip: right(wrapped, local, 1e9))


def fault_in_steps(monkeypatch):
    def more(local, units) -> Schedule:
        plan = schedule(local, units)
        return plan._replace(steps=6 * plan.steps)

    monkeypatch.setattr(dp_sgd, "schedule", more)


def fault_in_noise(monkeypatch):
    right = NoiseSource.normal
    monkeypatch.setattr(NoiseSource, "normal", lambda self, shape, std: right(self, shape, std / len(SITES)))


@pytest.mark.parametrize("fault", [fault_in_clipping, fault_in_steps, fault_in_noise])
def test_a_faulty_pipeline_rings(tmp_path, monkeypatch, fault):
    """Clipping skipped, more steps than were accounted, a third of the noise: the check can fail."""
    fault(monkeypatch)

    result = found(audited(tmp_path))

    assert result.alarm
    assert result.together.z > 3.1


def test_what_promises_nothing_is_refused_before_anything_is_shown(tmp_path, capsys):
    """Neither a count of canaries nor a folder of copies: the study's mode is looked at first."""
    for site in SITES:
        write_site(tmp_path, site)
    file = tmp_path / "study.yaml"
    file.write_text(a_study(privacy={"mode": "none"}).model_dump_json(exclude_none=True))

    code = main(["study", "audit", str(file), "--sites-dir", str(tmp_path)])

    said = capsys.readouterr()
    assert code != 0
    assert "has privacy mode none" in said.err and "canaries at" not in said.err + said.out


def test_a_study_of_secure_sums_in_groups_is_audited_update_by_update():
    """Mode local promises something for each update; what sites do to it stays."""
    study = a_study(
        sites=NINE,
        quorum=7,
        secure_aggregation={"on": True},
        aggregation={"rule": "median", "groups": True, "update_norm": 2.0},
    )

    audited_as = with_canaries(study, 100)

    assert audited_as.single_updates and audited_as.aggregation.update_norm == 2.0


def test_a_run_in_which_each_site_was_away_once_proves_nothing(tmp_path, monkeypatch):
    """Canaries of a site that was not in every round would show too little, and no alarm would say nothing."""

    def away(key, data):
        lost = (f"sites/{site}/out/toy-" for site in SITES)
        return None if any(_of_round(key, site, n) for n, site in enumerate(lost, 1)) else data

    right = audit_module.open_store
    monkeypatch.setattr(audit_module, "open_store", lambda url: Tampering(right(url), away))

    with pytest.raises(PrivacyError, match="no site delivered in every round"):
        audited(tmp_path, canaries=60, rounds=3)


def _of_round(key, site, number):
    return key.startswith(site) and f"/{number:05d}-" in key and key.endswith("-train/receipt.json")


def test_sites_that_all_refuse_end_the_audit(tmp_path):
    """No report of a run that did not take place; the error says why."""
    files = [write_site(tmp_path / "files", site, epsilon=0.1) for site in SITES]

    with pytest.raises(QuorumError, match="budget_exhausted"):
        run_audited(a_study(rounds=1), [load_site(f) for f in files], 100, tmp_path / "audit")


def test_canaries_never_come_into_a_model_that_is_used(tmp_path):
    """No study file names their recipe, and a hub that asks a real site for it all the same is refused."""
    study = a_study()
    planted = study.model_copy(
        update={
            "recipe": RECIPE,
            "recipe_settings": {"recipe": study.recipe, "settings": study.recipe_settings},
        }
    )
    file, site = tmp_path / "study.yaml", load_site(write_site(tmp_path, "north"))
    file.write_text(json.dumps(planted.model_dump(mode="json", exclude_none=True)))

    with pytest.raises(FileError, match=r"line 1: simulation.canaries:WithCanaries plants canaries"):
        load_study_file(file)
    for operation in WORK:
        assert decide(site.settings, operation, planted, Facts(now=0.0)).rule == "testing.canaries"


def a_recipe(canaries=5, length=10.0):
    study = a_study()
    settings = {"recipe": study.recipe, "settings": study.recipe_settings}
    return WithCanaries(settings | {"canaries": canaries, "length": length})


def test_canaries_pull_at_one_parameter_each_and_records_at_none(tmp_path):
    """Orthogonal, of one length, and the study's own gradients are what they were."""
    site = load_site(write_site(tmp_path, "north"))
    source = plant(site.settings.sources["toy"], site.base, range(5), tmp_path / "copy.csv", random.Random(1))
    recipe = a_recipe()
    rows = read(source, site.base, [*recipe.columns(), recipe.target()])
    marks = rows.table[COLUMN]
    arrays = recipe.encode(rows.table)
    module, inner = recipe.module(), recipe.inner.module()
    inner.load_state_dict(module.inner.state_dict())
    gradients = []
    for x, y in zip(torch.from_numpy(arrays.x), torch.from_numpy(arrays.y), strict=True):
        module.zero_grad()
        recipe.loss(module(x[None]), y[None]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]).numpy())
    inner.zero_grad()
    recipe.inner.loss(
        inner(torch.from_numpy(arrays.x[:1, :-1])), torch.from_numpy(arrays.y[:1])
    ).sum().backward()

    inside = [int(m[3:]) for m in marks if m and m.startswith("in-")]
    assert 0 < len(inside) < 5 and rows.n == 125 and len(arrays.x) == 120 + len(inside)
    own = np.array(gradients[120:])
    assert own @ own.T == pytest.approx(100 * np.eye(len(inside)))
    assert [int(np.flatnonzero(g)[0]) - 5 for g in own] == inside
    assert not np.array(gradients[:120])[:, 5:].any()
    assert gradients[0][:5] == pytest.approx(
        torch.cat([p.grad.flatten() for p in inner.parameters()]).numpy(), rel=1e-5
    )
    assert recipe.initial_parameters(0)[PARAMETER].shape == (1, 5)


def test_a_copy_with_canaries_is_for_its_owner_and_reads_as_the_table_does(tmp_path):
    """Headers or none; the real rows are the same, and coins hang on each row alone."""
    site = load_site(write_site(tmp_path, "north"))
    source = site.settings.sources["toy"]
    bare = (tmp_path / "north.csv").read_text().partition("\n")[2]
    (tmp_path / "bare.csv").write_text(bare)
    named = source.model_copy(
        update={"url": "csv:bare.csv", "columns": ("age", "dose", "ward", "sick", "patient")}
    )

    for i, one in enumerate((source, named)):
        copy = plant(one, site.base, range(10, 20), tmp_path / f"copy{i}.csv", random.Random(2))
        before, after = (read(s, site.base, ["age", "sick"]) for s in (one, copy))
        assert after.n == before.n + 10
        assert after.table["age"][:-10].tolist() == before.table["age"].tolist()
        marks = read(copy, site.base, [COLUMN]).table[COLUMN]
        assert [m.partition("-")[2] for m in marks[-10:]] == [str(k) for k in range(10, 20)]
        assert (tmp_path / f"copy{i}.csv").stat().st_mode & 0o077 == 0


def test_other_sources_are_refused(tmp_path):
    """Canaries are planted in a copy, and only a CSV file can be copied here."""
    site = load_site(write_site(tmp_path, "north"))
    other = site.settings.sources["toy"].model_copy(update={"url": "sql:table"})

    with pytest.raises(StudyError, match="'sql:table' is another source"):
        plant(other, site.base, range(5), tmp_path / "copy.csv", random.Random(1))


def test_an_overfitted_model_gives_its_members_away(tmp_path):
    """The attack can win: a model that knows the training records' labels by heart scores far above a half."""
    seen = audited(tmp_path, canaries=60)
    site = next(s for s in seen.sites if s.settings.site == "north")
    honest = membership(seen.study, site, seen.parameters)
    from sites.job import SurveyJob
    from sites.records import load_records

    job = SurveyJob(site="north", study=seen.study, source=site.settings.sources["toy"], base=site.base)
    recipe, records = load_records(job)
    real = records.training.x[:, -1] == 0
    x, y = records.training.x[real, :-1].astype(float), records.training.y[real]

    class ByHeart:
        def module(self):
            return recipe.module()

        def loss(self, outputs, targets):
            return torch.ones(len(targets)) * (0.0 if len(targets) == len(y) else 1.0)

    import simulation.inference as inference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "load_records", lambda _: (ByHeart(), records))
        told = membership(seen.study, site, seen.parameters)

    assert honest.auc is not None and honest.auc < 0.7
    assert told.auc == 1.0 and told.members == len(x)
