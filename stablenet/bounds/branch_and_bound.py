"""Branch and bound on the phases of neurons: trees of linear bounds, many nodes at a time.

A tree is a question, an upper bound of ``sign`` times one row of an affine map. Its leaves cover the domain; each holds
some neurons to a phase, within which their ReLUs are linear, and has multipliers of ``g >= 0`` or ``g <= 0`` that make
the phase felt (Wang et al., *Beta-CROWN: Efficient Bound Propagation with Per-neuron Split Constraints*, NeurIPS 2021,
arXiv 2103.06624). Leaves are split at the neuron whose relaxation lifts the bound most (Bunel et al., *Branch and Bound
for Piecewise Linear Neural Network Verification*, JMLR 2020, arXiv 1909.06588, judge neurons in a like way), and a
child starts from its parent's linear bound, or a better one. `BoundOptimizer` chooses slopes and multipliers in single
precision; what closes a leaf is the rigorous bound of `Backward` with these choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from stablenet.bounds.adam import Variables
from stablenet.bounds.certificates import Rows, record_leaves
from stablenet.bounds.crown import MEMORY, Backward
from stablenet.bounds.crown_alpha import COPIES
from stablenet.bounds.optimize import BoundOptimizer, Optimised
from stablenet.core.arrays import Array, Index, Single
from stablenet.core.deadline import Deadline
from stablenet.core.proofs import PartProof
from stablenet.domain.regions import Part

S = TypeVar("S", bound=np.generic)
T = TypeVar("T")

Phases = npt.NDArray[np.int8]

FIRST_STEPS = 20
"""Steps of gradient descent for a question as a whole."""

STEPS = 6
"""Steps of gradient descent for a leaf, which starts from what its parent found."""

KEPT = 256
"""Closed leaves of a tree that are kept before they go to the proof."""

BATCH = 512
"""Leaves bounded together, at most."""

PIECE = 32
"""Leaves that a thread is woken for."""

WIDEST = 1e-9
"""Weight of a relaxation's width beside what it adds to the bound: it decides where no gap shows."""


@dataclass(eq=False)
class Leaf:
    """Numbers of one leaf, over all pushed layers in a row: slopes (open), multipliers and phases (alive).

    ``split`` is the neuron to split (alive), -1 if none is left; ``inactive`` and ``active`` are what its multiplier
    gains where it gets that phase, so that a child starts from its parent's linear bound, or from a better one.
    ``value`` is its bound in single precision, or a rigorous one once it is ``checked``.
    """

    value: float
    slopes: Single
    multipliers: Single
    phases: Phases
    split: int
    inactive: float
    active: float
    checked: bool = False


@dataclass(eq=False)
class Tree:
    """One question. A leaf whose bound is ``goal`` or less needs no more work; up to ``goal + tie`` it is a tie.

    ``closed`` is the largest bound of the leaves that are closed, ``n_nodes`` counts leaves and what they came from,
    ``n_ties`` the ties met. With ``keep``, ``kept`` are closed leaves that the proof does not have yet; it knows the
    tree by its ``number``.
    """

    row: int
    sign: float
    tie: float
    goal: float = 0.0
    open: list[Leaf] = field(default_factory=list)
    closed: float = -np.inf
    n_nodes: int = 0
    n_ties: int = 0
    keep: bool = False
    kept: list[Leaf] = field(default_factory=list)
    number: int | None = None
    given_up: bool = False

    def close(self, leaf: Leaf, bound: float) -> None:
        """Drop a leaf that needs no more work."""
        self.open.remove(leaf)
        if self.keep:
            self.kept.append(leaf)
        self.closed = max(self.closed, bound)

    def take(self, n: int, *, worst: bool) -> list[Leaf]:
        """Removes up to n leaves that can be split: the worst, or those that came last, which keeps the list short."""
        able = [leaf for leaf in self.open if leaf.split >= 0]
        taken = sorted(able, key=lambda leaf: leaf.value)[-n:] if worst else able[-n:]
        gone = {id(leaf) for leaf in taken}
        self.open = [leaf for leaf in self.open if id(leaf) not in gone]
        return taken


Pair = tuple[Tree, Leaf]


class BranchAndBound(ABC):
    """Trees over the affine map that follows the pushed layers, on the only part of a `Backward`.

    A subclass says which trees are `live`, what to do with values seen (`show`), with ties (`tied`) and with leaves
    that cannot be split (`stuck`), and in which order leaves are taken.
    """

    worst_first = False
    proof: PartProof | None = None
    by = "branch"

    def __init__(self, backward: Backward, part: Part, deadline: Deadline, threads: int = 1) -> None:
        self.backward = backward
        self.part = part
        self.deadline = deadline
        self.threads = threads
        self.layer = len(backward.stages)
        self.affine = backward.network.layers[self.layer].affine
        self.optimizer = BoundOptimizer(backward)
        self.n_nodes = 0
        self._pool: ThreadPoolExecutor | None = None
        levels = self.optimizer.levels
        self.alive = np.cumsum([0, *(len(level.offset) for level in levels)])
        self.open = np.cumsum([0, *(len(level.open) for level in levels)])
        # Where the undecided neurons of all layers stand among the alive ones of all layers, and how wide they are.
        self.place = np.concatenate(
            [np.zeros(0, np.intp), *(level.open + self.alive[k] for k, level in enumerate(levels))]
        )
        widths = [level.up_offset[0, 0, level.open] for level in levels]
        self.width = np.concatenate([np.zeros(0, np.float32), *widths])
        self.batch = max(2, min(BATCH, MEMORY // (8 * COPIES * int(self.alive[-1] + max(backward.widths)))))

    @property
    def leaf_bytes(self) -> int:
        """Memory of one leaf, about."""
        return int(4 * self.open[-1] + 5 * self.alive[-1]) + 1000

    def live(self, trees: Sequence[Tree]) -> list[Tree]:
        """The trees that need work still."""
        return [tree for tree in trees if tree.open and not tree.given_up]

    @abstractmethod
    def show(self, trees: Sequence[Tree], points: Array, values: Array) -> None:
        """See the points, (trees, n_inputs), where bounds of these trees are attained, and what the trees' rows,
        times their signs, are there.
        """

    @abstractmethod
    def tied(self, tree: Tree, leaf: Leaf) -> None:
        """Deal with an open leaf whose bound is all but the goal."""

    @abstractmethod
    def stuck(self, pairs: list[Pair]) -> None:
        """Deal with open leaves in which no neuron is left to split at."""

    def finished(self, trees: Sequence[Tree]) -> None:  # noqa: B027 - not all want to know
        """See trees of which no leaf is open any more."""

    def progress(self, n_live: int) -> None:  # noqa: B027 - not all want to say
        """So many trees are worked on."""

    def bound_roots(self, trees: Sequence[Tree]) -> None:
        """One leaf per tree: the bound without branching."""
        for tree in trees:
            tree.keep = self.proof is not None
        with self._workers():
            for start in range(0, len(trees), self.batch):
                if self.deadline.over:
                    return
                some = trees[start : start + self.batch]
                phases = np.zeros((len(some), int(self.alive[-1])), np.int8)
                leaves = self._bound(some, phases, FIRST_STEPS, self.optimizer.start(len(some), multipliers=True))
                for tree, leaf in zip(some, leaves, strict=True):
                    tree.open.append(leaf)
                self._close(some)

    def grow(self, trees: Sequence[Tree], max_nodes: int | None) -> None:
        """Split leaves until each wanted tree is closed or has so many nodes, or time is over."""
        with self._workers():
            while not self.deadline.over:
                live = [tree for tree in self.live(trees) if max_nodes is None or tree.n_nodes < max_nodes]
                live = [tree for tree in live if any(leaf.split >= 0 for leaf in tree.open)]
                if not live:
                    return
                self.progress(len(live))
                live.sort(key=lambda tree: tree.n_nodes)
                live = live[: max(1, self.batch // 2)]
                share = 1 if self.worst_first else max(1, self.batch // (2 * len(live)))
                self._split([(tree, leaf) for tree in live for leaf in tree.take(share, worst=self.worst_first)])

    @contextmanager
    def _workers(self) -> Iterator[None]:
        """Threads that share the rows of a batch, each with a BLAS of one thread."""
        if self.threads == 1:
            yield
            return
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(self.threads) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def _shared(self, work: Callable[[slice], T], n_rows: int) -> list[T]:
        """What work gives for consecutive slices of so many rows."""
        n = 1 if self._pool is None else max(1, min(self.threads, n_rows // PIECE))
        ends = np.linspace(0, n_rows, n + 1).astype(int).tolist()
        pieces = [slice(*pair) for pair in pairwise(ends)]
        return [work(pieces[0])] if n == 1 or self._pool is None else list(self._pool.map(work, pieces))

    def _split(self, parents: list[Pair]) -> None:
        """Replace each leaf by its two children."""
        trees = [tree for tree, _ in parents for _ in range(2)]
        both = [leaf for _, leaf in parents for _ in range(2)]
        slopes, multipliers, phases = self._stacked(both)
        splits = np.array([leaf.split for leaf in both], np.intp)
        each = np.arange(len(both))
        phases[each, splits] = np.tile(np.array([1, -1], np.int8), len(parents))
        multipliers[each, splits] += [gain for _, leaf in parents for gain in (leaf.active, leaf.inactive)]
        start = self._variables(slopes, multipliers)
        children = self._bound(trees, phases, STEPS, start)
        for (tree, parent), *pair in zip(parents, children[::2], children[1::2], strict=True):
            # A child's region is part of its parent's: no bound need be worse. The worse child is taken up first.
            for child in sorted(pair, key=lambda leaf: leaf.value):
                child.value = min(child.value, parent.value)
                tree.open.append(child)
        self._close(list({id(tree): tree for tree in trees}.values()))

    def _bound(self, trees: Sequence[Tree], phases: Phases, steps: int, start: Variables) -> list[Leaf]:
        """Descend; leaves with what was found."""
        rows, signs = _questions(trees)

        def work(piece: slice) -> tuple[list[Leaf], Array, Array]:
            index, sign, held = rows[piece], signs[piece], phases[piece]
            found = self.optimizer.run(
                self.affine,
                index,
                sign,
                steps,
                start=start.take(piece),
                phases=_cut(held, self.alive),
                multipliers=True,
            )
            points = np.clip(found.points[0].astype(np.float64), self.part.lower, self.part.upper)
            values = self.backward.network.pre_activations(points, self.layer + 1)[self.layer]
            return self._leaves(found, held), points, sign * values[np.arange(len(index)), index]

        leaves, points, values = zip(*self._shared(work, len(rows)), strict=True)
        self.n_nodes += len(rows)
        for tree in trees:
            tree.n_nodes += 1
        self.show(trees, np.concatenate(points), np.concatenate(values))
        return [leaf for some in leaves for leaf in some]

    def _leaves(self, found: Optimised, phases: Phases) -> list[Leaf]:
        n = len(phases)
        slopes, multipliers = _joined(found.variables.slopes, n), _joined(found.variables.multipliers or [], n)
        values = found.values[0].tolist()
        split, inactive, active = np.full(n, -1), np.zeros(n), np.zeros(n)
        if len(self.place):
            gap = np.abs(np.nan_to_num(_joined(found.gap, n))) + WIDEST * self.width
            gap = np.where(phases[:, self.place] == 0, gap, -1.0)
            each, at = np.arange(n), gap.argmax(axis=1)
            split = np.where(gap[each, at] >= 0, self.place[at], -1)
            coefficient = _joined(found.negative, n)[each, at]
            inactive = np.nan_to_num(-coefficient * slopes[each, at])
            active = np.nan_to_num(coefficient * (1.0 - slopes[each, at]))
        # Copies: a leaf that stays must not keep the arrays of its whole batch.
        return [
            Leaf(*numbers, int(split[i]), float(inactive[i]), float(active[i]))
            for i, numbers in enumerate(
                zip(values, map(np.copy, slopes), map(np.copy, multipliers), map(np.copy, phases), strict=True)
            )
        ]

    def _close(self, trees: Sequence[Tree]) -> None:
        """Certify the leaves that seem to have reached their goal, and drop those that have."""
        pairs = [(tree, leaf) for tree in trees for leaf in tree.open if _near(tree, leaf)]
        left = []
        for (tree, leaf), bound in zip(pairs, self.certify(pairs), strict=True):
            if bound <= tree.goal:
                tree.close(leaf, bound)
                continue
            tie = leaf.value > tree.goal or (self.affine.roundoff is not None and bound <= tree.goal + tree.tie)
            leaf.value, leaf.checked = max(leaf.value, bound), True
            if leaf.split < 0:
                left.append((tree, leaf))
            elif tie:
                self.tied(tree, leaf)
        if left:
            self.stuck(left)
        self._record([tree for tree in trees if len(tree.kept) >= KEPT], complete=False)
        self.finished([tree for tree in trees if not tree.open])

    def _record(self, trees: Sequence[Tree], *, complete: bool) -> None:
        """Give leaves that are closed to the proof; ``complete`` if these trees have no others."""
        if self.proof is None or not trees:
            return
        fresh = [tree for tree in trees if tree.number is None]
        for tree, number in zip(fresh, self.proof.new_trees(len(fresh)).tolist(), strict=True):
            tree.number = number
        numbers = np.array([tree.number for tree in trees], "<u4")
        pairs = [(tree, leaf) for tree in trees for leaf in tree.kept]
        for start in range(0, len(pairs), self.batch):
            some = pairs[start : start + self.batch]
            slopes, multipliers, phases = self._stacked([leaf for _, leaf in some])
            choices = self.optimizer.choices(self._variables(slopes, multipliers), _cut(phases, self.alive))
            rows = Rows(self.backward, *_questions([tree for tree, _ in some]), choices)
            of = np.array([tree.number for tree, _ in some], "<u4")
            record_leaves(self.proof, self.by, rows, of, closed=numbers[:0])
        if complete:
            record_leaves(self.proof, self.by, Rows(self.backward, *_questions([]), []), numbers[:0], closed=numbers)
        for tree in trees:
            tree.kept = []

    def certify(self, pairs: Sequence[Pair]) -> list[float]:
        """Rigorous bounds of some leaves; infinite where they cannot be told."""
        found: list[float] = []
        for start in range(0, len(pairs), self.batch):
            found += self._certify(pairs[start : start + self.batch])
        return found

    def _certify(self, pairs: Sequence[Pair]) -> list[float]:
        rows, signs = _questions([tree for tree, _ in pairs])
        slopes, multipliers, phases = self._stacked([leaf for _, leaf in pairs])

        def work(piece: slice) -> list[float]:
            variables = self._variables(slopes[piece], multipliers[piece])
            choices = self.optimizer.choices(variables, _cut(phases[piece], self.alive))
            bounds, _ = self.backward.upper_bounds(self.affine, rows[piece], signs[piece], choices)
            return [np.inf if np.isnan(bound) else float(bound) for bound in bounds[0]]

        return [bound for some in self._shared(work, len(pairs)) for bound in some]

    def optimise_leaves(self, pairs: Sequence[Pair], steps: int) -> Array:
        """Descend for longer from where leaves stand; the points at which their bounds are attained."""
        rows, signs = _questions([tree for tree, _ in pairs])
        slopes, multipliers, phases = self._stacked([leaf for _, leaf in pairs])
        start, held = self._variables(slopes, multipliers), _cut(phases, self.alive)
        found = self.optimizer.run(self.affine, rows, signs, steps, start=start, phases=held, multipliers=True)
        slopes = _joined(found.variables.slopes, len(rows))
        multipliers = _joined(found.variables.multipliers or [], len(rows))
        for i, (_, leaf) in enumerate(pairs):
            leaf.slopes, leaf.multipliers = slopes[i].copy(), multipliers[i].copy()
        return np.asarray(found.points[0], np.float64)

    def _variables(self, slopes: Single, multipliers: Single) -> Variables:
        """Numbers of leaves, a row for each, as the optimizer takes them."""
        return Variables(_cut(slopes, self.open), _cut(multipliers, self.alive))

    @staticmethod
    def _stacked(leaves: Sequence[Leaf]) -> tuple[Single, Single, Phases]:
        """Slopes, multipliers and phases, a row for each leaf."""
        return (
            np.stack([leaf.slopes for leaf in leaves]),
            np.stack([leaf.multipliers for leaf in leaves]),
            np.stack([leaf.phases for leaf in leaves]),
        )


def _near(tree: Tree, leaf: Leaf) -> bool:
    """Whether a leaf's bound is worth certifying; one that was in vain is not repeated."""
    return leaf.split < 0 or leaf.value <= tree.goal + (0.0 if leaf.checked else tree.tie)


def _questions(trees: Sequence[Tree]) -> tuple[Index, Array]:
    """Rows and signs."""
    return np.array([tree.row for tree in trees], np.intp), np.array([tree.sign for tree in trees])


def _cut(array: npt.NDArray[S], ends: Index) -> list[npt.NDArray[S]]:
    """Numbers of all layers in a row, (rows, n), as one array (1, rows, …) per layer."""
    return [array[None, :, start:stop] for start, stop in pairwise(ends.tolist())]


def _joined(arrays: Sequence[Single], n_rows: int) -> Single:
    """The inverse of `_cut`; arrays may be (1, 1, …)."""
    if not arrays:
        return np.zeros((n_rows, 0), np.float32)
    return np.concatenate([np.broadcast_to(a, (1, n_rows, a.shape[-1]))[0] for a in arrays], axis=1)
