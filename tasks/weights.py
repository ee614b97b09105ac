"""Sites that count by their records, and none for more than all have agreed to. Light: an agent reads it too.

A site that counts for two sends its update twice as long, and beside it, as one more
word of the same secure sum, the 2. The hub sees what all of them count together, and
divides by it. Nobody is told what one site counts
(but two sums that differ by one site do tell it), and a site that claims more than it has
counts for `most` at the most: its own gate holds it to that, as to update_norm.

How far it then leads the mean: away from the mean of the others, of weights R together,
by w |u - mean| / (R + w) <= 2 * update_norm * most / (R + most).
"""

from __future__ import annotations

from pydantic import Field

from tasks.bands import public_units
from tasks.contracts import Message


class RecordWeights(Message):
    """A site counts one for every `per` records (persons, where these are the unit), and never more than `most`."""

    per: int = Field(ge=1, le=10**9)
    most: float = Field(default=1.5, ge=1, le=1000)

    @property
    def least(self) -> float:
        """What a site of one record counts."""
        return 1 / self.per

    def of(self, units: int) -> float:
        """What a site of so many records counts: it follows from their public band (tasks/bands.py)."""
        return min(max(public_units(units), 1) / self.per, self.most)

    def together(self, claimed: float, sites: int) -> float:
        """What so many sites count together, where a sum says `claimed`: a liar's word leads it no further."""
        return min(max(claimed, sites * self.least), sites * self.most)
