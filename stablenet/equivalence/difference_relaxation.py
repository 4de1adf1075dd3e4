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

from stablenet.bounds.interval import magnitude, post_bounds
from stablenet.bounds.relaxation import Relaxation, chord
from stablenet.core.arrays import Array, Mask

Sides = tuple[Array, Array]


def _band(lower: Array, upper: Array, on: Mask, off: Mask) -> tuple[Array, Array, Array, Array]:
    """``low_slope d - low_offset <= e <= up_slope d + up_offset``: slopes and offsets, upper ones first.

    They hold for all e between ``min(d, 0)`` and ``max(d, 0)``; with both neurons ``on`` e is d, with both ``off`` 0.
    """
    open_ = (lower < 0) & (upper > 0)
    settled = on | off
    found = []
    for low, high in ((lower, upper), (-upper, -lower)):
        slope, offset = chord(low, high, open_)
        one_sided = (high > 0).astype(np.float64)
        found.append(np.where(settled, on.astype(np.float64), np.where(open_, slope, one_sided)))
        found.append(np.where(open_ & ~settled, offset, 0.0))
    return found[0], found[1], found[2], found[3]


def by_difference(lower: Array, upper: Array, base: Sides) -> tuple[Relaxation, Sides]:
    """``h = max(g + d, 0) - max(g, 0)`` in terms of d on ``lower <= d <= upper``, with g within ``base``; bounds of h.

    h lies between 0 and d; it is d where both neurons are active, and 0 where both are inactive.
    """
    off = (base[1] <= 0) & (np.nextafter(base[1] + upper, np.inf) <= 0)
    on = (base[0] >= 0) & (np.nextafter(base[0] + lower, -np.inf) >= 0) & ~off
    up_slope, up_offset, low_slope, low_offset = _band(lower, upper, on, off)
    lost = np.where(np.isnan(lower) | np.isnan(upper), np.nan, 0.0)
    relaxation = Relaxation(
        *(lower, upper, np.asarray(~(on | off))),
        *(low_slope + lost, up_slope + lost, up_offset + lost),
        magnitude(lower, upper),
        lost - low_offset,
    )
    low = np.where(on, lower, np.where(off, 0.0, np.minimum(lower, 0.0)))
    return relaxation, (low, np.where(on, upper, np.where(off, 0.0, np.maximum(upper, 0.0))))


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
    gap_d: Array
    gap_a: Array
    gap_b: Array

    @classmethod
    def of(cls, a: Sides, b: Sides, d: Sides) -> Self:
        """From bounds (lower, upper) of ``g_A``, ``g_B`` and ``d = g_A - g_B``."""
        of_a, of_b = Relaxation.of(*a), Relaxation.of(*b)
        lower, upper = d
        on = (a[0] >= 0) & (b[0] >= 0)
        off = (a[1] <= 0) & (b[1] <= 0)
        settled = on | off
        band = _band(lower, upper, on & ~off, off)
        with np.errstate(invalid="ignore", over="ignore"):
            (up_a, low_a), (up_b, low_b) = _gaps(of_a), _gaps(of_b)
            known = np.isfinite(lower) & np.isfinite(upper)
            by_up = known & (settled | (np.maximum(upper, 0.0) < up_a + low_b))
            by_low = known & (settled | (np.maximum(-lower, 0.0) < low_a + up_b))
            gap_d = np.where(settled, 0.0, np.maximum(magnitude(lower, upper), 0.0))
        return cls(
            of_a,
            of_b,
            *band,
            by_up,
            by_low,
            _post(a, b, d, on & ~off, off),
            gap_d,
            np.maximum(up_a, low_a),
            np.maximum(up_b, low_b),
        )


@dataclass(frozen=True, eq=False)
class DifferenceSlopes:
    """A `DifferenceRelaxation` as a backward pass needs it: by the sign of the coefficient on e, (parts, 1, n) each.

    ``up`` and ``low`` are the slopes in d, or in g_A where the neurons are taken ``apart`` (1 there, else 0);
    ``offset_up`` and ``offset_low`` the constants, of the sign of the coefficient. ``a_open`` and ``a_up``, (parts, n),
    are where A's phase is open and the slope of its upper relaxation.
    """

    up: Array
    low: Array
    offset_up: Array
    offset_low: Array
    apart_up: Array
    apart_low: Array
    gap_d: Array
    gap_a: Array
    gap_b: Array
    a_open: Mask
    a_up: Array

    @classmethod
    def of(cls, r: DifferenceRelaxation) -> Self:
        """The choice between the two ways made, side by side."""
        return cls(
            _wide(np.where(r.by_up, r.up_slope, r.of_a.up_slope)),
            _wide(np.where(r.by_low, r.low_slope, r.of_a.low_slope)),
            _wide(np.where(r.by_up, r.up_offset, r.of_a.up_offset)),
            _wide(np.where(r.by_low, -r.low_offset, 0.0)),
            _wide((~r.by_up).astype(np.float64)),
            _wide((~r.by_low).astype(np.float64)),
            _wide(r.gap_d),
            _wide(r.gap_a),
            _wide(r.gap_b),
            r.of_a.open,
            r.of_a.up_slope,
        )


def _wide(side: Array) -> Array:
    return side[:, None, :]


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
