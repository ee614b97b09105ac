"""Hub: commit a round by one conditional write, and close a run.

Before the write the round did not happen, after it nothing changes it. What
Prefect and MLflow show is a view on these records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from infra.hub import Hub
from infra.orchestrator import emit, step
from tasks import layout
from tasks.aggregate import Candidate
from tasks.codes import Code, Operation
from tasks.collect import Collected, site_round
from tasks.errors import ContractError, LeaseError
from tasks.evaluate import Evaluated
from tasks.follow import Answer
from tasks.going import check_going
from tasks.lease import fence
from tasks.plan import RoundPlan
from tasks.reckoned import with_reckoned
from tasks.records import Phases, RoundRecord, RunEnd, SiteRound
from tasks.walked import tidy

NONE: Mapping[str, int] = MappingProxyType({})


@step(name="commit")
def commit(hub: Hub, plan: RoundPlan, collected: Collected, evaluated: Evaluated) -> RoundRecord:
    """Write the round's record once; its model is the candidate that was chosen.

    Raises:
        LeaseError: another hub has taken the study, or has committed this round; this one stops.
        ContractError: the record cannot be read back.
        RunCancelledError: somebody has cancelled the run.
    """
    candidate = evaluated.chosen
    sites = {
        site: _with_metrics(
            _with_late(_site_round(answer, candidate), collected.late.get(site)), evaluated, site
        )
        for site, answer in collected.answers.items()
    }
    sites = {name: with_reckoned(hub, plan, candidate, name, site) for name, site in sites.items()}
    sites |= {site: SiteRound(state="missing", code=code) for site, code in plan.left_out.items()}
    record = RoundRecord(
        run=plan.manifest.run,
        study=plan.study.name,
        round=plan.round,
        cohort=candidate.cohort,
        drawn=plan.drawn,
        folded=candidate.folded,
        summed=candidate.summed,
        groups=candidate.groups,
        voters=candidate.voters,
        counted=candidate.counted,
        lockstep=candidate.lockstep,
        update_norm=plan.update_norm if candidate.within is not None else None,
        within=candidate.within,
        working=collected.working,
        sites=dict(sorted(sites.items())),
        metrics=evaluated.pooled,
        parameters_key=candidate.key,
        parameters_sha256=candidate.sha256,
        recipe_sha256=plan.manifest.recipe_sha256,
        seconds=max(0.0, hub.now() - plan.began_at),
        phases=_phases(plan, candidate, evaluated),
        bytes_up=sum(s.payload_bytes for s in sites.values()),
        committed_at=hub.now(),
        fence=fence(hub, plan.study.name),
    )
    check_going(hub, record.run)
    hub.write_once(layout.commit_key(record.run, record.round), record)
    committed = hub.read(layout.commit_key(record.run, record.round), RoundRecord)
    if committed is None:
        raise ContractError(f"the store lost the commit of round {record.round} right after it was written")
    if committed != record:
        raise LeaseError(
            f"round {record.round} of run {record.run!r} was committed by another hub (lease {committed.fence}, "
            f"this one had {record.fence}). That record holds; this hub stops."
        )
    return committed


def _phases(plan: RoundPlan, candidate: Candidate, evaluated: Evaluated) -> Phases:
    ends = (plan.began_at, candidate.began_at, candidate.at, evaluated.at)
    train, aggregate, evaluate = (max(0.0, b - a) for a, b in pairwise(ends))
    return Phases(train=train, aggregate=aggregate, evaluate=evaluate)


def _site_round(answer: Answer, candidate: Candidate) -> SiteRound:
    """An update that was checked and then overwritten is not in the sum, and the record says so."""
    taken = not answer.ok or answer.site in candidate.cohort
    found = site_round(answer if taken else answer._replace(code=Code.BAD_UPDATE))
    return found.model_copy(update={"steps": candidate.steps.get(answer.site)})


def _with_late(site: SiteRound, late: Answer | None) -> SiteRound:
    """A late update is paid for and was sent, also where the site has nothing for this round."""
    update = late.receipt.update if late and late.receipt else None
    if update is None:
        return site
    spent = site.spent or update.spent
    return site.model_copy(
        update={"spent": spent, "payload_bytes": site.payload_bytes + update.payload_bytes}
    )


def _with_metrics(site: SiteRound, evaluated: Evaluated, name: str) -> SiteRound:
    own = evaluated.sites.get(name)
    return site if own is None else site.model_copy(update={"metrics": own})


def load_records(hub: Hub, run: str) -> list[RoundRecord]:
    """All committed rounds of a run, in order.

    Raises:
        ContractError: the store shows a record in the place of another, or has lost one in between.
    """
    keys = hub.store.list(layout.commit_prefix(run))
    newest = hub.latest(len(keys), lambda number: layout.commit_key(run, number))  # the list may be behind
    keys += [layout.commit_key(run, number) for number in range(len(keys) + 1, newest + 1)]
    found = (hub.read(key, RoundRecord) for key in keys)
    records = [record for record in found if record is not None]
    if [(r.run, r.round) for r in records] != [(run, n + 1) for n in range(len(records))]:
        raise ContractError(
            f"the commits of run {run!r} in {hub.store_url} are not whole; restore the store's backup"
        )
    return records


def sweep(hub: Hub, run: str, number: int, sites: Iterable[str], carried: Mapping[str, int] = NONE) -> None:
    """Take the tickets of all rounds up to `number` out of the mailboxes, and their steps away: answered or void.

    But for `carried`: sites that may still answer a training ticket of that round.
    """
    for site in sites:
        for key in hub.store.list(layout.tickets_of_run(site, run)):
            round_ = layout.round_of_ticket(key)
            waited_for = round_ == carried.get(site) and key.endswith(f"-{Operation.TRAIN}.json")
            if round_ is not None and round_ <= number and not waited_for:
                hub.store.delete(key)
    tidy(hub, run, number)


def forget_others(hub: Hub, candidate: Candidate, record: RoundRecord) -> None:
    """Take away what was published for a committed round and not chosen."""
    for other in (candidate, *candidate.without):
        if other.key != record.parameters_key:
            hub.store.delete(other.key)


def forget_unchosen(hub: Hub, run: str, records: Sequence[RoundRecord], rounds: int) -> None:
    """Take away parameters after rounds 1 to `rounds` that no record names: a fallen hub has left its candidates."""
    named = {record.parameters_key for record in records}
    for key in hub.store.list(layout.parameters_prefix(run)):
        if 1 <= (layout.round_of_parameters(key) or 0) <= rounds and key not in named:
            hub.store.delete(key)


def close(hub: Hub, run: str, rounds: int) -> None:
    """Write that a run is finished, unless its last word is written."""
    end = RunEnd(run=run, state="finished", rounds=rounds, at=hub.now())
    if hub.write_once(layout.ended_key(run), end):
        emit("fedrounds.run.finished", run=run, payload={"rounds": rounds})
