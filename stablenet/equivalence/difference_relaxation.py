"""The linear relaxation of ``relu(g_A) - relu(g_B)`` over bounds of ``g_A``, ``g_B`` and of their difference d.

Two ways hold for every pair of neurons, and any choice between them is sound. By the difference: ReLU is monotone and
changes by no more than its argument, so ``min(d, 0) <= h_A - h_B <= max(d, 0)``, which chords over the bounds of d make
linear (Paulsen, Wang & Wang, *ReluDiff*, ICSE 2020; *NeuroDiff*, ASE 2020). Or each neuron by its own relaxation
(Zhang et al. 2018), which is exact where its phase is known. The way with the smaller largest gap is taken, for the
upper and the lower side apart: where the networks are close the first, where boxes are small the second. With both
phases known (Teuber et al., *VeryDiff*, arXiv 2410.20207, tabulates the cases) the relaxation is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from stablenet.bounds.crown import Relaxation
from stablenet.bounds.interval import magnitude, post_bounds
from stablenet.core.arrays import Array, Mask
from stablenet.equivalence.backward import chord

Sides = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class DifferenceRelaxation:
    """A layer of pairs on a batch of boxes; all arrays are (parts, n).

    ``of_a`` and ``of_b`` relax each network's ReLU. ``e = h_A - h_B`` satisfies ``low_slope d - low_offset <= e <=
    up_slope d + up_offset``; ``by_up`` and ``by_low`` say where these serve, in place of ``of_a`` minus ``of_b``.
    ``post`` bounds e. ``gap_d`` and ``gap_a``, ``gap_b`` are the largest gaps of the two ways, for branching.
    """

    of_a: Relaxation
    of_b: Relaxation
    up_slope: Array
    up_offset: Array
    low_slope: Array
    low_offset: Array
    by_up: Mask
    by_low: Mask
    post: Sides
    most_d: Array
    gap_d: Array
    gap_a: Array
    gap_b: Array

    @classmethod
    def of(cls, a: Sides, b: Sides, d: Sides) -> Self:
        """From bounds (lower, upper) of ``g_A``, ``g_B`` and ``d = g_A - g_B``."""
        of_a, of_b = Relaxation.of(*a), Relaxation.of(*b)
        lower, upper = d
        open_ = (lower < 0) & (upper > 0)
        on = (a[0] >= 0) & (b[0] >= 0)
        off = (a[1] <= 0) & (b[1] <= 0)
        up_slope, up_offset = chord(lower, upper, open_)
        low_slope, low_offset = chord(-upper, -lower, open_)
        up_slope = np.where(open_, up_slope, (upper > 0).astype(np.float64))
        low_slope = np.where(open_, low_slope, (lower < 0).astype(np.float64))
        settled = on | off
        both = (on & ~off).astype(np.float64)
        zero = np.zeros_like(lower)
        with np.errstate(invalid="ignore", over="ignore"):
            (up_a, low_a), (up_b, low_b) = _gaps(of_a), _gaps(of_b)
            known = np.isfinite(lower) & np.isfinite(upper)
            by_up = known & (settled | (np.maximum(upper, 0.0) < up_a + low_b))
            by_low = known & (settled | (np.maximum(-lower, 0.0) < low_a + up_b))
            gap_d = np.where(settled, 0.0, np.maximum(magnitude(lower, upper), 0.0))
        return cls(
            of_a,
            of_b,
            np.where(settled, both, up_slope),
            np.where(settled | ~open_, zero, up_offset),
            np.where(settled, both, low_slope),
            np.where(settled | ~open_, zero, low_offset),
            by_up,
            by_low,
            _post(a, b, d, on & ~off, off),
            magnitude(lower, upper),
            gap_d,
            np.maximum(up_a, low_a),
            np.maximum(up_b, low_b),
        )


def _gaps(relaxation: Relaxation) -> Sides:
    """The largest gaps of the upper and of the lower relaxation of a ReLU; 0 where the phase is known."""
    lower, upper = relaxation.lower, relaxation.upper
    return np.where(relaxation.open, relaxation.up_offset, 0.0), np.where(
        relaxation.open, np.minimum(-lower, upper), 0.0
    )


def _post(a: Sides, b: Sides, d: Sides, on: Mask, off: Mask) -> Sides:
    """Bounds of e: between 0 and d, and between the differences of the neurons' own bounds; rounded outward."""
    (low_a, high_a), (low_b, high_b) = post_bounds(*a), post_bounds(*b)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = low_a - high_b, high_a - low_b
        low = np.where((low_a == 0) | (high_b == 0), low, np.nextafter(low, -np.inf))
        high = np.where((high_a == 0) | (low_b == 0), high, np.nextafter(high, np.inf))
    low = np.fmax(low, np.where(on, d[0], np.minimum(d[0], 0.0)))
    high = np.fmin(high, np.where(on, d[1], np.maximum(d[1], 0.0)))
    return np.where(off, 0.0, low), np.where(off, 0.0, high)
