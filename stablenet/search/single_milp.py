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

from stablenet.backends.base import Backend, Callbacks, Capability, Session, SolveResult
from stablenet.backends.base import registry as backends
from stablenet.backends.own_points import SolverFailedError, SolverFailure
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.errors import SolverError
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDES
from stablenet.milp.arrays import MILP, Rows
from stablenet.search.base import Problem, Search, SearchStoppedError, check_combination
from stablenet.search.part_model import PROOFS, STOPS, OwnPoints, PartModel
from stablenet.search.per_question import PerQuestion

CLAIM = 0.5
"""An incumbent above this claims to witness at least one question: each witness value can be taken as 0 or 1."""

FRUITLESS = 64
"""Relaxations of single questions that may show nothing in a row before no more are solved."""

REFUTING = 1.0 - 1e-4
"""A dual bound up to this refutes all that is asked: one true witness would make the optimum at least 1."""


class NetworkSearch(Search):
    """One MILP over the whole network, per part."""

    name = "network"
    title = "the single MILP over all pending questions"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend, problem.options)
        for part in range(len(problem.domain.parts)):
            PartSearch(problem, part, self.name).run()


class PartSearch:
    """The single MILP on one part, for all layers or for those chosen."""

    def __init__(self, problem: Problem, part: int, by: str, layers: range | None = None) -> None:
        self.problem = problem
        self.ledger = problem.ledger
        self.part = part
        self.by = by
        self.models = PartModel(problem, part)
        self.scope = np.zeros(self.ledger.n_neurons, dtype=bool)
        for k in layers if layers is not None else range(len(self.ledger.sizes)):
            self.scope[self.ledger.layer_slice(k)] = True
        self.aside = np.zeros((2, self.ledger.n_neurons), dtype=bool)

    def open_questions(self) -> Mask:
        """Questions to ask now, (2, n): pending on this part and not set aside.

        Of a neuron with both sides pending only the positive one is asked: the two witness values would
        always add up to 1 and nothing could be refuted beside them.
        """
        mask = self.problem.pending(self.part) & self.scope & ~self.aside
        mask[NEGATIVE] &= ~mask[POSITIVE]
        return mask

    def run(self) -> None:
        """Close what can be closed; each question set aside gets one solve of its own at the end."""
        while (mask := self.open_questions()).any() and not self.problem.given_up:
            Rounds(self, mask).run()
        if self.problem.given_up:
            self.aside |= self.problem.pending(self.part) & self.scope
        PerQuestion(self.problem, self.part, self.by).run(self.aside)


class Rounds:
    """One model and its solves: each witnesses, refutes, or sets aside at least one question."""

    def __init__(self, owner: PartSearch, mask: Mask) -> None:
        began = time.monotonic()
        self.owner = owner
        self.problem = owner.problem
        self.ledger = owner.ledger
        self.model = owner.models.build(mask)
        questions = self.model.questions
        self.side = np.where(questions.side > 0, POSITIVE, NEGATIVE)
        self.index = questions.neuron + self.ledger.offsets[questions.layer]
        self.live = np.ones(len(questions), dtype=bool)
        self.fixed = np.zeros(len(questions), dtype=bool)
        self.asked = len(questions)
        self.begin = owner.models.start(self.model)
        self.own = OwnPoints(self.problem, owner.part, self.model, self.begin)
        self.spent = {"build_s": time.monotonic() - began}

    def run(self) -> None:
        """Solve until nothing of the model is pending."""
        began = time.monotonic()
        with self.problem.open(self.model.milp, self._own, self.owner.by) as session:
            self.spent["translate_s"] = time.monotonic() - began
            began = time.monotonic()
            try:
                if self.problem.formulation.cuts != "none":
                    self.model.root_rounds(session, self.problem.limits())
                self._inject_relaxations(session)
            except SolverError as error:  # a relaxation that fails shows nothing
                self.owner.models.failed(error, self.owner.by)
            session.change_objective(self.model.milp.objective, self.model.milp.constant, maximize=True)
            self.spent["cuts_s"] = time.monotonic() - began
            try:
                while self._drop_closed(session) and self._step(session):
                    pass
            except SolverFailedError as error:
                self._give_up(error, self.owner.by)

    def _step(self, session: Session) -> bool:
        """One solve; False if it ends the rounds of this model."""
        self.asked = int(np.count_nonzero(self.live))
        result = self.problem.solve(
            session,
            self.problem.limits(),
            target=None if self._removes_in_callback else CLAIM,
            dual_stop=REFUTING,
            start=self._start(),
            callbacks=self._callbacks(),
        )
        self.owner.models.record(self.model, result, self.owner.by, self.spent)
        self.spent = {}
        return self._digest(result)

    def _own(self, milp: MILP) -> float | None:
        """The best value of a known point, where questions that are out of the objective count as 0."""
        return self.own.best(milp, without=self.model.question_columns[~self.live])

    def _give_up(self, error: SolverFailedError, by: str) -> None:
        """Set aside all questions still in the objective, for a solve of their own: the solver gave no answer for them
        together.
        """
        self.owner.models.failed(error, by)
        self.live &= self._still_pending()
        self.owner.aside[self.side[self.live], self.index[self.live]] = True

    @property
    def _removes_in_callback(self) -> bool:
        return self.problem.options.removal == "callback"

    def _start(self) -> Array:
        """The feasible point, where questions that are out of the objective count as 0."""
        start = self.begin.copy()
        start[self.model.question_columns[~self.live]] = 0.0
        return start

    def _still_pending(self) -> Mask:
        return np.asarray(self.problem.pending(self.owner.part)[self.side, self.index])

    def _drop_closed(self, session: Session) -> bool:
        """Take questions closed or set aside out of the objective; False if none is left, or the model is stale."""
        self.live &= self._still_pending() & ~self.owner.aside[self.side, self.index]
        gone = ~(self.live | self.fixed)
        if gone.any():
            columns = self.model.question_columns[gone]
            session.change_bounds(columns, np.zeros(len(columns)), np.zeros(len(columns)))
            self.fixed |= gone
        return bool(self.live.any()) and not self.owner.models.stale

    def _inject_relaxations(self, session: Session) -> None:
        """Forward passes from relaxations: of the whole objective, then of each question that is still pending.

        A question's own has its pre-activation as the objective. For solvers that show no LP point of their nodes
        these are all there is; for the others they come before those.
        """
        backend = self.problem.backend
        if self.problem.options.inject != "relaxation" or not backend.supports(Capability.DUALS):
            return
        self._show_relaxed(session)
        asked = np.zeros((2, self.ledger.n_neurons), dtype=bool)
        asked[:, self.index] = True
        fruitless = 0
        for side, index in self.problem.rng.permutation(np.argwhere(asked & self.problem.pending(self.owner.part))):
            if fruitless > FRUITLESS:
                break
            if self.problem.pending(self.owner.part)[side, index]:
                layer, neuron = self.ledger.locate(int(index))
                objective, _ = self.model.question_objective(layer, neuron, 1 if side == POSITIVE else -1)
                session.change_objective(objective, maximize=True)
                fruitless = 0 if self._show_relaxed(session) else fruitless + 1

    def _show_relaxed(self, session: Session) -> bool:
        """Close what the forward pass of a relaxation's inputs shows; whether that is anything."""
        self.problem.deadline.check()
        relaxed = session.relax(self.problem.limits())
        return relaxed.x is not None and self.owner.models.show(self.model.inputs(relaxed.x), self.owner.by)

    def _callbacks(self) -> Callbacks:
        backend = self.problem.backend
        propose = lazy = separate = None
        if self.problem.options.inject != "off" and backend.supports(Capability.PROPOSE):
            propose = self._propose
        if self._removes_in_callback:
            lazy = self._lazy
        if self.problem.formulation.cuts == "tree":
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
        self.owner.models.show(x, self.owner.by)
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
        self.owner.models.show(x, self.owner.by)
        for i in np.flatnonzero(claimed & self._still_pending()):
            side, index = SIDES[int(self.side[i])], int(self.index[i])
            self.owner.models.push(x, side, index)
            if self.problem.pending(self.owner.part)[side, index]:
                self.owner.aside[side, index] = True

    def _digest(self, result: SolveResult) -> bool:
        """Use an answer; False ends the rounds of this model."""
        backend = self.problem.backend
        claimed = self._claimed(result)
        if result.x is not None and claimed.any():
            self._confirm(self.model.inputs(result.x), claimed)
            return True
        if result.status in PROOFS and result.dual_bound <= REFUTING:
            return self._refute()
        if np.count_nonzero(self.live & self._still_pending()) < self.asked:
            return True  # callbacks closed some questions while the solver ran, and its bound may still count them
        self._unproven(backend, result)
        return False

    def _claimed(self, result: SolveResult) -> Mask:
        return np.zeros_like(self.live) if result.x is None else self.live & self.model.claims(result.x)

    def _unproven(self, backend: Backend, result: SolveResult) -> None:
        """Stop, or raise, for an answer that neither claims a witness nor proves anything."""
        if result.status in STOPS:
            raise SearchStoppedError(STOPS[result.status])
        words = (
            f"{backend.title} ended with {result.solver_status!r}, dual bound {result.dual_bound}, and no claim among "
            f"{np.count_nonzero(self.live)} questions asked; that proves nothing"
        )
        bound = result.dual_bound if np.isfinite(result.dual_bound) else None
        raise SolverFailedError(SolverFailure(backend.title, result.solver_status, bound, None, words))

    def _refute(self) -> bool:
        """Refute what is asked, once a second solver has agreed, if there is one; False: the rounds end."""
        self.live &= self._still_pending()
        if self.problem.options.check_with is not None:
            second = backends.get(self.problem.options.check_with)
            checking = f"{self.owner.by} ({second.name})"
            try:
                self._check(second, checking)
            except SolverFailedError as error:
                self._give_up(error, checking)
                return False
        for side in SIDES:
            self.owner.models.refute(side, self.index[self.live & (self.side == side)], self.owner.by)
        return False

    def _check(self, second: Backend, checking: str) -> None:
        """Let a second solver prove the same, before anything is refuted.

        If it finds a witness, the first solver was wrong; questions that it only claims to witness are set aside.
        """
        with self.problem.open(self.model.milp, self._own, checking, backend=second) as session:
            while self.live.any():
                columns = self.model.question_columns[~self.live]
                session.change_bounds(columns, np.zeros(len(columns)), np.zeros(len(columns)))
                limits = self.problem.limits(backend=second)
                result = self.problem.solve(
                    session, limits, target=CLAIM, dual_stop=REFUTING, start=self._start(), backend=second
                )
                self.owner.models.record(self.model, result, checking, {})
                claimed = self._claimed(result)
                if result.x is None or not claimed.any():
                    if result.status not in PROOFS or not result.dual_bound <= REFUTING:
                        self._unproven(second, result)
                    return
                self._confirm(self.model.inputs(result.x), claimed)
                wrong = int(np.count_nonzero(claimed & ~self._still_pending()))
                if wrong:
                    self.owner.models.outdone(self.problem.backend, second, wrong, self.owner.by)
                self.live &= ~claimed


def _closing_rows(columns: Index, n_columns: int) -> Rows | None:
    """Rows that hold columns at 0."""
    if not len(columns):
        return None
    n = len(columns)
    matrix = sparse.csr_array((np.ones(n), (np.arange(n), columns)), shape=(n, n_columns))
    return Rows(matrix, np.full(n, -np.inf), np.zeros(n))
