"""Questions asked one at a time: maximise or minimise one pre-activation until its sign is shown or excluded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import numpy as np

from stablenet.backends.base import Backend, Callbacks, Capability, SolveResult, Status
from stablenet.backends.base import registry as backends
from stablenet.backends.own_points import CheckedSession, SolverFailedError
from stablenet.core.arrays import Array, Mask
from stablenet.core.errors import SolverError
from stablenet.core.questions import POSITIVE, SIDES, Side
from stablenet.pyomo_model.search_model import SearchModel
from stablenet.search.base import Problem, SearchStoppedError
from stablenet.search.part_model import PROOFS, STOPS, OwnPoints, PartModel

PATIENCE = 1.0
"""Seconds that solves on other threads get to stop after Ctrl-C."""


class PerQuestion:
    """One MILP a question, layer by layer, on one part; as many at a time as there are threads.

    A solve stops at the first solution that a forward pass confirms, or at the first dual bound of the refuting
    sign. ``nodes`` limits each solve; questions that it leaves open stay open.
    """

    def __init__(self, problem: Problem, part: int, by: str, *, nodes: int | None = None) -> None:
        self.problem = problem
        self.ledger = problem.ledger
        self.part = part
        self.by = by
        self.nodes = nodes
        self.models = PartModel(problem, part)

    def run(self, mask: Mask) -> None:
        """Ask the questions of a mask, (2, n)."""
        for layer in range(len(self.ledger.sizes)):
            here = np.zeros_like(mask)
            inside = self.ledger.layer_slice(layer)
            here[:, inside] = mask[:, inside]
            if mask[:, inside.start :].any():
                self.models.tighten(layer, self.by)
            here &= self.problem.pending(self.part)
            while here.any():
                if self.problem.given_up:
                    self._leave(here)
                    break
                self._layer(here)
                if not self.models.stale:
                    break
                here &= self.problem.pending(self.part)

    def _leave(self, mask: Mask) -> None:
        """Say of questions, (2, n), that they stay without an answer, since the solver is given up."""
        for side in SIDES:
            self.ledger.set_unanswered(side, np.flatnonzero(mask[side]))

    def _layer(self, mask: Mask) -> None:
        began = time.monotonic()
        model = self.models.build(mask, witness=False)
        start = self.models.start(model)
        questions = [(side, int(index)) for side in SIDES for index in np.flatnonzero(mask[side])]
        queue = _Queue(self, model, start, questions, {"build_s": time.monotonic() - began})
        workers = min(self.problem.options.threads, len(questions))
        if workers == 1:
            queue.work(threads=self.problem.options.threads)
            return
        pool = [threading.Thread(target=queue.work_quietly, daemon=True) for _ in range(workers)]
        for worker in pool:
            worker.start()
        try:
            for worker in pool:
                worker.join()
        finally:
            # After Ctrl-C solves still run; they are stopped, and their results are not used.
            queue.closed = True
            patience = time.monotonic() + PATIENCE
            for worker in pool:
                worker.join(max(0.0, patience - time.monotonic()))
        if queue.error is not None:
            raise queue.error


class _Queue:
    """The questions of a layer, and what workers share."""

    def __init__(
        self,
        owner: PerQuestion,
        model: SearchModel,
        start: Array,
        questions: Sequence[tuple[Side, int]],
        spent: dict[str, float],
    ) -> None:
        self.owner = owner
        self.problem = owner.problem
        self.model = model
        self.start = start
        self.own = OwnPoints(owner.problem, owner.part, model, start)
        self.questions = questions
        self.spent = spent
        self.ticket = count()
        self.closed = False
        self.error: BaseException | None = None

    def work_quietly(self) -> None:
        """`work` on a thread of its own with one thread for the solver; the first error ends all workers."""
        try:
            self.work(threads=1)
        except BaseException as error:
            self.error = self.error or error
            self.closed = True

    def work(self, *, threads: int) -> None:
        """Ask questions until there are no more."""
        options = self.problem.options
        with ExitStack() as stack:
            asker = _Asker(self, self.problem.backend, threads)
            asker.open(stack)
            second: _Asker | None = None
            while not self.closed and (i := next(self.ticket)) < len(self.questions):
                question = self.questions[i]
                if not self.is_open(question) or not asker.refutes(question):
                    continue
                if options.check_with is not None:
                    if second is None:
                        second = _Asker(self, backends.get(options.check_with), threads, second=True)
                        second.open(stack)
                    if not second.refutes(question):
                        if not (self.closed or self.is_open(question)):
                            self.owner.models.outdone(asker.backend, second.backend, 1, self.owner.by)
                        continue
                if not self.closed:
                    self.owner.models.refute(question[0], np.array([question[1]]), self.owner.by)

    def is_open(self, question: tuple[Side, int]) -> bool:
        """Whether a question is pending on the part, and the model rests on no withdrawn source."""
        return not self.owner.models.stale and bool(self.problem.pending(self.owner.part)[question])


class _Asker:
    """One solver with the model loaded."""

    session: CheckedSession

    def __init__(self, queue: _Queue, backend: Backend, threads: int, *, second: bool = False) -> None:
        self.queue = queue
        self.problem = queue.problem
        self.owner = queue.owner
        self.backend = backend
        self.threads = threads
        self.by = f"{self.owner.by} ({backend.name})" if second else self.owner.by
        self.spent: dict[str, float] = {}

    def open(self, stack: ExitStack) -> None:
        """Load the model; the stack closes the session."""
        began = time.monotonic()
        queue = self.queue
        self.session = stack.enter_context(
            self.problem.open(queue.model.milp, queue.own.best, self.by, backend=self.backend)
        )
        self.spent["translate_s"] = time.monotonic() - began

    def refutes(self, question: tuple[Side, int]) -> bool:
        """Ask; whether the answer proves that the question's sign is impossible. Points that show it are entered."""
        side, index = question
        owner, model = self.owner, self.queue.model
        layer, neuron = owner.ledger.locate(index)
        objective, _ = model.question_objective(layer, neuron, 1 if side == POSITIVE else -1)
        self.session.change_objective(objective, maximize=True)
        try:
            self._cut()
            result = self._solve(question)
        except SolverFailedError as error:
            if not self.queue.closed:
                owner.models.failed(error, self.by, left=1)
                owner.ledger.set_unanswered(side, np.array([index]))
            return False
        if self.queue.closed:
            return False
        spent, self.spent, built, self.queue.spent = self.spent, {}, self.queue.spent, {}
        owner.models.record(model, result, self.by, {**built, **spent})
        if result.x is not None:
            owner.models.show(model.inputs(result.x), owner.by)
        if not self.queue.is_open(question):
            return False
        if result.status in PROOFS and result.dual_bound <= -self.problem.slack(self.backend):
            return True
        if result.status in STOPS and not (result.status is Status.NODES and owner.nodes is not None):
            raise SearchStoppedError(STOPS[result.status])
        # A relaxation that does not refute gives no estimate of the true value, so nothing is borderline.
        if owner.nodes is None and self.problem.formulation.exact:
            owner.ledger.set_borderline(side, np.array([index]))
        return False

    def _cut(self) -> None:
        """Cuts at the root, where the formulation offers some; a relaxation that fails gives none, and is recorded."""
        if self.problem.formulation.cuts == "none":
            return
        began = time.monotonic()
        try:
            self.queue.model.root_rounds(self.session, self.problem.limits(backend=self.backend))
        except SolverError as error:
            self.owner.models.failed(error, self.by)
        self.spent["cuts_s"] = time.monotonic() - began

    def _solve(self, question: tuple[Side, int]) -> SolveResult:
        owner, model = self.owner, self.queue.model

        def on_incumbent(x: Array, objective: float) -> bool:
            if objective > 0.0:
                owner.models.show(model.inputs(x), owner.by)
            return self.queue.closed or not self.queue.is_open(question)

        callbacks, target = Callbacks(stop=lambda: self.queue.closed), None
        if not self.problem.options.early_stop:
            pass  # solved until its bound has a sign, or to its optimum
        elif self.backend.supports(Capability.INCUMBENT):
            callbacks = replace(callbacks, on_incumbent=on_incumbent)
        else:
            # Well above what the relaxation of the rows can cause; the forward pass decides whether it is a witness.
            target = 100.0 * self.problem.margin + 1e-6
        limits = self.problem.limits(nodes=owner.nodes, backend=self.backend)
        return self.problem.solve(
            self.session,
            replace(limits, threads=min(limits.threads, self.threads)),
            target=target,
            dual_stop=-self.problem.slack(self.backend),
            start=self.queue.start,
            callbacks=callbacks,
            backend=self.backend,
        )
