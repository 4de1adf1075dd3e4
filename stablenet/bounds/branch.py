"""``branch``: bounds by branch and bound on the phases of neurons.

The bound of one question is the largest over the leaves of its tree (`stablenet.bounds.branch_and_bound`).
The worst leaf of each question is split; the worst leaves of all questions of a layer are bounded together. A leaf's
bound is made rigorous by `Backward`, so the whole is rigorous.

It needs no solver, and closes by the hundred what linear programs leave open: where few neurons before a layer are
undecided, the bounds of that layer become all but exact, and those after it tight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from stablenet.bounds.base import RowBounds, whole_number
from stablenet.bounds.branch_and_bound import BranchAndBound, Pair
from stablenet.bounds.layerwise import LayerwiseState, Tightening
from stablenet.bounds.trees import Leaf, Tree
from stablenet.core.arrays import Array, Index
from stablenet.core.bounds import Bounds

LEAVES = 64
"""Leaves per question, unless the argument says otherwise."""

TIE = 1e-5
"""A leaf that misses its goal by less than this share of the neuron's range is as good as closed."""

LEAF_MEMORY = 256 * 2**20
"""Bytes that the leaves of the trees worked on together may take."""


class Branch(Tightening):
    """Branch and bound on phases."""

    name = "branch"
    title = "branch and bound on neurons' phases (argument: leaves per bound)"
    paper = "Wang et al. 2021 (arXiv 2103.06624)"
    rigorous = True

    def __init__(self, leaves: int = LEAVES) -> None:
        self.leaves = leaves

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``branch`` or ``branch:LEAVES``."""
        return cls(LEAVES if argument is None else whole_number(cls.name, argument))

    def work(self, state: LayerwiseState) -> None:
        """See `Tightening`."""
        rows = state.undecided()
        known = state.bounds.layers[state.layer]
        lower, upper = known.lower.copy(), known.upper.copy()
        with state.cost(self.name, 2 * len(rows)) as row:
            row["nodes"] = 0
            share = state.context.share
            done = self.bound_here(state, rows) if share is None else share(_first(state), rows, self.leaves)
            for some in done:
                lower[some.rows], upper[some.rows] = some.lower, some.upper
                row["nodes"] += some.n_nodes
            row["tightened"] = state.tighten(self.name, lower, upper, rigorous=True)

    def bound_here(self, state: LayerwiseState, rows: Index) -> Iterator[RowBounds]:
        """Bound rows, as many at a time as memory has room for."""
        branching = _Bounds(state)
        n_rows = max(1, LEAF_MEMORY // (2 * self.leaves * branching.leaf_bytes))
        for start in range(0, len(rows), n_rows):
            some = rows[start : start + n_rows]
            before = branching.n_nodes
            lower, upper = branching.bounds(some, self.leaves)
            yield RowBounds(some, lower, upper, branching.n_nodes - before)


def _first(state: LayerwiseState) -> Bounds:
    """The bounds up to the layer that is worked on."""
    return Bounds(state.bounds.methods, state.bounds.layers[: state.layer + 1])


def bound_rows(state: LayerwiseState, rows: Index, leaves: int) -> list[RowBounds]:
    """Bounds of rows of the last layer that ``state`` has bounds of: the work that `RowSharing` shares out."""
    while state.layer < len(state.bounds.layers) - 1:
        state.advance()
    return list(Branch(leaves).bound_here(state, rows))


class _Bounds(BranchAndBound):
    """The trees of a layer's questions, two for each neuron.

    No leaf need be bounded better than by zero or, if that is more, by the largest value that the neuron was seen to
    take.
    """

    worst_first = True

    def __init__(self, state: LayerwiseState) -> None:
        super().__init__(state.backward, state.part, state.context.deadline, state.context.threads)
        self.context = state.context
        self.proof = state.context.proof
        known = state.bounds.layers[self.layer]
        self.tie = TIE * (known.upper - known.lower)
        self.total = 2 * len(state.undecided())
        self.done = 0

    def bounds(self, rows: Index, leaves: int) -> tuple[Array, Array]:
        """Lower and upper bounds of some neurons of the layer, (rows,); infinite where time ran out."""
        trees = [Tree(int(row), sign, float(self.tie[row])) for sign in (-1.0, 1.0) for row in rows]
        self.bound_roots(trees)
        self.grow(trees, 2 * leaves - 1)
        left = [(tree, leaf) for tree in trees for leaf in (*tree.open, *tree.stuck)]
        for (tree, leaf), bound in zip(left, self.certify(left), strict=True):
            self.close(tree, leaf, bound)
        self._record([tree for tree in trees if tree.n_nodes], complete=True)
        self.done += len(trees)
        # A tree that was never planted has nothing closed.
        found = np.array([tree.closed if tree.n_nodes else np.inf for tree in trees])
        return -found[: len(rows)], found[len(rows) :]

    def show(self, trees: Sequence[Tree], points: Array, values: Array) -> None:
        """See `BranchAndBound`."""
        del points
        for tree, value in zip(trees, values.tolist(), strict=True):
            tree.goal = max(tree.goal, value)

    def tied(self, tree: Tree, leaf: Leaf) -> None:
        """See `BranchAndBound`."""
        self.close(tree, leaf, leaf.value)

    def stuck(self, pairs: list[Pair]) -> None:
        """See `BranchAndBound`: no more work can be done on them."""
        for tree, leaf in pairs:
            self.close(tree, leaf, leaf.value)

    def progress(self, n_live: int) -> None:
        """See `BranchAndBound`."""
        self.context.progress(f"branch, layer {self.layer}", self.total - self.done - n_live, self.total)
