"""Where the hub's two servers keep their state, and how long: SQLite in the hub's folder, or larger databases.

The addresses may hold passwords. So they come from the environment (or from
options, for addresses without one), are kept in a file of the hub's folder that
its owner alone reads, and reach the servers by their environment: no command
line that `ps` shows has them. Starting the servers is servers.py's work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import FileError
from infra.keyfile import replace_private

FILE = "backends.json"  # in the hub's folder
VARIABLES = {  # of the environment, by field
    "prefect_db": "FEDROUNDS_PREFECT_DB",
    "mlflow_db": "FEDROUNDS_MLFLOW_DB",
    "mlflow_artifacts": "FEDROUNDS_MLFLOW_ARTIFACTS",
    "redis": "FEDROUNDS_REDIS",
    "keep_days": "FEDROUNDS_KEEP_DAYS",
}
EXAMPLES = {
    "prefect_db": "postgresql+asyncpg://prefect@db.example.org/prefect",
    "mlflow_db": "postgresql+pg8000://mlflow@db.example.org/mlflow",
    "mlflow_artifacts": "s3://bucket/mlflow",
    "redis": "redis://redis.example.org:6379/0",
    "keep_days": "90",
}
DAY_S = 86_400
EVENT_DAYS = 7  # Prefect's events are many and small, and nothing of a run hangs on them

# What Prefect needs so that several API servers share one stream of events: the names of its Redis parts.
_PREFECT_ON_REDIS = {
    "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
    "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
}


class Backends(BaseModel):
    """None: the embedded default, a file or folder inside the hub's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefect_db: str | None = Field(default=None, pattern=r"^postgresql\+asyncpg://\S+$")
    mlflow_db: str | None = Field(default=None, pattern=r"^postgresql\+pg8000://\S+$")
    mlflow_artifacts: str | None = Field(default=None, pattern=r"^(s3://|file:///)\S+$")
    redis: str | None = Field(default=None, pattern=r"^(rediss?|unix)://\S+$")
    keep_days: int = Field(default=90, ge=1, le=36_500)  # Prefect's history of ended flow runs

    @classmethod
    def load(cls, directory: Path) -> Backends:
        """Those of a hub's folder; the embedded ones where nothing was said.

        Raises:
            FileError: the file is damaged.
        """
        path = directory / FILE
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as exc:
            raise FileError(
                f"{path} is damaged; remove it and name the databases to `fedrounds up` again"
            ) from exc

    def save(self, directory: Path) -> None:
        """Keep them for the next start; readable by the folder's owner alone."""
        replace_private(directory / FILE, self.model_dump_json(indent=2).encode() + b"\n")

    def updated(self, said: Mapping[str, str | None]) -> Backends:
        """With what a person has said now; what he left out stays as it was.

        Raises:
            FileError: something of another form; its text is not repeated, it may hold a password.
        """
        changes = {name: address for name, address in said.items() if address is not None}
        try:
            return Backends.model_validate(self.model_dump() | changes)
        except ValidationError as exc:
            name = str(exc.errors()[0]["loc"][0])
            raise FileError(
                f"what is said for {name} has another form than expected, such as {EXAMPLES[name]}"
            ) from exc

    def prefect_environment(self) -> dict[str, str]:
        """What Prefect's server is told beyond the embedded defaults. It cleans up once an hour."""
        variables = {
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # its own default leaves flow runs
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(self.keep_days * DAY_S),
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{min(self.keep_days, EVENT_DAYS)}D",
        }
        if self.prefect_db is not None:
            variables["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.prefect_db
        if self.redis is not None:
            variables |= {**_PREFECT_ON_REDIS, "PREFECT_REDIS_MESSAGING_URL": self.redis}
        return variables

    def mlflow_environment(self, folder: Path) -> dict[str, str]:
        """Where MLflow's server keeps runs and artifacts."""
        return {
            "MLFLOW_BACKEND_STORE_URI": self.mlflow_db or f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_ARTIFACTS_DESTINATION": self.mlflow_artifacts or (folder / "artifacts").as_uri(),
        }

    def shown(self) -> dict[str, str]:
        """For people: where each part is kept, without passwords."""
        return {
            name: hide_password(str(said)) for name, said in self.model_dump().items() if said is not None
        }


def from_environment() -> dict[str, str | None]:
    """What the environment says, by field."""
    return {name: os.environ.get(variable) for name, variable in VARIABLES.items()}


def hide_password(address: str) -> str:
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", address)
