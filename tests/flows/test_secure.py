"""Secure aggregation in real runs: the same result as without, nothing of one site, and whatever ends on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.results import results
from flows.studyfile import load_study_file
from infra.errors import FileError
from infra.hub import Hub
from simulation.approving import approve_everywhere
from simulation.federation import Federation
from sites.identity import own_card, own_identity
from sites.ledger import Ledger
from tasks import layout, parameters
from tasks.card import publish_card
from tasks.codes import Code
from tasks.commit import load_records
from tasks.contracts import Metrics, Receipt
from tasks.errors import QuorumError, RefusedError
from tasks.propose import propose
from tasks.records import RoundRecord
from tasks.registry import admit, revoke, site_card
from tasks.sealed import open_from_site
from tests.federation import FOUR, Killed, a_federation_of, a_study

SEEDED = "testing: {seeded_noise: true}\n"


def four(folder: Path, rule=None, extra: str = SEEDED) -> Federation:
    return of(FOUR, folder, rule, extra)


def of(sites: tuple[str, ...], folder: Path, rule=None, extra: str = SEEDED) -> Federation:
    return a_federation_of(sites, folder, rule, extra=extra)


def secure(**changes):
    return a_study(
        **{"sites": FOUR, "quorum": 3, "deadline_s": 600, "secure_aggregation": {"on": True}} | changes
    )


def last(hub: Hub, run: str) -> RoundRecord:
    return load_records(hub, run)[-1]


def weights(hub: Hub, record: RoundRecord) -> np.ndarray:
    found = parameters.from_bytes(hub.store.get(record.parameters_key, 10**7))
    return np.concatenate([found[name].ravel() for name in sorted(found)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and figures of the run that nobody disturbs, by whether it aggregates securely."""
    found = {}
    for on in (False, True):
        federation = four(tmp_path_factory.mktemp(f"secure-{on}"))
        run = federation.run(secure(secure_aggregation={"on": on}, rounds=2), "toy-1")
        record = last(federation.hub, run)
        found[on] = federation, record, weights(federation.hub, record)
    return found


def test_a_site_that_falls_between_training_and_scoring_holds_nobody_up(tmp_path):
    """The round is committed with its update, and the others' figures: not at the deadline, which may be a night away."""

    def rule(key, data):
        fallen = world.hub.store.list("sites/west/in/tickets/toy-1/00001-01-evaluate")
        return None if key.startswith("sites/west/out/") and fallen else data

    world = four(tmp_path, rule)
    world.run(secure(rounds=1, deadline_s=1e5), "toy-1")
    record = last(world.hub, "toy-1")

    assert record.cohort == FOUR and record.metrics.auroc is not None
    assert record.phases.evaluate < 1000  # by the simulation's own clock


def test_each_object_of_a_round_has_its_place_in_a_ticket(tmp_path):
    """A site that may not write gets addresses for what layout.answer_parts lists, also in a secure sum."""
    written: set[str] = set()

    def rule(key: str, data: bytes) -> bytes:
        written.add(key)
        return data

    federation = four(tmp_path, rule)
    federation.run(secure(rounds=1), "toy-1")

    parts = set()
    for key in (key for key in written if "/out/toy-1/" in key):
        _, site, _, run, name, part = key.split("/")
        answer = federation.agents[site].outbox.find(f"{run}/{name}")
        assert part in layout.answer_parts(answer.ticket), key
        parts.add(part)
    assert parts == {
        "receipt.json",
        "progress.json",
    }  # test_validated has vectors that are an object of their own


def test_the_result_is_that_of_an_open_sum(undisturbed):
    """Words of 64 bits lose nothing that float32 keeps, and the figures are sums of whole numbers."""
    (_, plain, expected), (_, record, got) = undisturbed[False], undisturbed[True]

    assert np.abs(got - expected).max() < 1e-7
    assert record.metrics.auroc == pytest.approx(plain.metrics.auroc, abs=1e-6)
    assert record.cohort == plain.cohort == FOUR
    assert (record.summed.sites, record.summed.threshold) == (4, 3)
    assert plain.summed is None


def test_nothing_of_one_site_leaves_it(undisturbed):
    """No update that the hub could open, no statistics and no figures: uniform words, and a price."""
    federation, record, _ = undisturbed[True]
    hub, keys = federation.hub, federation.hub.store.list("sites/")

    assert not [key for key in keys if key.endswith("update.safetensors")]
    receipts = [
        open_from_site(hub, hub.store.get(key), Receipt, site_card(hub, key.split("/")[1]), key)
        for key in keys
        if key.endswith("receipt.json")
    ]
    masked = [receipt.update.inside for receipt in receipts if receipt.update]
    assert len(masked) == 2 * 2 * len(FOUR)  # of updates and of scores
    for vector in masked:
        bits = np.unpackbits(np.frombuffer(vector, dtype=np.uint8))
        assert abs(bits.mean() - 0.5) < 5 / np.sqrt(len(bits)) / 2 + 0.02
    assert all(receipt.scores is None for receipt in receipts)
    assert all(site.metrics == Metrics() for site in record.sites.values())
    assert all(site.spent.epsilon > 0 for site in record.sites.values())


def test_a_site_may_show_its_own_figures_beside_the_sum(tmp_path):
    """Its file decides, not the study."""
    federation = four(tmp_path, extra="disclosure: {own_figures: true}\n")
    record = last(federation.hub, federation.run(secure(rounds=1)))

    assert record.sites["east"].metrics.auroc is not None


FILE = """\
name: toy
recipe: tasks.recipes.tabular:LogisticRegression
recipe_settings: {target: sick, positive: "yes", features: {age: {kind: numeric, range: [0, 100]}}}
sites: [a, b, c, d]
rounds: 1
quorum: 2
privacy: {mode: none}
"""


def test_it_is_the_default_of_a_file_and_counts_in_its_digest(tmp_path):
    """Who says nothing is protected; a study that was published by a version before says nothing and is as it was."""
    (tmp_path / "said.yaml").write_text(FILE + "secure_aggregation: on\n")
    (tmp_path / "unsaid.yaml").write_text(FILE)
    (tmp_path / "off.yaml").write_text(FILE + "secure_aggregation: off\n")
    said, unsaid, off = (load_study_file(tmp_path / f"{name}.yaml") for name in ("said", "unsaid", "off"))

    assert said == unsaid and said.secure_aggregation.on and not off.secure_aggregation.on
    assert said.sha256 != off.sha256
    assert b"secure" not in off.to_bytes()
    assert (said.needed, off.needed) == (3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sites: [a, b]", "at least 3 sites"),
        ("late_updates: fold", "secure_aggregation: off"),
        ("asynchronous: {buffer: 2}", "secure_aggregation: off"),
        ("aggregation: {rule: median}", "use rule mean with update_norm"),
        ("cohort: {sites: 2}", "asks 2"),
        ("secure_aggregation: {threshold: 2}", "more than half"),
        ("secure_aggregation: {bits: 32}", "needs bound"),
        ("secure_aggregation: maybe", "secure_aggregation"),
        ("cohort: {sites: 3, over_select: 0.3}\nsecure_aggregation: {threshold: 4}", "waits for 3"),
    ],
)
def test_what_needs_single_updates_is_refused_with_the_alternative(tmp_path, change, words):
    """Before the first byte moves, and by the file's line."""
    key = change.partition(":")[0]
    kept = [line for line in FILE.splitlines() if not line.startswith(f"{key}:")]
    (tmp_path / "study.yaml").write_text("\n".join([*kept, change, ""]))

    with pytest.raises(FileError) as caught:
        load_study_file(tmp_path / "study.yaml")
    assert words in str(caught.value)


def test_a_hub_that_dies_at_each_of_its_writes_ends_with_the_same_model(tmp_path, undisturbed):
    """Each life of the hub dies at the first thing that it would newly write; nobody trains twice."""
    federation = four(tmp_path)
    real, hub = federation.hub.store, federation.hub
    written: set[str] = set()

    class Mortal:
        def __getattr__(self, name):
            return getattr(real, name)

        def _die_once(self, key):
            passing = key.endswith(("/bell", "member.json")) or "/leases/" in key
            if not passing and key not in written:
                written.add(key)
                raise Killed(key)

        def put(self, key, data):
            self._die_once(key)
            real.put(key, data)

        def put_if_absent(self, key, data):
            self._die_once(key)
            return real.put_if_absent(key, data)

    lives = 0
    while True:
        lives += 1
        mortal = Hub(directory=hub.directory, store_url=hub.store_url).with_clock(
            federation.now, federation.wait
        )
        mortal.__dict__["store"] = Mortal()
        federation.hub = mortal
        try:
            federation.run(secure(rounds=2, deadline_s=1e6), "toy-1")
            break
        except Killed:
            federation._ahead += 120  # its lease is over
    record = last(hub, "toy-1")

    assert lives > 60
    assert np.array_equal(weights(hub, record), undisturbed[True][2])
    assert {n: s.attempts for n, s in record.sites.items()} == dict.fromkeys(FOUR, 1)
    assert trained(federation) == dict.fromkeys(FOUR, ((1, "charged"), (2, "charged")))


def trained(federation: Federation) -> dict[str, tuple[tuple[int, str], ...]]:
    found = {}
    for name, agent in federation.agents.items():
        ledger = Ledger(agent.site.state, site=name, read_only=True)
        found[name] = tuple((row.entry.round, row.state) for row in ledger.rows())
        ledger.close()
    return found


def test_a_site_that_dies_at_each_of_its_writes_sends_the_same_bytes(tmp_path, undisturbed):
    """One mask never hides two vectors: what was kept is what is sent, by whichever life."""
    written: set[str] = set()
    sent: dict[str, set[bytes]] = {}

    def rule(key, data):
        if key.endswith(("/update.masked", "/receipt.json")):
            sent.setdefault(key, set()).add(data)
        if (
            key.startswith("sites/south/out/toy-1/")
            and not key.endswith("progress.json")
            and key not in written
        ):
            written.add(key)
            raise Killed(key)
        return data

    federation = four(tmp_path, rule)
    waits = federation.wait

    def wait(seconds):
        try:
            waits(seconds)
        except Killed:
            federation.agents["south"] = federation._agent(federation.agents["south"].site)

    federation.hub = federation.hub.with_clock(federation.now, wait)
    federation.run(secure(rounds=2), "toy-1")

    assert len(written) == 2 + 2 * 4  # keys, and the answers of two rounds
    assert all(len(versions) == 1 for versions in sent.values())
    assert np.array_equal(weights(federation.hub, last(federation.hub, "toy-1")), undisturbed[True][2])
    assert trained(federation)["south"] == ((1, "charged"), (2, "charged"))


@pytest.mark.parametrize("silent_from", ["announce", "deal", "train", "open", "evaluate", "open_scores"])
def test_a_site_that_is_lost_at_any_step_stops_nobody(tmp_path, silent_from):
    """The other three open, or agree first; what was masked for the lost one is taken off again."""
    gone: list[bool] = []

    def rule(key, data):
        if key.startswith("sites/west/out/toy-1/") and key.split("/")[4].split("-", 2)[2] == silent_from:
            gone.append(True)
        return None if gone and key.startswith("sites/west/out/") else data

    federation = four(tmp_path, rule)
    federation.run(secure(rounds=1), "toy-1")
    record = last(federation.hub, "toy-1")
    in_sum = silent_from not in ("announce", "deal", "train")

    assert gone
    assert record.cohort == (FOUR if in_sum else FOUR[:3])
    assert record.metrics.auroc is not None
    code = {"announce": Code.NO_SEAT, "deal": Code.NO_SEAT, "train": Code.NO_ANSWER}.get(silent_from)
    assert record.sites["west"].code in (code, Code.NO_ANSWER if code else None)


@pytest.mark.parametrize(
    "silent_from",
    ["agree", *(pytest.param(s, marks=pytest.mark.long) for s in ("open", "agree_scores", "open_scores"))],
)
def test_a_second_site_that_is_lost_after_the_list_stops_nobody(tmp_path, silent_from):
    """One of five sends no vector, so that the others must agree; of these another one falls."""
    gone: list[bool] = []

    def rule(key, data):
        if key.startswith("sites/west/out/") and ("-train/" in key or "-evaluate/" in key):
            return None
        if key.startswith("sites/east/out/toy-1/") and key.split("/")[4].split("-", 2)[2] == silent_from:
            gone.append(True)
        return None if gone and key.startswith("sites/east/out/") else data

    federation = of((*FOUR, "xena"), tmp_path, rule)
    sites = (*FOUR, "xena")
    federation.run(secure(rounds=1, sites=sites, secure_aggregation={"on": True, "threshold": 3}), "toy-1")
    record = last(federation.hub, "toy-1")

    assert gone
    assert record.cohort == ("east", "north", "south", "xena")
    assert record.metrics.auroc is not None


def operations(federation: Federation) -> set[str]:
    """Of all tickets that a site has answered in the run."""
    kept = federation.agents["north"].outbox.folder.glob("toy-1/*.json")
    return {path.stem.split("-", 2)[2] for path in kept}


def test_the_list_of_all_is_opened_without_a_signature(undisturbed, tmp_path):
    """One exchange less for each sum, where nobody is missing; and signatures where somebody is."""
    assert operations(undisturbed[True][0]) == {
        "announce",
        "deal",
        "train",
        "open",
        "evaluate",
        "open_scores",
    }

    federation = four(tmp_path, lambda key, data: None if "west/out" in key and "-evaluate/" in key else data)
    federation.run(secure(rounds=1), "toy-1")

    assert "agree" not in operations(federation) and "agree_scores" in operations(federation)


def test_sites_of_the_version_before_are_asked_for_signatures_first(tmp_path, monkeypatch, undisturbed):
    """They know no list without signatures: the hub asks them as it always did, for the same list."""

    def unknown(*_args):
        raise RefusedError(Code.BAD_TICKET, "what was passed on is no Agreed")

    monkeypatch.setattr("sites.sums.open_whole", unknown)
    federation = four(tmp_path)
    federation.run(secure(rounds=2), "toy-1")

    assert {"agree", "agree_scores"} <= operations(federation)
    assert np.array_equal(weights(federation.hub, last(federation.hub, "toy-1")), undisturbed[True][2])


@pytest.mark.parametrize("until", [pytest.param("agree", marks=pytest.mark.long), "open"])
def test_a_run_of_a_hub_of_the_version_before_goes_on(tmp_path, monkeypatch, until, undisturbed):
    """It had asked for signatures under the list of all; whatever was said before, the newer hub opens the same sum."""
    federation = four(tmp_path)
    real, waits = federation.hub, federation.wait

    def wait(seconds):
        waits(seconds)
        if f"00001-01-{until}.json" in str(real.store.list("sites/north/in/tickets/toy-1/")):
            raise Killed

    with monkeypatch.context() as before, pytest.raises(Killed):
        before.setattr("tasks.opening.is_whole", lambda *_: False)
        federation.hub = real.with_clock(federation.now, wait)
        federation.run(secure(rounds=2), "toy-1")
    federation._ahead += 120  # its lease is over
    federation.hub = real
    federation.run(secure(rounds=2), "toy-1")

    assert np.array_equal(weights(real, last(real, "toy-1")), undisturbed[True][2])
    assert trained(federation) == dict.fromkeys(FOUR, ((1, "charged"), (2, "charged")))


def test_two_lost_sites_of_four_pause_the_run_and_nothing_is_opened(tmp_path):
    """Below the threshold nobody can open; the vectors are kept, and the same ones are added when the two are back."""
    gone: list[bool] = []

    def rule(key, data):
        lost = key.startswith(("sites/west/out/", "sites/south/out/"))
        return None if gone and lost else data

    federation = four(tmp_path, rule)
    study = secure(rounds=2)
    hub, waits = federation.hub, federation.wait

    def wait(seconds):
        if hub.store.list(f"{layout.sums_prefix('toy-1')}00002-list-update"):
            gone.append(True)
        waits(seconds)

    federation.hub = hub.with_clock(federation.now, wait)
    with pytest.raises(QuorumError, match=r"secure sum of update: .* are needed"):
        federation.run(study, "toy-1")
    assert len(load_records(hub, "toy-1")) == 1

    gone.clear()
    federation.hub = hub
    federation.run(study, "toy-1")
    assert results(hub, "toy-1")["state"] == "finished"
    assert trained(federation) == dict.fromkeys(FOUR, ((1, "charged"), (2, "charged")))


def test_a_site_that_comes_later_gets_a_seat_of_its_own(tmp_path):
    """Keys are made anew for all as soon as somebody who is there has none."""
    away = [True]

    def rule(key, data):
        return None if away and key.startswith("sites/west/out/") else data

    federation = four(tmp_path, rule)
    hub, waits = federation.hub, federation.wait

    def wait(seconds):
        waits(seconds)
        if away and load_records(hub, "toy-1"):
            away.clear()
            federation._ahead += 20  # until it shows itself again

    federation.hub = hub.with_clock(federation.now, wait)
    federation.run(secure(rounds=3), "toy-1")
    cohorts = [record.cohort for record in load_records(hub, "toy-1")]

    assert cohorts[0] == FOUR[:3]
    assert cohorts[-1] == FOUR


def test_a_site_that_enrols_during_a_run_makes_nobody_wait(tmp_path):
    """It takes part when the study was published and approved anew; until then the others go on as they were."""
    federation = four(tmp_path)
    hub, study = federation.hub, secure(rounds=3)
    west = federation.agents["west"].site
    revoke(hub, "west", "not enrolled yet")
    publish_card(hub)
    before = propose(hub, study)
    waits = federation.wait

    def wait(seconds):
        waits(seconds)
        if load_records(hub, "toy-1") and site_card(hub, "west") is None:
            admit(hub, own_card(own_identity("west", west.state)))
            federation.agents["west"] = federation._agent(west)
            approve_everywhere([west], study, before)
            federation._ahead += 20  # it shows itself

    federation.hub = hub.with_clock(federation.now, wait)
    federation.run(study, "toy-1")

    assert "west" not in before.members
    assert propose(hub, study).members.keys() == set(FOUR)  # what a new `study publish` would ask
    records = load_records(hub, "toy-1")
    assert [record.cohort for record in records] == [FOUR[:3]] * 3
    assert records[-1].sites["west"].code == Code.NO_SEAT


def test_figures_that_cannot_be_opened_stop_no_round(tmp_path):
    """Two of four are lost between their scores and the list: the model is there, its figures are not, nothing is paused."""
    gone: list[bool] = []

    def rule(key, data):
        lost = bool(gone) and key.startswith(("sites/west/out/", "sites/south/out/"))
        if key.startswith("sites/west/out/toy-1/") and key.endswith("-evaluate/receipt.json"):
            gone.append(True)  # with this one all four are listed
        return None if lost else data

    federation = four(tmp_path, rule)
    federation.run(secure(rounds=1), "toy-1")

    assert gone
    assert last(federation.hub, "toy-1").metrics == Metrics()
    assert last(federation.hub, "toy-1").cohort == FOUR
    assert federation.hub.store.get(layout.paused_key("toy-1")) is None
