"""Intervals on a polytope: the first layer by linear programs, made rigorous from their duals.

With multipliers ``y >= 0`` of the rows ``a @ x <= b``, ``w @ x <= y @ b + max (w - a.T @ y) @ x`` over the box. Any y
will do, and `Backward` bounds what rounding does; those of the dual solution give the maximum over the polytope.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stablenet.backends.base import Capability, Session, Status
from stablenet.bounds.base import Context
from stablenet.bounds.certificates import Rows, record_rows
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.interval import affine_bounds, post_bounds
from stablenet.bounds.layer_model import LayerModel, ask_all, limits_of, solver_of
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, SolverError
from stablenet.core.network import Network
from stablenet.core.rounding import UNDERFLOW, gamma
from stablenet.domain.regions import Part
from stablenet.formulations.base import registry as formulations

Sides = list[tuple[Array, Array]]

PASSES = 2
"""Times that `narrowed` goes through the rows."""


def narrowed(lower: Array, upper: Array, a: Array, b: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Boxes, (parts, n_inputs) twice, cut down to what the rows ``a @ x <= b`` leave of them, and which are empty.

    A row bounds each input by the least that its other terms can be; rounding only ever makes a box larger. Empty
    boxes are returned as they are.
    """
    low, high = lower.copy(), upper.copy()
    empty = np.zeros(len(lower), dtype=bool)
    for _ in range(PASSES):
        for row, rhs in zip(a, b, strict=True):
            columns = np.flatnonzero(row)
            weights = row[columns]
            at = np.where(weights > 0, low[:, columns], high[:, columns])
            with np.errstate(over="ignore", invalid="ignore"):
                least = weights * at
                size = np.abs(least).sum(axis=1) + abs(rhs)
                slack = rhs - least.sum(axis=1) + (gamma(len(columns) + 4) * size + UNDERFLOW)
                empty |= slack < 0
                reach = np.nextafter(np.maximum(slack, 0.0)[:, None] / np.abs(weights), np.inf)
                up, down = np.nextafter(at + reach, np.inf), np.nextafter(at - reach, -np.inf)
            high[:, columns] = np.where(weights > 0, np.fmin(high[:, columns], up), high[:, columns])
            low[:, columns] = np.where(weights < 0, np.fmax(low[:, columns], down), low[:, columns])
    # Each bound is rounded outward, so bounds that cross leave no point between them.
    empty |= (low > high).any(axis=1)
    return np.where(empty[:, None], lower, low), np.where(empty[:, None], upper, high), empty


def polytope_layers(network: Network, part: Part, layers: Sides, context: Context) -> Sides:
    """Interval bounds of every layer given those over the box; questions not reached by the deadline keep these."""
    lower, upper = np.array(layers[0][0]), np.array(layers[0][1])
    try:
        found = _first_layer(network, part, layers, context)
    except InputError as error:
        if type(error) is not InputError:
            raise
        found = []  # numbers that no solver takes: the box alone bounds the layer
    for (row, sign), bound in found:
        if sign > 0:
            upper[row] = np.fmin(upper[row], bound)
        else:
            lower[row] = np.fmax(lower[row], -bound)
    lows, highs = [part.lower[None, :]], [part.upper[None, :]]
    result: Sides = []
    for k, layer in enumerate(network.layers):
        low, high = (lower[None, :], upper[None, :]) if k == 0 else affine_bounds(layer.affine, lows, highs)
        result.append((low[0], high[0]))
        low, high = post_bounds(low, high)
        lows.append(low)
        highs.append(high)
    return result


def _first_layer(
    network: Network, part: Part, layers: Sides, context: Context
) -> list[tuple[tuple[int, float], float]]:
    """Rigorous upper bounds of plus and minus each row whose sign the box leaves open."""
    affine = network.layers[0].affine
    known = Bounds.of("interval", layers, rigorous=True)
    model = LayerModel(network, part, known, 0, formulation=formulations.get("relaxed"), margin=0.0)

    def ask(session: Session, question: tuple[int, float]) -> Array | None:
        session.change_objective(*model.objective(affine, *question), maximize=True)
        answer = session.relax(limits_of(context))
        return answer.row_duals if answer.status is Status.OPTIMAL else None

    if not solver_of(context).supports(Capability.DUALS):
        context = replace(context, backend=None)  # HiGHS, which is always there
    questions = [(row, sign) for row in np.flatnonzero(known.layers[0].phase == 0).tolist() for sign in (1.0, -1.0)]
    solved: list[tuple[tuple[int, float], Array]] = []
    for done, (question, duals) in enumerate(
        ask_all(context, model.linear, questions, ask, "crown") if questions else (), 1
    ):
        if duals is not None and not isinstance(duals, SolverError):
            solved.append((question, model.row_multipliers(duals, part)))
        context.progress("interval, layer 0", done, len(questions))
    if not solved:
        return []
    rows = np.array([row for (row, _), _ in solved], np.intp)
    signs = np.array([sign for (_, sign), _ in solved])
    shift = np.stack([y for _, y in solved])[None]
    backward, choices = Backward.on(network, part), [Choice(np.zeros_like(shift), None, shift)]
    bounds, _ = backward.upper_bounds(affine, rows, signs, choices)
    record_rows(context.proof, "interval", Rows(backward, rows, signs, choices))
    return [(question, float(bound)) for (question, _), bound in zip(solved, bounds[0], strict=True)]
