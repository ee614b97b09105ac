"""A round below its quorum, once more: as the study says, with what has arrived kept."""

from __future__ import annotations

import logging

from flows.round import federated_round
from infra.hub import Hub
from tasks.errors import QuorumError
from tasks.going import keep_going
from tasks.lease import keep
from tasks.records import RoundRecord
from tasks.study import Study

log = logging.getLogger(__name__)

REPEATS = 8  # then the run pauses all the same: somebody has to look
FIRST_S, LONGEST_S = 15.0, 1800.0  # to the first repetition, doubled each time: together about an hour
LOOK_S = 1.0


def round_with_repeats(hub: Hub, study: Study, run: str, number: int) -> RoundRecord:
    """Play a round; below the quorum again and again where the study says `on_low_quorum: repeat`.

    Sites that have delivered are not asked again: their updates lie in the store.

    Raises:
        QuorumError: too few sites delivered, and the study pauses then, or all repetitions are used up.
    """
    repeats = REPEATS if study.on_low_quorum == "repeat" else 0
    for i in range(repeats):
        try:
            return federated_round(hub, run, number)
        except QuorumError as exc:
            pause = min(FIRST_S * 2.0**i, LONGEST_S)
            log.warning("%s Played again in %.0f s (%d of %d).", exc.what, pause, i + 1, repeats)
            _rest(hub, study.name, run, pause)
    return federated_round(hub, run, number)


def _rest(hub: Hub, study: str, run: str, seconds: float) -> None:
    """Let time pass, but hold the study and notice a cancel."""
    until = hub.now() + seconds
    while hub.now() < until:
        keep(hub, study)
        keep_going(hub, run)
        hub.wait(min(LOOK_S, max(0.0, until - hub.now())))
