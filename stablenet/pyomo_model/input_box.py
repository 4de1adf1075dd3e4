"""Rows that hold a network's inputs in the box that it was embedded for."""

from __future__ import annotations

from typing import Any

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.milp.affine_rows import AffineRows
from stablenet.milp.matrices import Variables


def box_of(variables: Variables) -> tuple[Array, Array]:
    """The bounds of scalar Pyomo variables, those of their domains included, (n,) each; infinite where there is none.

    A value at which a variable is fixed does not count: it may be released.
    """
    sides = [variable.bounds for variable in variables]
    lower = np.array([-np.inf if side[0] is None else side[0] for side in sides], dtype=np.float64)
    upper = np.array([np.inf if side[1] is None else side[1] for side in sides], dtype=np.float64)
    return lower, upper


class InputBox(AffineRows):
    """``lower <= variables <= upper``: the bounds that the variables had when a network was embedded.

    The network's encoding holds in this box only. The rows keep every solution in it, even where the variables' bounds
    are changed. Where those have become wider, reading a row raises, so that the box is not mistaken for a constraint
    of the user's. Compiling and every writer and solver of Pyomo read the rows.
    """

    def __init__(self, variables: Variables, lower: Array, upper: Array, **keywords: Any) -> None:
        super().__init__(np.eye(len(lower)), variables, lower, upper, **keywords)

    def check(self) -> None:
        """Raise `InputError`, naming the first variable, where bounds are wider than they were."""
        for index in range(len(self.variables)):
            self._check(index)

    def bounded_expression(self, index: int) -> tuple[float | None, Any, float | None]:
        """``(lower, body, upper)`` of one row, if its variable still lies in the box."""
        self._check(index)
        return super().bounded_expression(index)

    def _check(self, index: int) -> None:
        variable = self.variables[index]
        (low,), (high,) = box_of([variable])
        lower, upper = float(self.arrays.lower[index]), float(self.arrays.upper[index])
        if low < lower or high > upper:
            block = self.parent_block().name
            raise InputError(
                f"variable {variable.name!r} now has bounds [{low:g}, {high:g}], and the network in block {block!r} "
                f"was added for [{lower:g}, {upper:g}]: add it anew to another block, or narrow the bounds"
            )
