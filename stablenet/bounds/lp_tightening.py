r"""``lp``: linear programs over a relaxation of the layers before, one per bound.

The default relaxation is the triangle of Ehlers (2017), which ``lp:relaxed`` and ``lp:bigm`` name too. Its bounds are
rigorous, by a way that trusts neither the solver nor the rows that it was given. The dual solution puts a coefficient
nu on every pre-activation. The backward pass of CROWN, run with that choice of slopes and multipliers which leads to
the same coefficients, is that dual solution (Salman et al., *A Convex Relaxation Barrier to Tight Robustness
Verification*, NeurIPS 2019, arXiv 1902.08722, section 4): with A the coefficient on ``h = max(g, 0)``, the slope is
nu / A where A < 0, clipped to [0, 1], and the multiplier of the bounds of g is what is left. `Backward` takes any
choice and bounds its own rounding, so the bound holds for the real-valued network; if the solver's
duals are optimal, it is the optimum. This is what Neumaier & Shcherbina (2004) do for
general rows, for rows of known meaning.

``lp:NAME`` for another formulation bounds by its own relaxation. There the dual solution is made safe over the rows
as compiled (Neumaier & Shcherbina, *Safe bounds in linear and mixed-integer linear programming*, Math. Program.
99, 2004): solver and tolerances need not be trusted. The coefficients that the formulation computed are, so
such bounds do not count as rigorous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from stablenet.backends.base import Capability, Session, Status
from stablenet.bounds.base import Context
from stablenet.bounds.certificates import Rows, record_rows
from stablenet.bounds.crown import Backward, Choice, chunks
from stablenet.bounds.interval import magnitude
from stablenet.bounds.layer_model import LayerModel, ask_all, limits_of, solver_of
from stablenet.bounds.layerwise import LayerwiseState, Tightening
from stablenet.bounds.linear import to_dense
from stablenet.core.arrays import Array, Index
from stablenet.core.errors import SolverError, UnsupportedError
from stablenet.core.network import AffineMap, apply_transposed
from stablenet.core.rounding import SAFETY, UNDERFLOW, gamma
from stablenet.formulations.base import Formulation
from stablenet.formulations.base import registry as formulations
from stablenet.milp.arrays import MILP

TRIANGLES = ("relaxed", "bigm")
"""Formulations whose relaxation, seen in g and h, is the triangle."""

Question = tuple[int, float]


class LpTightening(Tightening):
    """Two linear programs per undecided neuron."""

    name = "lp"
    title = "LP over a formulation's relaxation (argument: the formulation; default the triangle)"
    paper = "Ehlers 2017 (arXiv 1705.01320); rigorous by Salman et al. 2019 (arXiv 1902.08722)"
    rigorous = True
    requires = frozenset({Capability.DUALS})

    def __init__(self, formulation: Formulation | None = None) -> None:
        self.formulation = formulation or formulations.get(TRIANGLES[0])
        self.rigorous = self.formulation.name in TRIANGLES

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``lp`` or ``lp:FORMULATION``."""
        return cls(None if argument is None else formulations.get(argument))

    def check(self, context: Context) -> None:
        """The solver must give duals."""
        backend = solver_of(context)
        if not backend.supports(Capability.DUALS):
            raise UnsupportedError(
                f"bounds {self.name!r} need {Capability.DUALS.value}, which solver {backend.name!r} does not offer"
            )

    def work(self, state: LayerwiseState) -> None:
        """See `Tightening`."""
        rows = state.undecided()
        with state.cost(self.name, 2 * len(rows)) as row:
            formulation = formulations.get(TRIANGLES[0]) if self.rigorous else self.formulation
            model = LayerModel(
                state.network, state.part, state.bounds, state.layer, formulation=formulation, margin=0.0
            )
            row["rows"], row["columns"] = model.milp.n_rows, model.milp.n_columns
            solved = self._solve(state, model, rows)
            row["solved"] = len(solved)
            lower, upper = self._triangle(state, model, solved) if self.rigorous else _safe(state, model, solved)
            row["tightened"] = state.tighten(self.name, lower, upper, rigorous=self.rigorous)

    def _solve(self, state: LayerwiseState, model: LayerModel, rows: Index) -> dict[Question, Array]:
        """Row duals by question, of those solved."""
        affine = state.network.layers[state.layer].affine

        def ask(session: Session, question: Question) -> Array | None:
            session.change_objective(*model.objective(affine, *question), maximize=True)
            answer = session.relax(limits_of(state.context))
            return answer.row_duals if answer.status is Status.OPTIMAL else None

        questions = [(row, sign) for row in rows.tolist() for sign in (1.0, -1.0)]
        solved: dict[Question, Array] = {}
        for done, (question, duals) in enumerate(ask_all(state.context, model.linear, questions, ask, self.name), 1):
            if duals is not None and not isinstance(duals, SolverError):
                solved[question] = duals
            state.context.progress(f"{self.name}, layer {state.layer}", done, len(questions))
        return solved

    def _triangle(self, state: LayerwiseState, model: LayerModel, solved: dict[Question, Array]) -> tuple[Array, Array]:
        """Bounds by the backward pass that is the dual solution."""
        affine = state.network.layers[state.layer].affine
        lower, upper = np.full(affine.size, -np.inf), np.full(affine.size, np.inf)
        questions = sorted(solved)
        for chunk in chunks(np.arange(len(questions)), state.backward, copies=12):
            asked = [questions[i] for i in chunk.tolist()]
            rows, signs = np.array([row for row, _ in asked], np.intp), np.array([sign for _, sign in asked])
            duals = [model.multipliers(solved[question]) for question in asked]
            stacked = [np.stack([d[k] for d in duals]) for k in range(state.layer)]
            neurons = [plan.neurons for plan in model.plans]
            choices = dual_choices(state.backward, affine, rows, signs, neurons=neurons, duals=stacked)
            if state.backward.rows is not None:
                shift = np.stack([model.row_multipliers(solved[question], state.part) for question in asked])
                choices.append(Choice(np.zeros_like(shift)[None], None, shift[None]))
            bound, _ = state.backward.upper_bounds(affine, rows, signs, choices)
            record_rows(state.context.proof, self.name, Rows(state.backward, rows, signs, choices))
            up = signs > 0
            upper[rows[up]], lower[rows[~up]] = bound[0, up], -bound[0, ~up]
        return lower, upper


def dual_choices(
    backward: Backward,
    affine: AffineMap,
    rows: Index,
    signs: Array,
    *,
    neurons: list[Index],
    duals: list[Array],
    phases: Sequence[npt.NDArray[np.int8]] | None = None,
) -> list[Choice]:
    """Slopes and multipliers that lead a backward pass to given coefficients on pre-activations.

    ``duals[k]`` is (rows, kept) over ``neurons[k]`` of layer k; ``phases[k]``, (rows, alive), are held.
    """
    posts: dict[int, Array] = {}

    def add(source: int, value: Array) -> None:
        posts[source] = posts[source] + value if source in posts else value

    for term in affine.terms:
        add(term.source, signs[:, None] * to_dense(backward.restrict(term.matrix, rows, term.source)))
    choices: list[Choice] = []
    for k in range(len(backward.stages) - 1, -1, -1):
        stage = backward.stages[k]
        relaxation = stage.relaxation
        wanted = np.zeros((len(rows), len(relaxation.low_slope[0]) if stage.alive is None else len(stage.alive)))
        place = neurons[k] if stage.alive is None else np.searchsorted(stage.alive, neurons[k])
        wanted[:, place] = duals[k]
        post = posts.pop(k + 1, np.zeros_like(wanted))
        negative = np.minimum(post, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            low = np.where(negative < 0, np.clip(wanted / negative, 0.0, 1.0), relaxation.low_slope)
        low, up = np.where(relaxation.open, low, relaxation.low_slope), relaxation.up_slope
        phase = None if phases is None else phases[k]
        if phase is not None:
            low, up = (np.where(phase == 0, slope, (phase > 0).astype(np.float64)) for slope in (low, up))
        plain = negative * low + np.maximum(post, 0.0) * up
        shift = plain - wanted
        # Residues of the solver's tolerances would cost more in rounding than they gain.
        shift[np.abs(shift) <= 1e-9 * np.maximum(np.abs(plain), np.abs(wanted))] = 0.0
        choices.append(Choice(low[None], None if phase is None else phase[None], shift[None]))
        for source, matrix in stage.terms:
            add(source, apply_transposed(matrix, plain - shift))
    return choices[::-1]


def _safe(state: LayerwiseState, model: LayerModel, solved: dict[Question, Array]) -> tuple[Array, Array]:
    affine = state.network.layers[state.layer].affine
    lower, upper = np.full(affine.size, -np.inf), np.full(affine.size, np.inf)
    for (row, sign), duals in solved.items():
        bound = safe_upper_bound(model.milp, *model.objective(affine, row, sign), duals)
        if sign > 0:
            upper[row] = bound
        else:
            lower[row] = -bound
    return lower, upper


def safe_upper_bound(milp: MILP, objective: Array, constant: float, duals: Array) -> float:
    """An upper bound of ``objective @ x + constant`` over rows and column bounds, from any row multipliers.

    ``duals`` (n_rows,) have the sign of d objective / d right-hand side; those that point to an absent side count as 0.
    Holds for the numbers given, whatever the rounding here; infinite where a column that matters is unbounded.
    """
    rows = milp.rows
    side = np.where(duals > 0, rows.upper, rows.lower)
    y = np.where((duals == 0) | ~np.isfinite(side), 0.0, duals)
    side = np.where(y == 0, 0.0, side)
    transposed = rows.matrix.T
    reduced = objective - transposed @ y
    size = np.abs(objective) + abs(transposed) @ np.abs(y)
    slack = gamma(milp.n_rows + 4) * size
    most = magnitude(milp.lower, milp.upper)
    with np.errstate(invalid="ignore"):
        reach = np.where(reduced == 0, 0.0, np.maximum(reduced * milp.lower, reduced * milp.upper))
        error = np.where(slack == 0, 0.0, slack * most)
    summands = np.concatenate([y * side, reach, [constant]])
    total = np.abs(summands).sum() * gamma(len(summands) + 4) + error.sum()
    return float(np.nextafter(summands.sum() + SAFETY * total + UNDERFLOW * (1.0 + most.max(initial=0.0)), np.inf))
