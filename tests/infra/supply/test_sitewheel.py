"""A site's wheel: the agent and what it can import, not a line of the hub's."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from infra.supply.sitewheel import reached
from tests.federation import write_site
from tests.infra.supply.wheels import our_wheel

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return our_wheel(tmp_path_factory.mktemp("wheel") / "our", "0.1.0")


def test_it_holds_neither_flows_nor_simulation_nor_a_verb_of_the_hub(wheel):
    """What is not there cannot be run, whatever the agent is told."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"sites", "tasks", "infra"}
    hub_only = (
        "orchestrator",
        "tracking",
        "servers",
        "/hub.py",
        "dispatch",
        "collect",
        "register",
        "supply/build",
    )
    assert [name for name in names if any(word in name for word in hub_only)] == []
    assert "infra/systemd/fedrounds-site.service" in names


def test_nothing_in_it_names_prefect_or_mlflow(wheel):
    """Not even a line that could import them."""
    with zipfile.ZipFile(wheel) as file:
        sources = {name: file.read(name) for name in file.namelist() if name.endswith(".py")}
    lines = [line.strip() for source in sources.values() for line in source.decode().splitlines()]

    assert [line for line in lines if line.startswith(("import ", "from ")) and line.split()[1].split(".")[0] in ("prefect", "mlflow")] == []  # fmt: skip


def test_every_module_that_a_site_imports_is_followed():
    """Through functions and type checks too; a name may be a module or something in one."""
    sources = {
        "sites/__init__.py": b"",
        "sites/a.py": b"def f():\n    from tasks import b\n",
        "tasks/__init__.py": b"",
        "tasks/b.py": b"import infra.c.d\n",
        "infra/__init__.py": b"",
        "infra/c/__init__.py": b"from infra.e import thing\n",
        "infra/c/d.py": b"",
        "infra/e.py": b"",
        "infra/hub.py": b"",
    }

    assert reached(sources) == sources.keys() - {"infra/hub.py"}


@pytest.mark.slow
def test_a_site_works_without_flows_and_simulation(wheel, tmp_path):
    """Every module of it can be imported, recipes keep their hash, the doctor looks at everything."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    packages = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "libraries.pth").write_text(mine + "\n")
    config = write_site(tmp_path, "north")

    script = (
        "import importlib, pathlib, sites, sites.warm\n"
        "base = pathlib.Path(sites.__file__).parents[1]\n"
        "for file in sorted((base / 'sites').rglob('*.py')) + sorted((base / 'tasks').rglob('*.py')):\n"
        "    name = '.'.join(file.relative_to(base).with_suffix('').parts)\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "for name in sites.warm.HEAVY: importlib.import_module(name)\n"
        "from tasks.recipes.closure import recipe_sha256\n"
        "print(recipe_sha256('tasks.recipes.tabular:LogisticRegression'))\n"
        f"from sites.cli import main; main(['doctor', '--config', {str(config)!r}])\n"
    )
    python = [tmp_path / "env" / "bin" / "python", "-c", script]
    done = subprocess.run(python, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)

    from tasks.recipes.closure import recipe_sha256

    assert done.returncode == 0, done.stderr
    digest, _, doctor = done.stdout.partition("\n")
    assert digest == recipe_sha256("tasks.recipes.tabular:LogisticRegression")
    assert "site north" in doctor
    assert "the check itself failed" not in doctor
