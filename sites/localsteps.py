"""Several steps at a site before its part of a sum leaves: what the proof asks of site and hub, and the walk.

The proof is tasks/aggregation/localsteps.py's. Light until rows are read: the agent asks `check_units` before
anything is reserved, the job that reads rows asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.bands import public_units
from tasks.codes import Code
from tasks.errors import RefusedError
from tasks.study import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sites.records import Part
    from tasks.parameters import Parameters
    from tasks.privacy.noise import NoiseSource
    from tasks.recipes.base import Recipe


def check_units(study: Study, units: int) -> None:
    """Raises RefusedError: privacy_refused: more records, by their public band, than the study has people in all.

    The length of a local step is made for no more: with more, one record could move the way farther than the
    noise is made for. The band says nothing that is not public.
    """
    most = study.privacy.people or 0
    if study.local_steps > 1 and public_units(units) > most:
        raise RefusedError(
            Code.PRIVACY_REFUSED,
            f"about {public_units(units)} records are here, and local steps of study {study.name!r} are made for "
            f"privacy.people {most} at all sites together; the hub raises privacy.people",
        )


def walked(
    study: Study,
    recipe: Recipe,
    base: Parameters,
    own: Part,
    noise: NoiseSource,
    progress: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """The way of the study's local steps from the hub's parameters: shape (d,), of the bound that its noise is for.

    A record that is longer than the recipe promises adds nothing: a refusal for it would be a bit without noise.

    Raises:
        RefusedError: bad_ticket: parameters so large that rounding would decide; privacy_refused: records of
            persons, or too many of them.
        StudyError: the recipe is no logistic regression.
    """
    import numpy as np

    from tasks.aggregation.localsteps import farthest_start, way, within
    from tasks.learning.clipped import ClippedSums
    from tasks.parameters import exact, flat
    from tasks.recipes import linear
    from tasks.stepterms import descent_for

    start, clip_norm = flat(base), study.privacy.first_clip or 0.0
    terms, model = descent_for(study, start.size), linear(recipe)
    step = terms.local_step(study.asked)
    if not np.linalg.norm(start) <= farthest_start(step, clip_norm):
        raise RefusedError(Code.BAD_TICKET, "the hub's parameters are too large to take several steps from")
    if own.persons is not None:
        raise RefusedError(Code.PRIVACY_REFUSED, "local steps are of records, and these are of persons")
    check_units(study, own.units)
    short = within(model.lengths(own.x), model.longest_record())
    sums = ClippedSums(recipe, own.x[short], own.y[short], None, clip_norm=clip_norm)
    done = 0

    def gradient(at: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal done
        done += 1
        progress(done, study.local_steps)
        return sums.at(exact(at, base), noise)

    return way(gradient, start, step, terms.shrinking, study.local_steps)
