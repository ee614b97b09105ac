"""What a round with secure sums asks of the object store: counted, since each is a way over the network."""

from __future__ import annotations

import re
from collections import Counter

from infra.store import open_store
from infra.store.base import MESSAGE_BYTES
from infra.store.through import Through
from simulation.federation import Federation
from sites.settings import load_site
from tests.federation import FOUR, write_site
from tests.flows.test_secure import secure


class Counting(Through):
    """Writes and reads of all sites, by what they are of."""

    def __init__(self, inner):
        super().__init__(inner)
        self.writes, self.reads = Counter[str](), Counter[str]()

    def put(self, key: str, data: bytes) -> None:
        self.writes[what(key)] += 1
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.writes[what(key)] += 1
        return self.inner.put_if_absent(key, data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        self.reads[what(key)] += 1
        return self.inner.get(key, limit)


def what(key: str) -> str:
    """`out 00002-train receipt`, `in 00002-train`, `sums 00002-list-update`, `studies`, `parameters`, or the key."""
    work = re.fullmatch(r"sites/\w+/(in/tickets|out)/[^/]+/(\d{5})-\d\d-(\w+)(/[a-z]+)?(\.\w+)", key)
    if work is not None:
        return " ".join([work[1].partition("/")[0], f"{work[2]}-{work[3]}", *(work[4] or "").split("/")[1:]])
    relayed = re.fullmatch(r"shared/runs/[^/]+/sums/(\d{5}-[a-z-]+)-[0-9a-f]{16}\.json", key)
    if relayed is not None:
        return f"sums {relayed[1]}"
    return next((kind for kind in ("parameters", "studies") if f"/{kind}/" in key), key)


def test_a_sum_of_all_takes_two_writes_and_three_reads_of_each_site(tmp_path):
    """What a round needs, beside what is polled; docs/secure-aggregation.md says so."""
    files = [write_site(tmp_path / "files", site) for site in FOUR]
    store = Counting(open_store((tmp_path / "federation" / "store").absolute().as_uri()))
    federation = Federation(tmp_path / "federation", [load_site(f) for f in files], store)

    federation.run(secure(rounds=3), "toy-1")

    def of_each(counted: Counter[str], round_: int) -> dict[str, float]:
        return {
            name: n / len(FOUR)
            for name, n in counted.items()
            if f"{round_:05d}-" in name and "progress" not in name
        }

    for round_ in (2, 3):
        begins = f"{round_:05d}-"
        assert of_each(store.writes, round_) == dict.fromkeys(
            [
                *(f"out {begins}train receipt", f"out {begins}open receipt"),
                *(f"out {begins}evaluate receipt", f"out {begins}open_scores receipt"),
            ],
            1,
        )
        assert of_each(store.reads, round_) == dict.fromkeys(
            [
                *(f"in {begins}train", f"in {begins}open", f"sums {begins}list-update"),
                *(f"in {begins}evaluate", f"in {begins}open_scores", f"sums {begins}list-scores"),
                # is the answer there already? then this is an older copy of the state folder, and masks nothing
                *(f"out {begins}train receipt", f"out {begins}evaluate receipt"),
            ],
            1,
        )
    once = {name: store.reads[name] / len(FOUR) for name in ("studies", "sums 00001-cohort", "parameters")}
    assert once == {"studies": 1, "sums 00001-cohort": 1, "parameters": 1 + 3}  # the first, and each round's


def test_a_quick_job_says_once_how_far_it_is(tmp_path):
    """Signs of progress are a courtesy, and were half of a small round's writes."""
    files = [write_site(tmp_path / "files", site) for site in FOUR]
    store = Counting(open_store((tmp_path / "federation" / "store").absolute().as_uri()))
    federation = Federation(tmp_path / "federation", [load_site(f) for f in files], store)
    began = federation.now()
    for agent in federation.agents.values():
        agent.now = lambda: began  # no time passes while a job runs
    federation.run(secure(rounds=1), "toy-1")

    said = {name: n / len(FOUR) for name, n in store.writes.items() if "progress" in name}
    assert said == {"out 00001-train progress": 1, "out 00001-evaluate progress": 1}
