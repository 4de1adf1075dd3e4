"""Multipliers of a polytope's rows for linear bounds, by exact search along one row at a time.

For ``a @ x <= b`` and any ``y >= 0``, ``w @ x <= y @ b + max (w - a.T @ y) @ x`` over the box: weak duality. The right
side is convex and piecewise linear in y; along one entry its minimum lies at a breakpoint, found by sorting as for a
weighted median. One row is so solved exactly, several come close in a few rounds. Nothing here need be right for
a bound to hold: `Backward` takes any multipliers and accounts for the rounding.
"""

from __future__ import annotations

import numpy as np

from stablenet.core.arrays import Array

ROUNDS = 3
"""Times that each row is visited."""


def row_multipliers(slopes: Array, centre: Array, radius: Array, a: Array, b: Array) -> Array:
    """Multipliers, (parts, q, m), that make upper bounds with these slopes small.

    ``slopes`` is (parts or 1, q, n), the box ``centre +- radius`` (parts, n), ``a`` and ``b`` are (m, n) and (m,).
    """
    shape = (len(centre), slopes.shape[1], len(b))
    found = np.zeros(shape)
    left = np.broadcast_to(slopes, (*shape[:2], slopes.shape[2])).copy()
    for state in range(ROUNDS):
        moved = False
        for i in range(len(b)):
            columns = np.flatnonzero(a[i])
            if not len(columns):
                continue
            row, here = a[i, columns], left[..., columns]
            base = here + found[..., i, None] * row if state else here
            rise = b[i] - centre[:, columns] @ row
            best = _along(base, row, radius[:, columns] * np.abs(row), rise)
            if (best != found[..., i]).any():
                moved = True
                found[..., i] = best
                left[..., columns] = base - best[..., None] * row
        if not moved or len(b) == 1:
            break
    return found


def _along(base: Array, row: Array, weight: Array, rise: Array) -> Array:
    """The least t >= 0 that minimises ``rise t + sum of weight |base / row - t|``: (parts, q)."""
    places = base / row
    ahead = places > 0
    heavy = np.broadcast_to(weight[:, None, :], base.shape)
    slope = rise[:, None] + heavy.sum(axis=-1) - 2.0 * np.where(ahead, heavy, 0.0).sum(axis=-1)
    best = np.zeros(base.shape[:2])
    falling = np.argwhere(slope < 0)
    if not len(falling):
        return best
    part, query = falling.T
    order = np.argsort(np.where(ahead[part, query], places[part, query], np.inf), axis=-1)
    sorted_places = np.take_along_axis(places[part, query], order, axis=-1)
    gained = 2.0 * np.cumsum(np.take_along_axis(heavy[part, query], order, axis=-1), axis=-1)
    reached = slope[part, query, None] + gained >= 0
    first = reached.argmax(axis=-1)
    at = sorted_places[np.arange(len(falling)), first]
    # Where no breakpoint turns the slope the row excludes the whole box: any multiplier is as good.
    usable = reached.any(axis=-1) & np.isfinite(at) & (at > 0)
    best[part, query] = np.where(usable, at, 0.0)
    return best
