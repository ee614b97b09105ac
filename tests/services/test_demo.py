"""The main job as a user meets it: one command, real servers, real records, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

pytestmark = [pytest.mark.services, pytest.mark.slow]


def _demo(folder, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "flows.cli", "demo", "--dir", str(folder / "demo"), *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


def _left_over(folder) -> list[str]:
    words = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [line for line in words if str(folder) in line]


def test_the_demo_trains_registers_and_leaves_no_process(tmp_path):
    """Rounds in the JSON, each with a model version; epsilon grows and stays within the limit."""
    done = _demo(tmp_path, "--sites", "4", "--rounds", "3", "--json", "result.json")

    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert [r["model_version"] for r in result["rounds"]] == [1, 2, 3]
    assert result["final"]["metrics"]["auroc"] > 0.8
    for site in result["final"]["sites"].values():
        assert 2.9 < site["epsilon"] <= 3.0
    assert "What to open next" in done.stdout
    assert "round   3" in done.stderr
    said = " ".join(done.stdout.split())
    assert "secure aggregation: of updates and figures the hub saw sums of 4 or more sites" in said
    assert "4 of 4 sites, summed securely" in done.stderr
    assert _left_over(tmp_path) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    """The demo empties only what it made itself."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("years of work")

    done = _demo(tmp_path)

    assert done.returncode == 2
    assert "--dir" in done.stderr
    assert (tmp_path / "demo" / "thesis.txt").exists()
