"""What every backward pass of linear bounds keeps account of: coefficients in use, constants, rounding.

Computed coefficients are choices (see `stablenet.bounds.crown`); what their rounding can make is added to
``error`` at the step where it happens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.network import Matrix
from stablenet.core.rounding import OVERFLOW, SAFETY, UNDERFLOW, UNIT, gamma


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
    return np.asarray(np.matmul(rows, vectors[:, :, None])[..., 0])
