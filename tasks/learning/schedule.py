"""How many steps a round has, and how likely a unit is to be in one.

A unit is a person where the data name one, else a record. The privacy plan and
the training loop both ask here, so that what is accounted is what is done. No
torch: the planner stays light.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tasks.errors import PrivacyError
from tasks.study import Local


class Schedule(NamedTuple):
    """The steps of one round."""

    sample_rate: float  # chance of each unit to be in a step
    steps: int
    batch: float  # expected units of a step


def schedule(local: Local, n_units: int) -> Schedule:
    """The steps of one round over `n_units` >= 1 units; under privacy, as many as `bands.public_units` says.

    An epoch has ceil(n_units / batch_size) steps, each of which draws batch_size units in expectation; with
    `full`, or a batch size of all units or more, it is one step over all of them (sample_rate 1).

    Raises:
        PrivacyError: no unit to train on.
    """
    if n_units < 1:
        raise PrivacyError(f"cannot train on {n_units} units; expected at least one person or record")
    batch = n_units if local.batch_size == "full" else min(local.batch_size, n_units)
    return Schedule(batch / n_units, local.epochs * math.ceil(n_units / batch), float(batch))
