"""Canaries in the records of a real deployment: Prefect's and MLflow's databases and every log are searched."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flows.cli import main
from simulation import demo_data
from tests.sites.test_no_row_leaves import CANARIES, NUMBER, TEXT, UNREAD, found

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.long]


def planted(folder: Path, count: int, write=demo_data.write_hospitals) -> dict[str, int]:
    """The demo's hospitals with canaries: read ones, unread ones, and one hospital whose table cannot be read."""
    counts: dict[str, int] = write(folder, count)
    for number, path in enumerate(sorted(folder.rglob("*.csv"))):
        rows = list(csv.reader(path.open(newline="")))
        for row in rows[1::5]:
            row[0] = f"{NUMBER}{TEXT}" if number == 0 else NUMBER
        text = [[*row, "secret" if i == 0 else UNREAD] for i, row in enumerate(rows)]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(text)
    return counts


def test_no_cell_is_found_in_the_hubs_databases(tmp_path, monkeypatch, capfd):
    """A site fails over its records, others train on them; what they hold is in no server's files."""
    monkeypatch.setattr(demo_data, "write_hospitals", planted)

    main(["demo", "--sites", "4", "--rounds", "2", "--dir", str(tmp_path / "demo")])

    said = capfd.readouterr()
    files = {path for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    databases = {path.name for path in files if path.suffix in (".db", ".sqlite")}
    assert len(databases) >= 2, databases
    left = [hit for hit in found(tmp_path / "demo") if not hit.partition(":")[0].endswith(".csv")]
    assert left == []
    assert any(hit.partition(":")[0].endswith(".csv") for hit in found(tmp_path / "demo"))
    assert not [canary for canary in CANARIES if canary in said.out + said.err]
