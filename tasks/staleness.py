"""Updates that come after their round: which may still be used, and for how much they count."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.codes import Code
from tasks.records import RoundRecord
from tasks.study import Study


def weight(staleness: int) -> float:
    """What an update counts that was trained on the parameters of `staleness` >= 0 rounds ago.

    Source: Nguyen et al. 2022, arXiv:2106.06639, section 5: s(t) = 1 / sqrt(1 + t).
    """
    return 1.0 / math.sqrt(1.0 + staleness)


def carried(study: Study, records: Sequence[RoundRecord]) -> dict[str, int]:
    """Sites whose update of an earlier round may go into the next one, with the round of their ticket.

    Args:
        study: without `late_updates: fold` or `asynchronous` there are none.
        records: committed rounds in order; only the last counts. An update is folded into the very next
            round or never, in an asynchronous study until its ticket's deadline: so never twice.
    """
    if not records:
        return {}
    last = records[-1]
    if study.asynchronous is not None:
        return dict(last.working)
    if study.late_updates == "drop":
        return {}
    late = (Code.TOO_LATE, Code.NO_ANSWER)
    return {name: last.round for name, site in last.sites.items() if site.code in late}
