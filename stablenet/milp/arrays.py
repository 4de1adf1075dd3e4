"""The arrays that every backend takes: one mixed-integer linear program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array


@dataclass(frozen=True, eq=False)
class Rows:
    """``lower <= matrix @ x <= upper``: csr (m, n), (m,), (m,); infinite sides are absent."""

    matrix: sparse.csr_array
    lower: Array
    upper: Array


@dataclass(frozen=True, eq=False)
class Indicators:
    """``x[binary[i]] == value[i]`` implies row i of ``rows``."""

    binary: npt.NDArray[np.intp]
    value: npt.NDArray[np.bool_]
    rows: Rows


@dataclass(frozen=True, eq=False)
class MILP:
    """``min`` or ``max`` of ``objective @ x + constant`` over rows, column bounds, integrality, SOS1 sets, indicators.

    ``sos1`` holds index arrays, in order of their weights; at most one column of a set is nonzero.
    ``columns`` and ``row_names`` are names for files and messages (empty: numbered).
    """

    rows: Rows
    lower: Array
    upper: Array
    integer: npt.NDArray[np.bool_]
    objective: Array
    constant: float = 0.0
    maximize: bool = False
    sos1: tuple[npt.NDArray[np.intp], ...] = ()
    indicators: Indicators | None = None
    columns: Sequence[str] = field(default=())
    row_names: Sequence[str] = field(default=())

    @property
    def n_columns(self) -> int:
        """Number of variables."""
        return len(self.lower)

    @property
    def n_rows(self) -> int:
        """Number of linear rows, indicator rows not counted."""
        return len(self.rows.lower)

    @property
    def n_nonzeros(self) -> int:
        """Number of stored coefficients of the linear rows."""
        return int(self.rows.matrix.nnz)

    @property
    def n_binaries(self) -> int:
        """Number of integer columns."""
        return int(np.count_nonzero(self.integer))

    def value(self, x: Array) -> float:
        """Objective value of a point."""
        return float(self.objective @ x) + self.constant

    def violation(self, x: Array) -> float:
        """The largest violation of any row, bound, integrality, SOS1 set or indicator by a point (n,)."""
        return float(self.violations(x[None, :])[0])

    def violations(self, points: Array) -> Array:
        """`violation` of each of some points (b, n): (b,); infinite for a point with an entry that is not finite."""
        finite = np.asarray(np.isfinite(points).all(axis=1))
        x = np.where(finite[:, None], points, 0.0)
        worst = _outside(x, self.lower, self.upper)
        worst = np.maximum(worst, _outside((self.rows.matrix @ x.T).T, self.rows.lower, self.rows.upper))
        loose = x[:, self.integer]
        worst = np.maximum(worst, np.abs(loose - np.round(loose)).max(axis=1, initial=0.0))
        for columns in self.sos1:
            worst = np.maximum(worst, np.sort(np.abs(x[:, columns]), axis=1)[:, :-1].max(axis=1, initial=0.0))
        if self.indicators is not None:
            on = np.round(x[:, self.indicators.binary]).astype(bool) == self.indicators.value
            rows = self.indicators.rows
            values = (rows.matrix @ x.T).T
            beyond = np.maximum(np.maximum(rows.lower - values, values - rows.upper), 0.0)
            worst = np.maximum(worst, np.where(on, beyond, 0.0).max(axis=1, initial=0.0))
        return np.where(finite, worst, np.inf)


def _outside(values: Array, lower: Array, upper: Array) -> Array:
    """The largest distance of each row of values, (b, m), to its bounds, (m,): (b,)."""
    return np.asarray(np.maximum(lower - values, values - upper).max(axis=1, initial=0.0))


def permute(milp: MILP, seed: int) -> tuple[MILP, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The same problem with columns, rows, SOS1 sets and indicators in an order drawn from ``seed``.

    Returns ``(permuted, columns, rows)``: column j of the result is column ``columns[j]`` of ``milp``, row i is
    row ``rows[i]``; a point x of ``milp`` is ``x[columns]`` in the result. The order within an SOS1 set stays.
    """
    generator = np.random.default_rng(seed)
    columns = generator.permutation(milp.n_columns)
    rows = generator.permutation(milp.n_rows)
    place = np.argsort(columns)
    indicators = milp.indicators
    if indicators is not None:
        order = generator.permutation(len(indicators.binary))
        indicators = Indicators(
            place[indicators.binary[order]], indicators.value[order], _permuted(indicators.rows, order, columns)
        )
    permuted = replace(
        milp,
        rows=_permuted(milp.rows, rows, columns),
        lower=milp.lower[columns],
        upper=milp.upper[columns],
        integer=milp.integer[columns],
        objective=milp.objective[columns],
        sos1=tuple(place[milp.sos1[i]] for i in generator.permutation(len(milp.sos1))),
        indicators=indicators,
        columns=[milp.columns[j] for j in columns] if milp.columns else (),
        row_names=[milp.row_names[i] for i in rows] if milp.row_names else (),
    )
    return permuted, columns, rows


def _permuted(rows: Rows, order: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Rows:
    matrix = sparse.csr_array(rows.matrix[order][:, columns])
    matrix.sort_indices()
    return Rows(matrix, rows.lower[order], rows.upper[order])
