"""The paper's search: one MILP for all pending questions of a part.

Serra, Yu, Kumar & Ramalingam, *Scaling Up Exact Neural Network Compression by ReLU Stability* (NeurIPS 2021,
arXiv 2102.07804), section 4: maximise the number of pending questions that one input witnesses; close by
forward pass all that each solution shows; when the optimum is proven below 1, everything still in the
objective is refuted together.
"""

from __future__ import annotations

import time

import numpy as np
from scipy import sparse

from stablenet.backends.base import Callbacks, Capability, Session, SolveResult, Status
from stablenet.backends.base import registry as backends
from stablenet.errors import ContradictionError, SolverError, UnsupportedError
from stablenet.formulations.base import Formulation
from stablenet.ledger import NEGATIVE, POSITIVE, SIDE_NAMES, SIDES, Array, Index, Mask, Side
from stablenet.milp import Rows
from stablenet.search.base import Problem, Search, SearchStoppedError, check_combination
from stablenet.search_model import SearchModel, build_search_model

CLAIM = 0.5
"""An incumbent above this claims at least one question: witness values are 0 or 1 in its questions' favour."""

REFUTING = 1.0 - 1e-4
"""A dual bound below this refutes all that is asked: one true witness would make the optimum at least 1."""

FEASIBLE = 1e-6
"""Largest violation at which a forward pass counts as a point of the compiled model."""

STOPS = {Status.TIME: "time", Status.MEMORY: "memory", Status.INTERRUPTED: "interrupt", Status.NODES: "search"}


class NetworkSearch(Search):
    """One MILP over the whole network, per part."""

    name = "network"
    title = "the single MILP over all pending questions"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend)
        if problem.options.removal == "callback" and not problem.backend.supports(Capability.LAZY):
            raise UnsupportedError(
                f"--removal callback needs {Capability.LAZY.value}, which solver {problem.backend.name!r} "
                "does not offer; use --removal resolve"
            )
        for part in range(len(problem.domain.parts)):
            PartSearch(problem, part, self.name).run()


class PartSearch:
    """The single MILP on one part, for all layers or for those chosen."""

    def __init__(self, problem: Problem, part: int, by: str, layers: range | None = None) -> None:
        self.problem = problem
        self.ledger = problem.ledger
        self.part = part
        self.by = by
        self.scope = np.zeros(self.ledger.n_neurons, dtype=bool)
        for k in layers if layers is not None else range(len(self.ledger.sizes)):
            self.scope[self.ledger.layer_slice(k)] = True
        self.aside = np.zeros((2, self.ledger.n_neurons), dtype=bool)

    def open_questions(self) -> Mask:
        """Questions to ask now, (2, n): pending on this part and not set aside.

        Of a neuron with both sides pending only the positive one is asked: the two witness values would
        always add up to 1 and nothing could be refuted beside them.
        """
        mask = self.ledger.pending(self.part) & self.scope & ~self.aside
        mask[NEGATIVE] &= ~mask[POSITIVE]
        return mask

    def run(self) -> None:
        """Close what can be closed; questions that only rounding could decide are left as borderline."""
        while (mask := self.open_questions()).any():
            Rounds(self, mask).run()
        self._settle_aside()

    def build(self, mask: Mask) -> SearchModel:
        """The model that asks the questions of a mask."""
        problem, ledger = self.problem, self.ledger
        asked = [[np.flatnonzero(side[ledger.layer_slice(k)]) for k in range(len(ledger.sizes))] for side in mask]
        phases = []
        for k, layer in enumerate(problem.bounds[self.part].layers):
            phase = layer.phase.copy() if problem.options.decide_by_bounds else np.zeros(ledger.sizes[k], np.int8)
            phase[asked[POSITIVE][k]] = 0
            phase[asked[NEGATIVE][k]] = 0
            phases.append(phase)
        return build_search_model(
            problem.network,
            problem.domain.parts[self.part],
            problem.bounds[self.part],
            problem.formulation,
            positive=asked[POSITIVE],
            negative=asked[NEGATIVE],
            margin=problem.options.margin,
            decide=problem.options.decide_by_bounds,
            phases=phases,
        )

    def start(self, model: SearchModel) -> Array:
        """A feasible point by forward pass, checked against the compiled rows."""
        part = self.problem.domain.parts[self.part]
        pull = self.problem.falsifier.pullers[self.part]
        x = pull((0.5 * part.lower + 0.5 * part.upper)[None, :])[0]
        point = model.point(x)
        violation = model.milp.violation(point)
        if not violation <= FEASIBLE:
            raise SolverError(
                f"a forward pass violates the compiled model by {violation:.3g}: formulation "
                f"{self.problem.formulation.name!r} does not encode the network"
            )
        return point

    def record(self, model: SearchModel, result: SolveResult, translate: float) -> None:
        """Enter a solve in the report."""
        milp = model.milp
        self.ledger.add_solve(
            {
                "by": self.by,
                "rows": milp.n_rows,
                "binaries": milp.n_binaries,
                "nodes": result.nodes,
                "root_bound": _finite(result.root_bound),
                "dual_bound": _finite(result.dual_bound),
                "translate_s": round(translate, 6),
                "solver_s": round(result.seconds, 6),
                "status": result.solver_status,
            }
        )

    def show(self, x: Array) -> None:
        """Close by forward pass what an input shows."""
        self.problem.falsifier.witnesser.offer(x[None, :], self.by)

    def push(self, x: Array, side: Side, index: int) -> None:
        """Climb from an input towards a question that the solver claims and the forward pass does not show."""
        layer, neuron = self.ledger.locate(index)
        sign = 1.0 if side == POSITIVE else -1.0
        self.problem.falsifier.climb(
            layer,
            self.part,
            x[None, :],
            neurons=np.array([neuron]),
            signs=np.array([sign]),
            steps=(0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        )

    def _settle_aside(self) -> None:
        """One single-question solve for each claim that was not confirmed."""
        mask = self.ledger.pending(self.part) & self.aside
        for side in SIDES:
            if not mask[side].any():
                continue
            only = np.zeros_like(mask)
            only[side] = mask[side]
            self._settle_side(side, only)

    def _settle_side(self, side: Side, mask: Mask) -> None:
        began = time.monotonic()
        model = self.build(mask)
        start = self.start(model)
        with self.problem.backend.open(model.milp, self.problem.settings) as session:
            translate = time.monotonic() - began
            for index in np.flatnonzero(mask[side]):
                if not self.ledger.pending(self.part)[side, index]:
                    continue
                layer, neuron = self.ledger.locate(int(index))
                objective, _ = model.question_objective(layer, neuron, 1 if side == POSITIVE else -1)
                session.change_objective(objective, maximize=True)
                result = self._solve_single(session, model, start, side, int(index))
                self.record(model, result, translate)
                translate = 0.0
                if result.x is not None:
                    self.show(model.inputs(result.x))
                if not self.ledger.pending(self.part)[side, index]:
                    continue
                if result.status is not Status.INFEASIBLE and result.dual_bound <= 0.0:
                    self.ledger.refute(self.part, side, np.array([index]), self.by, rigorous=False)
                elif result.status in STOPS:
                    raise SearchStoppedError(STOPS[result.status])
                else:
                    self.ledger.set_borderline(side, np.array([index]))

    def _solve_single(self, session: Session, model: SearchModel, start: Array, side: Side, index: int) -> SolveResult:
        def on_incumbent(x: Array, objective: float) -> bool:
            if objective > 0.0:
                self.show(model.inputs(x))
            return not self.ledger.pending(self.part)[side, index]

        backend = self.problem.backend
        callbacks = Callbacks(on_incumbent=on_incumbent) if backend.supports(Capability.INCUMBENT) else None
        dual_stop = 0.0 if backend.supports(Capability.DUAL_STOP) else None
        return session.solve(self.problem.limits(), dual_stop=dual_stop, start=start, callbacks=callbacks)


class Rounds:
    """One model and its solves: each witnesses, refutes, or sets aside at least one question."""

    def __init__(self, owner: PartSearch, mask: Mask) -> None:
        began = time.monotonic()
        self.owner = owner
        self.problem = owner.problem
        self.ledger = owner.ledger
        self.model = owner.build(mask)
        questions = self.model.questions
        self.side = np.where(questions.side > 0, POSITIVE, NEGATIVE)
        self.index = questions.neuron + self.ledger.offsets[questions.layer]
        self.live = np.ones(len(questions), dtype=bool)
        self.begin = owner.start(self.model)
        self.translate = time.monotonic() - began

    def run(self) -> None:
        """Solve until nothing of the model is pending."""
        began = time.monotonic()
        with self.problem.backend.open(self.model.milp, self.problem.settings) as session:
            self.translate += time.monotonic() - began
            self._inject_root(session)
            while self._drop_closed(session):
                result = session.solve(
                    self.problem.limits(),
                    target=None if self._removes_in_callback else CLAIM,
                    dual_stop=REFUTING if self.problem.backend.supports(Capability.DUAL_STOP) else None,
                    start=self.begin,
                    callbacks=self._callbacks(),
                )
                self.owner.record(self.model, result, self.translate)
                self.translate = 0.0
                if not self._digest(result):
                    break

    @property
    def _removes_in_callback(self) -> bool:
        return self.problem.options.removal == "callback"

    def _still_pending(self) -> Mask:
        return np.asarray(self.ledger.pending(self.owner.part)[self.side, self.index])

    def _drop_closed(self, session: Session) -> bool:
        """Take questions closed or set aside out of the objective; False if none is left."""
        gone = self.live & (~self._still_pending() | self.owner.aside[self.side, self.index])
        if gone.any():
            columns = self.model.question_columns[gone]
            session.change_bounds(columns, np.zeros(len(columns)), np.zeros(len(columns)))
            self.live &= ~gone
        return bool(self.live.any())

    def _inject_root(self, session: Session) -> None:
        """Forward pass from the root relaxation, for solvers that show no LP point while they run."""
        backend = self.problem.backend
        if self.problem.options.inject != "relaxation" or backend.supports(Capability.PROPOSE, Capability.LP_POINT):
            return
        relaxed = session.relax(self.problem.limits())
        if relaxed.x is not None:
            self.owner.show(self.model.inputs(relaxed.x))

    def _callbacks(self) -> Callbacks:
        backend = self.problem.backend
        propose = lazy = separate = None
        if self.problem.options.inject != "off" and backend.supports(Capability.PROPOSE):
            propose = self._propose
        if self._removes_in_callback:
            lazy = self._lazy
        cuts = type(self.problem.formulation).separate is not Formulation.separate
        if cuts and backend.supports(Capability.CUTS):
            separate = self.model.separate
        return Callbacks(propose=propose, lazy=lazy, separate=separate)

    def _propose(self, point: Array | None) -> Array | None:
        """A solution by forward pass, from the LP point or from a random input."""
        part = self.problem.domain.parts[self.owner.part]
        if point is not None and self.problem.options.inject == "relaxation":
            x = self.model.inputs(point)
        else:
            x = part.lower + (part.upper - part.lower) * self.problem.rng.random(part.n_inputs)
        x = self.problem.falsifier.pullers[self.owner.part](x[None, :])[0]
        vector = self.model.point(x)
        shown = self.live & (vector[self.model.question_columns] > CLAIM)
        if not shown.any():
            return None
        closed = ~self._still_pending()
        self.owner.show(x)
        # A question closed before may not be claimed again: its column is fixed to 0.
        vector[self.model.question_columns[closed | ~self.live]] = 0.0
        return vector

    def _lazy(self, x: Array) -> Rows | None:
        """Take out of the objective, while the solver runs, what a candidate shows or wrongly claims."""
        claimed = self.live & self.model.claims(x)
        if not claimed.any():
            return None
        self._confirm(self.model.inputs(x), claimed)
        gone = self.live & (~self._still_pending() | self.owner.aside[self.side, self.index])
        self.live &= ~gone
        return _closing_rows(self.model.question_columns[gone], self.model.milp.n_columns)

    def _confirm(self, x: Array, claimed: Mask) -> None:
        """Forward pass at an input; claims that it and a few steps from it do not show are set aside."""
        self.owner.show(x)
        for i in np.flatnonzero(claimed & self._still_pending()):
            side, index = SIDES[int(self.side[i])], int(self.index[i])
            self.owner.push(x, side, index)
            if self.ledger.pending(self.owner.part)[side, index]:
                self.owner.aside[side, index] = True

    def _digest(self, result: SolveResult) -> bool:
        """Use an answer; False ends the rounds of this model."""
        title = self.problem.backend.title
        if result.status in {Status.INFEASIBLE, Status.UNBOUNDED}:
            raise SolverError(
                f"{title} says {result.solver_status!r} of a model that is feasible and bounded by construction; "
                "its answer proves nothing"
            )
        claimed = np.zeros_like(self.live) if result.x is None else self.live & self.model.claims(result.x)
        if result.x is not None and claimed.any():
            self._confirm(self.model.inputs(result.x), claimed)
            return True
        if result.dual_bound < REFUTING:
            self._refute()
            return False
        if result.status in STOPS:
            raise SearchStoppedError(STOPS[result.status])
        raise SolverError(
            f"{title} ended with {result.solver_status!r}, dual bound {result.dual_bound}, and no claim among "
            f"{np.count_nonzero(self.live)} questions asked; that proves nothing"
        )

    def _refute(self) -> None:
        live = self.live & self._still_pending()
        for side in SIDES:
            chosen = live & (self.side == side)
            self.ledger.refute(self.owner.part, side, self.index[chosen], self.owner.by, rigorous=False)
        if self.problem.options.check_with is not None:
            self._check(live)

    def _check(self, refuted: Mask) -> None:
        """Ask a second solver the same; raise `ContradictionError` if it claims what the first one refuted."""
        name = str(self.problem.options.check_with)
        second = backends.get(name)
        with second.open(self.model.milp, self.problem.settings) as session:
            columns = self.model.question_columns[~refuted]
            session.change_bounds(columns, np.zeros(len(columns)), np.zeros(len(columns)))
            result = session.solve(
                self.problem.limits(),
                target=CLAIM,
                dual_stop=REFUTING if second.supports(Capability.DUAL_STOP) else None,
                start=self.begin,
            )
        self.owner.record(self.model, result, 0.0)
        claimed = refuted & self.model.claims(result.x) if result.x is not None else np.zeros_like(refuted)
        if result.x is not None and claimed.any():
            self.owner.show(self.model.inputs(result.x))
            first = int(np.flatnonzero(claimed)[0])
            layer, neuron = self.ledger.locate(int(self.index[first]))
            raise ContradictionError(
                f"{self.problem.backend.title} refuted that neuron {neuron} of layer {layer} can be "
                f"{SIDE_NAMES[int(self.side[first])]}, and {second.title} has a solution that says it can"
            )
        if result.dual_bound >= REFUTING and result.status in STOPS:
            raise SearchStoppedError(STOPS[result.status])


def _closing_rows(columns: Index, n_columns: int) -> Rows | None:
    """Rows that hold columns at 0."""
    if not len(columns):
        return None
    n = len(columns)
    matrix = sparse.csr_array((np.ones(n), (np.arange(n), columns)), shape=(n, n_columns))
    return Rows(matrix, np.full(n, -np.inf), np.zeros(n))


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
