"""Branch and bound over the phases of neurons, with optimised linear bounds for many nodes at once.

A question is refuted once all leaves of its tree (`stablenet.bounds.branch_and_bound`) have a rigorous bound of the
refuting sign; the points at which bounds are attained are tried as witnesses. The questions of a layer are
worked on together, those with the fewest nodes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stablenet.backends.base import Backend, Limits
from stablenet.backends.own_points import SolverFailedError, SolverFailure
from stablenet.bounds.adam import Variables
from stablenet.bounds.branch_and_bound import BranchAndBound, Pair
from stablenet.bounds.crown import Backward
from stablenet.bounds.trees import Leaf, Tree
from stablenet.core.arrays import Array, Mask
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDES, Side
from stablenet.search.base import Problem, Search
from stablenet.search.leaf_programs import solve_leaf

LAST_STEPS = 40
LAST_ROUNDS = 12
"""Restarts, with the first step size, of the descent for a leaf in which no undecided neuron is left to split: its
bound is that of a linear program, which often has no solution, and the multipliers that prove this are large."""

TIE = 1e-6
"""A leaf whose bound misses the refuting sign by less than this share of the neuron's range counts as a tie."""

TIES = 100
"""A question with more ties is left to other searches: its optimum seems to be zero, and no splitting gives a bound
below that."""


class BranchSearch(Search):
    """Branching on phases with batched rigorous bounds."""

    name = "branch"
    title = "branch and bound over phases with optimised linear bounds"
    paper = "Wang et al. 2021 (arXiv 2103.06624)"
    needs_solver = False

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        for part in range(len(problem.domain.parts)):
            Brancher(problem, part).run()


class Brancher:
    """Branches for the pending questions of one part, layer by layer."""

    def __init__(self, problem: Problem, part: int, by: str = "branch") -> None:
        self.problem = problem
        self.part = part
        self.by = by

    def run(self, max_nodes: int | None = None) -> None:
        """Close questions; one that has used ``max_nodes`` nodes is left open."""
        for layer in range(len(self.problem.network.layers)):
            while not self._layer(layer, max_nodes):
                pass

    def _layer(self, layer: int, max_nodes: int | None) -> bool:
        """Work on a layer; False if a source on which the work may rest was withdrawn meanwhile."""
        ledger = self.problem.ledger
        self.problem.deadline.check()
        pending = self.problem.pending(self.part)[:, ledger.layer_slice(layer)]
        if self.by in ledger.dead_sources or not pending.any():
            return True
        work = _Layer(self, layer, pending)
        work.run(max_nodes)
        return not work.stale


class _Layer(BranchAndBound):
    """The questions of one layer and their trees."""

    def __init__(self, owner: Brancher, layer: int, pending: Mask) -> None:
        self.problem, self.ledger, self.by, self.at = owner.problem, owner.problem.ledger, owner.by, owner.part
        self.since = self.ledger.withdrawals
        backward, self.rigorous = _push(owner.problem, owner.part, layer, owner.by)
        part, options = owner.problem.domain.parts[owner.part], owner.problem.options
        super().__init__(backward, part, owner.problem.deadline, options.threads)
        self.proof = owner.problem.proof_of(owner.part) if self.rigorous else None
        bounds = self.problem.bounds[self.at].layers[layer]
        tie = TIE * (bounds.upper - bounds.lower)
        self.trees = [
            Tree(int(neuron), 1.0 if side == POSITIVE else -1.0, float(tie[neuron]))
            for side in SIDES
            for neuron in np.flatnonzero(pending[side])
        ]
        self.offset = self.ledger.offsets[layer]

    def run(self, max_nodes: int | None) -> None:
        """Bound and split until every question is closed, given up or has used its nodes."""
        self.bound_roots(self.trees)
        self.grow(self.trees, max_nodes)
        self.deadline.check()

    @property
    def stale(self) -> bool:
        """Whether a source has been withdrawn since the layers before were pushed."""
        return self.since != self.ledger.withdrawals

    def live(self, trees: Sequence[Tree]) -> list[Tree]:
        """See `BranchAndBound`: a question may have been closed by a witness, or all trees made useless by a
        withdrawal.
        """
        if self.stale:
            return []
        pending = self.problem.pending(self.at)
        return [tree for tree in super().live(trees) if pending[_side(tree), self.offset + tree.row]]

    def show(self, trees: Sequence[Tree], points: Array, values: Array) -> None:
        """See `BranchAndBound`: points whose value has the sign in question are tried as witnesses."""
        del trees
        shows = values > 0
        if shows.any():
            self.problem.falsifier.witnesser.offer(points[shows], self.by)

    def tied(self, tree: Tree, leaf: Leaf) -> None:
        """See `BranchAndBound`: among many leaves a few are ties by chance; splitting closes those."""
        del leaf
        tree.n_ties += 1
        tree.given_up |= tree.n_ties > TIES

    def stuck(self, pairs: list[Pair]) -> None:
        """See `BranchAndBound`: more descent steps; leaves that these do not close are left to other searches."""
        points = np.zeros((0, self.problem.network.n_inputs))
        for _ in range(LAST_ROUNDS):
            points = self.optimise_leaves(pairs, LAST_STEPS)
            still = np.ones(len(pairs), dtype=bool)
            for i, ((tree, leaf), bound) in enumerate(zip(pairs, self.certify(pairs), strict=True)):
                if bound <= tree.goal:
                    self.close(tree, leaf, bound)
                    still[i] = False
            pairs, points = [pair for pair, left in zip(pairs, still, strict=True) if left], points[still]
            if not pairs:
                return
        if self.problem.leaf_solver is not None:
            pairs, points = self._solved(pairs, self.problem.leaf_solver)
            if not pairs:
                return
        falsifier = self.problem.falsifier
        rows, signs = np.array([tree.row for tree, _ in pairs]), np.array([tree.sign for tree, _ in pairs])
        falsifier.climb(self.layer, self.at, falsifier.pullers[self.at](points), neurons=rows, signs=signs)
        for tree, _ in pairs:
            tree.given_up = True

    def _solved(self, pairs: list[Pair], solver: Backend) -> tuple[list[Pair], Array]:
        """Close leaves by linear programs; those that are left, and points to try for them."""
        falsifier, left, points = self.problem.falsifier, [], []
        for tree, leaf in pairs:
            self.deadline.check()
            limits = Limits(time=self.deadline.left, seed=self.problem.options.seed)
            point = self.choose_by_program(tree, leaf, solver, limits)
            if point is not None:
                falsifier.witnesser.offer(falsifier.pullers[self.at](point[None, :]), self.by)
            [bound] = self.certify([(tree, leaf)])
            if bound <= tree.goal:
                self.close(tree, leaf, bound)
            else:
                left.append((tree, leaf))
                points.append(self.part.lower if point is None else point)
        return left, np.array(points).reshape(len(left), self.problem.network.n_inputs)

    def choose_by_program(self, tree: Tree, leaf: Leaf, solver: Backend, limits: Limits) -> Array | None:
        """Give a leaf the choices from the solution of its linear program, if it has one; returns the program's
        point.
        """
        stages = self.backward.stages
        held = self.store.phases[leaf.at]
        phases = [held[a:b] for a, b in pairwise(self.alive.tolist())][: len(stages)]
        log, asked = self.problem.ledger.log, (self.backward, self.affine, tree.row, tree.sign, phases)

        def told(failure: SolverFailure) -> None:
            log.add_solver_failure(failure.to_json(self.by))

        try:
            found = solve_leaf(*asked, backend=solver, limits=limits, failures=self.problem.failures, told=told)
        except SolverFailedError as error:
            if not error.told:
                told(error.failure)
            return None
        if found is None:
            return None
        pairs = zip(found.choices, self.optimizer.levels, strict=True)
        shifts = [np.zeros((1, 1, 0)) if c.multiplier is None else c.multiplier for c in found.choices]
        slopes = np.concatenate([choice.low_slope[0, 0, level.open] for choice, level in pairs]).astype(np.float32)
        multipliers = np.concatenate([shift[0, 0] for shift in shifts]).astype(np.float32)
        self.store.put([leaf], Variables(slopes[None], multipliers[None]))
        return found.point

    def finished(self, trees: Sequence[Tree]) -> None:
        """See `BranchAndBound`: no leaf is left, so the question is refuted."""
        self._record(trees, complete=True)
        for side in SIDES:
            mine = [tree for tree in trees if _side(tree) == side]
            indices = self.offset + np.array([tree.row for tree in mine], dtype=np.intp)
            self.problem.leaves[side, indices] = [(tree.n_nodes + 1) // 2 for tree in mine]
            self.ledger.refute(self.at, side, indices, self.by, rigorous=self.rigorous, since=self.since)


def _side(tree: Tree) -> Side:
    return POSITIVE if tree.sign > 0 else NEGATIVE


def _push(problem: Problem, part: int, layer: int, by: str) -> tuple[Backward, bool]:
    """The layers before one, with phases that are rigorously refuted on the part; whether all of it is rigorous."""
    backward = Backward.on(problem.network, problem.domain.parts[part])
    before = problem.known(part, by, rigorous=True).layers[:layer]
    for bounds in before:
        backward.push(bounds.lower[None, :], bounds.upper[None, :])
    return backward, all(bounds.rigorous for bounds in before)
