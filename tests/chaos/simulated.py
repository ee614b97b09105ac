"""What a run must have come to: the same study in one process, in which the same attempts failed and the same was lost."""

from __future__ import annotations

import re
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from simulation.federation import Federation
from sites.job import JOB, TrainJob, any_job
from sites.runner import InlineRunner, Watch, work
from tasks import layout
from tasks.codes import Code
from tasks.commit import load_records
from tasks.errors import RefusedError
from tasks.records import RoundRecord
from tasks.study import Study
from tests.federation import a_federation_of

Failed = frozenset[tuple[str, int, int]]  # site, round, attempt
Missing = frozenset[tuple[str, int, int]]  # site, round, step; step 1 of a round without steps
NOBODY: Missing = frozenset()


def simulated(study: Study, failed: Failed, missing: Missing = NOBODY) -> tuple[RoundRecord, ...]:
    """The records of a run in which exactly these attempts failed, and these sites were silent."""
    return _simulated(study.model_dump_json(), failed, missing)


def missing_in(study: Study, records: list[RoundRecord]) -> Missing | None:
    """Who was not in which sum; None where the records do not tell, since several sites were away in one round."""
    found = set[tuple[str, int, int]]()
    for record in records:
        if record.lockstep is None:
            found |= {(site, record.round, 1) for site in study.sites if site not in record.cohort}
            continue
        away = [site for site, said in record.sites.items() if (said.steps or 0) < study.steps]
        if len(away) > 1:
            return None
        counts = enumerate(record.lockstep.sites, 1)
        found |= {(site, record.round, step) for step, n in counts for site in away if n < len(study.sites)}
    return frozenset(found)


class _Failing(InlineRunner):
    """Does jobs inline; the training of chosen attempts fails after its privacy was reserved."""

    def __init__(self, failed: Failed):
        self._failed = failed

    def run(self, folder: Path, watch: Watch) -> None:
        job = any_job.validate_json((folder / JOB).read_bytes())
        if isinstance(job, TrainJob) and (job.site, job.round, job.attempt) in self._failed:
            raise RefusedError(Code.TRAINING_FAILED, "as in the run that is compared")
        work(folder, watch)


@cache
def _simulated(study_json: str, failed: Failed, missing: Missing) -> tuple[RoundRecord, ...]:
    study = Study.model_validate_json(study_json)
    with TemporaryDirectory(prefix="chaos-simulated-") as folder:

        def rule(key: str, data: bytes) -> bytes | None:
            site = re.match(r"sites/([^/]+)/out/(presence\.json|.*-train/)", key)  # its keys are there
            return None if site and (site[1], *_now(federation, study)) in missing else data

        federation = a_federation_of(study.sites, Path(folder), rule if missing else None, epsilon=10_000.0)
        for agent in federation.agents.values():
            agent.runner = _Failing(failed)
        return tuple(load_records(federation.hub, federation.run(study, RUN)))


RUN = "toy-simulated"


def _now(federation: Federation, study: Study) -> tuple[int, int]:
    """Round and step that the run is at."""
    store = federation.hub.store
    number = next(n for n in count(1) if store.get(layout.commit_key(RUN, n)) is None)
    steps = range(1, study.steps + 1)
    return number, next((n for n in steps if store.get(layout.step_key(RUN, number, n)) is None), study.steps)
