"""Checks that refuse arrays which do not fit together, or hold numbers that solvers misread."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.milp.arrays import MILP, Rows

SMALLEST = 1e-9
"""Coefficients up to this size are deleted or lost in the tolerances by solvers, and are refused."""

INFINITY = 1e20
"""From here on solvers take a finite number for infinite."""


def check_model(milp: MILP) -> None:
    """Raise `InputError` for arrays that do not fit together, NaN, and numbers that solvers take for infinite."""
    n = milp.n_columns
    for name, array in (("upper", milp.upper), ("integer", milp.integer)):
        if array.shape != (n,):
            raise InputError(f"MILP: {name} has shape {array.shape} where ({n},) is expected")
    check_bounds("column", milp.lower, milp.upper)
    check_objective(milp.objective, milp.constant, n)
    check_rows("row", milp.rows, n)
    for columns in milp.sos1:
        check_columns("SOS1 set", columns, n)
    if milp.indicators is None:
        return
    check_columns("indicator", milp.indicators.binary, n)
    check_rows("indicator row", milp.indicators.rows, n)
    binary = milp.indicators.binary
    bad = ~(milp.integer[binary] & (milp.lower[binary] >= 0) & (milp.upper[binary] <= 1))
    if bad.any():
        raise InputError(f"MILP: indicator column {int(binary[np.argmax(bad)])} is not binary")


def check_columns(what: str, columns: npt.NDArray[np.intp], n: int) -> None:
    """Raise `InputError` for column numbers that do not exist."""
    if len(columns) and not (columns.min() >= 0 and columns.max() < n):
        raise InputError(f"MILP: a {what} names a column outside 0..{n - 1}")


def check_bounds(what: str, lower: Array, upper: Array) -> None:
    """Raise `InputError` for NaN, finite numbers that solvers take for infinite, and infinities of the wrong side."""
    for side, values, wrong in (("lower", lower, np.inf), ("upper", upper, -np.inf)):
        bad = np.isnan(values) | (values == wrong) | (np.isfinite(values) & (np.abs(values) >= INFINITY))
        if bad.any():
            where = int(np.argmax(bad))
            raise InputError(
                f"MILP: {side} bound {values[where]} of {what} {where}: below 1e20 in magnitude, or infinite and open"
            )


def check_objective(objective: Array, constant: float, n: int) -> None:
    """Raise `InputError` for an objective of the wrong length or with entries that are not usable numbers."""
    if objective.shape != (n,):
        raise InputError(f"MILP: objective has shape {objective.shape} where ({n},) is expected")
    if not (np.isfinite(constant) and np.all(np.abs(objective) < INFINITY)):
        raise InputError("MILP: an objective coefficient or constant is NaN, or 1e20 or more")


def check_rows(what: str, rows: Rows, n: int) -> None:
    """Raise `InputError` for rows of the wrong shape or with entries that are not usable numbers."""
    m = len(rows.lower)
    if rows.matrix.shape != (m, n) or rows.upper.shape != (m,):
        raise InputError(f"MILP: {what} matrix of shape {rows.matrix.shape} where ({m}, {n}) is expected")
    if not np.all(np.abs(rows.matrix.data) < INFINITY):
        raise InputError(f"MILP: a coefficient of a {what} is NaN, or 1e20 or more")
    tiny = (np.abs(rows.matrix.data) <= SMALLEST) & (rows.matrix.data != 0)
    if tiny.any():
        raise InputError(
            f"MILP: coefficient {rows.matrix.data[np.argmax(tiny)]:.3g} of a {what} is too small for solvers: "
            f"drop those up to {SMALLEST:g} and relax the row by what they can contribute"
        )
    check_bounds(what, rows.lower, rows.upper)
