"""What a run came to, as the JSON that simulate, demo and `run show --json` print.

A view on the committed rounds in the store; nothing here asks Prefect or MLflow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.hub import Hub
from tasks import layout, participation
from tasks.approval import approval_of, approved_at
from tasks.begin import load_manifest, load_study
from tasks.commit import load_records
from tasks.contracts import Metrics, RunManifest
from tasks.lease import holder
from tasks.records import Paused, Registered, RoundRecord, RunEnd, SiteRound

_SPENT = (
    "epsilon",
    "reckoned",
    "delta",
    "epsilon_limit",
    "against",
    "noise_multiplier",
    "sample_rate",
    "local_steps",
    "sensitivity",
    "clip_norm",
)


def results(hub: Hub, run: str) -> dict[str, Any]:
    """The run's rounds, and its last one once more under `final`.

    Raises:
        StudyError: no such run.
    """
    manifest = load_manifest(hub, run)
    records = load_records(hub, run)
    rounds = [_round(hub, records[: n + 1]) for n in range(len(records))]
    return {
        "run": run,
        "study": manifest.study,
        "state": run_state(hub, manifest, len(records)),
        "waits_for_approval": waits_for_approval(hub, manifest),
        "rounds": rounds,
        "final": _final(records, rounds) if rounds else None,
    }


def waits_for_approval(hub: Hub, manifest: RunManifest) -> list[str]:
    """Sites of a run that is open whose people have not approved what it asks."""
    if hub.read(layout.ended_key(manifest.run), RunEnd) is not None:
        return []
    wanted = approval_of(hub, manifest)
    return [site for site in load_study(hub, manifest).sites if wanted not in approved_at(hub, site)]


def run_state(hub: Hub, manifest: RunManifest, committed: int) -> str:
    """finished, cancelled, `paused` below the quorum, or `open`: it runs now, or waits to be resumed."""
    end = hub.read(layout.ended_key(manifest.run), RunEnd)
    if end is not None:
        return end.state
    rounds = f"({committed} of {load_study(hub, manifest).rounds} rounds)"
    paused = hub.read(layout.paused_key(manifest.run), Paused)
    if paused is None or paused.round != committed + 1 or holder(hub, manifest.study) is not None:
        return f"open {rounds}"
    missing = ", ".join(f"{site}: {code}" for site, code in paused.missing.items())
    return (
        f"paused {rounds}: round {paused.round} had {paused.delivered} updates of {paused.quorum} ({missing})"
    )


def list_runs(hub: Hub) -> list[dict[str, Any]]:
    """All runs of the store, oldest first."""
    keys = [key for key in hub.store.list(layout.runs_prefix()) if key.endswith("/run.json")]
    found = [m for m in (hub.read(key, RunManifest) for key in keys) if m is not None]
    return [
        {
            "run": m.run,
            "study": m.study,
            "created_at": m.created_at,
            "rounds": (done := len(hub.store.list(layout.commit_prefix(m.run)))),
            "state": run_state(hub, m, done),
        }
        for m in sorted(found, key=lambda m: (m.created_at, m.run))
    ]


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def _round(hub: Hub, upto: list[RoundRecord]) -> dict[str, Any]:
    record = upto[-1]
    registered = hub.read(layout.registered_key(record.run, record.round), Registered)
    return {
        "round": record.round,
        "cohort": list(record.cohort),
        "model_version": registered.model_version if registered else None,
        "metrics": record.metrics.model_dump(),
        "secure_sum": record.summed.model_dump() if record.summed else None,
        "groups": [group.model_dump() for group in record.groups],
        "voters": record.voters,
        "dropped": [site for group in record.groups or () if group.dropped for site in group.sites],
        "least_summed": _least_summed(record) if record.summed else None,
        "counted": record.counted,
        "lockstep": record.lockstep.model_dump() if record.lockstep else None,
        "sites": {name: _site(site) for name, site in record.sites.items()},
        "participation": participation.facts(upto[-participation.LOOK_BACK - 1 :]),
        "parameters_sha256": record.parameters_sha256,
        "seconds": round(record.seconds, 3),
    }


def _least_summed(record: RoundRecord) -> int:
    """Of the sums of updates that a round has opened, how many sites the smallest was of."""
    if record.groups:
        return min(len(group.sites) for group in record.groups)
    return min(record.lockstep.sites) if record.lockstep else len(record.cohort)


def _site(site: SiteRound) -> dict[str, Any]:
    return {
        "state": site.state,
        "code": site.code,
        "epsilon": site.spent.epsilon if site.spent else None,
        "reckoned": site.reckoned,
        "delta": site.spent.delta if site.spent else None,
        "epsilon_limit": site.spent.epsilon_limit if site.spent else None,
        "against": site.spent.against.model_dump() if site.spent and site.spent.against else None,
        "noise_multiplier": site.spent.noise_multiplier if site.spent else None,
        "sample_rate": site.spent.sample_rate if site.spent else None,
        "local_steps": site.spent.local_steps if site.spent else None,
        "sensitivity": site.spent.sensitivity if site.spent else None,
        "clip_norm": site.spent.clip_norm if site.spent else None,
        "metrics": site.metrics.model_dump(),
        "attempts": site.attempts,
        "steps": site.steps,
        "records": site.records,
        "seconds_to_start": site.seconds_to_start,
        "seconds_to_deliver": site.seconds_to_deliver,
        "cause": participation.cause(site) if site.code else None,
    }


def _final(records: list[RoundRecord], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The last round; a site that was not drawn, or failed in it, still shows what it last said it has spent."""
    sites: dict[str, dict[str, Any]] = {}
    for one in rounds:
        for name, site in one["sites"].items():
            before = sites.get(name)
            kept = {key: before[key] for key in _SPENT} if before and site["epsilon"] is None else {}
            sites[name] = site | kept
    last = rounds[-1]["sites"]
    for name in sites.keys() - last.keys():
        sites[name] |= {"state": "not_asked", "code": None, "cause": None, "metrics": Metrics().model_dump()}
    return {
        "round": records[-1].round,
        "metrics": rounds[-1]["metrics"],
        "sites": dict(sorted(sites.items())),
        "parameters_sha256": records[-1].parameters_sha256,
    }
