"""What a round with secure sums asks of the object store: counted, since each is a way over the network."""

from __future__ import annotations

from collections import Counter

from infra.store import open_store
from infra.store.base import MESSAGE_BYTES
from infra.store.through import Through
from simulation.federation import Federation
from sites.settings import load_site
from tests.federation import FOUR, write_site
from tests.flows.test_secure import secure


class Counting(Through):
    """Writes and reads by what they are of, in round 2."""

    def __init__(self, inner):
        super().__init__(inner)
        self.writes, self.reads = Counter[str](), Counter[str]()

    def put(self, key: str, data: bytes) -> None:
        self._count(self.writes, key)
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count(self.writes, key)
        return self.inner.put_if_absent(key, data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        self._count(self.reads, key)
        return self.inner.get(key, limit)

    def _count(self, counted: Counter[str], key: str) -> None:
        parts = key.split("/")
        if "/sums/" in key:
            counted[parts[-1].split("-", 1)[1].rsplit("-", 1)[0]] += 1  # 00002-list-update-DIGEST.json
        elif "/00002-" in key and parts[0] == "sites":
            operation = key.split("/00002-")[1][3:].removesuffix(".json")
            counted[f"{parts[2]} {operation}"] += 1


def test_a_sum_of_all_takes_three_writes_and_five_reads_of_each_site(tmp_path):
    """One write and two reads more than an answer takes that the hub sees by itself; docs/secure-aggregation.md says so."""
    files = [write_site(tmp_path / "files", site) for site in FOUR]
    store = Counting(open_store((tmp_path / "federation" / "store").absolute().as_uri()))
    federation = Federation(tmp_path / "federation", [load_site(f) for f in files], store)

    federation.run(secure(rounds=3), "toy-1")

    writes = {what: n / len(FOUR) for what, n in store.writes.items() if "progress" not in what}
    assert writes == dict.fromkeys(
        [
            *("out train/update.masked", "out train/receipt", "out open/receipt"),
            *("out evaluate/update.masked", "out evaluate/receipt", "out open_scores/receipt"),
        ],
        1,
    )
    tickets = {what: n / len(FOUR) for what, n in store.reads.items() if what.startswith("in ")}
    assert tickets == dict.fromkeys(["in train", "in open", "in evaluate", "in open_scores"], 1)
    lists = {what: n / len(FOUR) for what, n in store.reads.items() if what.startswith("list-")}
    assert lists == {"list-update": 3, "list-scores": 3}  # of three rounds, one each
    assert store.reads["cohort"] / len(FOUR) == 2 * 3  # what work is masked for, in three rounds
