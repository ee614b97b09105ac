"""One round: plan, seats, dispatch, collect, open, aggregate, evaluate, commit, report, register.

The whole story on one screen. Each verb lives in tasks/ under its own name and
may be repeated: a round that was interrupted is simply played again, and finds
in the store what is already done.
"""

from __future__ import annotations

from functools import partial

from flows.views import unless_away
from infra.hub import Hub
from infra.orchestrator import subflow
from tasks.aggregate import aggregate
from tasks.codes import Operation
from tasks.collect import collect
from tasks.commit import commit, forget_others, sweep
from tasks.dispatch import ask_again, dispatch
from tasks.evaluate import evaluate
from tasks.lockstep import walk_round
from tasks.plan import plan_round
from tasks.records import RoundRecord
from tasks.register import register_all
from tasks.report import report
from tasks.seats import take_seats
from tasks.staleness import carried
from tasks.sums import open_updates


@subflow(name="round", run_name="round {number}")
def federated_round(hub: Hub, run: str, number: int) -> RoundRecord:
    """Play round `number` of a run and return its committed record.

    Raises:
        QuorumError: too few sites delivered; nothing was combined, the run may be resumed.
    """
    plan, seats = take_seats(hub, plan_round(hub, run, number))
    again, keys = partial(ask_again, hub, plan), seats.relayed if seats else None

    asked = dict.fromkeys(plan.asked, number)
    tickets = dispatch(hub, plan, Operation.TRAIN, asked, plan.base_key, plan.base_sha256, keys)
    walked = walk_round(hub, plan, seats, tickets, again)
    collected = collect(hub, plan, tickets, again, seats, walked)
    collected, total = open_updates(hub, plan, seats, collected, walked)

    candidate = aggregate(hub, plan, collected, total, walked)

    asked, about = candidate.rounds, (candidate.key, candidate.sha256)
    tickets = dispatch(hub, plan, Operation.EVALUATE, asked, *about, keys, candidate.others)
    evaluated = evaluate(hub, plan, candidate, tickets, again, seats)

    record = commit(hub, plan, collected, evaluated)
    forget_others(hub, candidate, record)
    report(hub, record)
    with unless_away("MLflow"):
        register_all(hub, plan.study, plan.manifest)
    sweep(hub, run, number, {*plan.drawn, *plan.carried}, carried(plan.study, [record]))
    return record
