"""Polytopes ``a @ x <= b`` within boxes: multipliers of their rows, and the parts of boxes that satisfy the rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import Array, sum_up, up

ROUNDS = 3  # times that each row's multiplier is chosen anew
PASSES = 2  # times that boxes are narrowed by each row


def row_duals(slopes: Array, lower: Array, upper: Array, a: Array, b: Array) -> Array:
    """Multipliers ``y >= 0``, (parts, rows, m), for which ``y b + max (slopes - y a) x`` over boxes is small.

    Along one of them this is convex, with breakpoints where a coefficient changes sign: the least is at the first where
    it no longer falls. Rounding costs nothing but the last bit of the bound, since any y will do. ``slopes`` are
    (parts or 1, rows, n), the boxes (parts, 1, n).
    """
    found = np.zeros((len(lower), slopes.shape[1], len(b)))
    for _ in range(ROUNDS if len(b) > 1 else 1):
        for i, row in enumerate(a):
            used = np.flatnonzero(row)
            if not len(used):
                continue
            others = np.delete(found, i, axis=-1) @ np.delete(a, i, axis=0)[:, used]
            base = slopes[..., used] - others
            places = np.sort(np.maximum(base / row[used], 0.0), axis=-1)
            first, last = np.zeros(places.shape[:-1], np.intp), np.full(places.shape[:-1], len(used))
            while (first < last).any():
                middle = (first + last) // 2
                y = np.take_along_axis(places, np.minimum(middle, len(used) - 1)[..., None], axis=-1)
                # Just after the breakpoint: what is zero there has then the sign of -a.
                left = base - y * row[used]
                positive = np.where(np.abs(left) <= 1e-12 * np.abs(base), row[used] < 0, left > 0)
                ends = np.where(positive, upper[..., used], lower[..., used])
                rising = b[i] - ends @ row[used] >= 0
                last, first = np.where(rising, middle, last), np.where(rising, first, np.minimum(middle + 1, last))
            at = np.take_along_axis(places, np.minimum(first, len(used) - 1)[..., None], axis=-1)[..., 0]
            least = np.where(base > 0, upper[..., used], lower[..., used])
            found[..., i] = np.where(b[i] - least @ row[used] >= 0, 0.0, at)
    return found


def narrowed(lower: Array, upper: Array, a: Array, b: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """What rows leave of boxes, (parts, n) each, rounded outward, and which boxes are surely empty."""
    low, high = lower.copy(), upper.copy()
    empty = np.zeros(len(low), bool)
    for _ in range(PASSES):
        for row, rhs in zip(a, b.tolist(), strict=True):
            used = np.flatnonzero(row)
            weights = row[used]
            at = np.where(weights > 0, low[:, used], high[:, used])
            # The most that is left for one term when all others are least, with that term's own least.
            terms = -weights * at
            slack = sum_up([np.full((len(low), 1), rhs), np.where(terms == 0, terms, up(terms) + 1e-300)])
            empty |= slack < 0
            reach = up(up(np.maximum(slack, 0.0)[:, None] / np.abs(weights)))
            reach = np.where(slack[:, None] > 0, np.nextafter(reach, np.inf), reach)
            high[:, used] = np.where(weights > 0, np.minimum(high[:, used], up(at + reach)), high[:, used])
            low[:, used] = np.where(weights < 0, np.maximum(low[:, used], -up(reach - at)), low[:, used])
    empty |= (low > high).any(axis=1)
    return np.where(empty[:, None], lower, low), np.where(empty[:, None], upper, high), empty
