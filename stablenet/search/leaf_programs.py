"""Linear programs for leaves that descent does not close: their dual solutions are good choices for a backward pass.

A leaf in which every neuron has a phase is a linear program, often one without solution. The multipliers that prove
this are large, and descent finds them slowly. The program here has a column more, by which the phases may be violated
at a price. So it always has a solution, and its multipliers prove what those of the program itself would. The solver
need not be correct: a multiplier is a choice, and the bound is computed by `Backward` as for any other (Salman et al.,
NeurIPS 2019, arXiv 1902.08722, section 4, say how duals become choices).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.backends.base import Backend, Limits, Settings, Status
from stablenet.backends.own_points import CheckedSession, FailuresInRow, SolverFailure
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.linear import to_dense
from stablenet.bounds.lp_tightening import dual_choices
from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap
from stablenet.milp.arrays import MILP, Rows

Phases = npt.NDArray[np.int8]

PRICE = 1e4
"""Price of a violated phase, in multiples of the largest coefficient of the row that is bounded."""


@dataclass(frozen=True, eq=False)
class Solved:
    """The solution of a program: choices for each stage, of one row, and its point, (n_inputs,)."""

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
    failures: FailuresInRow | None = None,
    told: Callable[[SolverFailure], None] = lambda _: None,
) -> Solved | None:
    """Bound ``sign`` times a row of an affine map over a leaf, ``phases[k]`` (alive,) for each stage.

    None where the solver has no answer, and for the first layer, whose rows no phase bears on. Raises
    `SolverFailedError` where it fails; ``told`` hears if it is then given up (``failures``).
    """
    if not backward.stages:
        return None
    program = _Program(backward, phases)
    milp = program.milp(affine, row, sign)
    with CheckedSession(backend, milp, Settings(), own=lambda _: None, failed=told, failures=failures) as session:
        answer = session.relax(limits)
    if answer.status is not Status.OPTIMAL or answer.row_duals is None or answer.x is None:
        return None
    # Rows are ``W h - g = -b``: raising the right-hand side by one lowers g by one.
    pairs = zip(program.first, program.sizes, strict=True)
    wanted = [-answer.row_duals[start : start + size][None] for start, size in pairs]
    neurons = [np.arange(len(s.offset)) if s.alive is None else s.alive for s in backward.stages]
    held = [phase[None] for phase in phases]
    asked = np.array([row]), np.array([sign])
    choices = dual_choices(backward, affine, *asked, neurons=neurons, duals=wanted, phases=held)
    if backward.rows is not None:
        shift = np.maximum(answer.row_duals[len(answer.row_duals) - len(backward.rows.offset) :], 0.0)
        choices.append(Choice(np.zeros((1, 1, len(shift))), None, shift[None, None]))
    return Solved(choices, answer.x[: backward.network.n_inputs])


class _Program:
    """Columns: inputs, then g and h of each stage, then the violation. Rows: those that define g, stage by stage, with
    their ``first`` ones, then relaxations and phases, then a polytope's.
    """

    def __init__(self, backward: Backward, phases: Sequence[Phases]) -> None:
        self.backward = backward
        self.phases = phases
        self.sizes = [len(stage.offset) for stage in backward.stages]
        self.starts = np.cumsum([backward.network.n_inputs, *(2 * n for n in self.sizes)]).tolist()
        self.violation = self.starts[-1]
        self.first = np.cumsum([0, *self.sizes])[:-1].tolist()
        centre, radius = backward.centre[0], backward.radius[0]
        self.lower, self.upper = [centre - radius], [centre + radius]
        self.blocks: list[sparse.csr_array] = []
        self.sides: list[tuple[Array, Array]] = []
        for k, stage in enumerate(backward.stages):
            terms = [(self._post(source), matrix) for source, matrix in stage.terms]
            self._add([*terms, (self.starts[k], -sparse.eye_array(self.sizes[k]))], -stage.offset, -stage.offset)
        for k in range(len(backward.stages)):
            self._relax(k)
        if backward.rows is not None:
            rhs = backward.rows.relaxation.upper[0]
            self._add([(0, backward.rows.terms[0][1])], np.full(len(rhs), -np.inf), rhs)
        self.lower.append(np.zeros(1))
        self.upper.append(np.full(1, np.inf))

    def _post(self, source: int) -> int:
        """The first column of a source."""
        return 0 if source == 0 else int(self.starts[source - 1]) + self.sizes[source - 1]

    def _add(self, parts: Sequence[tuple[int, Any]], low: Array, high: Array) -> None:
        """Rows with matrices whose first columns are given."""
        placed = []
        for column, matrix in parts:
            found = sparse.coo_array(matrix)
            shape = found.shape[0], self.violation + 1
            placed.append(sparse.csr_array((found.data, (found.row, found.col + column)), shape=shape))
        self.blocks.append(sparse.csr_array(sum(placed[1:], start=placed[0])))
        self.sides.append((low, high))

    def _relax(self, k: int) -> None:
        """The ReLUs of a stage: h >= g, for an inactive phase g <= violation; h below the chord, for an active phase
        h <= g + violation.
        """
        relaxation, phase, n = self.backward.stages[k].relaxation, self.phases[k], self.sizes[k]
        low, high, open_ = relaxation.lower[0], relaxation.upper[0], relaxation.open[0]
        active, dead = (phase > 0) | (~open_ & (high > 0)), (phase < 0) | (~open_ & (high <= 0))
        self.lower += [low, np.zeros(n)]
        self.upper += [high, np.where(dead, 0.0, np.maximum(high, 0.0))]
        g, h = self.starts[k], self._post(k + 1)
        eye, inf = sparse.eye_array(n), np.full(n, np.inf)
        on, off = ((phase == sign)[:, None].astype(np.float64) for sign in (1, -1))
        least = np.where(dead & (phase == 0), -inf, 0.0)
        self._add([(h, eye), (g, -eye), (self.violation, off)], least, inf)
        chord = sparse.diags_array(np.where(active, 1.0, relaxation.up_slope[0]))
        most = np.where(active, 0.0, np.where(dead, inf, relaxation.up_offset[0]))
        self._add([(h, eye), (g, -chord), (self.violation, -on)], -inf, most)

    def milp(self, affine: AffineMap, row: int, sign: float) -> MILP:
        """Maximise ``sign`` times a row, less the price of violation."""
        objective = np.zeros(self.violation + 1)
        for term in affine.terms:
            weights = to_dense(self.backward.restrict(term.matrix, np.array([row]), term.source))[0]
            begin = self._post(term.source)
            objective[begin : begin + len(weights)] += sign * weights
        objective[-1] = -PRICE * max(float(np.abs(objective).max(initial=0.0)), 1e-300)
        low, high = (np.concatenate(side) for side in zip(*self.sides, strict=True))
        rows = Rows(sparse.csr_array(sparse.vstack(self.blocks, format="csr")), low, high)
        columns = np.concatenate(self.lower), np.concatenate(self.upper)
        integer = np.zeros(len(objective), bool)
        return MILP(rows, *columns, integer, objective, sign * float(affine.offset[row]), maximize=True)
