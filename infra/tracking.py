"""MLflow over HTTP: runs, metrics, logged models, model versions, aliases.

Thin and generic: what a federation writes there is tasks/register.py's matter,
how a model's files look is modelfiles.py's. MLflow is imported on first use
(it takes seconds), with its telemetry off. Nothing is retried here, since a
create that is sent twice shows twice: a caller repeats by looking first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from infra.errors import ServiceError

State = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
NOTE = "mlflow.note.content"  # MLflow's own tag for a description in markdown
MAX_METRICS = 800  # of one batch; MLflow's limit is 1000 of everything, 100 of them tags and 100 parameters
MAX_TAGS = 100
MAX_TEXT = 5000  # characters of a tag or description: MLflow's columns on PostgreSQL

P = ParamSpec("P")
R = TypeVar("R")


class Run(NamedTuple):
    id: str
    tags: dict[str, str]
    location: str  # of its files


class Point(NamedTuple):
    """One value of a metric. Equal points are stored once, so a repeat is harmless where `at` is fixed."""

    key: str
    value: float
    step: int
    at: float  # seconds since 1970


class Model(NamedTuple):
    """A logged model: an identity and a place for files."""

    id: str
    location: str


class Version(NamedTuple):
    """A version of a registered model."""

    number: int
    tags: dict[str, str]


def _mlflow() -> Any:
    """MLflow, whose import takes 2 to 5 seconds, with the switches that it reads then and at each request."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # by default 7, over 4 minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
    import mlflow

    return mlflow


def _asks(call: Callable[Concatenate[Tracking, P], R]) -> Callable[Concatenate[Tracking, P], R]:
    """Turn what MLflow and its HTTP library raise into one error that says what to do."""

    @wraps(call)
    def asked(self: Tracking, /, *args: P.args, **kwargs: P.kwargs) -> R:
        mlflow = _mlflow()
        from requests.exceptions import RequestException

        try:
            return call(self, *args, **kwargs)
        except (mlflow.exceptions.MlflowException, RequestException) as exc:
            what = call.__name__.replace("_", " ")
            raise ServiceError(
                f"MLflow at {self.url} failed at {what!r}: {str(exc)[:300]}. Check that its server runs "
                f"(`fedrounds status`); what is missing there is written when the run is resumed."
            ) from exc

    return asked


class Tracking:
    """One MLflow server."""

    def __init__(self, url: str):
        self.url = url

    @cached_property
    def client(self) -> Any:
        return _mlflow().MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    @_asks
    def experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of the experiment of this name, made where there is none.

        Raises:
            ServiceError: somebody deleted it in MLflow, or MLflow does not answer.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, tags=_fit(tags)))
        if found.lifecycle_stage != "active":
            raise ServiceError(
                f"experiment {name!r} was deleted in MLflow. "
                f"Restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    @_asks
    def runs(self, experiment: str, tags: Mapping[str, str]) -> list[Run]:
        """Runs that carry all these tags, the oldest first; at most 1000."""
        order = ["attributes.start_time ASC"]
        found = self.client.search_runs([experiment], _filter(tags), max_results=1000, order_by=order)
        return [Run(r.info.run_id, dict(r.data.tags), r.info.artifact_uri) for r in found]

    @_asks
    def page(self, experiment: str, tags: Mapping[str, str]) -> str:
        """Where a person looks at the first run with these tags, or at all experiments while there is none."""
        found = self.client.get_experiment_by_name(experiment)
        runs = self.runs(found.experiment_id, tags) if found else []
        where = f"/{found.experiment_id}/runs/{runs[0].id}" if runs else ""
        return f"{self.url}/#/experiments{where}?workflowType=machine_learning"  # else: pages for language models

    @_asks
    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], at: float) -> Run:
        made = self.client.create_run(experiment, start_time=_ms(at), tags=_fit(tags), run_name=name)
        return Run(made.info.run_id, dict(tags), made.info.artifact_uri)

    @_asks
    def log(
        self,
        run: str,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model: Model | None = None,
    ) -> None:
        """Write all in one call (more only above MLflow's limits); with `model` metrics show there too."""
        from mlflow.entities import Metric, Param, RunTag

        on = model.id if model else None
        metrics = [Metric(p.key, p.value, _ms(p.at), p.step, model_id=on) for p in points]
        labels = [RunTag(k, v) for k, v in _fit(tags or {}).items()]
        settings = [Param(k, v) for k, v in _fit(params or {}).items()]
        for i in range(max(1, -(-len(metrics) // MAX_METRICS), -(-len(labels) // MAX_TAGS))):
            self.client.log_batch(
                run,
                metrics=metrics[i * MAX_METRICS : (i + 1) * MAX_METRICS],
                params=settings if i == 0 else [],
                tags=labels[i * MAX_TAGS : (i + 1) * MAX_TAGS],
            )

    @_asks
    def set_state(self, run: str, state: State, at: float | None = None) -> None:
        """Say that a run goes on, or ended at `at`."""
        if state == "RUNNING":
            self.client.update_run(run, status=state)
        else:
            self.client.set_terminated(run, status=state, end_time=None if at is None else _ms(at))

    @_asks
    def models(self, experiment: str, tags: Mapping[str, str]) -> list[Model]:
        """Logged models that carry all these tags."""
        found = self.client.search_logged_models([experiment], filter_string=_filter(tags))
        return [Model(m.model_id, m.artifact_location) for m in found]

    @_asks
    def create_model(
        self, experiment: str, run: str, name: str, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> Model:
        """Make a logged model, pending until its files are there: one call, whatever the run's metrics."""
        made = self.client.create_logged_model(
            experiment, name=name, source_run_id=run, tags=_fit(tags), params=_fit(params)
        )
        return Model(made.model_id, made.artifact_location)

    @_asks
    def upload(self, model: Model, folder: Path) -> None:
        """Send the folder's files, one call each, and mark the model ready. A repeat sends the same files."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # The client's log_model_artifacts would ask for the location first: one call more.
        get_artifact_repository(model.location, tracking_uri=self.url).log_artifacts(str(folder))
        self.client.finalize_logged_model(model.id, "READY")

    @_asks
    def attach(self, run: Run, file: Path) -> None:
        """Put a file among a run's, over an older one of its name: one call."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # The client's log_artifact would ask for the location first: one call more.
        get_artifact_repository(run.location, tracking_uri=self.url).log_artifact(str(file))

    @_asks
    def registered_model(self, name: str, description: str, tags: Mapping[str, str]) -> None:
        """Make the registered model, or bring its description up to date."""
        try:
            self.client.create_registered_model(name, tags=_fit(tags), description=_clip(description))
        except _mlflow().exceptions.MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            self.client.update_registered_model(name, _clip(description))

    @_asks
    def versions(self, name: str, tags: Mapping[str, str]) -> list[Version]:
        """Versions of a registered model that carry all these tags, the lowest first."""
        found = self.client.search_model_versions(f"name = '{name}' and {_filter(tags)}")
        return sorted(_version(v) for v in found)

    @_asks
    def create_version(
        self, name: str, model: Model, run: str, tags: Mapping[str, str], description: str
    ) -> Version:
        """Register a logged model as the next version; `models:/NAME@latest` names it from now on."""
        made = self.client.create_model_version(
            name,
            source=f"models:/{model.id}",
            run_id=run,
            tags=_fit(tags),
            description=_clip(description),
            model_id=model.id,
            await_creation_for=0,
        )
        return Version(int(made.version), dict(tags))

    @_asks
    def version_with_alias(self, name: str, alias: str) -> Version | None:
        try:
            return _version(self.client.get_model_version_by_alias(name, alias))
        except _mlflow().exceptions.MlflowException as exc:
            if exc.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None  # no such alias; MLflow calls that an invalid parameter
            raise

    @_asks
    def set_alias(self, name: str, alias: str, version: int) -> None:
        # The client's own method would ask first whether the model is a prompt: one call more.
        self.client._get_registry_client().set_registered_model_alias(name, alias, str(version))


def _version(found: Any) -> Version:
    return Version(int(found.version), dict(found.tags))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _fit(texts: Mapping[str, str]) -> dict[str, str]:
    return {key: _clip(text) for key, text in texts.items()}


def _filter(tags: Mapping[str, str]) -> str:
    """Values are names and digits of ours: nothing in them needs quoting."""
    return " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


def _ms(at: float) -> int:
    return round(at * 1000)
