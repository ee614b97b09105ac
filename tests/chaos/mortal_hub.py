"""A hub's flow as a process of its own, that may end at a commit point or have a wrong clock.

python -m tests.chaos.mortal_hub HUB_FOLDER STUDY_JSON RUN POINT_FILE LEASE_S SILENT_S
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.clocks import bend
from tests.chaos.points import HUB_KEYS, HUB_STEP_KEYS, Armed, MortalStore


def main(folder: str, study: str, run: str, point: str, lease_s: str, silent_s: str) -> int:
    bend(Path(point).with_suffix(".clock"))  # before anything takes the right clock as a default
    from flows.commands.foreground import run_training
    from infra.errors import InfraError
    from infra.hub import Hub
    from infra.store import open_store
    from tasks import lease, seats
    from tasks.errors import FederationError
    from tasks.study import Study

    lease.LIFETIME_S, lease.LOOK_S = float(lease_s), 0.1
    seats.SILENT_S = float(silent_s)
    hub = Hub.load(Path(folder))
    try:
        hub.__dict__["store"] = MortalStore(
            open_store(hub.store_url), HUB_KEYS | HUB_STEP_KEYS, Armed(Path(point))
        )
        run_training(hub, Study.model_validate_json(Path(study).read_bytes()), run, live=False)
    except KeyboardInterrupt:
        return 130  # as cli.py does
    except (FederationError, InfraError) as exc:
        print(f"error: {type(exc).__name__}: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
