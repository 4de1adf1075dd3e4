"""Neurons that are another's multiple: ``relu(c g) = c relu(g)`` for c > 0, with what the products round."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.network import Matrix, apply
from stablenet.core.rounding import SAFETY, TINY, UNIT, underflow

ALIKE = 1e-3
"""Pre-activations within this share of a multiple of another's count as that multiple, if 1 fits worse."""


def factors(values_a: Array, values_b: Array) -> Array:
    """For each column of ``values_b`` the c > 0 for which it is c times that of ``values_a``; 1 where none fits better.

    Both are pre-activations of paired neurons on the same points, (batch, n). Any positive number is sound; a good one
    makes what is left small. Powers of two within rounding are returned exactly.
    """
    with np.errstate(all="ignore"):
        size_a, size_b = np.abs(values_a).max(axis=0, initial=0.0), np.abs(values_b).max(axis=0, initial=0.0)
        one, two = values_a / size_a, values_b / size_b
        factor = (one * two).sum(axis=0) / (one * one).sum(axis=0) * (size_b / size_a)
        near = np.exp2(np.round(np.log2(factor)))
        factor = np.where(np.abs(factor - near) <= 1e-12 * near, near, factor)
        scaled = np.abs(values_b - factor * values_a).max(axis=0, initial=0.0)
        plain = np.abs(values_b - values_a).max(axis=0, initial=0.0)
        fits = (scaled <= ALIKE * size_b) & (plain > 10.0 * scaled + 1e-12 * size_b)
        usable = np.isfinite(factor) & (factor > 1e-100) & (factor < 1e100) & (size_a > 0) & (size_b > 0)
    return np.where(fits & usable, factor, 1.0)


def times(values: Array, factor: Array) -> tuple[Array, Array]:
    """``values * factor`` and bounds on what each product rounded; 0 where it is exact. The shapes broadcast."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = values * factor
        power = np.frexp(factor)[0] == 0.5
        exact = (values == 0) | (power & (product / factor == values))
        return product, np.where(exact, 0.0, UNIT * np.abs(product) + TINY)


def times_columns(matrix: Matrix, factor: Array) -> tuple[Matrix, Matrix | None]:
    """A matrix (m, n), its columns times ``factor``, (n,); bounds on what each product rounded (None: nothing)."""
    if isinstance(matrix, np.ndarray):
        product, error = times(matrix, factor)
        return product, error if error.any() else None
    return _with_data(matrix, factor[matrix.indices])


def times_rows(matrix: Matrix, factor: Array) -> tuple[Matrix, Matrix | None]:
    """A matrix (m, n), its rows times ``factor``, (m,); bounds on what each product rounded (None: nothing)."""
    if isinstance(matrix, np.ndarray):
        product, error = times(matrix, factor[:, None])
        return product, error if error.any() else None
    return _with_data(matrix, np.repeat(factor, np.diff(matrix.indptr)))


def _with_data(matrix: sparse.csr_array, factor: Array) -> tuple[Matrix, Matrix | None]:
    product, error = times(matrix.data, factor)
    made = [sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape) for data in (product, error)]
    return made[0], made[1] if error.any() else None


def lost(error: Matrix, most: Array) -> Array:
    """What rows with coefficients that are off by ``error``, (m, n), may be off by, (parts, m).

    ``most``, (parts, n), bounds the magnitudes that they multiply. Rounded up, underflow included.
    """
    rows = np.asarray(error.sum(axis=1)).reshape(-1)
    return np.where(rows > 0, SAFETY * apply(error, most) + underflow(error.shape[1]), 0.0)


def outward(lower: Array, upper: Array, factor: Array) -> tuple[Array, Array]:
    """Bounds of ``factor * g`` for ``lower <= g <= upper``, rounded outward where the product is not exact."""
    (low, low_error), (high, high_error) = times(lower, factor), times(upper, factor)
    low = np.where(low_error > 0, np.nextafter(low - low_error, -np.inf), low)
    high = np.where(high_error > 0, np.nextafter(high + high_error, np.inf), high)
    return low, high
