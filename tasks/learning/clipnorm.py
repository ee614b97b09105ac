"""The clip norm in force at a site: the study's number, or one that follows a quantile of its units' gradients.

In each step the units that were not clipped are counted, with noise of this site's own
source and paid for in the step (privacy/counted.py); from step to step the clip norm moves
towards the norm that the study's quantile of units does not pass. Where it has come to is
private by itself, as the count is, and may be said.
"""

from __future__ import annotations

from tasks.errors import PrivacyError
from tasks.privacy.counted import split
from tasks.privacy.noise import NoiseSource
from tasks.study import Privacy

GRID = 1024  # of one unit: the last bits of a floating-point sum could tell which numbers were added (Mironov 2012)


class ClipNorm:
    """`now`: in force in the next step."""

    def __init__(self, privacy: Privacy, now: float | None = None):
        """`now`: where an earlier round of the run has left it; None: where the study begins.

        Raises:
            PrivacyError: the study has none, or does not allow this one.
        """
        first, most, terms = privacy.first_clip, privacy.most_clip, privacy.adaptive_clip
        if first is None or most is None:
            raise PrivacyError(f"private training needs a clip_norm, and mode {privacy.mode} has none")
        least = terms.least if terms else most
        self.now = first if now is None else now
        if not least <= self.now <= most:
            raise PrivacyError(f"clip norm {self.now:g}: the study has {least:g} to {most:g}")
        self._terms = terms

    @property
    def adapts(self) -> bool:
        return self._terms is not None

    def std(self, noise_multiplier: float) -> float:
        """Of the noise on a sum of gradients that are clipped now."""
        return (split(noise_multiplier).gradients if self.adapts else noise_multiplier) * self.now

    def follow(
        self, unclipped: int, units: int, expected: float, noise_multiplier: float, noise: NoiseSource
    ) -> None:
        """Move on after a step.

        Args:
            unclipped: units of the step whose gradient was short enough.
            units: that were drawn; their number is not told, each counts half from the middle.
            expected: units that are drawn in expectation, a public number.
            noise_multiplier: of the whole step.
            noise: of the count.
        """
        if self._terms is None:
            return
        count = unclipped - units / 2 + float(noise.normal((1,), split(noise_multiplier).counting)[0])
        count = round(count * GRID) / GRID
        self.now = self._terms.after(self.now, 0.5 + count / expected)
