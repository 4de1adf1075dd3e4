"""Linear bounds of a ReLU between bounds of its argument: the one statement of the chord, with its rounding.

Any slope serves an upper bound if the line holds at both ends (Zhang et al., *Efficient Neural Network Robustness
Certification with General Activation Functions*, NeurIPS 2018), so that the computed slope is a choice and the offset
is rounded up at each end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from stablenet.bounds.interval import magnitude
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.rounding import UNIT


def chord(lower: Array, upper: Array, open_: Mask) -> tuple[Array, Array]:
    """Slope and offset of a line above ``max(g, 0)`` on ``[lower, upper]`` where ``open_``; slope 0 elsewhere."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        slope = np.where(open_, np.clip(upper / (upper - lower), 0.0, 1.0), 0.0)
        at_lower = np.nextafter(-slope * lower, np.inf)
        at_upper = np.nextafter(upper - slope * upper + 4.0 * UNIT * np.abs(upper), np.inf)
    return slope, np.maximum(np.maximum(at_lower, at_upper), 0.0)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """``low_slope g + low_offset <= h <= up_slope g + up_offset`` on ``[lower, upper]``, all (parts, n).

    ``up_offset`` is at least 0, ``low_offset`` at most 0 (None: 0). ``most`` is max(|lower|, |upper|); ``open`` says
    where the bounds leave the phase undecided.
    """

    lower: Array
    upper: Array
    open: Mask
    low_slope: Array
    up_slope: Array
    up_offset: Array
    most: Array
    low_offset: Array | None = None

    @classmethod
    def of(cls, lower: Array, upper: Array) -> Self:
        """A ReLU's relaxation of least area for given pre-activation bounds; NaN where a bound is NaN."""
        with np.errstate(invalid="ignore"):
            open_ = (lower < 0) & (upper > 0)
            active = (~open_ & (upper > 0)).astype(np.float64)
            low = np.where(open_, (upper > -lower).astype(np.float64), active)
        slope, offset = chord(lower, upper, open_)
        lost = np.isnan(lower) | np.isnan(upper)
        return cls(
            lower,
            upper,
            open_,
            np.where(lost, np.nan, low),
            np.where(lost, np.nan, np.where(open_, slope, active)),
            np.where(lost, np.nan, np.where(open_, offset, 0.0)),
            magnitude(lower, upper),
        )

    @classmethod
    def identity(cls, lower: Array, upper: Array) -> Self:
        """``h = g`` on ``[lower, upper]``: for outputs that further rows are made of."""
        one, zero = np.ones_like(lower), np.zeros_like(lower)
        return cls(lower, upper, np.zeros(lower.shape, dtype=bool), one, one, zero, magnitude(lower, upper))

    def at(self, parts: Index, *, bounds: bool) -> Self:
        """The relaxation on some of the parts, each as often as it is named.

        Without ``bounds`` only its lines are right, which is what a backward pass without multipliers reads.
        """
        low_offset = None if self.low_offset is None else self.low_offset[parts]
        lines = self.low_slope[parts], self.up_slope[parts], self.up_offset[parts]
        if not bounds:
            lost = np.full((1, 1), np.nan)
            return type(self)(lost, lost, np.zeros((1, 1), dtype=bool), *lines, lost, low_offset)
        return type(self)(self.lower[parts], self.upper[parts], self.open[parts], *lines, self.most[parts], low_offset)
