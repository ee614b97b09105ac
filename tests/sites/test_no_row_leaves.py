"""Canaries in the rows: whatever happens to a site's records, no cell of theirs is found anywhere else."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest

from sites.cli import main
from sites.logs import FILE as LOG
from tests.federation import SITES, a_federation, a_study, write_site

TEXT = "CANARYWARDZQ"  # in a category that the recipe does not know
PERSON = "CANARYPERSONXK"
NUMBER = "73.90218476"  # as a feature
UNREAD = "918273645546372819"  # in a column that no recipe asks for
CANARIES = [TEXT, PERSON, NUMBER, NUMBER.replace(".", ""), UNREAD, "canaryward", "canaryperson"]


def plant(path: Path) -> None:
    """Put canaries into every fifth row and into a column of their own."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[0].append("secret")
    for number, row in enumerate(rows[1:]):
        row.append(UNREAD)
        if number % 5 == 0:
            row[0], row[2], row[4] = NUMBER, TEXT, f"{PERSON}{number}"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def spoil(path: Path, how: str) -> None:
    """Break the table so that whoever parses it would like to quote it."""
    text = path.read_text()
    match how:
        case "a number that is none":
            text = text.replace(f"{NUMBER},", f"{NUMBER}{TEXT},")
        case "a label that is none":
            text = text.replace(",yes,", f",{TEXT},").replace(",no,", f",{TEXT},")
        case "a row too long":
            text += f"{NUMBER},1,a,yes,{PERSON},{UNREAD},{TEXT},{TEXT}\n"
        case "an open quote":
            text += f'"{TEXT},{NUMBER},{PERSON}\n'
        case "no header":
            text = "\n".join(f"{NUMBER},1,{TEXT},yes,{PERSON},{UNREAD}" for _ in range(50))
        case "not UTF-8":
            path.write_bytes(text.encode() + f"{NUMBER},1,{TEXT}".encode() + b"\xff\xfe\n")
            return
        case "few rows":
            text = "".join(text.splitlines(keepends=True)[:12])
    path.write_text(text)


def found(folder: Path) -> list[str]:
    """Files below `folder` that hold a canary, by name or by content."""
    needles = [c.encode() for canary in CANARIES for c in (canary, canary.lower())]
    return [
        f"{path.relative_to(folder)}: {needle.decode()}"
        for path in folder.rglob("*")
        for needle in needles
        if needle in path.name.encode() or (path.is_file() and needle in path.read_bytes())
    ]


@pytest.fixture
def logs(tmp_path):
    """What the agents would write into their agent.log."""
    path = tmp_path / "federation" / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield path
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()


SPOILED = [
    *("a number that is none", "a label that is none", "a row too long", "an open quote"),
    *("no header", "not UTF-8", "few rows"),
]


@pytest.mark.parametrize("how", SPOILED)
def test_no_cell_is_found_outside_the_sites_own_file(tmp_path, logs, capfd, how):
    """A whole run, one site failing: store, hub, audit log, ledger, plans, surveys and logs are searched."""
    federation = a_federation(tmp_path, **{site: {"extra": "privacy_none: []\n"} for site in SITES})
    for site in SITES:
        plant(tmp_path / "files" / f"{site}.csv")
    spoil(tmp_path / "files" / "south.csv", how)

    run = federation.run(a_study())

    for agent in federation.agents.values():
        agent.close()
    assert federation.store.list(f"hub/runs/{run}/rounds/")
    assert (tmp_path / "federation/sites/south/audit.jsonl").stat().st_size
    assert logs.stat().st_size
    assert found(tmp_path / "federation") == []
    said = capfd.readouterr()
    assert not [canary for canary in CANARIES if canary in said.out + said.err]


def test_no_cell_is_told_by_the_commands(tmp_path, capfd):
    """doctor, ledger and audit look at the same file."""
    for how in SPOILED:
        config = write_site(tmp_path, "south")
        plant(tmp_path / "south.csv")
        spoil(tmp_path / "south.csv", how)
        main(["doctor", "--config", str(config), "--json"])
        main(["ledger", "verify", "--config", str(config), "--json"])
        main(["audit", "show", "--config", str(config), "--json"])
    said = capfd.readouterr()
    assert not [canary for canary in CANARIES if canary in said.out + said.err]


def test_the_search_finds_a_canary(tmp_path):
    """A search that finds nothing must be able to find something."""
    (tmp_path / "a.json").write_text(f'{{"ward": "{TEXT}"}}')
    assert found(tmp_path) == [f"a.json: {TEXT}"]
