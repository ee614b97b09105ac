"""`fedrounds-site start` that may end at a commit point: python -m tests.chaos.mortal_site CONFIG POINT_FILE PRESENCE_S"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.chaos.clocks import bend
from tests.chaos.points import SITE_KEYS, SITE_STEP_KEYS, Armed, MortalStore


def main(config: str, point: str, presence_s: str) -> int:
    bend(Path(point).with_suffix(".clock"))  # before anything takes the right clock as a default
    from sites import agent, cli, ledgerfile, loop, outbox
    from sites.audit import Audit
    from sites.egress import Egress
    from sites.journal import Journal
    from sites.ledger import Ledger
    from sites.outbox import Outbox

    agent.PRESENCE_EVERY_S = float(presence_s)
    armed = Armed(Path(point))
    opened, written = loop.store_of, outbox.write_durably

    def open_mortal(*args: Any, **kwargs: Any) -> MortalStore:
        return MortalStore(opened(*args, **kwargs), SITE_KEYS | SITE_STEP_KEYS, armed)

    def write(path: Path, *args: Any, **kwargs: Any) -> None:
        payload = path.suffix == ".safetensors"
        (armed.around("payload kept", written) if payload else written)(path, *args, **kwargs)

    loop.store_of = open_mortal  # type: ignore[assignment]
    outbox.write_durably = write
    ledgerfile.write_head = armed.around("ledger head", ledgerfile.write_head)
    for owner, method, name in (
        (Ledger, "reserve", "reserve"),
        (Ledger, "charge", "charge"),
        (Outbox, "keep", "keep"),
        (Outbox, "delivered", "delivered"),
        (Audit, "secure", "audit secure"),
        (Journal, "keep", "vector kept"),
        (Egress, "note", "record"),
    ):
        setattr(owner, method, armed.around(name, getattr(owner, method)))
    return cli.main(
        ["start", "--skip-doctor", "--config", config]
    )  # it wants more disk than the harness gives


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
