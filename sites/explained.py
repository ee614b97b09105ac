"""What can leave this building, what can come in, and which code can run: facts for `fedrounds-site explain`.

The tables stand beside the code that they are about: deliver.py lets nothing
out, and mailbox.py and proposals.py take nothing in, under another key.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from infra.sealing import encrypted_bytes
from infra.signing import MAX_SEALED_BYTES
from infra.store.base import MESSAGE_BYTES
from sites.deliver import HEADER_SLACK, PROBE
from sites.settings import SiteSettings
from tasks.contracts import MOST_CANDIDATES, STATISTICS
from tasks.recipes import module_files
from tasks.secagg.relayed import MOST_RELAYED_BYTES

HERE = Path(__file__).parent
ROOTS = ("sites", "tasks", "infra")  # what a site's own imports are followed in


class Thing(NamedTuple):
    """One kind of object: `<...>` in a key stands for any name."""

    what: str
    key: str
    most_bytes: int
    read_by: str


def leaves(settings: SiteSettings, parameters_bytes: int | None) -> list[Thing]:
    """Every kind of object that this site can write. Without a study's model, its own bound on models counts."""
    site, model = settings.site, parameters_bytes or settings.resources.parameters_mb * 2**20
    mailbox = f"sites/{site}/out"
    answer, all_ = f"{mailbox}/<run>/<round>-<attempt>-<operation>", "the hub, and whoever reads the store"
    hub = "the hub alone (encrypted to it)"
    return [
        Thing("update: what training changed in the model, protected by noise", f"{answer}/update.safetensors",
              encrypted_bytes(model + HEADER_SLACK), hub),
        Thing("the same, or sums of held-out records, masked for a secure sum; large", f"{answer}/update.masked",
              8 * max(model // 4 + HEADER_SLACK, STATISTICS * (1 + MOST_CANDIDATES)),
              "nobody: only the sum over the sites can be opened"),
        Thing("a step in lockstep: a masked vector, and this site's part in opening its sum", f"{answer}/step.json",
              MAX_SEALED_BYTES, hub),
        Thing("its masked vector, where that is large", f"{answer}/step.masked", 8 * (model // 4 + HEADER_SLACK),
              "nobody: only the sum over the sites can be opened"),
        Thing("receipt: epsilon, figures, votes on groups, a small masked vector, a part in a sum, or a refusal",
              f"{answer}/receipt.json", MAX_SEALED_BYTES, hub),
        Thing("progress: accepted, step 3 of 9", f"{answer}/progress.json", MAX_SEALED_BYTES, hub),
        Thing("sign of life: time, version, busy, paused, hashes of what is approved", f"{mailbox}/presence.json",
              MAX_SEALED_BYTES, hub),
        Thing("card: name, public keys, version", f"{mailbox}/card.json", MAX_SEALED_BYTES, all_),
        Thing("answer to a kit: the same, and the kit's token", f"{mailbox}/enrolments/<key>.json",
              MAX_SEALED_BYTES, hub),
        Thing("new public keys, where the hub asked for them", f"{mailbox}/successions/<number>.json",
              MAX_SEALED_BYTES, hub),
        Thing("farewell: that the keys are destroyed", f"{mailbox}/leaving.json", MAX_SEALED_BYTES, all_),
        Thing("probe of the doctor, taken away at once", f"{mailbox}/probe", len(PROBE), "nobody"),
    ]  # fmt: skip


def comes_in(settings: SiteSettings) -> list[Thing]:
    """Every kind of object that this site reads; nothing in it is ever run as code."""
    box, model = f"sites/{settings.site}/in", settings.resources.parameters_mb * 2**20
    found = [
        Thing("bell: something new is there", f"{box}/bell", MESSAGE_BYTES, "the agent"),
        Thing("ticket: a request that the hub has signed", f"{box}/tickets/<run>/<ticket>.json", MESSAGE_BYTES,
              "the agent"),
        Thing("cancellation of a run", f"{box}/cancelled/<run>.json", MESSAGE_BYTES, "the agent"),
        Thing("the hub's word on this site's membership", f"{box}/member.json", MESSAGE_BYTES, "the agent"),
        Thing("the hub's card", "shared/hub.json", MESSAGE_BYTES, "the agent"),
        Thing("a study's terms, and which version is proposed", "shared/studies/<study>/<version>.json", MESSAGE_BYTES,
              "the agent, `review`"),
        Thing("what other sites say in a secure sum: public keys, sealed shares, lists",
              "shared/runs/<run>/sums/<round>-<step>-<digest>.json", MOST_RELAYED_BYTES, "the agent"),
        Thing("steps of a round in lockstep: which one, its parameters, whose vectors are added",
              "shared/runs/<run>/lockstep/<round>/<part>", max(model, MESSAGE_BYTES), "the agent, a job"),
        Thing("parameters: numbers of the model", "shared/runs/<run>/parameters/<round>.safetensors", model,
              "the agent, a job"),
    ]  # fmt: skip
    if settings.uploads == "presigned":
        what = "addresses to write to, held against this site's own store"
        found.append(Thing(what, f"{box}/addresses.json", MESSAGE_BYTES, "the agent, the doctor"))
    return found


def own_modules() -> list[tuple[str, str, int]]:
    """Name, sha256 and bytes of each module of fedrounds that can run at a site."""
    roots = [
        _name(path) for path in sorted(HERE.rglob("*.py"))
    ]  # all of sites/, also what is imported by name
    return [digest(name, file) for name, file in sorted(module_files(roots, ROOTS).items())]


def digest(name: str, file: Path) -> tuple[str, str, int]:
    raw = file.read_bytes()
    return name, hashlib.sha256(raw).hexdigest(), len(raw)


def _name(path: Path) -> str:
    parts = path.relative_to(HERE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
