"""Hub: one site's masked vector: which sum it is for, and reading it.

It is looked at for its size and digest; there is nothing else to see in it.
"""

from __future__ import annotations

from infra.hub import Hub
from tasks import layout, parameters
from tasks.codes import Code
from tasks.errors import ContractError
from tasks.follow import Answer
from tasks.parameters import Parameters
from tasks.plan import RoundPlan
from tasks.privacy.shared import scale_of
from tasks.seats import Seats
from tasks.secagg.messages import SumTerms
from tasks.walked import Walked


def update_sum(plan: RoundPlan, seats: Seats, base: Parameters) -> SumTerms:
    """The secure sum of a round's updates."""
    size, secure = sum(array.size for array in base.values()), plan.study.secure_aggregation
    length = plan.study.words(size)
    cohort, scale = seats.dealt.cohort, scale_of(plan.study, "update")
    groups = plan.study.groups(cohort.dealt, plan.manifest.run, plan.round)
    norm = plan.update_norm if plan.study.aggregation.adaptive else None  # as the tickets say it
    return secure.sum_of(
        cohort, plan.round, "update", plan.base_sha256, length, scale, groups, update_norm=norm
    )


def check_masked(hub: Hub, sum_: SumTerms, answer: Answer) -> Answer:
    """The same answer, or with a code where its vector is not for this sum, or not what the receipt promises."""
    if not answer.ok:
        return answer
    update = answer.receipt.update if answer.receipt else None
    try:
        if update is None or update.sum_sha256 != sum_.sha256:
            return answer._replace(code=Code.BAD_UPDATE)
        load_masked(hub, answer, sum_.vector_bytes)
    except ContractError:
        return answer._replace(code=Code.BAD_UPDATE)
    return answer


def check_walked(answer: Answer, walked: Walked) -> Answer:
    """The same answer, or with a code where it is of none of the round's sums, or the site came to none in time."""
    if not answer.ok:
        return answer
    update = answer.receipt.update if answer.receipt else None
    if update is None or update.sum_sha256 not in walked.walk.sums:
        return answer._replace(code=Code.BAD_UPDATE)
    return answer if walked.walk.steps_of(answer.site) else answer._replace(code=Code.TOO_LATE)


def load_masked(hub: Hub, answer: Answer | None, size: int) -> bytes:
    """A site's masked vector, from its receipt or from the store.

    Raises:
        ContractError: absent, of another size, or other bytes than the receipt says.
    """
    promised = answer.receipt.update if answer and answer.receipt else None
    if answer is None or promised is None:
        raise ContractError("the store has lost a vector that is in a sum; restore it from its backup")
    try:
        raw = promised.inside
    except ValueError as exc:
        raise ContractError(f"the vector in the receipt of site {answer.site!r} is no base64") from exc
    if raw is None:
        raw = hub.store.get(layout.answer_key(answer.ticket, "update.masked"), size)
    if raw is None or len(raw) != size or parameters.sha256(raw) != promised.payload_sha256:
        raise ContractError(f"the vector of site {answer.site!r} is not the one its receipt names")
    return raw
