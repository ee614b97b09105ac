"""The real bundle, torch and all: built, installed and upgraded with no network, and a model trained from it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from infra.supply.build import assemble, fetch, release_key
from infra.supply.bundle import SBOM
from tests.federation import write_site
from tests.infra.supply.wheels import our_wheel, unpack, write_public
from tests.sites.test_upgrade import offline

ROOT = Path(__file__).parents[2]
UPGRADE_S = 600  # measured: 31 s of processor time, 70 s on a busy machine; ten times that is a fault, not a slow machine

TRAIN = """
import sys, opacus, torch
print(torch.ones(3).sum().item(), "prefect" in sys.modules)
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_site_is_installed_and_upgraded_from_the_real_bundle_without_any_network(tmp_path):
    """What an air-gapped hospital does: verify, install, doctor, upgrade in under a minute."""
    key = release_key(tmp_path / "release.key")
    public = write_public(key, tmp_path / "release.pem")
    ours = our_wheel(tmp_path / "our", "0.1.0")
    fetch(ours, ROOT / "constraints.txt", tmp_path / "wheels")
    wheels = [w for w in sorted((tmp_path / "wheels").glob("*.whl")) if not w.name.startswith("fedrounds-")]
    first = unpack(assemble(tmp_path, [ours, *wheels], key), tmp_path / "first")
    second = assemble(tmp_path, [our_wheel(tmp_path / "newer", "0.1.1"), *wheels], key)
    config, root = write_site(tmp_path, "north"), tmp_path / "root"

    installed = offline("sh", first / "install.sh", "--key", public, "--root", root)
    assert installed.returncode == 0, installed.stderr
    program = root / "current" / "bin" / "fedrounds-site"
    trained = offline(root / "current" / "bin" / "python", "-c", TRAIN)
    began = time.monotonic()
    upgraded = offline(program, "upgrade", second, "--config", config)
    took = time.monotonic() - began

    assert trained.stdout.split() == ["3.0", "False"], trained.stderr
    assert upgraded.returncode == 0, upgraded.stderr
    assert offline(program, "--version").stdout.split() == ["fedrounds", "0.1.1"]
    assert took < UPGRADE_S
    assert (root / "current" / SBOM).exists()
    listed = subprocess.run(
        [root / "current" / "bin" / "python", "-m", "pip", "list"], capture_output=True, text=True
    )
    assert "prefect" not in listed.stdout
