"""Arithmetic whose every step is exact, or rounded towards the safe side by an amount that is known.

Matrix products are exact: numbers are cut into slices, each a whole number of some 20 bits times a power of two, and
whole numbers below 2^53 are multiplied and added by float64 hardware without any rounding, in whatever order a library
chooses (Ozaki, Ogita, Oishi & Rump, Numerical Algorithms 59, 2012). What the slices leave is bounded. The three exact
numbers that make one entry are then added, with two roundings. Long sums are made of whole numbers of 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.network import Matrix

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

RANGE = 300  # below 2^-300 numbers are an error, above 2^300 nothing is claimed
MATRIX = 3  # slices of a matrix, and of points: 57 bits below the largest or more
CHOSEN = 2  # slices of numbers that are free to choose
SLACK = 2.0**-51  # more than the relative error of a rounding, and of applying this bound


def up(values: Array) -> Array:
    """Nonnegative float64 numbers after one rounding, or sums of two numbers, moved up past what that can have done."""
    return np.asarray(values + np.abs(values) * SLACK)


def largest(values: Array) -> Array:
    """The largest magnitude of each row, (…, n): (…, 1)."""
    ends = values.max(axis=-1, keepdims=True, initial=0.0), values.min(axis=-1, keepdims=True, initial=0.0)
    return np.asarray(np.maximum(ends[0], -ends[1]))


@dataclass(frozen=True, eq=False)
class Slices:
    """Rows (…, n) as sums of ``pieces``: piece i is a whole multiple of ``2^(exponent - i bits)``, by up to 2^bits, i
    from 1. What they leave of the rows is at most 2^(exponent - bits len(pieces)), if ``rest``, else nothing.
    Of zeros the exponent is so low that 2^exponent is 0.
    """

    pieces: list[Array]
    exponent: npt.NDArray[np.int64]
    rest: bool

    @classmethod
    def of(cls, values: Array, bits: int, count: int) -> Slices:
        """Cut numbers; the differences are exact, and adding ``magic`` rounds to the multiples that are wanted."""
        size = largest(values)
        if not (size < 2.0**RANGE).all():
            raise OverflowError("numbers grow too large for the checker")
        exponent = np.where(size > 0, np.maximum(np.frexp(size)[1].astype(np.int64), -RANGE), -9999)
        pieces, rest = [], values
        for i in range(1, count + 1):
            magic = np.ldexp(1.5, 52 + exponent - i * bits)
            pieces.append((rest + magic) - magic)
            rest = rest - pieces[-1]
        return cls(pieces, exponent, bool(rest.any()))


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Real numbers known to within ``error``, (parts or 1, rows, 1), of ``value``, (parts or 1, rows, n)."""

    value: Array
    error: Array

    def plus(self, other: Enclosure) -> Enclosure:
        """The sum."""
        value = self.value + other.value
        rounded = largest(np.where((self.value == 0) | (other.value == 0), 0.0, value)) * SLACK
        return Enclosure(value, up(up(self.error + other.error) + rounded))


class ExactMatrix:
    """A matrix in slices, with an offset as one more column, for scalar products of any length up to ``longest``."""

    def __init__(self, matrix: Matrix, offset: Array, longest: int = 1) -> None:
        if isinstance(matrix, sparse.csr_array):
            column = sparse.csr_array(offset[:, None])
            self.full: Matrix = sparse.csr_array(sparse.hstack([matrix, column], format="csr"))
        else:
            self.full = np.hstack([matrix, offset[:, None]])
        data = np.asarray(self.full.data if isinstance(self.full, sparse.csr_array) else self.full, np.float64)
        # Scalar products run over rows or over columns, three are added: whole numbers that stay below 2^53.
        self.bits = (52 - math.ceil(math.log2(3 * max(2, longest, *self.full.shape)))) // 2
        cut = Slices.of(data.reshape(1, -1), self.bits, MATRIX)
        used = max([1, *(i for i, piece in enumerate(cut.pieces, 1) if piece.any())])
        pieces = [piece.reshape(data.shape) for piece in cut.pieces[:used]]
        self.size, self.rest = 2.0 ** int(cut.exponent[0, 0]), 2.0 ** -(MATRIX * self.bits) * cut.rest
        self.slices = [self._like(piece) for piece in pieces]
        self.absolute = [self._like(np.sign(data) * piece) for piece in pieces]  # rounding is the same for -x

    def _like(self, data: Array) -> Matrix:
        if isinstance(self.full, sparse.csr_array):
            return sparse.csr_array((data, self.full.indices, self.full.indptr), shape=self.full.shape)
        return data

    def rows(self, rows: Index) -> Array:
        """Some rows as they are, dense, with the offset at their end: (rows, n + 1)."""
        chosen = self.full[rows]
        return np.asarray(chosen.toarray() if isinstance(chosen, sparse.csr_array) else chosen)

    def back(self, coefficients: Slices, kept: Index | None = None) -> Enclosure:
        """``coefficients @ [matrix | offset]`` over rows (None: all), (parts, rows, n + 1), in this matrix's bits."""
        slices = self.slices if kept is None else [piece[kept] for piece in self.slices]
        return self._product(coefficients, slices, lambda x, w: x @ w)

    def forward(self, points: Array, *, absolute: bool = False) -> Enclosure:
        """``[matrix | offset] @ (point, 1)`` for points (…, n): (…, rows); or ``|matrix| @ point``."""
        last = np.full((*points.shape[:-1], 1), 0.0 if absolute else 1.0)
        cut = Slices.of(np.concatenate([points, last], axis=-1), self.bits, MATRIX)
        return self._product(cut, self.absolute if absolute else self.slices, lambda x, w: (w @ x.T).T)

    def _product(self, left: Slices, right: list[Matrix], multiply: Callable[[Array, Any], Any]) -> Enclosure:
        shape, length = left.pieces[0].shape[:-1], left.pieces[0].shape[-1]
        pieces = [piece.reshape(math.prod(shape), length) for piece in left.pieces]
        pairs = [(i, j) for i in range(len(pieces)) for j in range(len(right))]
        value = np.zeros((math.prod(shape), 1))
        for order in range(MATRIX):
            # Whole multiples of one power of two, below 2^53 of it: all of this is exact.
            exact = [np.asarray(multiply(pieces[i], right[j])) for i, j in pairs if i + j == order]
            if exact:
                value = value + sum(exact[1:], start=exact[0]) if order else sum(exact[1:], start=exact[0])
        # Left out: products of small slices, and what slices leave. The sums above were rounded, at most three times.
        left_out = sum(2.0 ** (-(i + j) * self.bits) for i, j in pairs if i + j >= MATRIX)
        left_out += self.rest + 2.0 ** (-len(pieces) * self.bits) * left.rest + 2.0 * SLACK
        error = np.ldexp(1.0, left.exponent.reshape(-1, 1)) * (2.0 * length * self.size * left_out)
        return Enclosure(value.reshape(*shape, value.shape[-1]), up(error).reshape(*shape, 1))


def row_sum(terms: Array, roundings: int) -> Array:
    """Upper bounds of sums of rows, (…, n), each term the result of so many roundings, -1 for exact ones: (…, 1).

    Terms become whole multiples of a unit, 2^-52 of the largest or more, and these are added exactly. A rounding is
    less than a unit, and so is what underflows. Rows that are not finite get infinity.
    """
    size, n = largest(terms), terms.shape[-1]
    finite = size < 2.0 ** (3 * RANGE)
    terms, size = (terms, size) if finite.all() else (np.where(finite, terms, 0.0), np.where(finite, size, 0.0))
    exponent = np.maximum(np.frexp(size)[1], -3 * RANGE) - min(52, 61 - math.ceil(math.log2(n + 1)))
    scaled = np.ceil(terms * np.ldexp(1.0, -exponent))
    scaled = np.where(terms > 0, np.maximum(scaled, 1.0), scaled) if roundings < 0 else scaled
    total = scaled.astype(np.int64).sum(axis=-1, keepdims=True) + n * (roundings + 1)
    nearest = total.astype(np.float64)
    bound = np.where(np.abs(total) < 2**53, nearest, np.nextafter(nearest, np.inf))
    return np.where(finite, np.ldexp(bound, exponent), np.inf)


def sum_up(terms: list[Array]) -> Array:
    """Upper bounds of the sums of all entries of rows, (parts or 1, rows, any) each: (parts, rows)."""
    shape = np.broadcast_shapes(*(term.shape[:-1] for term in terms))
    joined = [np.broadcast_to(term, (*shape, term.shape[-1])) for term in terms]
    return np.asarray(row_sum(np.concatenate(joined, axis=-1), -1)[..., 0])
