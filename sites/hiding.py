"""What stands between a site's vector and the hub in a secure sum: a mask job, and the promise that goes with it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sites.job import Masked as JobDone
from sites.job import MaskJob
from sites.journal import Bound
from sites.payload import read_tensors
from sites.sums import Summing
from sites.workplace import Workplace
from tasks.codes import Code, Operation
from tasks.contracts import STATISTICS, Ticket
from tasks.errors import RefusedError
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.messages import SumTerms
from tasks.study import Study

LARGEST_COUNT = 2.0**53  # of statistics; fifty sites' stay below 2**63


class Masked(NamedTuple):
    """A masked vector, and what sending it binds this site to."""

    payload: bytes
    bound: Bound


class Hiding(NamedTuple):
    """How the vector of one ticket is hidden. Made before rows are read: a site without keys spends nothing."""

    summing: Summing
    sum: SumTerms
    seeds: MaskSeeds
    largest: float  # size of one number
    sites: int

    def mask(self, update: bytes, workplace: Workplace, said: Sequence[float] = ()) -> None:
        """Have an update hidden that the gate has let pass, and what the study asks beside it. Raises RefusedError."""
        beside = struct.pack(f"<{len(said)}f", *said)
        self._mask(update + beside, read_tensors(update).begin, "<f4", workplace)

    def mask_words(self, words: bytes, workplace: Workplace) -> None:
        """Have words hidden that have this site's share of the noise in them. Raises RefusedError."""
        self._mask(words, 0, "<i8", workplace)

    def mask_statistics(self, found: Sequence[tuple[int, ...] | None], workplace: Workplace) -> None:
        """Have sums of held-out records hidden, of one model after another; zeros where they are not to be let out.

        Raises RefusedError.
        """
        numbers = [number for one in found for number in one or (0,) * STATISTICS]
        self._mask(struct.pack(f"<{len(numbers)}d", *numbers), 0, "<f8", workplace)

    def masked(self, workplace: Workplace) -> Masked:
        """What one of the three above has written. By then its caller has let go of what was hidden, which is as large.

        Raises:
            RefusedError: it is not of the sum's size.
        """
        payload = workplace.update(self.sum.vector_bytes, "mask")
        if len(payload) != self.sum.vector_bytes:
            raise RefusedError(Code.TRAINING_FAILED, "the masked vector has another size than its sum")
        return Masked(payload, self.summing.bind(self.sum, hashlib.sha256(payload).hexdigest()))

    def _mask(
        self, given: bytes, begin: int, kind: Literal["<f4", "<f8", "<i8"], workplace: Workplace
    ) -> None:
        job = MaskJob(
            begin=begin,
            type=kind,
            bits=self.sum.bits,
            bound=self.largest,
            sites=self.sites,
            scale_bits=self.sum.scale_bits,
            plus=tuple(seed.hex() for seed in self.seeds.plus),
            minus=tuple(seed.hex() for seed in self.seeds.minus),
        )
        workplace.run(job, JobDone, given)


def hide(summing: Summing, ticket: Ticket, study: Study, numbers: int) -> Hiding:
    """How the answer to a ticket will be hidden; `numbers`: of the parameters.

    Raises:
        RefusedError: sum_refused: this site has no keys for it, or they have hidden another vector; bad_ticket: more
            candidates than groups.
    """
    secure = study.secure_aggregation
    if ticket.operation == Operation.EVALUATE:
        if ticket.candidates and len(ticket.candidates) > len(summing.groups()):
            raise RefusedError(Code.BAD_TICKET, "more candidates than the round has groups to leave out")
        sum_, seeds, sites = summing.seeds("scores", STATISTICS * (1 + len(ticket.candidates)))
        return Hiding(summing, sum_, seeds, LARGEST_COUNT, sites)
    sum_, seeds, sites = summing.seeds("update", study.words(numbers))
    return Hiding(summing, sum_, seeds, secure.largest, sites)
