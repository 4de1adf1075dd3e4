"""Closing questions rigorously, without a solver, in an order of steps whose budgets grow.

Few inputs: the domain is split, whose cost depends on the number of inputs and hardly on the network's size.
Many inputs: bounds by `branch`, then branching on phases. All choices count work and not seconds, so that a run
repeats.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stablenet.bounds import run as run_bounds
from stablenet.core.arrays import Mask
from stablenet.core.bounds import Bounds
from stablenet.search.base import Problem
from stablenet.search.branch import Brancher
from stablenet.search.split import Splitter

FEW_INPUTS = 12
"""Up to as many inputs of positive width splitting is tried first."""

BOXES = 200_000
"""Boxes that splitting may use on a network of `BOX_NEURONS`; fewer on larger ones, whose boxes cost more."""

BOX_NEURONS = 300

FIRST_NODES = 2000
"""Nodes that branching may use in all before bounds are tightened: a few questions are often closed by a few nodes."""

LEAVES = (16, 64, 256)
"""Bounds by `branch` with so many leaves, in turns: neurons known to be unstable are bounded better too."""

BRANCH_NODES = (64, 512, 4096, 32_768)
"""Nodes that branching may use for a question, in turns: questions closed early improve the bounds of later layers."""


class RigorousPart:
    """The order of steps on one part."""

    def __init__(self, problem: Problem, part: int) -> None:
        self.problem = problem
        self.part = part
        box = problem.domain.parts[part]
        self.few_inputs = int(np.count_nonzero(box.upper > box.lower)) <= FEW_INPUTS

    @property
    def pending(self) -> Mask:
        """Questions pending on the part, (2, n)."""
        return self.problem.pending(self.part)

    def run(self) -> None:
        """Close the part's questions, as far as the budgets go."""
        if self.few_inputs:
            share = min(1.0, (BOX_NEURONS / self.problem.network.n_neurons) ** 2)
            Splitter(self.problem, self.part).run(max(1000, int(BOXES * share)))
        self._branch()

    def _branch(self) -> None:
        """Branching with growing budgets, as long as anything is pending, and better bounds where they cost less."""
        brancher = Brancher(self.problem, self.part)
        n_pending = np.count_nonzero(self.pending)
        if n_pending:
            brancher.run(max(1, min(BRANCH_NODES[0], FIRST_NODES // int(n_pending))))
        leaves = list(LEAVES) if self.problem.options.tighten else []
        for nodes in BRANCH_NODES:
            while leaves and self._worth(leaves[0], nodes):
                self._tighten(leaves.pop(0))
            brancher.run(nodes)

    def _worth(self, leaves: int, nodes: int) -> bool:
        """Whether bounds with so many leaves cost no more than branching with so many nodes."""
        n_pending = int(np.count_nonzero(self.pending))
        undecided = sum(int(np.count_nonzero(layer.phase == 0)) for layer in self._bounds().layers[1:])
        # Two bounds for each neuron; all but the first leaf are two for one.
        return n_pending > 0 and (leaves == LEAVES[0] or 4 * leaves * undecided <= nodes * n_pending)

    def _bounds(self) -> Bounds:
        return self.problem.known(self.part, "branch", rigorous=True)

    def _tighten(self, leaves: int) -> None:
        """Better bounds of the layers before the last that has a question."""
        problem, known = self.problem, self._bounds()
        last, _ = problem.ledger.locate(int(np.flatnonzero(self.pending.any(axis=0))[-1]))
        context = replace(problem.context, n_layers=last, proof=problem.proof_of(self.part))
        # Refutations that rest on bounds of the user's choice that are not rigorous would not be rigorous either.
        context.known = known if all(layer.rigorous for layer in known.layers) else None
        found = run_bounds(f"branch:{leaves}", problem.network, problem.domain.parts[self.part], context)
        bounds = problem.bounds[self.part].intersect(found)
        problem.bounds[self.part] = bounds
        problem.leaves[self.pending] = leaves
        problem.ledger.set_bounds(self.part, bounds, rests_on=problem.ledger.refuters(self.part))
        problem.ledger.refute_by_bounds(self.part, bounds)
