"""Questions asked one at a time: maximise or minimise one pre-activation until its sign is shown or excluded."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import numpy as np

from stablenet.backends.base import Callbacks, Capability, Limits, Session, SolveResult, Status
from stablenet.ledger import POSITIVE, SIDES, Array, Mask, Side
from stablenet.search.base import Problem, SearchStoppedError
from stablenet.search.part import STOPS, PartModel
from stablenet.search_model import SearchModel


class Singles:
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
            here &= self.ledger.pending(self.part)
            if here.any():
                self._layer(here)

    def _layer(self, mask: Mask) -> None:
        began = time.monotonic()
        model = self.models.build(mask)
        start = self.models.start(model)
        translate = time.monotonic() - began
        questions = [(side, int(index)) for side in SIDES for index in np.flatnonzero(mask[side])]
        workers = min(self.problem.options.threads, len(questions))
        ticket = count()

        def work(number: int) -> None:
            with self.problem.backend.open(model.milp, self.problem.settings) as session:
                spent = translate if number == 0 else 0.0
                while (i := next(ticket)) < len(questions):
                    if self._ask(session, model, start, questions[i], workers=workers, translate=spent):
                        spent = 0.0

        if workers == 1:
            work(0)
            return
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work, number) for number in range(workers)]:
                done.result()

    def _ask(
        self,
        session: Session,
        model: SearchModel,
        start: Array,
        question: tuple[Side, int],
        *,
        workers: int,
        translate: float,
    ) -> bool:
        """Ask one question; False if something else has closed it."""
        side, index = question
        if not self._open(side, index):
            return False
        layer, neuron = self.ledger.locate(index)
        objective, _ = model.question_objective(layer, neuron, 1 if side == POSITIVE else -1)
        session.change_objective(objective, maximize=True)
        limits = self.problem.limits(nodes=self.nodes)
        if workers > 1:
            limits = replace(limits, threads=1)
        result = self._solve(session, model, start, question, limits)
        self.models.record(model, result, self.by, translate)
        if result.x is not None:
            self.models.show(model.inputs(result.x), self.by)
        if not self._open(side, index):
            return True
        if result.status is not Status.INFEASIBLE and result.dual_bound <= 0.0:
            self.ledger.refute(self.part, side, np.array([index]), self.by, rigorous=False)
        elif result.status in STOPS and not (result.status is Status.NODES and self.nodes is not None):
            raise SearchStoppedError(STOPS[result.status])
        elif self.nodes is None:
            self.ledger.set_borderline(side, np.array([index]))
        return True

    def _open(self, side: Side, index: int) -> bool:
        return bool(self.ledger.pending(self.part)[side, index])

    def _solve(
        self, session: Session, model: SearchModel, start: Array, question: tuple[Side, int], limits: Limits
    ) -> SolveResult:
        side, index = question

        def on_incumbent(x: Array, objective: float) -> bool:
            if objective > 0.0:
                self.models.show(model.inputs(x), self.by)
            return not self._open(side, index)

        backend = self.problem.backend
        callbacks = target = None
        if backend.supports(Capability.INCUMBENT):
            callbacks = Callbacks(on_incumbent=on_incumbent)
        elif backend.supports(Capability.TARGET):
            # Well above what the relaxed rows can fake; whether it is shown, the forward pass says.
            target = 100.0 * self.problem.options.margin + 1e-6
        dual_stop = 0.0 if backend.supports(Capability.DUAL_STOP) else None
        return session.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)
