"""Privacy events: what was released, as values that are only ever added to.

Epsilon is never stored as the truth, it is a view on events (accountant.py);
a better accountant later re-reads the same history. Where events are kept
is sites/ledger.py's work.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.contracts import Message


class GaussianEvent(Message):
    """Noisy sums of clipped gradients: `steps` releases of the Poisson-subsampled Gaussian mechanism.

    Neighbours differ by one unit (a person or a record) added or removed. One unit
    moves the clipped sum by at most clip_norm, so epsilon needs no clip_norm.
    """

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: float = Field(gt=0)  # standard deviation of the noise on the sum, in units of clip_norm
    sample_rate: float = Field(gt=0, le=1)  # chance of each unit to be in a step; 1: every unit in every step
    steps: int = Field(ge=1)

    def to_json(self) -> str:
        """One line that `from_json` turns back into an equal event, to the last bit of every float."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> GaussianEvent:
        """Raises pydantic.ValidationError where the text is not exactly an event."""
        return cls.model_validate_json(text)
