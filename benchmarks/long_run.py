"""Does anything grow? Hundreds of rounds on real servers, with memory and sizes at every fiftieth.

    python -m benchmarks.long_run [--rounds 500] [--sites 4] [--every 50] [--folder DIR] [--json FILE]

The hub's flow is a process of its own, as `fedrounds study run` makes it, beside
Prefect's and MLflow's servers on SQLite and one agent per site. Memory is
proportional set size (PSS): pages that processes share are counted once, so that
sums mean something. An agent is counted apart from its template, the warm process
that holds torch. Sizes are of files: databases with their write-ahead logs.
A long run is about a second a round on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from flows.commands.foreground import polite_end
from flows.studyfile import load_study_file
from infra import processes, servers, sessions
from infra.hub import Hub
from infra.serverfiles import MLFLOW, PREFECT
from simulation.approving import approve_everywhere
from simulation.demo_data import write_hospitals
from simulation.demo_files import site_yaml, study_yaml
from simulation.deployment import deployment
from sites.settings import load_site
from tasks.propose import propose

MIB = 1024 * 1024
LOOK_S = 1.0


class Sample(NamedTuple):
    """What all processes weigh after a round, in MiB, and how long a round took since the sample before."""

    round: int
    seconds: float
    memory: dict[str, float]
    sizes: dict[str, float]


class Weights:
    """A deployment's processes and files."""

    def __init__(self, hub: Hub, sites: Iterable[str], flow: int, files: dict[str, list[Path]]):
        self._hub, self._sites, self._flow, self._files = hub, list(sites), flow, files

    def memory(self) -> dict[str, float]:
        agents = [self._pid(f"agent-{site}") for site in self._sites]
        templates = [pid for agent in agents for pid in _children(agent)]
        return {
            "hub's flow": _pss([self._flow]),
            "Prefect": _pss(_session(self._pid(PREFECT))),
            "MLflow": _pss(_session(self._pid(MLFLOW))),
            "agents": _pss(agents),
            "templates": _pss(templates),
        }

    def sizes(self) -> dict[str, float]:
        return {name: sum(map(_bytes, paths)) / MIB for name, paths in self._files.items()}

    def _pid(self, name: str) -> int:
        found = processes.find(self._hub.directory / servers.FOLDER, name)
        assert found is not None, f"{name} has ended; its log is in {self._hub.directory / servers.FOLDER}"
        return found.pid


def samples(folder: Path, sites: int, rounds: int, every: int) -> Iterator[Sample]:
    """Play one run and weigh it after every so many rounds."""
    hub = Hub(directory=folder / "hub", store_url=(folder / "store").as_uri())
    names = list(write_hospitals(folder / "sites", sites))
    text = study_yaml(names, rounds).replace("epochs: 2", "epochs: 1")
    (folder / "study.yaml").write_text(text)
    files = {name: folder / "sites" / name / "site.yaml" for name in names}
    for name, file in files.items():
        file.write_text(site_yaml(name, hub.store_url))
    with deployment(hub, files, lambda _: None) as up:
        study = load_study_file(folder / "study.yaml")
        approve_everywhere([load_site(file) for file in files.values()], study, propose(up, study))
        with _flow(folder) as flow:
            states = [load_site(file).state for file in files.values()]
            kept = {
                "Prefect's database": _with_logs(up.directory / PREFECT / "prefect.db"),
                "MLflow's database": _with_logs(up.directory / MLFLOW / "mlflow.db"),
                "MLflow's files": [up.directory / MLFLOW / "artifacts"],
                "store": [folder / "store"],
                "sites": states,
            }
            yield from _watched(up, flow, Weights(up, names, flow.pid, kept), every)


def _watched(hub: Hub, flow: subprocess.Popen[bytes], weights: Weights, every: int) -> Iterator[Sample]:
    seen, since = 0, time.monotonic()
    while flow.poll() is None:
        done = _committed(hub)
        if done >= seen + every:
            now = time.monotonic()
            yield Sample(done, (now - since) / (done - seen), weights.memory(), weights.sizes())
            seen, since = done, now
        time.sleep(LOOK_S)
    if flow.returncode:
        raise RuntimeError(f"the run ended with {flow.returncode}; it has committed {_committed(hub)} rounds")


def _committed(hub: Hub) -> int:
    return sum("/rounds/" in key for key in hub.store.list("hub/runs/"))


@contextmanager
def _flow(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = ["study", "run", str(folder / "study.yaml"), "--dir", str(folder / "hub")]
    with (folder / "flow.log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "flows.cli", *words]
        flow = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield flow
    finally:
        flow.terminate()
        flow.wait()


def _session(pid: int) -> list[int]:
    return sessions.members(sessions.mark(pid))


def _children(pid: int) -> list[int]:
    """Of an agent that is its template; the jobs of the moment are the template's own children."""
    found = (file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for line in found for child in line]


def _pss(pids: Iterable[int]) -> float:
    """MiB of a few processes; shared pages are divided among those that share them (Linux)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a job that has just ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _bytes(path: Path) -> int:
    """Of a file, or of all files below a folder; what goes away meanwhile counts nothing."""
    below = (Path(place) / name for place, _, names in os.walk(path) for name in names)
    total = 0
    for each in below if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            total += each.stat().st_size
    return total


def _with_logs(database: Path) -> list[Path]:
    return [database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))]


def table(found: list[Sample]) -> Table:
    made = Table(title="MiB after so many rounds: memory (PSS), then files", title_justify="left")
    first = found[0]
    for name in ("round", "s a round", *first.memory, *first.sizes):
        made.add_column(name, justify="right")
    for each in found:
        numbers = [*each.memory.values(), *each.sizes.values()]
        made.add_row(str(each.round), f"{each.seconds:.2f}", *(f"{n:.1f}" for n in numbers))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--every", type=int, default=50, help="rounds between two samples")
    parser.add_argument("--folder", type=Path, help="kept afterwards; a temporary one by default")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="fedrounds-long-") as name, polite_end():
        for each in samples(args.folder or Path(name), args.sites, args.rounds, args.every):
            found.append(each)
            memory = ", ".join(f"{what} {n:.1f}" for what, n in each.memory.items())
            print(
                f"round {each.round}: {each.seconds:.2f} s a round; MiB: {memory}",
                file=sys.stderr,
                flush=True,
            )
    Console(width=140).print(table(found))
    if args.json:
        args.json.write_text(json.dumps([each._asdict() for each in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
