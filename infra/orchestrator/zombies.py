"""Prefect's flow runs against the truth: one that says Running while nobody plays it is set right.

A process that is killed leaves its flow run Running for ever. Who really plays
a study is known by its lease in the object store; a flow run that plays one
carries the lease's holder as a tag. Plain HTTP: a command that only looks need
not import Prefect. A courtesy, too: where Prefect is away nothing is set right.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from infra.hub import Hub
from infra.orchestrator.context import inside

log = logging.getLogger(__name__)

AWAY = (URLError, HTTPException, OSError, ValueError)  # no answer, or none that is Prefect's
PATIENCE_S = 5.0
PAGE = 200  # most flow runs in one answer of the server
HUB, STUDY, RUN, HOLDER = "hub:", "study:", "run:", "holder:"  # tags
OPEN = ["RUNNING", "CANCELLING"]


class Played(NamedTuple):
    """A flow run that Prefect believes to be going on."""

    id: str
    name: str
    study: str
    run: str
    holder: str


def claim(hub: Hub, study: str, run: str, holder: str) -> None:
    """Say in the flow run that calls, by tags, whose run it plays and under whose lease."""
    if not inside():
        return
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    from prefect.settings import PREFECT_API_URL

    tags = sorted({*context.flow_run.tags, HUB + _name(hub), STUDY + study, RUN + run, HOLDER + holder})
    try:
        _call(str(PREFECT_API_URL.value()), "PATCH", f"/flow_runs/{context.flow_run.id}", {"tags": tags})
    except AWAY as exc:
        log.warning("Prefect does not take the name of run %s: %s", run, exc)


def reconcile(
    hub: Hub, holder_of: Callable[[str], str | None], ended: Callable[[str], str | None]
) -> list[str]:
    """Set every flow run right that says Running and is not; returns the names of their runs, each once.

    Args:
        hub: without a Prefect server there is nothing to do.
        holder_of: a study's living holder, as its lease says; None where nobody has it.
        ended: a run's last word, `finished` or `cancelled`; None while it is open.
    """
    if hub.prefect_url is None:
        return []
    url, mended = f"{hub.prefect_url}/api", []
    try:
        played = _played(url, HUB + _name(hub))
        alive = {p.study: p for p in played if p.holder == holder_of(p.study)}
        for each in played:
            if each.holder != holder_of(each.study):
                _set(url, each, ended(each.run), alive.get(each.study))
                mended.append(each.run)
    except AWAY as exc:
        log.debug("Prefect's states were not compared: %s", exc)
    return sorted(set(mended))


def _name(hub: Hub) -> str:
    """What tells hubs apart that share a Prefect server: what another one plays is none of our business."""
    return hub.key.public_hex[:16]


def _played(url: str, tag: str) -> list[Played]:
    found: list[dict[str, Any]] = []
    while True:
        top = {"parent_task_run_id": {"is_null_": True}}
        wanted = {"state": {"type": {"any_": OPEN}}, "tags": {"all_": [tag]}, **top}
        body = {"flow_runs": wanted, "limit": PAGE, "offset": len(found), "sort": "ID_DESC"}
        page = _call(url, "POST", "/flow_runs/filter", body)
        found += page
        if len(page) < PAGE:
            break
    return [played for played in map(_as_played, found) if played is not None]


def _as_played(flow_run: dict[str, Any]) -> Played | None:
    """None where the flow run carries not all three tags: it is none of ours, or has not begun to play."""
    tags = {
        kind: t.removeprefix(kind)
        for t in flow_run["tags"]
        for kind in (STUDY, RUN, HOLDER)
        if t.startswith(kind)
    }
    if len(tags) < 3:
        return None
    return Played(flow_run["id"], flow_run["name"], tags[STUDY], tags[RUN], tags[HOLDER])


def _set(url: str, dead: Played, ended: str | None, successor: Played | None) -> None:
    """Give a flow run, and its rounds, the state that the store knows of."""
    state, text = "CRASHED", f"its process is gone; go on with it: fedrounds run resume {dead.run}"
    if ended == "cancelled":
        state, text = "CANCELLED", f"run {dead.run} was cancelled"
    elif successor is not None and successor.run == dead.run:
        went_on = f"flow run {successor.name!r} ({successor.id}) went on with run {dead.run}"
        state, text = "CRASHED", f"its process is gone; {went_on}"
    elif ended == "finished":
        state, text = "CRASHED", f"its process is gone; another flow run has finished run {dead.run}"
    wanted = {"state": {"type": {"any_": OPEN}}, "parent_flow_run_id": {"any_": [dead.id]}}
    parts = _call(url, "POST", "/flow_runs/filter", {"flow_runs": wanted, "limit": PAGE})
    for id_ in (*(part["id"] for part in parts), dead.id):
        body = {"state": {"type": state, "name": state.capitalize(), "message": text}, "force": True}
        _call(url, "POST", f"/flow_runs/{id_}/set_state", body)


def _call(url: str, method: str, path: str, body: dict[str, Any]) -> Any:
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = Request(url + path, data, kind, method=method)  # noqa: S310 - the hub's own server
    with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE_S) as answer:
        raw = answer.read()
    return json.loads(raw) if raw else None
