"""Which rows of a matrix the others are combinations of: rank-revealing QR with column pivoting.

Golub & Van Loan, *Matrix Computations*, section 5.4; the choice of rows is the interpolative decomposition of
Cheng, Gimbutas, Martinsson & Rokhlin, *On the Compression of Low Rank Matrices* (2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from stablenet.core.arrays import Array, Index
from stablenet.core.rounding import UNIT

MOST_GROWTH = 1e4
"""Coefficients above this would lift the rounding of the stored rows too much; such a basis is refused."""

MOST_CONDITION = 1e9
"""Bases of worse condition are refused: rows may look independent by rounding alone."""


@dataclass(frozen=True, eq=False)
class Basis:
    """``matrix == coefficients @ matrix[rows]`` but for truncation and rounding; coefficients are (m, r).

    ``condition`` and ``growth`` are of the scaled rows; see `row_basis`.
    """

    rows: Index
    coefficients: Array
    condition: float
    growth: float

    @property
    def rank(self) -> int:
        """Number of rows in the basis."""
        return len(self.rows)

    @property
    def sound(self) -> bool:
        """Whether it is well enough conditioned to be used."""
        return self.condition <= MOST_CONDITION and self.growth <= MOST_GROWTH


def row_basis(matrix: Array, column_scale: Array, noise: Array) -> Basis:
    """A well-conditioned set of rows that spans the others.

    ``matrix`` is (m, n). ``column_scale`` (n,) are the magnitudes that the columns multiply, ``noise`` (m,) bounds
    what rounding did to each row in that scale (sum over columns). Rows are scaled to unit length, so that what is
    truncated is small relative to each row's own effect; rows within their noise count as zero.
    """
    scaled = matrix * column_scale
    length = np.asarray(np.linalg.norm(scaled, axis=1))
    live = np.flatnonzero((length > 4.0 * noise) & (length > 0))
    coefficients = np.zeros((len(matrix), 0))
    if not len(live):
        return Basis(live, coefficients, 1.0, 0.0)
    unit = scaled[live] / length[live, None]
    triangle, pivots = linalg.qr(unit.T, mode="r", pivoting=True)
    diagonal = np.abs(np.diagonal(triangle))
    tolerance = max(16.0 * max(unit.shape) * UNIT, 4.0 * float((noise[live] / length[live]).max()))
    rank = int(np.count_nonzero(diagonal > tolerance))
    order = np.argsort(pivots[:rank])  # in the order of the layer
    top = linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    rows = live[pivots[:rank]]
    others = live[pivots[rank:]]
    coefficients = np.zeros((len(matrix), rank))
    coefficients[rows, np.arange(rank)] = 1.0
    coefficients[others] = top.T * (length[others, None] / length[rows])
    growth = float(np.abs(top).max(initial=1.0))
    return Basis(rows[order], coefficients[:, order], float(diagonal[0] / diagonal[rank - 1]), growth)
