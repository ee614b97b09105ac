"""A clip norm that adapts, in real rounds: what it costs, where it is kept, and who refuses."""

from __future__ import annotations

import json
import random

import pytest

from flows.cli import main
from simulation.audited import run_audited
from simulation.federation import Federation
from sites.examine import norm_bound
from sites.job import JOB, RESULT
from sites.runner import InlineRunner
from sites.settings import load_site
from sites.terms import _privacy
from tasks.codes import Code
from tasks.commit import load_records
from tasks.modelcard import settings, site_metrics
from tasks.privacy.events import GaussianEvent
from tasks.privacy.onerun import find
from tests.federation import SITES, a_study, write_site
from tests.sites.builders import ToyHub, an_agent
from tests.sites.builders import a_study as a_site_study

LOCAL = {"epochs": 3, "batch_size": "full", "optimizer": "sgd", "learning_rate": 1.0}


def privacy(clip_norm, **changes):
    return {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": clip_norm} | changes


TERMS = {"start": 20.0, "most": 20.0, "rate": 1.0}


class Watching(InlineRunner):
    """Sees what jobs are told; one of them may die when its work is done."""

    def __init__(self):
        self.told, self.dies = [], set()

    def run(self, folder, watch):
        job = json.loads((folder / JOB).read_bytes())
        super().run(folder, watch)
        if job["kind"] == "train":
            self.told.append(job["clip_norm"])
            if len(self.told) in self.dies:
                (folder / RESULT).unlink()


def played(folder, dies=(), anew=False):
    """Three rounds of one site; the jobs in `dies` come to nothing, and are asked for again. Where the norm was, is."""
    folder.mkdir()
    hub, runner = ToyHub(folder), Watching()
    runner.dies = set(dies)
    agent = an_agent(folder, runner, extra="testing: {seeded_noise: true}\n")
    study = a_site_study(privacy=privacy(TERMS), local=LOCAL)
    given = hub.publish(study)
    receipts = []
    for round_ in (1, 2, 3):
        given = {name: array + 1 for name, array in given.items()}  # a round trains on what no other has
        receipt = hub.ask(agent, hub.ticket(study, given, round=round_))
        if receipt.refusal == Code.TRAINING_FAILED:
            receipt = hub.ask(agent, hub.ticket(study, given, round=round_, attempt=2))
        receipts.append(receipt)
        if anew:
            agent.close()
            agent = an_agent(folder, runner, extra="testing: {seeded_noise: true}\n")
    return runner.told, [receipt.update for receipt in receipts]


def test_each_round_begins_where_the_last_update_has_left_it(tmp_path):
    """The receipt says it; an agent that begins anew knows it from the very file that keeps the update."""
    told, updates = played(tmp_path / "once")
    ends = [update.spent.clip_norm for update in updates]

    assert told == [None, ends[0], ends[1]] and len(set(ends)) == 3
    assert ends[2] < ends[0] < 20.0
    again = played(tmp_path / "anew", anew=True)
    assert (again[0], [u.spent for u in again[1]]) == (told, [u.spent for u in updates])


def test_a_round_that_is_trained_again_begins_where_the_lost_one_did(tmp_path):
    """What came of a lost job nobody knows, and the clip norm goes with the update or not at all."""
    told, updates = played(tmp_path / "dying", dies={2})

    assert told == [None, updates[0].spent.clip_norm, updates[0].spent.clip_norm, updates[1].spent.clip_norm]


def test_it_costs_what_a_number_costs(tmp_path):
    """The same noise multiplier and epsilon: what counts the clipped is in it."""
    spent = {}
    for name, clip_norm in {"fixed": 1.0, "adaptive": TERMS}.items():
        (tmp_path / name).mkdir()
        hub = ToyHub(tmp_path / name)
        agent, study = an_agent(tmp_path / name), a_site_study(privacy=privacy(clip_norm), local=LOCAL)
        spent[name] = hub.ask(agent, hub.ticket(study, hub.publish(study))).update.spent

    assert spent["adaptive"].clip_norm is not None and spent["fixed"].clip_norm is None
    assert spent["adaptive"].model_copy(update={"clip_norm": None}) == spent["fixed"]


def test_a_job_that_ends_outside_of_the_terms_sends_nothing(tmp_path):
    """The recipe's code runs in it; what it says goes into a receipt, and into the next round."""

    class Lying(InlineRunner):
        def run(self, folder, watch):
            super().run(folder, watch)
            result = json.loads((folder / RESULT).read_bytes())
            if result["kind"] == "train":
                (folder / RESULT).write_text(json.dumps(result | {"clip_norm": 1e5}))

    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, Lying())
    study = a_site_study(privacy=privacy(TERMS), local=LOCAL)

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.TRAINING_FAILED


def test_the_gate_allows_for_the_largest_clip_norm_and_its_noise():
    """And still for no more than that."""
    event = GaussianEvent(noise_multiplier=2.0, sample_rate=1.0, steps=3)
    adaptive, fixed = (
        norm_bound(a_study(privacy=privacy(clip), local=LOCAL), event, 100.0, 5) for clip in (TERMS, 20.0)
    )

    assert fixed < adaptive < 1.03 * fixed


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (privacy("adaptive", mode="distributed", people=100), "has one clip_norm for all sites and steps"),
        ({"mode": "none", "clip_norm": "adaptive"}, "takes no epsilon, delta or clip_norm"),
        (privacy({"start": 20.0}), "expected least <= start <= most"),
        (privacy({"least": 1e-8}), "least of at least 1e-6"),
        (privacy({"most": 1e8}), "most of at most 1e6"),
        (privacy({"rate": 5.0}), "less than or equal to 2"),
        (privacy(1e-9), "greater than or equal to 0.000001"),
    ],
)
def test_what_cannot_adapt_is_no_study(terms, says):
    """Each with its cure."""
    secure = {"secure_aggregation": {"on": True}, "quorum": 3}
    with pytest.raises(ValueError, match=says):
        a_study(privacy=terms, **secure)


def test_people_read_how_it_adapts(tmp_path, capsys):
    """Before they approve, and whoever checks the file; a word means the defaults."""
    study = a_study(privacy=privacy(TERMS))
    said = " ".join(_privacy(study, load_site(write_site(tmp_path, "east"))))
    file = tmp_path / "study.yaml"
    file.write_text(a_study(privacy=privacy("adaptive")).model_dump_json(exclude_none=True))

    assert "clipped at 20 at first, then near quantile 0.5 of their norms" in said
    assert main(["study", "check", str(file)]) == 0
    assert "which adapts at each site, towards quantile 0.5" in capsys.readouterr().out
    assert json.loads(settings(study)["privacy.clip_norm"])["start"] == 20.0


def test_each_site_has_its_own_in_a_run_and_an_audit_rings_no_alarm(tmp_path):
    """Canaries in the real pipeline: clipped at what is in force, with the noise that is made for it."""
    files = [write_site(tmp_path / "files", site, epsilon=1e6) for site in SITES]
    study = a_study(privacy=privacy(TERMS | {"start": 5.0}), local=LOCAL)
    world = Federation(tmp_path / "world", [load_site(file) for file in files])
    last = load_records(world.hub, world.run(study, "toy-1"))[-1]
    norms = {name: site_metrics(site)["dp/clip_norm"] for name, site in last.sites.items()}

    assert len(set(norms.values())) == 3 and all(norm != 5.0 for norm in norms.values())
    sites = [load_site(file) for file in files]
    seen = run_audited(study, sites, 300, tmp_path / "audit", random.Random(7), seeded_noise=True)
    result = find(seen.canaries, seen.epsilon, seen.delta)
    assert not result.alarm
    assert result.together.mu > result.together.mu_claimed / 2, "and it hears the canaries"
