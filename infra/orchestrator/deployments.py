"""Flows on a schedule: deployments that a stock process worker of the hub runs from the installed package."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from infra.serverfiles import QUIET

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient

POOL = "hub"


def deploy(
    name: str,
    entrypoint: str,
    parameters: dict[str, Any],
    cron: str | None = None,
    timezone: str | None = None,
    description: str | None = None,
    tags: tuple[str, ...] = (),
) -> str:
    """Put a flow on its schedule at the server of `use`; a repeat replaces parameters and schedule.

    Args:
        name: the deployment's; with the flow's it is its identity.
        entrypoint: `package.module.function`; the worker imports it, no folder is copied or pulled.
        parameters: the flow's, as JSON.
        cron: None for a flow that is started by hand.
        timezone: of the cron expression, as `Europe/Paris`; UTC by default.
        description: markdown, for the deployment's page.
        tags: shown on each run.

    Returns:
        `flow/name`, as Prefect's pages and commands call it.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.utilities.callables import parameter_schema

    flow = _load(entrypoint)
    schedules = (
        [DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone=timezone or "UTC"))]
        if cron
        else []
    )
    with get_client(sync_client=True) as client:
        _ensure_pool(client)
        client.create_deployment(
            flow_id=client.create_flow_from_name(flow.name),
            name=name,
            entrypoint=entrypoint,
            pull_steps=[],  # said explicitly: else Prefect puts the deployer's own folder here
            parameters=parameters,
            parameter_openapi_schema=parameter_schema(flow.fn).model_dump_for_openapi(),
            enforce_parameter_schema=False,  # the flow's own models check them, with better words
            schedules=schedules,
            work_pool_name=POOL,
            description=description,
            tags=list(tags),
            job_variables={"env": QUIET},
        )
    return f"{flow.name}/{name}"


def _load(entrypoint: str) -> Flow[..., Any]:
    from prefect import Flow
    from prefect.utilities.importtools import import_object

    found = import_object(entrypoint)
    flow = found.flow() if hasattr(found, "flow") else found  # made before Prefect was imported: see flows.py
    assert isinstance(flow, Flow)  # noqa: S101 - a developer's error
    return flow


def _ensure_pool(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    description = "Runs the hub's scheduled studies: prefect worker start --pool hub"
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", description=description, base_job_template=template)
        )
