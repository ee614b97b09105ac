"""What is installed is what is tested: the wheel, outside the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.federation import SITES, write_site

ROOT = Path(__file__).parents[2]

STUDY = """\
name: toy
recipe: tasks.recipes.tabular:LogisticRegression
recipe_settings:
  target: sick
  positive: "yes"
  features:
    age: {kind: numeric, range: [0, 100]}
    ward: {kind: category, values: [a, b]}
sites: [north, east, south]
rounds: 2
quorum: 2
privacy: {mode: local, epsilon: 3.0, delta: 1.0e-3, clip_norm: 1.0}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin"


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    """No tests, no examples, no stray top-level name that could shadow a user's module."""
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {n for n in names if not n.endswith(".dist-info")} == {
        "flows",
        "tasks",
        "sites",
        "infra",
        "simulation",
    }


def test_the_installed_wheel_simulates_a_study_away_from_the_source(wheel, tmp_path):
    """The console script of the wheel, in another folder, on files of its own."""
    bin_ = _environment(tmp_path / "env")
    subprocess.run([bin_ / "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    site_packages = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    mine = next(p for p in sys.path if p.endswith("site-packages"))
    (site_packages / "dependencies.pth").write_text(mine + "\n")  # the libraries, not the source tree
    (tmp_path / "study.yaml").write_text(STUDY)
    for site in SITES:
        write_site(tmp_path, site)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    done = subprocess.run(
        [bin_ / "fedrounds", "study", "simulate", "study.yaml", "--sites-dir", ".", "--json", "result.json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.json").exists()


@pytest.mark.long
def test_a_site_installation_has_no_prefect_and_no_mlflow(wheel, tmp_path):
    """`fedrounds[site]` brings what trains and nothing of the hub; its commands work."""
    bin_ = _environment(tmp_path / "env")
    command = [bin_ / "pip", "install", "-q", "--constraint", ROOT / "constraints.txt", f"{wheel}[site]"]
    subprocess.run(command, check=True, capture_output=True)

    listed = subprocess.run([bin_ / "pip", "list"], check=True, capture_output=True, text=True).stdout.lower()
    assert "opacus" in listed
    assert not any(line.startswith(("prefect", "mlflow", "fastapi")) for line in listed.splitlines())
    site = write_site(tmp_path, "north")
    assert subprocess.run([bin_ / "fedrounds-site", "--help"], capture_output=True).returncode == 0
    doctor = subprocess.run(
        [bin_ / "fedrounds-site", "doctor", "--config", site], cwd=tmp_path, capture_output=True, text=True
    )
    assert "north" in doctor.stdout, doctor.stderr
