"""Hub: a round that has too few sites is not combined; the run waits, and says for whom."""

from __future__ import annotations

from collections.abc import Mapping

from infra.hub import Hub
from tasks import layout
from tasks.contracts import Code, Paused
from tasks.errors import QuorumError
from tasks.plan import RoundPlan


def too_few(
    hub: Hub,
    plan: RoundPlan,
    delivered: int,
    missing: Mapping[str, Code],
    reasons: Mapping[str, str] | None = None,
    why: str = "",
) -> QuorumError:
    """Note in the store that the run waits; returns the error to raise.

    `delivered` sites did what was asked, `missing` are the others with their codes; `reasons` say more of a site
    than its code. `why` names a step of a secure sum that has failed; empty where the updates are too few.
    """
    quorum, missing = plan.study.needed, dict(sorted((dict(missing) | plan.left_out).items()))
    paused = Paused(
        run=plan.manifest.run,
        round=plan.round,
        delivered=delivered,
        quorum=quorum,
        missing=missing,
        at=hub.now(),
    )
    hub.write(layout.paused_key(paused.run), paused)
    said = {site: str(code) for site, code in missing.items()} | dict(reasons or {})
    names = ", ".join(f"{site}: {reason}" for site, reason in sorted(said.items()))
    what = why or f"{delivered} of {len(plan.study.sites)} sites delivered, the quorum is {quorum}"
    return QuorumError(
        f"round {plan.round}: {what}{f' ({names})' if names else ''}. Nothing was combined. When the sites are "
        f"back: fedrounds run resume {plan.manifest.run}"
    )
