"""What the site says of itself to an officer is what it does."""

from __future__ import annotations

import json
import re
import sys

from infra.sealing import encrypted_bytes
from sites.cli import main
from sites.explained import comes_in, leaves, own_modules
from sites.settings import load_site
from tasks.codes import Operation
from tests.sites.builders import ToyHub, a_study, an_agent, write_site


def matches(key: str, pattern: str) -> bool:
    return re.fullmatch("[^/]+".join(map(re.escape, re.split(r"<[a-z]+>", pattern))), key) is not None


def test_nothing_leaves_that_is_not_explained(tmp_path):
    """All objects of a site after training, scoring and a refusal: each of a kind that is listed, within its bound."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))
    hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE))
    hub.ask(agent, hub.ticket(study, given, run="toy-2", expires_at=0.0, issued_at=0.0))
    things = leaves(agent.site.settings, None)

    keys = hub.store.list("sites/north/out/")
    assert len(keys) >= 6
    for key in keys:
        bounds = [thing.most_bytes for thing in things if matches(key, thing.key)]
        assert bounds, key
        assert len(hub.store.get(key)) <= bounds[0]


def test_nothing_comes_in_that_is_not_explained(tmp_path):
    """What the agent reads of the store during a round."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    read, inner = [], agent.mailbox.store

    class Watched:
        def __getattr__(self, name):
            def call(key, *rest):
                read.append(key) if name.startswith("get") else None
                return getattr(inner, name)(key, *rest)

            return call

    agent.mailbox.store = Watched()
    hub.ask(agent, hub.ticket(study, hub.publish(study)))

    things = comes_in(agent.site.settings)
    others = [k for k in read if not any(matches(k, t.key) for t in things) and "/out/" not in k]
    assert (others, len(read) >= 4) == ([], True)


def test_every_module_that_runs_is_listed(tmp_path):
    """In this process the whole site has run, jobs included."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).update is not None
    listed = {name for name, _, _ in own_modules()}

    running = {name for name in sys.modules if name.partition(".")[0] == "sites"}
    assert running <= listed
    assert {"tasks.learning.dp_sgd", "tasks.contracts", "infra.signing"} <= listed
    assert not {name for name in listed if name.startswith(("flows", "infra.orchestrator", "infra.tracking"))}


def test_a_studys_bound_and_code_are_its_own(tmp_path, capsys):
    """With --study: what the hub has said of the model, and the recipe's modules."""
    hub, study = ToyHub(tmp_path), a_study()
    an_agent(tmp_path).step()
    proposal = hub.propose(study)
    config = str(write_site(tmp_path))

    assert main(["explain", "--config", config, "--study", "toy", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert facts["leaves"][0]["most_bytes"] == encrypted_bytes(proposal.parameters_bytes + 4096)
    assert "tasks.recipes.tabular" in {module["module"] for module in facts["modules"]}
    assert main(["explain", "--config", config]) == 0
    assert load_site(tmp_path / "north.yaml").settings.store in capsys.readouterr().out
