"""Hub: a round that has too few sites is not combined; the run waits, and says for whom."""

from __future__ import annotations

from collections.abc import Iterable

from infra.hub import Hub
from tasks import layout
from tasks.approval import who_paused, who_waits
from tasks.codes import Code
from tasks.errors import QuorumError
from tasks.follow import Answer
from tasks.plan import RoundPlan
from tasks.records import Paused


def too_few(
    hub: Hub, plan: RoundPlan, delivered: int, failed: Iterable[Answer], why: str = ""
) -> QuorumError:
    """Note in the store that the run waits; returns the error to raise.

    `delivered` sites did what was asked, `failed` are the answers of the others. `why` names a step of a secure sum
    that has failed; empty where the updates are too few.
    """
    failed = [answer for answer in failed if answer.code is not None]
    codes = {answer.site: answer.code for answer in failed if answer.code} | plan.left_out
    quorum = plan.study.needed
    paused = Paused(
        run=plan.manifest.run,
        round=plan.round,
        delivered=delivered,
        quorum=quorum,
        missing=dict(sorted(codes.items())),
        at=hub.now(),
    )
    hub.write(layout.paused_key(paused.run), paused)
    said = {site: str(code) for site, code in codes.items()} | {a.site: reason(hub, a) for a in failed}
    names = ", ".join(f"{site}: {text}" for site, text in sorted(said.items()))
    what = why or f"{delivered} of {len(plan.study.sites)} sites delivered, the quorum is {quorum}"
    return QuorumError(
        f"round {plan.round}: {what}{f' ({names})' if names else ''}. Nothing was combined.",
        f"When that is mended: {hub.command('run', 'resume', plan.manifest.run)}",
    )


def reason(hub: Hub, answer: Answer) -> str:
    """The code, and where people must act, who and where."""
    if answer.code == Code.NOT_APPROVED:
        return f"{answer.code}: {who_waits(hub, answer.ticket)}"
    return (
        f"{answer.code}: {who_paused(answer.site)}"
        if answer.code == Code.PAUSED_BY_SITE
        else str(answer.code)
    )
