"""What a user gets who names no search.

Few inputs: the domain is split, whose cost depends on the number of inputs and hardly on the network's size.
Many inputs: better bounds first (they are rigorous and make every MILP after them smaller and tighter), then each
question alone with a small limit of nodes, which closes most, then the single MILP for the hard rest. All choices
count work and not seconds, so that a run repeats.
"""

from __future__ import annotations

import numpy as np

from stablenet.ledger import Mask
from stablenet.propagate import Context
from stablenet.propagate import registry as bound_methods
from stablenet.search.base import Problem, Search, check_combination
from stablenet.search.network import PartSearch
from stablenet.search.single import Singles
from stablenet.search.split import Splitter

FEW_INPUTS = 12
"""Up to as many inputs of positive width splitting is tried first."""

BOXES = 200_000
"""Boxes that splitting may use before MILPs take over."""

TIGHTEN = ("crown-alpha", "lp")
"""Bound methods that are tried in turn while questions are pending."""

NODES = 1
"""Nodes of the first pass over single questions."""


class Auto(Search):
    """The searches in an order that fits the number of inputs."""

    name = "auto"
    title = "split for few inputs, else tightening, single questions, then the single MILP"
    paper = "-"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend)
        for part in range(len(problem.domain.parts)):
            _AutoPart(problem, part).run()


class _AutoPart:
    """The order of steps on one part."""

    def __init__(self, problem: Problem, part: int) -> None:
        self.problem = problem
        self.part = part

    def _pending(self) -> Mask:
        return self.problem.ledger.pending(self.part)

    def run(self) -> None:
        """Close the part's questions."""
        problem = self.problem
        box = problem.domain.parts[self.part]
        wide = int(np.count_nonzero(box.upper > box.lower))
        if problem.options.decide_by_bounds:
            if wide <= FEW_INPUTS and Splitter(problem, self.part).run(BOXES):
                return
            self._tighten()
        if problem.formulation.exact and self._pending().any():
            Singles(problem, self.part, "single", nodes=NODES).run(self._pending())
            PartSearch(problem, self.part, "network").run()

    def _tighten(self) -> None:
        """Better bounds, one method after the other, as long as they have questions to close."""
        problem = self.problem
        context = Context(
            backend=problem.backend,
            settings=problem.settings,
            threads=problem.options.threads,
            seed=problem.options.seed,
            memory_limit=problem.options.memory_limit,
            deadline=problem.deadline,
        )
        for name in TIGHTEN:
            if not self._pending().any():
                return
            problem.deadline.check()
            method = bound_methods.get(name)
            method.check(context)
            bounds = method.run(problem.network, problem.domain.parts[self.part], context)
            problem.bounds[self.part] = bounds
            problem.ledger.set_bounds(self.part, bounds)
            problem.ledger.refute_by_bounds(self.part, bounds)
