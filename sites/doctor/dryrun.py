"""A round in the dry: the recipe trains on its own synthetic example, with noise, and the gate looks at the update.

No row is read, nothing is spent, nothing leaves. What it shows: the recipe
builds, the libraries work together, the sandbox lets it work, and the update
would pass the gate. The recipe works behind the agent's walls (dry.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sites.doctor import Check, Row
from sites.doctor.apart import apart
from sites.doctor.studies import approved
from sites.examine import examine
from sites.job import Dried, DryJob
from sites.settings import Site
from tasks.errors import FederationError
from tasks.study import Local, Privacy, Study


def checks() -> list[Check]:
    return [dry_run]


def dry_run(site: Site) -> Iterator[Row]:
    for name in site.settings.sources:
        for study in approved(site, name):
            title = f"dry run {study.name} (terms {study.sha256[:8]})"
            began = time.monotonic()
            try:
                size = _round(study, site)
            except FederationError as exc:
                yield Row(title, "fail", str(exc), "install the versions of constraints.txt, or tell the hub")
                continue
            took = time.monotonic() - began
            yield Row(
                title,
                "ok",
                f"a round of noise alone: {size} bytes pass the gate, {took:.1f} s; none were sent",
            )


def _round(study: Study, site: Site) -> int:
    """Bytes of the update. Raises what training and the gate raise."""
    local = Local(**(study.local.model_dump() | {"epochs": 1, "batch_size": "full"}))
    unprotected = study.privacy.clip_norm is None
    privacy = Privacy(mode="local", epsilon=1, delta=1e-5, clip_norm=1) if unprotected else study.privacy
    dry = study.model_copy(update={"local": local, "privacy": privacy})
    most = site.settings.resources.parameters_mb * 2**20
    with apart(site) as workplace:
        done = workplace.run(DryJob(study=dry), Dried)
        base, update = workplace.parameters_of("dry", most), workplace.update(most, "dry")
    examine(update, base, dry, done.event, done.batch, site.settings.policy)
    return len(update)
