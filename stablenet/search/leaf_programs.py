"""Linear programs for leaves that descent does not close: their dual solutions are good choices for a backward pass.

A leaf in which every neuron has a phase is a linear program, often one without solution, and the multipliers that show
so are large: descent is slow to find them. The program here has a column more, by which the phases may be violated at
a price. So it always has a solution, and its multipliers prove what those of the program itself would. The solver
is not trusted: a multiplier is a choice, and the bound is computed by `Backward` as for any other
(Salman et al., NeurIPS 2019, arXiv 1902.08722, section 4, say how duals become choices).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.backends.base import Backend, Limits, Settings, Status
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.linear import to_dense
from stablenet.bounds.lp_tightening import dual_choices
from stablenet.core.network import AffineMap
from stablenet.milp.arrays import MILP, Array, Rows

Phases = npt.NDArray[np.int8]

PRICE = 1e4
"""Price of a violated phase, in multiples of the largest coefficient of the row that is bounded."""


@dataclass(frozen=True, eq=False)
class Solved:
    """What a program gave: choices for each stage, of one row, and its point, (n_inputs,)."""

    choices: list[Choice]
    point: Array


def solve_leaf(
    backward: Backward,
    affine: AffineMap,
    row: int,
    sign: float,
    phases: Sequence[Phases],
    *,
    backend: Backend,
    limits: Limits,
) -> Solved | None:
    """Bound ``sign`` times a row of an affine map over a leaf, ``phases[k]`` (alive,) for each stage.

    None where the solver has no answer, and for the first layer, whose rows no phase bears on.
    """
    if not backward.stages:
        return None
    milp, first = _program(backward, affine, row, sign, phases)
    with backend.open(milp, Settings()) as session:
        answer = session.relax(limits)
    if answer.status is not Status.OPTIMAL or answer.row_duals is None or answer.x is None:
        return None
    # Rows are ``W h - g = -b``: raising the right-hand side by one lowers g by one.
    sizes = [len(stage.offset) for stage in backward.stages]
    wanted = [-answer.row_duals[start : start + size][None] for start, size in zip(first, sizes, strict=True)]
    neurons = [np.arange(n) if s.alive is None else s.alive for s, n in zip(backward.stages, sizes, strict=True)]
    held = [phase[None] for phase in phases]
    asked = np.array([row]), np.array([sign])
    choices = dual_choices(backward, affine, *asked, neurons=neurons, duals=wanted, phases=held)
    if backward.rows is not None:
        shift = np.maximum(answer.row_duals[len(answer.row_duals) - len(backward.rows.offset) :], 0.0)
        choices.append(Choice(np.zeros((1, 1, len(shift))), None, shift[None, None]))
    return Solved(choices, answer.x[: backward.network.n_inputs])


def _program(
    backward: Backward, affine: AffineMap, row: int, sign: float, phases: Sequence[Phases]
) -> tuple[MILP, list[int]]:
    """Columns: inputs, then g and h of each stage, then the violation. Rows: those that define g stage by stage, whose
    first are returned, then relaxations and phases, then a polytope's.
    """
    sizes = [len(stage.offset) for stage in backward.stages]
    starts = np.cumsum([backward.network.n_inputs, *(2 * n for n in sizes)])
    n_columns = int(starts[-1]) + 1
    centre, radius = backward.centre[0], backward.radius[0]
    lower, upper = [centre - radius], [centre + radius]
    blocks: list[sparse.csr_array] = []
    sides: list[tuple[Array, Array]] = []

    def h_of(source: int) -> int:
        return 0 if source == 0 else int(starts[source - 1]) + sizes[source - 1]

    def add(parts: list[tuple[int, object]], low: Array, high: Array) -> None:
        """Rows with matrices whose first columns are given."""
        placed = [_placed(matrix, column, n_columns) for column, matrix in parts]
        blocks.append(sparse.csr_array(sum(placed[1:], start=placed[0])))
        sides.append((low, high))

    first, at = [], 0
    for k, stage in enumerate(backward.stages):
        n = sizes[k]
        eye = sparse.eye_array(n, format="csr")
        first.append(at)
        at += n
        terms: list[tuple[int, object]] = [(h_of(source), matrix) for source, matrix in stage.terms]
        add([*terms, (int(starts[k]), -eye)], -stage.offset, -stage.offset)
    for k, stage in enumerate(backward.stages):
        relaxation, phase, n = stage.relaxation, phases[k], sizes[k]
        low, high, open_ = relaxation.lower[0], relaxation.upper[0], relaxation.open[0]
        slope, offset = relaxation.up_slope[0], relaxation.up_offset[0]
        active, dead = (phase > 0) | (~open_ & (high > 0)), (phase < 0) | (~open_ & (high <= 0))
        lower += [low, np.zeros(n)]
        upper += [high, np.where(dead, 0.0, np.maximum(high, 0.0))]
        g, h, last = int(starts[k]), h_of(k + 1), n_columns - 1
        eye, inf = sparse.eye_array(n, format="csr"), np.full(n, np.inf)
        on, off = (sparse.csr_array((phase == sign)[:, None].astype(np.float64)) for sign in (1, -1))
        # h >= g, for an inactive phase g <= violation; h below the chord, for an active phase h <= g + violation.
        add([(h, eye), (g, -eye), (last, off)], np.where(dead & (phase == 0), -inf, 0.0), inf)
        chord = sparse.diags_array(np.where(active, 1.0, slope), format="csr")
        add([(h, eye), (g, -chord), (last, -on)], -inf, np.where(active, 0.0, np.where(dead, inf, offset)))
    if backward.rows is not None:
        matrix = backward.rows.terms[0][1]
        rhs = backward.rows.relaxation.upper[0]
        add([(0, matrix)], np.full(len(rhs), -np.inf), rhs)
    objective = np.zeros(n_columns)
    for term in affine.terms:
        weights = to_dense(backward.restrict(term.matrix, np.array([row]), term.source))[0]
        begin = h_of(term.source)
        objective[begin : begin + len(weights)] += sign * weights
    objective[-1] = -PRICE * max(float(np.abs(objective).max(initial=0.0)), 1e-300)
    lower.append(np.zeros(1))
    upper.append(np.full(1, np.inf))
    rows = Rows(
        sparse.csr_array(sparse.vstack(blocks, format="csr")),
        np.concatenate([low for low, _ in sides]),
        np.concatenate([high for _, high in sides]),
    )
    return (
        MILP(
            rows,
            np.concatenate(lower),
            np.concatenate(upper),
            np.zeros(n_columns, bool),
            objective,
            sign * float(affine.offset[row]),
            maximize=True,
        ),
        first,
    )


def _placed(matrix: object, column: int, n_columns: int) -> sparse.csr_array:
    """A matrix among so many columns, from a given one on."""
    found = sparse.coo_array(matrix)
    return sparse.csr_array((found.data, (found.row, found.col + column)), shape=(found.shape[0], n_columns))
