"""Arithmetic whose every step is exact, or rounded towards the safe side by an amount that is known.

Matrix products are exact: numbers are cut into slices, each a whole number of some 20 bits times a power of two, and
whole numbers below 2^53 are multiplied and added by float64 hardware without any rounding, in whatever order a library
chooses (Ozaki, Ogita, Oishi & Rump, *Error-free transformations of matrix multiplication*, Numerical Algorithms 59,
2012). What the slices leave of a matrix is bounded entry by entry. The few exact products that make one entry are then
added, and the error of each addition is computed (Knuth's two-sum). Long sums are made of whole numbers of 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.network import AffineMap, Matrix

Array = npt.NDArray[np.float64]

RANGE = 300
"""Numbers are treated as 0 (with an error bound) below 2^-300, and nothing is claimed above 2^300."""

MATRIX_SLICES = 3
"""Slices of a matrix: 60 bits below the largest entry."""

TINY = 2.0**-1000
"""More than what underflow takes from one product."""

SLACK = 2.0**-51
"""More than the relative error of one rounding, and of applying this bound."""


def up(values: Array) -> Array:
    """Float64 sums of two numbers, moved up past what their rounding can have done; zero is exact."""
    return np.asarray(values + np.abs(values) * SLACK)


def times_up(a: Array, b: Array) -> Array:
    """Products rounded up; what has a factor 0 is 0."""
    product = np.asarray(a * b)
    return np.asarray(up(product) + np.where((a == 0) | (b == 0), 0.0, TINY))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The float64 sum and its error: together they are ``a + b`` exactly (Knuth)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def exponents(values: Array) -> npt.NDArray[np.int64]:
    """For each row, (…, n), the least e with ``|x| < 2^e`` for all its entries, not below ``-RANGE``: (…, 1)."""
    largest = np.abs(values).max(axis=-1, keepdims=True, initial=0.0)
    return np.maximum(np.frexp(largest)[1].astype(np.int64), -RANGE)


def slices(values: Array, exponent: npt.NDArray[np.int64], bits: int, count: int) -> tuple[list[Array], Array]:
    """Whole numbers ``x_1, …``, |x| <= 2^bits, with ``values = sum of x_i 2^(exponent - i bits) + rest``, exactly.

    They have the signs of the values, as the rest has: the same slices, less their signs, are those of ``|values|``.
    """
    rest = np.array(values)
    found = []
    for i in range(1, count + 1):
        scale = exponent - i * bits
        whole = np.trunc(np.ldexp(rest, -scale))
        found.append(whole)
        rest = rest - np.ldexp(whole, scale)  # exact: both are multiples of the last bit of `values`
        if not rest.any():
            break
    return found, rest


def on_grid(values: Array, bits: int, count: int) -> Array:
    """The nearest numbers that `slices` cuts without rest, row by row: any number will do where one is free to choose."""
    scale = exponents(values) - bits * count
    return np.asarray(np.ldexp(np.rint(np.ldexp(values, -scale)), scale))


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Real numbers known to within ``error`` of ``value``, both (parts or 1, rows, n)."""

    value: Array
    error: Array

    def plus(self, other: Enclosure) -> Enclosure:
        """The sum."""
        value, lost = two_sum(self.value, other.value)
        return Enclosure(value, up(up(self.error + other.error) + np.abs(lost)))


class ExactMatrix:
    """A matrix in slices, with an offset as one more column: what products with it need."""

    def __init__(self, matrix: Matrix, offset: Array) -> None:
        columns = offset[:, None]
        self.sparse = isinstance(matrix, sparse.csr_array)
        if self.sparse:
            self.full: Matrix = sparse.csr_array(sparse.hstack([matrix, sparse.csr_array(columns)], format="csr"))
        else:
            self.full = np.hstack([np.asarray(matrix, np.float64), columns])
        data = self._data(self.full)
        # Both ways: scalar products run over rows or over columns. Whole numbers of 2 bits + log2(n) stay below 2^53.
        self.bits = (52 - math.ceil(math.log2(max(2, *self.full.shape)))) // 2
        self.exponent = int(exponents(data.reshape(1, -1))[0, 0])
        if self.exponent > RANGE:
            raise OverflowError("a coefficient is too large for the checker")
        pieces, rest = slices(data.reshape(1, -1), np.array([[self.exponent]]), self.bits, MATRIX_SLICES)
        self.slices = [self._like(piece.reshape(data.shape)) for piece in pieces]
        self.rest = float(np.abs(rest).max(initial=0.0))

    @staticmethod
    def _data(matrix: Matrix) -> Array:
        return np.asarray(matrix.data if isinstance(matrix, sparse.csr_array) else matrix)

    def _like(self, data: Array) -> Matrix:
        if isinstance(self.full, sparse.csr_array):
            return sparse.csr_array((data, self.full.indices, self.full.indptr), shape=self.full.shape)
        return data

    def rows(self, rows: npt.NDArray[np.intp]) -> Array:
        """Some rows as they are, dense: (rows, n + 1)."""
        chosen = self.full[rows]
        return np.asarray(chosen.toarray()) if isinstance(chosen, sparse.csr_array) else np.asarray(chosen)

    def back(self, coefficients: Array, count: int = 2) -> Enclosure:
        """``coefficients @ [matrix | offset]``, (parts, rows, n + 1). They must be `on_grid` (bits, count)."""
        return self._product(coefficients, count, lambda x, w: x @ w)

    def forward(self, points: Array, *, absolute: bool = False) -> Enclosure:
        """``[matrix | offset] @ (point, 1)`` for points (…, n): (…, rows); or with all absolute values of the matrix."""
        ones = np.ones((*points.shape[:-1], 1))
        full = np.concatenate([points, ones * 0 if absolute else ones], axis=-1)
        if absolute:
            return self._product(full, 3, lambda x, w: (abs(w) @ x.T).T)
        return self._product(full, 3, lambda x, w: (w @ x.T).T)

    def _product(self, left: Array, count: int, multiply: Callable[[Array, Any], Any]) -> Enclosure:
        shape = left.shape
        flat = left.reshape(math.prod(shape[:-1]), shape[-1])
        exponent = exponents(flat)
        if not np.isfinite(flat).all() or (exponent > RANGE).any():
            raise OverflowError("numbers grow too large for the checker")
        pieces, rest = slices(flat, exponent, self.bits, count)
        value: Array | None = None
        error: Array = np.zeros((1, 1))
        for i, piece in enumerate(pieces, 1):
            for j, matrix in enumerate(self.slices, 1):
                scale = exponent + (self.exponent - (i + j) * self.bits)
                part = np.ldexp(np.asarray(multiply(piece, matrix)), scale)
                if value is None:
                    value = part
                else:
                    value, lost = two_sum(value, part)
                    error = up(error + np.abs(lost))
        if value is None:
            raise OverflowError("an empty product")
        length = shape[-1]
        if self.rest:
            # A sum of nonnegative numbers, each addition rounded: its relative error is below length 2^-53.
            most = np.abs(flat).sum(axis=1, keepdims=True) * (1.0 + length * SLACK)
            error = up(error + times_up(most, np.array(self.rest)))
        lost_most = np.abs(rest).max(axis=1, keepdims=True, initial=0.0)
        if lost_most.any():
            error = up(error + times_up(lost_most, np.array(length * 2.0**self.exponent)))
        error = np.broadcast_to(error, value.shape)
        return Enclosure(value.reshape(*shape[:-1], -1), error.reshape(*shape[:-1], -1))


def sum_up(terms: list[Array]) -> Array:
    """Upper bounds of the sums of all entries of rows, (parts or 1, rows, any) each: (parts, rows).

    Each entry is rounded up to a whole multiple of one power of two; these are added as whole numbers.
    """
    joined = np.broadcast_shapes(*(term.shape[:-1] for term in terms))
    count = sum(term.shape[-1] for term in terms) + 1
    largest = np.zeros((*joined, 1))
    for term in terms:
        largest = np.maximum(largest, np.abs(term).max(axis=-1, keepdims=True, initial=0.0))
    finite = np.isfinite(largest)
    exponent = np.frexp(np.where(finite, largest, 0.0))[1] - (61 - math.ceil(math.log2(count)))
    total = np.zeros(joined, np.int64)
    for term in terms:
        # What underflows when scaled counts as one unit.
        scaled = np.ceil(np.ldexp(np.where(finite, term, 0.0), -exponent))
        scaled = np.where(term > 0, np.maximum(scaled, 1.0), scaled)
        total = total + scaled.astype(np.int64).sum(axis=-1)
    bound = np.ldexp(np.nextafter(total.astype(np.float64), np.inf), exponent[..., 0])
    # A whole number that float64 holds was not rounded: zero stays zero.
    bound = np.where(np.abs(total) < 2**53, np.ldexp(total.astype(np.float64), exponent[..., 0]), bound)
    return np.where(finite[..., 0], bound, np.inf)


def exact_maximum(affine: AffineMap, row: int, sign: int, lows: list[Array], highs: list[Array]) -> float:
    """The largest value of ``sign`` times a row over intervals of its sources, in rational numbers, rounded up."""
    total = sign * Fraction(float(affine.offset[row]))
    for term in affine.terms:
        weights = term.matrix[[row]]
        dense = np.asarray(weights.toarray() if isinstance(weights, sparse.csr_array) else weights)[0]
        columns = np.flatnonzero(dense)
        ends = np.where(sign * dense[columns] > 0, highs[term.source][columns], lows[term.source][columns])
        for weight, end in zip(dense[columns].tolist(), ends.tolist(), strict=True):
            total += sign * Fraction(weight) * Fraction(end)
    nearest = float(total)
    return nearest if Fraction(nearest) >= total else float(np.nextafter(nearest, np.inf))
