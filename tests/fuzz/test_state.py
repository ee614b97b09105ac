"""A site's own files, damaged or edited: every command says so and none falls over."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from infra.errors import InfraError
from infra.store import open_store
from sites.agent import Agent
from sites.cli import main
from sites.job import RESULT
from sites.ledger import Ledger
from sites.runner import InlineRunner, read_result
from sites.settings import load_site
from sites.stopfile import FILE as STOP
from sites.stopfile import halted
from tasks.errors import FederationError, RefusedError
from tests.fuzz.effort import changed_json, efforts, nearly, tried
from tests.sites.builders import write_site

STATE = Path(__file__).parents[1] / "vectors" / "protocol-1" / "state-north"
LOOKS = [
    ["ledger", "verify"],
    ["audit", "verify"],
    ["audit", "show"],
    ["audit", "report", "--month", "2026-11"],
    ["budget"],
    ["held"],
]


@pytest.fixture
def site(tmp_path) -> Path:
    """site.yaml beside the state folder of a site that has worked."""
    path = write_site(tmp_path)
    shutil.copytree(STATE, tmp_path / "north.state")
    return path


def files() -> list[str]:
    return sorted(str(p.relative_to(STATE)) for p in STATE.rglob("*") if p.is_file() and p.stat().st_size)


def damaged() -> st.SearchStrategy[tuple[str, bytes]]:
    """One of the files with other content."""
    whole = {name: (STATE / name).read_bytes() for name in files()}
    return st.sampled_from(sorted(whole)).flatmap(lambda name: st.tuples(st.just(name), nearly(whole[name])))


def restored(state: Path, name: str, raw: bytes) -> None:
    shutil.rmtree(state)
    shutil.copytree(STATE, state)
    (state / name).write_bytes(raw)


@efforts
def test_a_damaged_file_is_told_by_every_command(effort, site, capsys):
    """Bits flip, disks fill, people edit: an exit code and a line, never a traceback."""

    def check(damage: tuple[str, bytes]) -> None:
        restored(site.parent / "north.state", *damage)
        for words in LOOKS:
            assert main([*words, "--config", str(site)]) in range(6)

    tried(effort, 10, damaged(), check)


@efforts
def test_an_agent_starts_or_says_what_is_damaged(effort, site):
    """It must not begin with half of its memory."""
    loaded = load_site(site)
    store = open_store(loaded.settings.store)

    def check(damage: tuple[str, bytes]) -> None:
        restored(loaded.state, *damage)
        with suppress(InfraError, FederationError):
            Agent(loaded, store, InlineRunner()).close()

    tried(effort, 30, damaged(), check)


@efforts
def test_an_edited_ledger_is_told(effort, site):
    """A person with sqlite3 in hand: any cell of any row, of any type."""
    state = site.parent / "north.state"
    columns = ["id", "kind", "dataset", "study", "run", "round", "attempt", "event", "at", "hash"]

    def check(edit: tuple[str, Any]) -> None:
        column, value = edit
        shutil.copyfile(STATE / "ledger.sqlite", state / "ledger.sqlite")
        shutil.copyfile(STATE / "ledger.head", state / "ledger.head")
        with sqlite3.connect(state / "ledger.sqlite") as db:
            before = db.execute(f"SELECT {column} FROM entries ORDER BY rowid").fetchall()
            try:
                db.execute(f"UPDATE entries SET {column} = ? WHERE rowid = 1", (value,))
            except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                return
            changed = db.execute(f"SELECT {column} FROM entries ORDER BY rowid").fetchall() != before
        db.close()
        with pytest.raises(InfraError) if changed else nullcontext():
            Ledger(state, site="north", read_only=True).close()

    values = st.one_of(
        st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=20)
    )
    tried(effort, 40, st.tuples(st.sampled_from(columns), values), check)


RESULTS: dict[str, dict[str, Any]] = {
    "survey": {"kind": "survey", "records": 100, "units": 95, "held_out": 20},
    "train": {"kind": "train", "began_at": 1.0, "payload_bytes": 148},
    "refusal": {"kind": "refusal", "code": "too_few_records", "text": "too few"},
    "plan": {
        "kind": "plan",
        "event": {"kind": "gaussian", "noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 1},
        "trajectory": [1.0],
        "epsilon_after": 1.0,
    },
    "score": {"kind": "score", "began_at": 1.0, "scores": {"metrics": {"auroc": 0.5}, "statistics": [1, 2]}},
}


@efforts
@pytest.mark.parametrize("kind", RESULTS)
def test_a_result_is_one_or_a_refusal(effort, tmp_path, kind):
    """A recipe may write its own result: the agent reads it without trust."""

    def check(raw: bytes) -> None:
        (tmp_path / RESULT).write_bytes(raw)
        try:
            read_result(tmp_path)
        except RefusedError as exc:
            assert exc.code

    tried(effort, 30, st.one_of(st.binary(max_size=50), changed_json(RESULTS[kind])), check)


@efforts
def test_a_stop_file_pauses_whatever_is_in_it(effort, tmp_path):
    """A switch must not fail by its contents."""

    def check(raw: bytes) -> None:
        (tmp_path / STOP).write_bytes(raw)
        assert halted(tmp_path) is not None

    good = {"mode": "pause", "reason": "x", "uid": 1, "at": 1.0}
    tried(effort, 60, st.one_of(st.binary(max_size=50), changed_json(good)), check)


@efforts
@pytest.mark.parametrize("words", [["policy", "test"]], ids=" ".join)
def test_a_file_that_a_command_is_given_is_read_or_refused(effort, site, words, capsys):
    """Tickets and studies come by e-mail as well."""
    store = STATE.parent / "store"
    ticket = (store / "sites" / "north" / "in" / "tickets" / "toy-1" / "00001-01-train.json").read_bytes()
    path = site.parent / "ticket.json"

    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        assert main([*words, str(path), "--config", str(site)]) in range(6)

    tried(effort, 40, nearly(ticket), check)


@efforts
def test_moments_and_names_on_the_command_line_are_read_or_refused(effort, site, capsys):
    """Arguments are text from a person, or from a script that got it elsewhere."""

    def check(text: str) -> None:
        for words in (["release", text], ["audit", "report", "--month", text], ["policy", "test", text]):
            try:
                code = main([*words, "--config", str(site)])
            except SystemExit as exc:  # argparse
                code = exc.code
            assert code in range(6)

    odd = st.sampled_from(["../x", "/etc/passwd", "2026-13", "0000-00", "9999-12", "-1", "a" * 5000, "", "."])
    tried(
        effort,
        30,
        st.one_of(odd, st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)),
        check,
    )
