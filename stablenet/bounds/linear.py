"""What every backward pass of linear bounds does and keeps account of: coefficients in use, constants, rounding.

Computed coefficients are choices (see `stablenet.bounds.crown`); what their rounding can make is added to
``error`` at the step where it happens. A step goes through a relaxation (`LinearBounds.relaxed`) and then through an
affine map (`LinearBounds.substitute`): for one network, for two at once, and for their differences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array
from stablenet.core.network import Matrix, apply_transposed
from stablenet.core.rounding import OVERFLOW, SAFETY, UNDERFLOW, UNIT, gamma


@dataclass(frozen=True, eq=False)
class Block:
    """An affine map that a backward pass goes through: ``g = sum of matrix h_source + offset``, within ``slack``.

    ``terms`` are pairs of a source and a matrix, (n, n_source); ``offset`` is (n,). ``reach``, (parts, n), bounds the
    sum of absolute terms of g plus the magnitude of g itself, which is what rounding is relative to. ``slack``, (parts,
    n), is by how much g may be off the map, by float32 arithmetic or by computed coefficients (None: not at all).
    """

    terms: tuple[tuple[int, Matrix], ...]
    offset: Array
    reach: Array
    slack: Array | None


class LinearBounds(ABC):
    """A batch of linear upper bounds on their way back: ``sum over s of coefficients[s] h_s + constant``.

    ``coefficients[s]`` is (parts or 1, rows, n_s); ``constant``, its accumulated magnitude ``constant_size`` and
    ``error`` are (parts, rows). ``live`` marks rows that began with a nonzero coefficient.
    """

    def __init__(self, constant: Array, n_parts: int) -> None:
        shape = (n_parts, len(constant))
        self.coefficients: dict[int, Array] = {}
        self.error = np.zeros(shape)
        self.constant = np.broadcast_to(constant, shape)
        self.constant_size = np.abs(self.constant)
        self.additions = 4
        self.live = np.zeros(len(constant), dtype=bool)

    @abstractmethod
    def most(self, source: int) -> Array:
        """Largest magnitudes of a source's entries, (parts, n)."""

    def begin(self, source: int, rows: Array) -> None:
        """Coefficients of the rows themselves, (rows, n), exact."""
        self.live |= rows.any(axis=1)
        self.accumulate(source, rows[None])

    def add_constant(self, value: Array) -> None:
        """Add to the constant."""
        self.constant = self.constant + value
        self.constant_size = self.constant_size + np.abs(value)
        self.additions += 1

    def accumulate(self, source: int, value: Array) -> None:
        """Add to the coefficients on a source."""
        known = self.coefficients.get(source)
        if known is None:
            self.coefficients[source] = value
            return
        total = known + value
        self.coefficients[source] = total
        self.error = self.error + 2.0 * UNIT * dot(np.abs(total), self.most(source))

    def relaxed(self, coefficients: Array, relaxation: Relaxation) -> tuple[Array, Array]:
        """Constants, sums of nonnegative terms (parts, rows), and coefficients on g for given ones on h."""
        positive = np.maximum(coefficients, 0.0)
        lifted = dot(positive, relaxation.up_offset)
        if relaxation.low_offset is not None:
            lifted = lifted + dot(coefficients - positive, relaxation.low_offset)
        slope = np.where(coefficients > 0, relaxation.up_slope[:, None, :], relaxation.low_slope[:, None, :])
        return lifted, coefficients * slope

    def substitute(self, lifted: Array | None, chosen: Array, block: Block) -> None:
        """Replace ``chosen`` coefficients on a block's g, (parts or 1, rows, n), by those on what the block reads.

        ``lifted`` are the constants of the step before, sums of up to 2 n nonnegative terms. The error covers up to
        four roundings of each coefficient, those of the constants, and the scalar products over the n entries of g.
        """
        n = chosen.shape[-1]
        size = np.abs(chosen)
        rounded = dot(size, block.reach)
        if lifted is not None:
            rounded = rounded + lifted
            self.add_constant(lifted)
        self.error = self.error + gamma(n + 8) * rounded
        if block.slack is not None:
            self.error = self.error + dot(size, block.slack)
        self.add_constant((chosen.reshape(-1, n) @ block.offset).reshape(chosen.shape[:-1]))
        for origin, matrix in block.terms:
            self.accumulate(origin, apply_transposed(matrix, chosen))

    def maximum(self, centre: Array, radius: Array, largest: float) -> tuple[Array, Array]:
        """The largest values over boxes, and the bounds of their errors; ``largest`` is the largest magnitude met.

        Errors are infinite where a sum may have overflowed, or a number on the way was not finite.
        """
        value = self.constant
        error = self.error + 2.0 * self.additions * UNIT * self.constant_size
        total = self.constant_size
        coefficients = self.coefficients.get(0)
        if coefficients is not None:
            size = np.abs(coefficients)
            value = value + dot(coefficients, centre) + dot(size, radius)
            reach = dot(size, self.most(0))
            error = error + gamma(coefficients.shape[-1] + 8) * reach
            total = total + reach
        error = SAFETY * error + np.where(self.live, UNDERFLOW * (1.0 + largest), 0.0)
        sure = (total < OVERFLOW) & (np.abs(value) < OVERFLOW)
        return value, np.where(sure, error, np.inf)


def to_dense(matrix: Matrix) -> Array:
    """A matrix as a plain array."""
    return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix.toarray())


def dot(rows: Array, vectors: Array) -> Array:
    """(parts or 1, rows, n) times (parts, n): (parts, rows)."""
    if rows.shape[1] == 1:  # matmul would be called for each part by itself
        wide = np.broadcast_to(rows[:, 0], (max(len(rows), len(vectors)), rows.shape[2]))
        return np.asarray(np.einsum("ij,ij->i", wide, np.broadcast_to(vectors, wide.shape)))[:, None]
    return np.asarray(np.matmul(rows, vectors[:, :, None])[..., 0])
