"""Many affine rows as one Pyomo component, without a Pyomo expression per row.

`AffineRows` is a Pyomo constraint like any other: every writer and solver of Pyomo takes it, since a row makes its
expression when it is read. `stablenet.milp.compiler` takes the matrix instead. Formulations state all their rows this
way. `IndicatorRows` are rows that hold only where a binary has a given value.
"""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pyomo.environ as pyo
from pyomo.core.base.constraint import ConstraintData, IndexedConstraint
from pyomo.core.expr.numeric_expr import LinearExpression
from pyomo.core.expr.relational_expr import EqualityExpression, RangedExpression
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.milp.arrays import Rows
from stablenet.milp.matrices import Matrix, Variables, to_csr
from stablenet.milp.tiny_coefficients import SMALLEST, drop_tiny_in_rows


class RowArrays:
    """The numbers of a component's rows: immutable, and so shared by all clones of the component.

    ``matrix`` is csr (m, n) without explicit zeros, ``lower`` and ``upper`` are (m,).
    """

    def __init__(self, matrix: sparse.csr_array, lower: Array, upper: Array) -> None:
        self.matrix = matrix
        self.lower = lower
        self.upper = upper
        for array in (matrix.data, matrix.indices, matrix.indptr, lower, upper):
            array.setflags(write=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def _side(values: npt.ArrayLike, rows: int, what: str) -> Array:
    array = np.array(np.broadcast_to(np.asarray(values, dtype=np.float64), (rows,)))
    if np.isnan(array).any():
        raise InputError(f"{what} side of row {int(np.flatnonzero(np.isnan(array))[0])} is NaN")
    return array


def _without_tiny(
    coefficients: list[float], variables: list[Any], lower: float, upper: float, name: str
) -> tuple[list[float], list[Any], float, float]:
    """One row without its tiny coefficients, relaxed; see `drop_tiny_in_rows`."""
    sides = [variable.bounds for variable in variables]
    low = np.array([-np.inf if side[0] is None else side[0] for side in sides])
    high = np.array([np.inf if side[1] is None else side[1] for side in sides])
    row = Rows(sparse.csr_array(np.array([coefficients])), np.array([lower]), np.array([upper]))
    kept = drop_tiny_in_rows(row, low, high, [name], variables)
    chosen = kept.matrix.indices.tolist()
    return kept.matrix.data.tolist(), [variables[j] for j in chosen], float(kept.lower[0]), float(kept.upper[0])


class AffineRowData(ConstraintData):  # type: ignore[misc]
    """One row of `AffineRows`; its expression is made when it is read."""

    __slots__ = ()

    def to_bounded_expression(self, evaluate_bounds: bool = False) -> tuple[Any, Any, Any]:  # noqa: FBT001, FBT002
        """``(lower, body, upper)`` as Pyomo asks for it; absent sides are None."""
        del evaluate_bounds  # the sides are numbers
        return cast(AffineRows, self.parent_component()).bounded_expression(self.index())

    @property
    def expr(self) -> Any:
        """The relational expression of the row."""
        lower, body, upper = self.to_bounded_expression()
        if lower is not None and lower == upper:
            return EqualityExpression((body, lower))
        low = -np.inf if lower is None else lower
        high = np.inf if upper is None else upper
        return RangedExpression((low, body, high), (False, False))

    @property
    def equality(self) -> bool:
        """Whether both sides are the same number."""
        lower, _, upper = self.to_bounded_expression()
        return lower is not None and bool(lower == upper)

    def set_value(self, expr: Any) -> None:
        """Refused: the rows are what the arrays say."""
        raise InputError(f"row {self.name} is given by arrays and cannot be set to {expr}; add another constraint")


class AffineRows(IndexedConstraint):  # type: ignore[misc]
    """``lower <= matrix @ variables <= upper`` as one Pyomo component of ctype `Constraint`, indexed 0..m-1.

    ``matrix`` is (m, n), dense or csr; ``variables`` are n scalar Pyomo variables (the same one may occur
    several times); ``lower`` and ``upper`` are (m,) or numbers, infinite where a side is absent. Example::

        block.rows = AffineRows(np.eye(2), [model.x[0], model.x[1]], [0, -np.inf], 1.0)

    Rows can be deactivated or deleted one by one, not changed. To Pyomo a row is shown without coefficients up to
    `stablenet.milp.tiny_coefficients.SMALLEST`, relaxed by what these could contribute within the variables' bounds, as
    `stablenet.milp.compiler` does: solvers would drop them and not relax. Raises `InputError` for wrong shapes, a
    coefficient that is not finite, or NaN.
    """

    def __init__(
        self, matrix: Matrix, variables: Variables, lower: npt.ArrayLike, upper: npt.ArrayLike, **keywords: Any
    ) -> None:
        rows, columns = matrix.shape
        if columns != len(variables):
            raise InputError(f"a matrix with {columns} columns for {len(variables)} variables")
        csr = to_csr(matrix)
        if not np.isfinite(csr.data).all():
            row = int(np.searchsorted(csr.indptr, np.flatnonzero(~np.isfinite(csr.data))[0], side="right")) - 1
            raise InputError(f"row {row} has a coefficient that is not finite")
        self.arrays = RowArrays(csr, _side(lower, rows, "lower"), _side(upper, rows, "upper"))
        self.variables = list(variables)
        super().__init__(pyo.RangeSet(0, rows - 1), **keywords)

    def construct(self, data: object = None) -> None:
        """Make the data objects of the rows (called by Pyomo)."""
        if self._constructed:
            return
        super().construct(data)
        for i in range(len(self.arrays.lower)):
            row = AffineRowData(component=self)
            row._index = i  # noqa: SLF001 - as Pyomo's own components do
            self._data[i] = row

    def check(self) -> None:
        """Raise `InputError` where the rows are not valid any more; called before compiling."""

    @property
    def active_rows(self) -> npt.NDArray[np.intp]:
        """The rows that are neither deactivated nor deleted, in order."""
        return np.fromiter((i for i, row in self._data.items() if row.active), dtype=np.intp)

    def drops_tiny(self, lower: float, upper: float) -> bool:
        """Whether a row with these sides can be relaxed by what its tiny coefficients could contribute."""
        del lower, upper
        return True

    def row_terms(self, index: int) -> tuple[list[float], list[Any]]:
        """Coefficients and variables of one row."""
        matrix = self.arrays.matrix
        span = slice(matrix.indptr[index], matrix.indptr[index + 1])
        return matrix.data[span].tolist(), [self.variables[j] for j in matrix.indices[span]]

    def bounded_expression(self, index: int) -> tuple[float | None, Any, float | None]:
        """``(lower, body, upper)`` of one row; the body is a Pyomo linear expression."""
        coefficients, variables = self.row_terms(index)
        lower, upper = float(self.arrays.lower[index]), float(self.arrays.upper[index])
        if coefficients and self.drops_tiny(lower, upper) and min(map(abs, coefficients)) <= SMALLEST:
            name = f"{self.name}[{index}]"
            coefficients, variables, lower, upper = _without_tiny(coefficients, variables, lower, upper, name)
        if not variables and self.variables:  # some of Pyomo's solvers fail on a body without variables
            coefficients, variables = [0.0], self.variables[:1]
        body = LinearExpression(constant=0.0, linear_coefs=coefficients, linear_vars=variables)
        return (None if lower == -np.inf else lower), body, (None if upper == np.inf else upper)


class IndicatorRows(AffineRows):
    """Row i of ``lower <= matrix @ variables <= upper`` holds where ``binary[i]`` equals ``value[i]``.

    ``binary`` are m binary variables, ``value`` is (m,) or one bool. A row has one finite side, or two equal
    ones. `stablenet.milp.compiler` compiles these to indicator constraints. For Pyomo itself a row is the
    product ``b * (row - side)``, or ``(1 - b) * (row - side)``, against 0, which says the same and which a
    solver without products refuses; it can't be lost on the way.
    """

    def __init__(
        self,
        matrix: Matrix,
        variables: Variables,
        lower: npt.ArrayLike,
        upper: npt.ArrayLike,
        *,
        binary: Variables,
        value: npt.ArrayLike = True,
        **keywords: Any,
    ) -> None:
        if len(binary) != matrix.shape[0]:
            raise InputError(f"{len(binary)} binary variables for {matrix.shape[0]} rows")
        super().__init__(matrix, variables, lower, upper, **keywords)
        low, high = self.arrays.lower, self.arrays.upper
        ranged = np.flatnonzero(np.isfinite(low) & np.isfinite(high) & (low != high))
        if ranged.size:
            raise InputError(f"indicator row {ranged[0]} is a range; give it as two rows")
        self.binary = list(binary)
        self.value = np.array(np.broadcast_to(np.asarray(value, dtype=bool), (len(self.binary),)))

    def drops_tiny(self, lower: float, upper: float) -> bool:
        """Not where the row is an equality: relaxed it would be a range, which no product can say."""
        return lower != upper

    def bounded_expression(self, index: int) -> tuple[float | None, Any, float | None]:
        """``(lower, body, upper)`` of one row as a product; see the class."""
        lower, body, upper = super().bounded_expression(index)
        side = upper if lower is None else lower
        binary = self.binary[index]
        switch = binary if self.value[index] else 1 - binary
        product = 0.0 * binary if side is None else switch * (body - side)
        return (None if lower is None else 0.0), product, (None if upper is None else 0.0)
