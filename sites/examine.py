"""What training made, held against the parameters it was asked for, before a receipt promises it.

Runs in the agent, not in the child that trained. What an update says within its
norm, no gate can see: that is the noise's work. Whether it is paid for, and what
passed, is egress.py's.
"""

from __future__ import annotations

import math

from sites.payload import WORD_BYTES, form_of, norm, read_tensors, word_norm
from sites.policyterms import Policy
from tasks.codes import Code
from tasks.errors import ContractError, RefusedError
from tasks.privacy.counted import split
from tasks.privacy.distributed import Mechanism
from tasks.privacy.events import GaussianEvent
from tasks.study import Study

ADAM_STEP = 3.17  # learning rates that a step of Adam moves a number at most: Kingma & Ba 2015, section 2.1


def examine(
    payload: bytes,
    given: bytes,
    study: Study,
    event: GaussianEvent | None,
    batch: float,
    policy: Policy,
    bound: float | None = None,
    weight: float = 1.0,
) -> float:
    """Let an update pass that is an update to `given`, and nothing else.

    Args:
        payload: what training wrote.
        given: the hub's parameters.
        study: how it trains.
        event: noise and steps that were reserved for it; None without protection.
        batch: expected units of a step.
        policy: of the site.
        bound: norm that the study lets an update of this round have; None: any.
        weight: what this site counts: the update was made so many times as long.

    Returns:
        Its norm.

    Raises:
        RefusedError: not_finite, or training_failed: other names or shapes, more bytes than its numbers, or a
            norm that this study's training cannot have, or that the site's policy does not let out.
    """
    try:
        found, wanted = read_tensors(payload), form_of(given)
    except ContractError as exc:
        raise RefusedError(Code.TRAINING_FAILED, f"the update stays here: {exc}") from exc
    if found.form != wanted:
        raise RefusedError(
            Code.TRAINING_FAILED, "the update stays here: other names or shapes than the parameters it is for"
        )
    size = norm(payload, found)
    if not math.isfinite(size):
        raise RefusedError(Code.NOT_FINITE, "the update stays here: it has numbers that are not finite")
    possible = norm_bound(study, event, batch, found.numbers)
    bounds = [one for one in (bound, possible) if one is not None]
    limit = min([weight * one for one in bounds], default=math.inf)
    if policy.max_update_norm is not None:
        limit = min(limit, policy.max_update_norm)
    if size > limit:
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"the update stays here: its norm is {size:.4g}, at most {limit:.4g} is possible or allowed",
        )
    return size


def examine_words(words: bytes, run: Mechanism, units: int) -> None:
    """Let noised words pass that a sum of clipped gradients and a share of noise can be.

    Args:
        words: 64-bit integers, as training wrote them.
        run: the study's mechanism.
        units: about how many units trained, as in their public band.

    Raises:
        RefusedError: training_failed: another number of words than the model's, or a norm that cannot be.
    """
    if len(words) != WORD_BYTES * run.dimension:
        raise RefusedError(
            Code.TRAINING_FAILED, "the update stays here: other words than the parameters it is for"
        )
    noise = run.share * (math.sqrt(run.dimension) + 10)
    drawn = run.sample_rate * units
    most = 1.5 * drawn + 50 + (12 * math.sqrt(drawn) if run.sample_rate < 1 else 0)  # as in norm_bound
    limit = 1.01 * (most * run.sensitivity + noise)
    size = word_norm(words)
    if not size <= limit:
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"the update stays here: a norm of {size:.4g} words, at most {limit:.4g} is possible",
        )


def norm_bound(study: Study, event: GaussianEvent | None, batch: float, numbers: int) -> float | None:
    """The largest norm that a round of this study can give an update; None where nothing bounds it.

    With SGD: learning_rate x steps x clip_norm x (units drawn + noise_multiplier x (sqrt(numbers) + 10)) /
    batch. Noise of d numbers is longer than sqrt(d) + 10 standard deviations less than once in 10^21 (Laurent &
    Massart 2000, lemma 1). Where b units are drawn in expectation, fewer than 1.5 b + 12 sqrt(b) + 50 are, as
    seldom (Bernstein's inequality; 1.5 for the rounding of b in tasks/bands.py). A clip norm that adapts counts as the
    largest that the study allows, with the noise that a step has then. With Adam a number moves at most
    ADAM_STEP learning rates in a step. One part in a hundred is for the rounding of float32.
    """
    clip_norm = study.privacy.most_clip
    if event is None or clip_norm is None:
        return None
    travel = 1.01 * study.local.learning_rate * event.steps
    if study.local.optimizer == "adam":
        return travel * ADAM_STEP * math.sqrt(numbers)
    drawn = 1.5 + 12 / math.sqrt(batch) + 50 / batch
    multiplier = (
        split(event.noise_multiplier).gradients if study.privacy.adaptive_clip else event.noise_multiplier
    )
    noise = multiplier * (math.sqrt(numbers) + 10) / batch
    return travel * clip_norm * (drawn + noise)
