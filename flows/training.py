"""A run of a study: rounds until the last one. The only loop.

Started by a person, by a schedule or again after a fall: it looks at the store
and goes on after the last committed round.
"""

from __future__ import annotations

from flows.reconcile import set_prefect_right
from flows.repeat import round_with_repeats
from flows.views import unless_away
from infra.errors import RunCancelledError
from infra.hub import Hub
from infra.orchestrator import claim, quiet_subflows, run_flow
from tasks.begin import begin, new_run_name
from tasks.commit import close, forget_unchosen, load_records, sweep
from tasks.contracts import RunManifest
from tasks.going import check_going
from tasks.lease import HOLDER, lease
from tasks.register import close_run, register_all
from tasks.report import report
from tasks.staleness import carried
from tasks.study import Study


@run_flow(name="training", run_name="{study.name}")
def training(hub: Hub, study: Study, run: str | None = None) -> str:
    """Run a study to its last round and return the run's name.

    Args:
        hub: where the hub's folder, store and servers are.
        study: what the institutions agreed on.
        run: the run to go on with; a new one by default.

    Raises:
        LeaseError: the study is running already.
        QuorumError: too few sites delivered; the run may be resumed.
        RunCancelledError: the run was cancelled, now or before.
        ServiceError: all rounds are done, but MLflow is away; resuming the run registers what is missing.
    """
    with lease(hub, study.name):
        hub = hub.patient()
        manifest = begin(hub, study, run or new_run_name(study.name, hub.now()))
        claim(hub, study.name, manifest.run, HOLDER)
        set_prefect_right(hub)
        try:
            _play(hub, study, manifest)
        except RunCancelledError:
            wind_up(hub, study, manifest)
            raise
    return manifest.run


def _play(hub: Hub, study: Study, manifest: RunManifest) -> None:
    check_going(hub, manifest.run)
    records = load_records(hub, manifest.run)
    done = len(records)
    sweep(hub, manifest.run, done, study.sites, carried(study, records))  # what a fallen hub left behind
    if study.aggregation.validation:
        forget_unchosen(hub, manifest.run, records, done)
    if records:
        report(hub, records[-1])  # a hub that fell right after its commit has told nobody
    del records  # of a long run they are megabytes
    with unless_away("MLflow"):
        register_all(hub, study, manifest)

    with quiet_subflows():
        for number in range(done + 1, study.rounds + 1):
            round_with_repeats(hub, study, manifest.run, number)

    close(hub, manifest.run, study.rounds)
    sweep(hub, manifest.run, study.rounds, study.sites)  # again: a store's list may have been behind
    check_going(hub, manifest.run)  # somebody's cancel may have come before our last word
    register_all(hub, study, manifest)
    close_run(hub, study, manifest, load_records(hub, manifest.run), "FINISHED")


def wind_up(hub: Hub, study: Study, manifest: RunManifest) -> None:
    """Leave a cancelled run clean: no ticket in a mailbox, its rounds in MLflow, the run there killed.

    Safe to repeat, and while its flow may still be ending on another machine.
    """
    sweep(hub, manifest.run, study.rounds, study.sites)
    if study.aggregation.validation:
        forget_unchosen(hub, manifest.run, load_records(hub, manifest.run), study.rounds)
    with unless_away("MLflow"):
        register_all(hub, study, manifest)
        close_run(hub, study, manifest, load_records(hub, manifest.run), "KILLED")
