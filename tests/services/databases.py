"""PostgreSQL and Redis for tests: Debian's own servers on loopback, in a folder of the test, ended by pid."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from infra.servers import free_port

PASSWORD = secrets.token_hex(8)  # of both; no address of a test works anywhere else
START_S = 60


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def missing() -> list[str]:
    absent = [] if postgres_programs() else ["postgresql"]
    return absent + [name for name in ("redis-server", "setpriv") if shutil.which(name) is None]


class Databases(NamedTuple):
    prefect: str
    mlflow: str
    redis: str
    pids: dict[str, int]


@contextmanager
def databases(folder: Path) -> Iterator[Databases]:
    """Both servers; PostgreSQL has a database for Prefect and one for MLflow."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        port, postgres = _postgres(folder / "postgres", running)
        redis_port = free_port()
        running.append(subprocess.Popen(_redis_command(redis_port, folder), stdout=subprocess.DEVNULL))
        yield Databases(
            f"postgresql+asyncpg://fedrounds:{PASSWORD}@127.0.0.1:{port}/prefect",
            f"postgresql+pg8000://fedrounds:{PASSWORD}@127.0.0.1:{port}/mlflow",
            f"redis://:{PASSWORD}@127.0.0.1:{redis_port}/0",
            {"postgres": postgres, "redis": running[-1].pid},
        )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _redis_command(port: int, folder: Path) -> list[str]:
    fixed = {"--bind": "127.0.0.1", "--save": "", "--requirepass": PASSWORD}
    options = fixed | {"--port": str(port), "--dir": str(folder)}
    return ["redis-server", *(word for pair in options.items() for word in pair)]


def _postgres(folder: Path, running: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    programs = postgres_programs()
    assert programs is not None
    folder.mkdir(mode=0o700)
    _reachable(folder)
    word = folder.with_suffix(".password")
    word.write_text(PASSWORD)
    word.chmod(0o644)
    init = [
        "initdb",
        "-D",
        str(folder),
        "-U",
        "fedrounds",
        "--pwfile",
        str(word),
        "-A",
        "scram-sha-256",
        "-N",
    ]
    subprocess.run(_as_nobody(programs, init), check=True, capture_output=True, cwd="/")
    port = free_port()
    serve = ["postgres", "-D", str(folder), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
    log = folder.with_suffix(".log").open("wb")
    with log:
        running.append(subprocess.Popen(_as_nobody(programs, serve), stdout=log, stderr=log, cwd="/"))
    _create(port)
    return port, running[-1].pid


def _create(port: int) -> None:
    import pg8000.native

    until = time.monotonic() + START_S
    while True:
        try:
            connection = pg8000.native.Connection(
                "fedrounds", host="127.0.0.1", port=port, password=PASSWORD, database="postgres"
            )
            break
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    for name in ("prefect", "mlflow"):
        connection.run(f"CREATE DATABASE {name}")
    connection.close()


def _as_nobody(programs: Path, command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    whole = [str(programs / command[0]), *command[1:]]
    if os.getuid() != 0:
        return whole
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *whole]


def _reachable(folder: Path) -> None:
    """Let the unprivileged user own the folder and pass through those above it."""
    if os.getuid() != 0:
        return
    os.chown(folder, 65534, 65534)
    for above in folder.parents:
        with suppress(OSError):
            above.chmod(above.stat().st_mode | 0o011)
