"""Six sites, one of them wrong, secure sums: two groups, and the sites vote the wrong one out on their own records."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from infra.hub import Hub
from sites.policy import check_evaluation, check_order
from tasks import layout, parameters
from tasks.codes import Code, Operation
from tasks.commit import forget_unchosen, load_records
from tasks.contracts import Metrics
from tasks.errors import RefusedError, SecureSumError
from tasks.follow import _fits
from tests.federation import SIX, Killed, a_federation_of, a_study

LIAR = "s4"
pytestmark = pytest.mark.slow


def six(folder, rule=None, votes="true"):
    shown = f"disclosure: {{own_figures: true, votes: {votes}}}\n"
    extra = f"testing: {{seeded_noise: true}}\nprivacy_none: [toy]\n{shown}"
    return a_federation_of(SIX, folder, rule, n=90, extra=extra)


def validated(**changes):
    terms = {
        "sites": SIX,
        "quorum": 6,
        "deadline_s": 1e6,
        "rounds": 1,
        "privacy": {"mode": "none"},
        "secure_aggregation": {"on": True},
        "aggregation": {"rule": "geometric_median", "groups": True, "validation": "leave_one_out"},
    }
    return a_study(**terms | changes)


@pytest.fixture(scope="module")
def lying():
    """One site turns its update round and sends it fifty times."""
    train = importlib.import_module("sites.train")
    right = train.work

    def work(job, folder, watch, began_at):
        done = right(job, folder, watch, began_at)
        if job.site == LIAR:
            path = folder / train.UPDATE
            told = {k: v * np.float32(-50) for k, v in parameters.from_bytes(path.read_bytes()).items()}
            path.write_bytes(parameters.to_bytes(told))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "work", work)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, lying):
    federation = six(tmp_path_factory.mktemp("validated"))
    federation.run(validated(rounds=2), "toy-1")
    return federation, load_records(federation.hub, "toy-1")


def test_the_group_of_the_wrong_site_is_voted_out_and_the_figures_are_of_the_model_without_it(undisturbed):
    """Nobody sees an update; the record names the group, and the model that is registered is the one that was scored."""
    federation, records = undisturbed
    hub = federation.hub

    for record in records:
        (out,) = [group for group in record.groups if group.dropped]
        assert LIAR in out.sites and out.rank == 0.75
        assert (out.votes, record.voters) == (6, 6)
        assert record.metrics.auroc > 0.75
    left = hub.store.list(layout.parameters_prefix("toy-1"))
    assert [r.parameters_key for r in records] == left[1:]  # candidates that were not chosen are gone
    assert all(
        site.metrics == Metrics() for site in records[0].sites.values()
    )  # those were of all groups' model
    assert not [key for key in hub.store.list("sites/") if key.endswith("update.safetensors")]
    assert (
        of_round(federation, 2).parameters_sha256 == records[0].parameters_sha256
    )  # the next round begins from the chosen one


def of_round(federation, number, operation=Operation.TRAIN):
    answer = federation.agents["s0"].outbox.find(f"toy-1/{number:05d}-01-{operation}")
    return answer.ticket


def test_a_hub_that_dies_between_candidates_and_commit_comes_to_the_same_decision(tmp_path, undisturbed):
    """It dies at each thing that it newly writes from the first candidate on; nobody trains or scores twice."""
    federation, written = six(tmp_path), set()
    hub, real = federation.hub, federation.hub.store
    after = ("/parameters/00001-", "scores", "-evaluate", layout.commit_key("toy-1", 1))

    class Mortal:
        def __getattr__(self, name):
            return getattr(real, name)

        def put_if_absent(self, key, data):
            if any(word in key for word in after) and key not in written:
                written.add(key)
                if len(written) % 3 == 0:  # a third of the deaths after the write
                    real.put_if_absent(key, data)
                raise Killed(key)
            return real.put_if_absent(key, data)

    for _ in range(200):
        mortal = Hub(directory=hub.directory, store_url=hub.store_url)
        federation.hub = mortal.with_clock(federation.now, federation.wait)
        federation.hub.__dict__["store"] = Mortal()
        try:
            federation.run(validated(rounds=1), "toy-1")
            break
        except Killed:
            federation._ahead += 120  # its lease is over

    (record,), (expected, _) = load_records(hub, "toy-1"), undisturbed[1]
    assert len(written) > 15
    assert record.parameters_sha256 == expected.parameters_sha256
    assert (record.groups, record.voters, record.metrics) == (
        expected.groups,
        expected.voters,
        expected.metrics,
    )
    assert {site.attempts for site in record.sites.values()} == {1}
    assert of_round(federation, 1, Operation.EVALUATE).candidates
    left = [published(hub, number, OTHER_FORM) for number in (1, 2)]  # as a hub that fell there leaves them
    forget_unchosen(hub, "toy-1", load_records(hub, "toy-1"), 1)
    kept = hub.store.list(layout.parameters_prefix("toy-1"))
    assert record.parameters_key in kept and layout.parameters_key("toy-1", 2, left[1]) in kept
    assert layout.parameters_key("toy-1", 1, left[0]) not in kept


OTHER_FORM = parameters.to_bytes({"w": np.zeros(1, dtype=np.float32)})
LIES = {
    1: lambda hub, candidates: (*candidates, candidates[0]),  # more than there are groups
    2: lambda hub, candidates: (published(hub, 2, OTHER_FORM), candidates[1]),  # another form
    3: lambda hub, candidates: ("0" * 64, candidates[1]),  # nowhere
}


def published(hub, number, raw):
    digest = parameters.sha256(raw)
    hub.store.put(layout.parameters_key("toy-1", number, digest), raw)
    return digest


def test_candidates_that_cannot_be_are_refused_and_then_nothing_is_left_out(tmp_path, lying, monkeypatch):
    """A hub that lies gets no score and no vote; the round has the model of all groups, and no figures."""
    flow = importlib.import_module("flows.round")
    right = flow.dispatch

    def dispatch(hub, plan, operation, asked, key, sha256, keys, candidates=()):
        told = LIES[plan.round](hub, candidates) if operation == Operation.EVALUATE else candidates
        return right(hub, plan, operation, asked, key, sha256, keys, told)

    monkeypatch.setattr(flow, "dispatch", dispatch)
    federation = six(tmp_path)
    federation.run(validated(rounds=len(LIES)), "toy-1")

    for record in load_records(federation.hub, "toy-1"):
        for agent in federation.agents.values():
            answer = agent.outbox.find(f"toy-1/{record.round:05d}-01-evaluate")
            assert answer.receipt.refusal == Code.BAD_TICKET
            assert answer.receipt.votes is None
        assert record.metrics == Metrics()
        assert not any(group.dropped for group in record.groups)


def test_votes_count_where_the_sum_of_figures_cannot_be_opened(tmp_path, lying, monkeypatch):
    """Else the wrong site would spoil that sum alone, and its update would stay in the model."""

    def spoiled(*_):
        raise SecureSumError("wrong shares")

    monkeypatch.setattr(importlib.import_module("tasks.evaluate"), "add_up", spoiled)
    federation = six(tmp_path)
    federation.run(validated(), "toy-1")
    (record,) = load_records(federation.hub, "toy-1")

    (out,) = [group for group in record.groups if group.dropped]
    assert LIAR in out.sites and record.metrics == Metrics()


def test_a_site_votes_only_where_its_own_file_says_so(tmp_path, lying):
    """A bit of one site about its held-out records has no noise: approving the study's terms is not enough."""
    federation = six(tmp_path, votes="false")
    federation.run(validated(), "toy-1")
    (record,) = load_records(federation.hub, "toy-1")

    assert record.voters == 0 and not any(group.dropped for group in record.groups)
    assert all(
        a.outbox.find("toy-1/00001-01-evaluate").receipt.votes is None for a in federation.agents.values()
    )
    assert record.metrics.auroc is not None


def test_a_hub_that_has_its_scores_gets_none_of_other_candidates(undisturbed):
    """A second set of models would be more than the study's people have approved; figures of models told to one site alone add up to nothing."""
    federation, _ = undisturbed
    asked, agent = of_round(federation, 2, Operation.EVALUATE), federation.agents["s0"]
    trained = agent.outbox.answered("toy-1", 2, Operation.TRAIN)
    other = asked.model_copy(update={"candidates": asked.candidates[::-1]})

    check_evaluation(asked, trained, [asked])
    with pytest.raises(RefusedError, match="a second model to score"):
        check_evaluation(other, trained, [asked])
    older = asked.model_copy(
        update={"candidates": (federation.agents["s0"].outbox.bases("toy-1")[0].sha256,)}
    )
    with pytest.raises(RefusedError, match="parameters of an earlier round"):
        check_order(older, agent.outbox.bases("toy-1"))
    bound = agent.outbox.bound(
        "toy-1", agent.outbox.find(layout.ticket_name(asked)).receipt.update.sum_sha256
    )
    assert bound.sum.sha256 != bound.sum.model_copy(update={"candidates": other.candidates}).sha256


def test_a_receipt_has_a_vote_for_each_candidate_or_is_left_out(undisturbed):
    """One more, or votes beside an update: it is not what was asked."""
    federation, _ = undisturbed
    outbox = federation.agents["s0"].outbox
    found = [
        outbox.find(f"toy-1/00001-01-{operation}") for operation in (Operation.EVALUATE, Operation.TRAIN)
    ]

    for answer in found:
        assert _fits(answer.receipt, answer.ticket)
        for votes in ((True,), (True, True, True)):
            assert not _fits(answer.receipt.model_copy(update={"votes": votes}), answer.ticket)
    assert len(found[0].receipt.votes) == 2 and found[1].receipt.votes is None
