"""Coefficients that solvers would drop silently, removed so that the model stays valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.milp.arrays import MILP, Rows

SMALLEST = 1e-9
"""Coefficients of at most this magnitude are not given to solvers (HiGHS would delete them silently)."""


def _contribution(values: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Range of ``values * x`` for x within the bounds, elementwise, rounded outward."""
    ends = np.stack([values * lower, values * upper])
    return np.nextafter(ends.min(axis=0), -np.inf), np.nextafter(ends.max(axis=0), np.inf)


def drop_tiny_in_rows(rows: Rows, lower: Array, upper: Array, names: Sequence[str], variables: Sequence[Any]) -> Rows:
    """Remove coefficients of at most `SMALLEST` and relax their rows by what they could contribute.

    ``lower`` and ``upper`` (n,) are the column bounds; the names of rows (m) and variables (n) are for the message.
    Raises `InputError` where a contribution is unbounded.
    """
    matrix = rows.matrix
    tiny = np.abs(matrix.data) <= SMALLEST
    if not tiny.any():
        return rows
    m = matrix.shape[0]
    entries = np.flatnonzero(tiny)
    row = np.searchsorted(matrix.indptr, entries, side="right") - 1
    column = matrix.indices[entries]
    low, high = _contribution(matrix.data[entries], lower[column], upper[column])
    lost = (np.isneginf(low) & np.isfinite(rows.upper[row])) | (np.isposinf(high) & np.isfinite(rows.lower[row]))
    if lost.any():
        i = int(np.flatnonzero(lost)[0])
        raise InputError(
            f"row {names[row[i]]!r}: coefficient {matrix.data[entries[i]]:g} of variable "
            f"{str(variables[column[i]])!r} is too small for solvers and the variable is unbounded; bound it"
        )
    low_sum = np.bincount(row, weights=np.where(np.isfinite(low), low, 0.0), minlength=m)
    high_sum = np.bincount(row, weights=np.where(np.isfinite(high), high, 0.0), minlength=m)
    touched = np.bincount(row, minlength=m) > 0
    count = np.bincount(row, minlength=m)
    # Each sum of k terms is off by at most k units of rounding of its largest partial sum.
    slack = np.bincount(row, weights=np.maximum(np.abs(low), np.abs(high)), minlength=m) * (count * 2.0**-52)
    new_lower = np.where(touched, np.nextafter(rows.lower - high_sum - slack, -np.inf), rows.lower)
    new_upper = np.where(touched, np.nextafter(rows.upper - low_sum + slack, np.inf), rows.upper)
    keep = ~tiny
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr].astype(np.int32)
    kept = sparse.csr_array((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)
    return Rows(kept, new_lower, new_upper)


def drop_tiny(rows: Rows, milp: MILP) -> Rows:
    """Rows for a `MILP` without coefficients of at most `SMALLEST`, relaxed by what these could contribute."""
    names = [f"added row {i}" for i in range(len(rows.lower))]
    return drop_tiny_in_rows(rows, milp.lower, milp.upper, names, [f"column {j}" for j in range(milp.n_columns)])


def drop_tiny_objective(
    objective: Array, constant: float, lower: Array, upper: Array, *, maximize: bool
) -> tuple[Array, float]:
    """Replace tiny objective coefficients by the best that they could contribute: dual bounds stay valid.

    ``objective``, ``lower`` and ``upper`` are (n,). Returns the new objective and constant; raises `InputError` where
    a contribution is unbounded.
    """
    tiny = np.flatnonzero((objective != 0) & (np.abs(objective) <= SMALLEST))
    if not tiny.size:
        return objective, constant
    low, high = _contribution(objective[tiny], lower[tiny], upper[tiny])
    best = float((high if maximize else low).sum())
    if not np.isfinite(best):
        raise InputError("an objective coefficient is too small for solvers and its variable is unbounded; bound it")
    objective = objective.copy()
    objective[tiny] = 0.0
    return objective, constant + best
