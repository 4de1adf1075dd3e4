"""``branch``: branch and bound on the phases of neurons, with bounds by descent.

The bound of one question is the largest over a set of leaves that cover the domain. A leaf fixes the phases of some
neurons; within it their ReLUs are linear, and multipliers of ``g >= 0`` or ``g <= 0`` make their phase felt (Wang et
al., *Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints*, NeurIPS 2021, arXiv 2103.06624).
The worst leaf of each question is split where its relaxation lifts the bound most; the worst leaves of all questions
of a layer are bounded together. A leaf's bound is made rigorous by `Backward`, so the whole is rigorous.

It needs no solver, and closes by the hundred what linear programs leave open: where few neurons before a layer are
undecided, the bounds of that layer become all but exact, and those after it tight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from stablenet.bounds import Array
from stablenet.network import AffineMap
from stablenet.propagate.alpha import COPIES, STEPS
from stablenet.propagate.base import whole_number
from stablenet.propagate.crown import MEMORY, Index, chunks
from stablenet.propagate.descent import Descent, Outcome, Variables
from stablenet.propagate.sweep import Sweep, Tightening

Single = npt.NDArray[np.float32]

LEAVES = 64
"""Leaves per question, unless the argument says otherwise."""

NODE_STEPS = 6
"""Steps of descent for a leaf; it starts from what its parent found."""

BATCH = 512
"""Leaves bounded together."""


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

    def work(self, sweep: Sweep) -> None:
        """See `Tightening`."""
        rows = sweep.undecided()
        with sweep.cost(self.name, 2 * len(rows)) as row:
            forest = Forest(sweep, rows)
            forest.plant()
            forest.grow(self.leaves, self.name)
            row["nodes"] = forest.n_nodes
            row["tightened"] = sweep.tighten(self.name, *forest.bounds(), rigorous=True)


@dataclass(eq=False)
class Leaf:
    """Numbers of one leaf, over all pushed layers in a row: slopes (open), multipliers and phases (alive).

    ``split`` is the neuron to split (alive), -1 if there is none; ``inactive`` and ``active`` are what its multiplier
    gains where it gets that phase, so that a child starts from its parent's linear bound, or from a better one.
    """

    value: float
    slopes: Single
    multipliers: Single
    phases: npt.NDArray[np.int8]
    split: int
    inactive: float
    active: float


@dataclass(eq=False)
class Tree:
    """One question: an upper bound of ``sign`` times a row. ``closed`` is the largest bound of its closed leaves.

    ``goal`` is the value below which a leaf needs no more work.
    """

    row: int
    sign: float
    goal: float
    size: float
    open: list[Leaf] = field(default_factory=list)
    closed: float = -np.inf
    n_leaves: int = 1

    def worst(self) -> Leaf:
        """Takes the open leaf of the largest value among those that can be split."""
        able = [i for i, leaf in enumerate(self.open) if leaf.split >= 0]
        return self.open.pop(max(able, key=lambda i: self.open[i].value))


class Forest:
    """The trees of a layer's questions."""

    def __init__(self, sweep: Sweep, rows: Index) -> None:
        self.sweep = sweep
        self.rows = rows
        self.affine: AffineMap = sweep.network.layers[sweep.layer].affine
        self.descent = Descent(sweep.backward)
        self.trees: list[Tree] = []
        self.n_nodes = 0
        levels = self.descent.levels
        self.alive = np.cumsum([0, *(len(level.offset) for level in levels)])
        self.open = np.cumsum([0, *(len(level.open) for level in levels)])
        # Where the undecided neurons of all layers stand among the alive ones of all layers.
        self.place = np.concatenate([level.open + self.alive[k] for k, level in enumerate(levels)])
        self.batch = max(1, min(BATCH, MEMORY // (8 * COPIES * int(self.alive[-1] + max(sweep.backward.widths)))))

    def plant(self) -> None:
        """One leaf per question: the bound without branching. Points that it names show what cannot be refuted."""
        for chunk in chunks(self.rows, self.sweep.backward, copies=COPIES):
            if self.sweep.context.deadline.over:
                return
            rows, signs = np.concatenate([chunk, chunk]), np.repeat([1.0, -1.0], len(chunk))
            phases = np.zeros((len(rows), int(self.alive[-1])), np.int8)
            found = self._descend(rows, signs, phases, STEPS, self.descent.start(len(rows), multipliers=True))
            points = np.clip(found.points[0].astype(np.float64), self.sweep.part.lower, self.sweep.part.upper)
            seen = self.sweep.network.pre_activations(points, self.sweep.layer + 1)[-1][:, chunk]
            best = np.concatenate([seen.max(axis=0), -seen.min(axis=0)])
            for i, leaf in enumerate(self._leaves(found, phases)):
                size = abs(leaf.value) + abs(float(best[i]))
                tree = Tree(int(rows[i]), float(signs[i]), max(0.0, float(best[i])), size)
                tree.open.append(leaf)
                self.trees.append(tree)
        self._close(self.trees)

    def grow(self, leaves: int, name: str) -> None:
        """Split the worst leaves until each question is closed or has so many leaves."""
        context, total = self.sweep.context, len(self.trees)
        while not context.deadline.over:
            live = [tree for tree in self.trees if tree.open and tree.n_leaves < leaves and self._worth(tree)]
            if not live:
                return
            live.sort(key=lambda tree: tree.n_leaves)
            self._split(live[: max(1, self.batch // 2)])
            context.progress(f"{name}, layer {self.sweep.layer}", total - len(live), total)

    def _worth(self, tree: Tree) -> bool:
        return max(leaf.split for leaf in tree.open) >= 0

    def _split(self, trees: list[Tree]) -> None:
        """Replace the worst leaf of each tree by its two children."""
        parents = [tree.worst() for tree in trees]
        both = [parent for parent in parents for _ in (1, -1)]
        rows = np.repeat(np.array([tree.row for tree in trees], np.intp), 2)
        signs = np.repeat(np.array([tree.sign for tree in trees]), 2)
        phases = np.stack([leaf.phases for leaf in both])
        splits = np.array([leaf.split for leaf in both], np.intp)
        phases[np.arange(len(both)), splits] = np.tile(np.array([1, -1], np.int8), len(parents))
        slopes, multipliers = np.stack([leaf.slopes for leaf in both]), np.stack([leaf.multipliers for leaf in both])
        multipliers[np.arange(len(both)), splits] += [x for leaf in parents for x in (leaf.active, leaf.inactive)]
        start = Variables(_cut(slopes, self.open), _cut(multipliers, self.alive))
        found = self._descend(rows, signs, phases, NODE_STEPS, start)
        children = self._leaves(found, phases)
        self.n_nodes += len(children)
        for tree, parent, pair in zip(trees, parents, zip(children[::2], children[1::2], strict=True), strict=True):
            # A child's region is part of its parent's: no bound need be worse.
            for child in pair:
                child.value = min(child.value, parent.value)
            tree.open += pair
            tree.n_leaves += 1
        self._close(trees)

    def _descend(
        self, rows: Index, signs: Array, phases: npt.NDArray[np.int8], steps: int, start: Variables
    ) -> Outcome:
        return self.descent.run(self.affine, rows, signs, steps, start=start, phases=_cut(phases, self.alive))

    def _leaves(self, found: Outcome, phases: npt.NDArray[np.int8]) -> list[Leaf]:
        slopes = np.concatenate([a[0] for a in found.variables.slopes], axis=1)
        multipliers = np.concatenate([a[0] for a in found.variables.multipliers or []], axis=1)
        if not len(self.place):
            values = found.values[0].tolist()
            return [Leaf(v, slopes[i], multipliers[i], phases[i], -1, 0.0, 0.0) for i, v in enumerate(values)]
        gap = np.where(phases[:, self.place] == 0, np.nan_to_num(_joined(found.gap, len(phases))), -1.0)
        at = gap.argmax(axis=1)
        each = np.arange(len(gap))
        split = np.where(gap[each, at] > 0, self.place[at], -1)
        coefficient = _joined(found.negative, len(gap))[each, at]
        inactive = np.nan_to_num(-coefficient * slopes[each, at])
        active = np.nan_to_num(coefficient * (1.0 - slopes[each, at]))
        return [
            Leaf(
                float(found.values[0, i]),
                slopes[i],
                multipliers[i],
                phases[i],
                int(split[i]),
                float(inactive[i]),
                float(active[i]),
            )
            for i in range(len(phases))
        ]

    def _close(self, trees: list[Tree]) -> None:
        """Certify the leaves that seem to have reached their goal, and drop those that have."""
        chosen = [
            (tree, leaf)
            for tree in trees
            for leaf in tree.open
            if leaf.value < tree.goal - 1e-5 * tree.size or leaf.split < 0
        ]
        for start in range(0, len(chosen), self.batch):
            some = chosen[start : start + self.batch]
            for (tree, leaf), bound in zip(some, self._certify(some), strict=True):
                if bound <= tree.goal or leaf.split < 0:
                    tree.open.remove(leaf)
                    tree.closed = max(tree.closed, bound)
                else:
                    leaf.value = max(leaf.value, bound)

    def _certify(self, leaves: list[tuple[Tree, Leaf]]) -> list[float]:
        """Rigorous bounds of some leaves; infinite where they cannot be told."""
        rows = np.array([tree.row for tree, _ in leaves], np.intp)
        signs = np.array([tree.sign for tree, _ in leaves])
        variables = Variables(
            _cut(np.stack([leaf.slopes for _, leaf in leaves]), self.open),
            _cut(np.stack([leaf.multipliers for _, leaf in leaves]), self.alive),
        )
        phases = _cut(np.stack([leaf.phases for _, leaf in leaves]), self.alive)
        bounds, _ = self.sweep.backward.upper_bounds(self.affine, rows, signs, self.descent.choices(variables, phases))
        return [np.inf if np.isnan(bound) else float(bound) for bound in bounds[0]]

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the layer, (n,), from the leaves of every tree."""
        lower, upper = np.full(self.affine.size, -np.inf), np.full(self.affine.size, np.inf)
        left = [(tree, leaf) for tree in self.trees for leaf in tree.open]
        for start in range(0, len(left), self.batch):
            some = left[start : start + self.batch]
            for (tree, _), bound in zip(some, self._certify(some), strict=True):
                tree.closed = max(tree.closed, bound)
        for tree in self.trees:
            if tree.sign > 0:
                upper[tree.row] = tree.closed
            else:
                lower[tree.row] = -tree.closed
        return lower, upper


S = TypeVar("S", bound=np.generic)


def _cut(array: npt.NDArray[S], ends: Index) -> list[npt.NDArray[S]]:
    """Numbers of all layers in a row, (rows, n), as one array (1, rows, …) per layer."""
    return [array[None, :, start:stop] for start, stop in pairwise(ends.tolist())]


def _joined(arrays: Sequence[Single], n_rows: int) -> Single:
    """The inverse of `_cut`; arrays may be (1, 1, …)."""
    return np.concatenate([np.broadcast_to(a, (1, n_rows, a.shape[-1]))[0] for a in arrays], axis=1)
