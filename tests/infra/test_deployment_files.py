"""Dockerfiles, compose files and manifests: read and judged here, since no test machine has a Docker daemon or a cluster.

What they run is tested elsewhere: install.sh in tests/sites/test_upgrade.py,
a read-only root without rights in tests/services/test_systemd.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

INFRA = Path(__file__).parents[2] / "infra"
DOCKERFILES = sorted((INFRA / "docker").glob("*.Dockerfile"))
COMPOSE = sorted((INFRA / "docker").glob("*.compose.yaml"))
KUSTOMIZATIONS = [INFRA / "kubernetes" / side for side in ("site", "hub")]
MANIFESTS = sorted((INFRA / "kubernetes").rglob("*.yaml"))


def _documents(text: str) -> list[dict[str, Any]]:
    return [each for each in YAML(typ="safe").load_all(text) if each]


def _stages(path: Path) -> list[list[tuple[str, str]]]:
    """Instructions of each stage; what comes before the first FROM is left out."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = []
    for word, _, rest in (line.partition(" ") for line in lines):
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((word, rest))
    return stages


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_in_particular_and_opens_no_port(path):
    """A number as user, so that Kubernetes can see that it is not root; bases by full version, never `latest`."""
    last = _stages(path)[-1]

    assert [rest for word, rest in last if word == "USER"][-1] in ("10001:10001", "10002:10002")
    assert [word for word, _ in last if word in ("EXPOSE", "ADD")] == []
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", path.read_text(), re.M)
    assert {stage[0] for stage in _stages(path)} <= {("FROM", "${BASE}"), ("FROM", "${BASE} AS install")}


def test_the_image_of_a_site_is_made_of_the_signed_bundle_and_nothing_else():
    """So it holds neither flows/ nor prefect nor mlflow: the bundle's wheel has none (test_sitewheel.py)."""
    install, final = _stages(INFRA / "docker" / "site.Dockerfile")

    assert [rest for word, rest in install if word == "COPY"] == [". /bundle/"]
    assert any("install.sh --key /release.pem" in rest for word, rest in install if word == "RUN")
    assert [rest for word, rest in final if word == "COPY"] == [
        "--from=install /opt/fedrounds /opt/fedrounds"
    ]
    assert "pip" not in " ".join(rest for _, rest in install + final)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_service_has_no_right_and_no_port(path):
    """What Docker gives by default is taken away; the pages of a hub stay on its own loopback."""
    [file] = _documents(path.read_text())

    for service in file["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].split(":")[0] not in ("0", "root")
        assert {"mem_limit", "pids_limit", "restart"} <= service.keys()
        assert not service.keys() & {"ports", "expose", "privileged", "devices", "cap_add", "pid", "ipc"}
        assert all("docker.sock" not in str(volume) for volume in service["volumes"])
        records = [volume for volume in service["volumes"] if volume["target"] in ("/data", "/config")]
        assert all(volume["read_only"] for volume in records)


def _rendered() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in _documents(path.read_text())]


def _pods() -> list[tuple[str, dict[str, Any]]]:
    kinds = ("StatefulSet", "Deployment")
    return [
        (each["metadata"]["name"], each["spec"]["template"]["spec"])
        for each in _rendered()
        if each["kind"] in kinds
    ]


@pytest.mark.parametrize(("name", "pod"), _pods(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_pod_keeps_the_restricted_standard_and_more(name, pod):
    """Kubernetes' own `restricted` profile, a read-only root, no token of the cluster, limits."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert all("hostPath" not in volume for volume in pod["volumes"])
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert "ports" not in container
        assert re.fullmatch(r"fedrounds-(site|hub):\d+\.\d+\.\d+", container["image"])


def test_nothing_reaches_a_site_and_it_reaches_the_store_and_the_names():
    """One policy for the whole namespace, and no Service that would give it a name."""
    documents = [
        each for path in MANIFESTS if path.parent.name == "site" for each in _documents(path.read_text())
    ]
    [policy] = [each["spec"] for each in documents if each["kind"] == "NetworkPolicy"]

    assert "Service" not in {each["kind"] for each in documents}
    assert policy["podSelector"] == {}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["ingress"] == []
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[443], [53, 53]]
    assert all(rule["to"] for rule in policy["egress"])  # an empty `to` would mean anywhere


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl to build the kustomizations")
@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_kubectl_builds_the_manifests(folder):
    """Every file that is named is there, and is what kustomize understands."""
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)

    assert built.returncode == 0, built.stderr
    assert {each["metadata"].get("namespace", "-") for each in _documents(built.stdout)} <= {
        f"fedrounds-{folder.name}",
        "-",
    }


@pytest.mark.parametrize(
    "script", [INFRA / "docker" / "hub.sh", INFRA / "supply" / "install.sh"], ids=lambda s: s.name
)
def test_a_script_is_one_that_any_shell_reads(script):
    """`sh` is dash on Debian."""
    assert subprocess.run(["sh", "-n", script]).returncode == 0
