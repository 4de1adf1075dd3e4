"""From a Pyomo model to the arrays of a `MILP`, and back through maps.

`AffineRows` and `IndicatorRows` are taken from their matrices; everything else goes through Pyomo's own
standard form. Each active component is either in the `MILP` or refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.milp.arrays import MILP, Indicators, Rows, permute
from stablenet.milp.matrices import Variables
from stablenet.milp.tiny_coefficients import drop_tiny_in_rows, drop_tiny_objective

if TYPE_CHECKING:
    from stablenet.milp.affine_rows import AffineRows, IndicatorRows

Columns = npt.NDArray[np.intp]

_PASSIVE = {
    "Var",
    "Param",
    "Set",
    "RangeSet",
    "SetOf",
    "Expression",
    "Block",
    "Suffix",
    "BooleanVar",
    "ExternalFunction",
}
_PASSIVE |= {"BuildCheck", "BuildAction"}


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """A `MILP` with its way back to Pyomo: ``variables[j]`` is the Pyomo variable of column j."""

    milp: MILP
    variables: list[Any]
    index: dict[int, int]

    def column(self, variable: Any) -> int:
        """The column of a scalar Pyomo variable; raises `InputError` if the model has no such variable."""
        try:
            return self.index[id(variable)]
        except KeyError:
            raise InputError(f"variable {variable} is not in the compiled model") from None

    def columns(self, variables: Variables) -> Columns:
        """The columns of several variables, in their order."""
        return np.fromiter((self.column(v) for v in variables), dtype=np.intp, count=len(variables))

    def permuted(self, seed: int) -> CompiledModel:
        """The same with rows and columns in an order drawn from a seed; see `stablenet.milp.arrays.permute`."""
        milp, columns, _ = permute(self.milp, seed)
        variables = [self.variables[j] for j in columns]
        return CompiledModel(milp, variables, {id(v): j for j, v in enumerate(variables)})


def compile_model(model: Any) -> CompiledModel:
    """The arrays of a linear Pyomo model with SOS1 sets and `IndicatorRows`.

    Columns stand in order of declaration, variables in no row included; a fixed variable is a column with
    both bounds at its value. Rows: ordinary constraints first, then each `AffineRows`. Coefficients up to
    `stablenet.milp.tiny_coefficients.SMALLEST` are dropped and their row relaxed by all that they could contribute
    within the column bounds, so that the `MILP` stays valid as long as column bounds are only tightened; tiny
    objective coefficients give their most favourable contribution to the constant. The model is left as it was.

    Raises `UnsupportedError` naming the component for what a `MILP` cannot carry, `InputError` for a tiny
    coefficient of an unbounded variable, a variable fixed without value, or numbers that are not finite.
    """
    components = _Components.of(model)
    variables = _variables(components)
    index = {id(v): j for j, v in enumerate(variables)}
    ordinary, objective, constant, maximize = _standard_form(model, components, variables, index)
    lower, upper, integer = _domains(variables)
    names: list[str] = list(ordinary[1])
    blocks = [ordinary[0]]
    for component in components.affine:
        rows, active = _affine(component, index, len(variables))
        blocks.append(rows)
        names += _row_names(component, active)
    rows = drop_tiny_in_rows(_stack(blocks, len(variables)), lower, upper, names, variables)
    objective, constant = drop_tiny_objective(objective, constant, lower, upper, maximize=maximize)
    milp = MILP(
        rows=rows,
        lower=lower,
        upper=upper,
        integer=integer,
        objective=objective,
        constant=constant,
        maximize=maximize,
        sos1=_sos_sets(components, index),
        indicators=_indicators(components, index, lower, upper, variables),
        columns=_names(components, variables),
        row_names=names,
    )
    return CompiledModel(milp, variables, index)


@dataclass
class _Components:
    """The active components of a model by what compiling makes of them."""

    affine: list[AffineRows]
    indicators: list[IndicatorRows]
    sos: list[Any]
    objectives: list[Any]
    variables: list[Any]

    @classmethod
    def of(cls, model: Any) -> _Components:
        found = cls([], [], [], [], [])
        for component in _in_order(model):
            found._sort(component)
        if len(found.objectives) > 1:
            names = ", ".join(o.name for o in found.objectives)
            raise UnsupportedError(
                f"the model has {len(found.objectives)} active objectives ({names}); one is expected"
            )
        return found

    def _sort(self, component: Any) -> None:
        from stablenet.milp.affine_rows import AffineRows, IndicatorRows

        kind = component.ctype.__name__
        if kind == "Var":
            self.variables.append(component)
            return
        if kind in _PASSIVE or not component.active:
            return
        if isinstance(component, IndicatorRows):
            self.indicators.append(component)
        elif isinstance(component, AffineRows):
            self.affine.append(component)
        elif kind == "SOSConstraint":
            self.sos.append(component)
        elif kind == "Objective":
            self.objectives += [o for o in component.values() if o.active]
        elif kind != "Constraint":
            raise UnsupportedError(
                f"component {component.name!r} is a {kind}, which a MILP cannot carry; "
                "transform or deactivate it (linear constraints, SOS1 sets and IndicatorRows are carried)"
            )


def _in_order(block: Any) -> Iterator[Any]:
    """The components of a block and its active sub-blocks, each sub-block where it was declared."""
    for component in block.component_objects(active=None, descend_into=False):
        yield component
        if component.ctype.__name__ == "Block":
            for inner in component.values():
                if inner.active:
                    yield from _in_order(inner)


def _variables(components: _Components) -> list[Any]:
    """All variables: declared on active blocks in order of declaration, then others in order of use."""
    found = {id(v): v for component in components.variables for v in component.values()}
    for rows in (*components.affine, *components.indicators):
        for v in rows.variables:
            found.setdefault(id(v), v)
    for indicator in components.indicators:
        for v in indicator.binary:
            found.setdefault(id(v), v)
    for sets in components.sos:
        for data in sets.values():
            for v, _ in data.get_items():
                found.setdefault(id(v), v)
    return list(found.values())


def _domains(variables: Sequence[Any]) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Column bounds and integrality."""
    n = len(variables)
    lower, upper, integer = np.full(n, -np.inf), np.full(n, np.inf), np.zeros(n, bool)
    for j, variable in enumerate(variables):
        low, high = variable.bounds
        if low is not None:
            lower[j] = low
        if high is not None:
            upper[j] = high
        if not variable.is_continuous():
            if not variable.is_integer() and not variable.is_binary():
                raise UnsupportedError(
                    f"variable {variable.name!r} has domain {variable.domain}; real or integer is expected"
                )
            integer[j] = True
        if variable.fixed:
            value = variable.value
            if value is None or not np.isfinite(value):
                raise InputError(f"variable {variable.name!r} is fixed without a finite value")
            if integer[j] and value != round(value):
                raise InputError(f"integer variable {variable.name!r} is fixed at {value}")
            lower[j] = upper[j] = value
    bad = np.flatnonzero(np.isnan(lower) | np.isnan(upper))
    if bad.size:
        raise InputError(f"a bound of variable {variables[bad[0]].name!r} is NaN")
    return lower, upper, integer


@contextmanager
def _set_aside(components: Sequence[Any]) -> Iterator[None]:
    """Deactivate components for a while; afterwards each of their rows is as active as before."""
    idle = [[index for index, data in c.items() if not data.active] for c in components]
    try:
        for component in components:
            component.deactivate()
        yield
    finally:
        for component, indices in zip(components, idle, strict=True):
            component.activate()
            for index in indices:
                component[index].deactivate()


def _standard_form(
    model: Any, components: _Components, variables: list[Any], index: dict[int, int]
) -> tuple[tuple[Rows, list[str]], Array, float, bool]:
    """Ordinary constraints and objective through Pyomo's compiler; extends ``variables`` by what only they use."""
    from pyomo.common.errors import InfeasibleConstraintException, InvalidConstraintError, InvalidExpressionError
    from pyomo.core import maximize as to_maximize
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    aside = [*components.affine, *components.indicators, *components.sos]
    with _set_aside(aside):
        try:
            form = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
        except (InvalidConstraintError, InvalidExpressionError) as error:
            raise UnsupportedError(f"the model is not linear: {error}") from None
        except InfeasibleConstraintException as error:
            raise InputError(f"a constraint without variables can never hold: {error}") from None
    for variable in form.columns:
        if id(variable) not in index:
            index[id(variable)] = len(variables)
            variables.append(variable)
    columns = np.fromiter((index[id(v)] for v in form.columns), dtype=np.intp, count=len(form.columns))
    objective, constant, maximize = np.zeros(len(variables)), 0.0, False
    if components.objectives:
        objective[columns] = form.c.toarray()[0]
        constant = float(form.c_offset[0])
        maximize = components.objectives[0].sense == to_maximize
    rows, names = _merge_ranges(form)
    placed = _place(rows.matrix, columns, len(variables))
    return (Rows(placed, rows.lower, rows.upper), names), objective, constant, maximize


def _merge_ranges(form: Any) -> tuple[Rows, list[str]]:
    """Pyomo's rows, with the two halves of a ranged constraint as one row again."""
    rhs = np.asarray(form.rhs, dtype=np.float64).reshape(-1)
    kind = np.fromiter((entry.bound_type for entry in form.rows), dtype=np.int64, count=len(form.rows))
    twin = np.zeros(len(rhs), bool)  # the second half of the row before it
    twin[1:] = [a.constraint is b.constraint for a, b in zip(form.rows, form.rows[1:], strict=False)]
    first = np.flatnonzero(~twin)
    lower = np.where(kind <= 0, rhs, -np.inf)[first]
    upper = np.where(kind >= 0, rhs, np.inf)[first]
    lower[np.searchsorted(first, np.flatnonzero(twin) - 1)] = rhs[twin]
    names = [form.rows[i].constraint.name for i in first]
    return Rows(sparse.csr_array(form.A)[first], lower, upper), names


def _place(matrix: sparse.csr_array, columns: npt.NDArray[np.integer[Any]], n: int) -> sparse.csr_array:
    """The same rows over n columns: column j of the matrix becomes column ``columns[j]`` (repeated ones add up)."""
    placed = sparse.csr_array((matrix.data, columns[matrix.indices], matrix.indptr), shape=(matrix.shape[0], n))
    if columns.size and not (np.diff(columns) > 0).all():
        placed = sparse.csr_array(placed, copy=True)
        placed.sum_duplicates()
        placed.eliminate_zeros()
    return placed


def _affine(component: AffineRows, index: dict[int, int], n: int) -> tuple[Rows, Columns]:
    component.check()
    arrays, active = component.arrays, component.active_rows
    columns = np.fromiter((index[id(v)] for v in component.variables), dtype=np.int32, count=len(component.variables))
    matrix, lower, upper = arrays.matrix, arrays.lower, arrays.upper
    if len(active) < len(lower):
        matrix, lower, upper = matrix[active], lower[active], upper[active]
    return Rows(_place(matrix, columns, n), lower, upper), active


def _row_names(component: AffineRows, active: Columns) -> list[str]:
    name = component.name
    return [f"{name}[{i}]" for i in active.tolist()]


def _stack(blocks: Sequence[Rows], n: int) -> Rows:
    """One set of rows; its arrays are its own."""
    blocks = [b for b in blocks if len(b.lower)]
    if not blocks:
        return Rows(sparse.csr_array((0, n)), np.zeros(0), np.zeros(0))
    counts = np.concatenate([np.diff(b.matrix.indptr) for b in blocks])
    matrix = sparse.csr_array(
        (
            np.concatenate([b.matrix.data for b in blocks]),
            np.concatenate([b.matrix.indices for b in blocks]).astype(np.int32, copy=False),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        ),
        shape=(len(counts), n),
    )
    return Rows(matrix, np.concatenate([b.lower for b in blocks]), np.concatenate([b.upper for b in blocks]))


def _sos_sets(components: _Components, index: dict[int, int]) -> tuple[Columns, ...]:
    from pyomo.core import value

    sets = []
    for component in components.sos:
        for data in component.values():
            if not data.active:
                continue
            if data.level != 1:
                raise UnsupportedError(f"SOS set {data.name!r} is of level {data.level}; only level 1 is carried")
            items = sorted(data.get_items(), key=lambda item: float(value(item[1])))
            sets.append(np.fromiter((index[id(v)] for v, _ in items), dtype=np.intp, count=len(items)))
    return tuple(sets)


def _indicators(
    components: _Components, index: dict[int, int], lower: Array, upper: Array, variables: list[Any]
) -> Indicators | None:
    blocks, binary, value, names = [], [], [], []
    for component in components.indicators:
        rows, active = _affine(component, index, len(variables))
        blocks.append(rows)
        names += _row_names(component, active)
        value.append(component.value[active])
        for i in active:
            variable = component.binary[i]
            if not variable.is_binary():
                raise InputError(f"indicator row {component.name}[{i}]: variable {variable.name!r} is not binary")
            binary.append(index[id(variable)])
    if not blocks:
        return None
    rows = drop_tiny_in_rows(_stack(blocks, len(variables)), lower, upper, names, variables)
    return Indicators(np.array(binary, dtype=np.intp), np.concatenate(value), rows)


def _names(components: _Components, variables: Sequence[Any]) -> list[str]:
    """Names of the columns; integer indices are written without asking each variable."""
    names: dict[int, str] = {}
    for component in components.variables:
        if component.is_reference():
            continue
        name = component.name
        for i, v in component.items():
            names[id(v)] = f"{name}[{i}]" if isinstance(i, int) else v.name
    return [names.get(id(v)) or v.name for v in variables]
