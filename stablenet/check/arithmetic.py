"""Arithmetic whose every step is exact, or rounded towards the safe side by an amount that is known.

Matrix products are exact: numbers are cut into slices, each a whole number of some 20 bits times a power of two, and
whole numbers below 2^53 are multiplied and added by float64 hardware without any rounding, in whatever order a library
chooses (Ozaki, Ogita, Oishi & Rump, Numerical Algorithms 59, 2012). What the slices leave of a matrix is bounded. The
few exact products that make one entry are then added, and the error of each addition is computed (Knuth's two-sum).
Long sums are made of whole numbers of 64 bits.
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
Index = npt.NDArray[np.intp]

RANGE = 300  # below 2^-300 numbers are an error, above 2^300 nothing is claimed
SLICES = 3  # of a matrix: 60 bits below its largest entry
CHOSEN = 2  # of numbers that are free to choose: 40 bits below the largest of a row
TINY = 2.0**-1000  # more than what underflow takes from a product
SLACK = 2.0**-51  # more than the relative error of a rounding, and of applying this bound


def up(values: Array) -> Array:
    """Float64 sums of two numbers, moved up past what their rounding can have done; zero is exact."""
    return np.asarray(values + np.abs(values) * SLACK)


def times_up(a: Array, b: Array) -> Array:
    """Products rounded up; what has a factor 0 is 0."""
    return np.asarray(up(a * b) + np.where((a == 0) | (b == 0), 0.0, TINY))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The float64 sum and its error: together they are ``a + b`` exactly (Knuth)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def exponents(values: Array) -> npt.NDArray[np.int64]:
    """For each row, (…, n), the least e with ``|x| < 2^e`` for all its entries, not below ``-RANGE``: (…, 1)."""
    largest = np.abs(values).max(axis=-1, keepdims=True, initial=0.0)
    return np.asarray(np.maximum(np.frexp(largest)[1].astype(np.int64), -RANGE))


def slices(values: Array, exponent: npt.NDArray[np.int64], bits: int, count: int) -> tuple[list[Array], Array]:
    """Whole numbers ``x_1, …``, |x| <= 2^bits, with ``values = sum of x_i 2^(exponent - i bits) + rest``, exactly.

    They have the signs of the values, as the rest has: without signs they are the slices of ``|values|``.
    """
    rest, found = np.array(values), []
    for i in range(1, count + 1):
        scale = exponent - i * bits
        found.append(np.trunc(np.ldexp(rest, -scale)))
        rest = rest - np.ldexp(found[-1], scale)  # exact: both are multiples of the last bit of `values`
        if not rest.any():
            break
    return found, rest


def on_grid(values: Array, bits: int) -> Array:
    """The nearest numbers that `slices` cuts into `CHOSEN` without rest, row by row."""
    scale = exponents(values) - bits * CHOSEN
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
    """A matrix in slices, with an offset as one more column."""

    def __init__(self, matrix: Matrix, offset: Array) -> None:
        if isinstance(matrix, sparse.csr_array):
            self.full: Matrix = sparse.csr_array(
                sparse.hstack([matrix, sparse.csr_array(offset[:, None])], format="csr")
            )
        else:
            self.full = np.hstack([matrix, offset[:, None]])
        data = self.full.data if isinstance(self.full, sparse.csr_array) else self.full
        numbers = np.asarray(data, np.float64)
        # Scalar products run over rows or over columns: whole numbers of 2 bits + log2(n) stay below 2^53.
        self.bits = (52 - math.ceil(math.log2(max(2, *self.full.shape)))) // 2
        exponent = exponents(numbers.reshape(1, -1))
        self.exponent = int(exponent[0, 0])
        pieces, rest = slices(numbers.reshape(1, -1), exponent, self.bits, SLICES)
        self.slices = [self._like(piece.reshape(numbers.shape)) for piece in pieces]
        self.rest = float(np.abs(rest).max(initial=0.0))

    def _like(self, data: Array) -> Matrix:
        if isinstance(self.full, sparse.csr_array):
            return sparse.csr_array((data, self.full.indices, self.full.indptr), shape=self.full.shape)
        return data

    def rows(self, rows: Index) -> Array:
        """Some rows as they are, dense, without the offset: (rows, n)."""
        chosen = self.full[rows]
        return np.asarray(chosen.toarray() if isinstance(chosen, sparse.csr_array) else chosen)[:, :-1]

    def back(self, coefficients: Array) -> Enclosure:
        """``coefficients @ [matrix | offset]``, (parts, rows, n + 1), for coefficients `on_grid`."""
        return self._product(coefficients, CHOSEN, lambda x, w: x @ w)

    def forward(self, points: Array) -> Enclosure:
        """``[matrix | offset] @ (point, 1)`` for points (…, n): (…, rows)."""
        full = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)
        return self._product(full, SLICES, lambda x, w: (w @ x.T).T)

    def spread(self, radius: Array) -> Array:
        """Upper bounds of ``|matrix| @ radius`` for radii (…, n): (…, rows)."""
        full = np.concatenate([radius, np.zeros((*radius.shape[:-1], 1))], axis=-1)
        found = self._product(full, SLICES, lambda x, w: (abs(w) @ x.T).T)
        return up(found.value + found.error)

    def _product(self, left: Array, count: int, multiply: Callable[[Array, Any], Any]) -> Enclosure:
        length = left.shape[-1]
        flat = left.reshape(math.prod(left.shape[:-1]), length)
        exponent = exponents(flat)
        if not np.isfinite(flat).all() or (exponent > RANGE).any() or self.exponent > RANGE:
            raise OverflowError("numbers grow too large for the checker")
        pieces, rest = slices(flat, exponent, self.bits, count)
        value = error = np.zeros((1, 1))
        for i, piece in enumerate(pieces, 1):
            for j, matrix in enumerate(self.slices, 1):
                part = np.ldexp(np.asarray(multiply(piece, matrix)), exponent + self.exponent - (i + j) * self.bits)
                value, lost = two_sum(value, part)
                error = up(error + np.abs(lost))
        if self.rest:
            # A sum of nonnegative numbers, each addition rounded: its relative error is below length 2^-53.
            most = np.abs(flat).sum(axis=1, keepdims=True) * (1.0 + length * SLACK)
            error = up(error + times_up(most, np.array(self.rest)))
        if rest.any():
            most = np.abs(rest).max(axis=1, keepdims=True)
            error = up(error + times_up(most, np.array(length * 2.0**self.exponent)))
        ends = value, np.broadcast_to(error, value.shape)
        return Enclosure(*(end.reshape(*left.shape[:-1], value.shape[-1]) for end in ends))


def sum_up(terms: list[Array]) -> Array:
    """Upper bounds of the sums of all entries of rows, (parts or 1, rows, any) each: (parts, rows).

    Each entry is rounded up to a whole multiple of one power of two; these are added as whole numbers.
    """
    shape = np.broadcast_shapes(*(term.shape[:-1] for term in terms))
    largest = np.zeros((*shape, 1))
    for term in terms:
        largest = np.maximum(largest, np.abs(term).max(axis=-1, keepdims=True, initial=0.0))
    finite = np.isfinite(largest)
    bits = 61 - math.ceil(math.log2(sum(term.shape[-1] for term in terms) + 1))
    exponent = np.frexp(np.where(finite, largest, 0.0))[1] - bits
    total = np.zeros(shape, np.int64)
    for term in terms:
        scaled = np.ceil(np.ldexp(np.where(finite, term, 0.0), -exponent))
        # What underflows when scaled counts as one unit.
        total = total + np.where(term > 0, np.maximum(scaled, 1.0), scaled).astype(np.int64).sum(axis=-1)
    nearest = total.astype(np.float64)
    bound = np.where(np.abs(total) < 2**53, nearest, np.nextafter(nearest, np.inf))
    return np.where(finite[..., 0], np.ldexp(bound, exponent[..., 0]), np.inf)


def exact_maximum(affine: AffineMap, row: int, sign: int, ends: list[tuple[Array, Array]]) -> float:
    """The largest value of ``sign`` times a row over intervals of its sources, in rational numbers, rounded up."""
    total = sign * Fraction(float(affine.offset[row]))
    for term in affine.terms:
        chosen = term.matrix[[row]]
        weights = np.asarray(chosen.toarray() if isinstance(chosen, sparse.csr_array) else chosen)[0]
        low, high = ends[term.source]
        for j in np.flatnonzero(weights).tolist():
            total += sign * Fraction(weights[j]) * Fraction((high if sign * weights[j] > 0 else low)[j])
    nearest = float(total)
    return nearest if Fraction(nearest) >= total else float(np.nextafter(nearest, np.inf))
