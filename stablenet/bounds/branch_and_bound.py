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
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from stablenet.bounds.adam import Variables
from stablenet.bounds.certificates import Rows, record_leaves
from stablenet.bounds.crown import Backward
from stablenet.bounds.crown_alpha import COPIES
from stablenet.bounds.crown_layers import MEMORY
from stablenet.bounds.optimize import BoundOptimizer, Optimised, Phases
from stablenet.bounds.trees import Cut, Leaf, Store, Tree
from stablenet.core.arrays import Array, Index, Single
from stablenet.core.deadline import Deadline
from stablenet.core.proofs import PartProof
from stablenet.domain.regions import Part

T = TypeVar("T")


FIRST_STEPS = 20
"""Steps of descent for a question as a whole."""

STEPS = 3
"""Steps of descent for a leaf, which starts from what its parent found. With twice as many about as many questions are
left after as many nodes, which take a third longer (eran_mnist_9x200: 12 and 13 open after 37 and 27 s).
"""

KEPT = 256
"""Closed leaves of a tree that are kept before they go to the proof."""

BATCH = 512
"""Leaves bounded together, at most."""

PIECE = 32
"""Leaves that a thread is woken for."""

SEEN = 100.0
"""Values at points that miss a tree's goal by less than so many ties are computed anew in double precision."""

CANDIDATES = 4
"""Neurons of which a leaf's split is chosen, by one backward pass for each child (filtered smart branching, De Palma et
al., *Improved Branch and Bound for Neural Network Verification via Lagrangian Decomposition*, 2021, arXiv 2104.06718).
"""

QUICK = 64
"""With no more nodes for a question than these the first candidate is taken: what they close is not worth more."""

CHOOSY = 10
"""Leaves of up to so many decisions choose among candidates: what is decided first bears on all that comes after."""

CHOOSY_WORST_FIRST = 3
"""The same where the worst leaf is split first, whose trees are small."""

BETTER_CHILD = 0.1
"""Weight of the better child's gain beside the worse child's."""

WIDEST = 1e-9
"""Weight of a relaxation's width beside what it adds to the bound: it decides where no gap shows."""


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
        self.alive, self.open, self.place = self.optimizer.alive, self.optimizer.open, self.optimizer.place
        self.store = Store(int(self.open[-1]), int(self.alive[-1]))
        widths = [level.up_offset[level.open] for level in self.optimizer.levels]
        self.width = np.concatenate([np.zeros(0, np.float32), *widths])
        self.batch = max(2, min(BATCH, MEMORY // (8 * COPIES * int(self.alive[-1] + max(backward.widths)))))

    @property
    def leaf_bytes(self) -> int:
        """Memory of one leaf, about."""
        return int(4 * self.open[-1] + 5 * self.alive[-1]) + 1000

    def live(self, trees: Sequence[Tree]) -> list[Tree]:
        """The trees that need work still."""
        return [tree for tree in trees if (tree.open or tree.stuck) and not tree.given_up]

    def close(self, tree: Tree, leaf: Leaf, bound: float) -> None:
        """A leaf needs no more work: note its bound. Whoever calls this sees to it that it is in no list."""
        leaf.closed = True
        tree.closed = max(tree.closed, bound)
        if tree.keep:
            tree.kept.append(leaf)
        else:
            self.store.drop([leaf])

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
                self._settle(list(zip(some, leaves, strict=True)))

    def grow(self, trees: Sequence[Tree], max_nodes: int | None) -> None:
        """Split leaves until each wanted tree is closed or has so many nodes, or time is over."""
        choose = self.worst_first or max_nodes is None or max_nodes > QUICK
        with self._workers():
            while not self.deadline.over:
                live = [tree for tree in self.live(trees) if max_nodes is None or tree.n_nodes < max_nodes]
                live = [tree for tree in live if tree.open]
                if not live:
                    return
                self.progress(len(live))
                live.sort(key=lambda tree: tree.n_nodes)
                live = live[: max(1, self.batch // 2)]
                share = 1 if self.worst_first else max(1, self.batch // (2 * len(live)))
                parents = [(tree, leaf) for tree in live for leaf in tree.take(share, worst=self.worst_first)]
                if choose:
                    self._choose(parents)
                self._split(parents)

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

    def _choose(self, parents: Sequence[Pair]) -> None:
        """Give each leaf that has candidates the one whose worse child is bounded best."""
        asked = [(tree, leaf) for tree, leaf in parents if len(leaf.cuts) > 1]
        if not asked:
            return
        trees = [tree for tree, leaf in asked for _ in range(2 * len(leaf.cuts))]
        start, phases = self._children(
            [leaf for _, leaf in asked for _ in leaf.cuts], [cut for _, leaf in asked for cut in leaf.cuts]
        )
        rows, signs = _questions(trees)

        def work(at: int, piece: slice) -> Single:
            piece = slice(piece.start + at, piece.stop + at)
            return self.optimizer.values(self.affine, rows[piece], signs[piece], start.take(piece), phases[piece])

        found: list[float] = []
        for at in range(0, len(rows), self.batch):
            pieces = self._shared(partial(work, at), min(self.batch, len(rows) - at))
            found += np.concatenate(pieces).tolist()
        done = 0
        for tree, leaf in asked:
            n = len(leaf.cuts)
            values = np.array(found[done : done + 2 * n]).reshape(n, 2)
            done += 2 * n
            gain = np.clip((leaf.value - values) / max(leaf.value - tree.goal, 1e-30), 0.0, 1.0)
            best = int((gain.min(axis=1) + BETTER_CHILD * gain.max(axis=1)).argmax())
            leaf.cuts = [leaf.cuts[best]]

    def _children(self, leaves: Sequence[Leaf], cuts: Sequence[Cut]) -> tuple[Variables, Phases]:
        """What the two children of each leaf, by one cut each, start from: active, inactive, active, ..."""
        start, phases = self.store.take([leaf for leaf in leaves for _ in range(2)])
        splits = np.repeat([cut.neuron for cut in cuts], 2)
        each = np.arange(len(splits))
        phases[each, splits] = np.tile(np.array([1, -1], np.int8), len(cuts))
        if start.multipliers is not None:
            start.multipliers[each, splits] += [gain for cut in cuts for gain in (cut.active, cut.inactive)]
        return start, phases

    def _split(self, parents: list[Pair]) -> None:
        """Replace each leaf by its two children."""
        trees = [tree for tree, _ in parents for _ in range(2)]
        start, phases = self._children([leaf for _, leaf in parents], [leaf.cuts[0] for _, leaf in parents])
        self.store.drop([leaf for _, leaf in parents])
        children = self._bound(trees, phases, STEPS, start)
        fresh: list[Pair] = []
        for (tree, parent), *pair in zip(parents, children[::2], children[1::2], strict=True):
            # A child's region is part of its parent's: no bound need be worse. The worse child is taken up first.
            for child in sorted(pair, key=lambda leaf: leaf.value):
                child.value = min(child.value, parent.value)
                fresh.append((tree, child))
        self._settle(fresh)

    def _bound(self, trees: Sequence[Tree], phases: Phases, steps: int, start: Variables) -> list[Leaf]:
        """Descend; leaves with what was found."""
        rows, signs = _questions(trees)
        goals = np.array([tree.goal - SEEN * tree.tie for tree in trees])

        def work(piece: slice) -> tuple[Optimised, list[list[Cut]], Array, Array]:
            index, sign, held = rows[piece], signs[piece], phases[piece]
            found = self.optimizer.run(
                self.affine, index, sign, steps, start=start.take(piece), phases=held, multipliers=True
            )
            points = np.clip(found.points.astype(np.float64), self.part.lower, self.part.upper)
            values = found.seen.astype(np.float64)
            near = np.flatnonzero(values > goals[piece])
            if len(near):
                exact = self.backward.network.pre_activations(points[near], self.layer + 1)[self.layer]
                values[near] = sign[near] * exact[np.arange(len(near)), index[near]]
            return found, self._cuts(found, held), points, values

        found, cuts, points, values = zip(*self._shared(work, len(rows)), strict=True)
        self.n_nodes += len(rows)
        for tree in trees:
            tree.n_nodes += 1
        self.show(trees, np.concatenate(points), np.concatenate(values))
        leaves: list[Leaf] = []
        done = 0
        for one, some in zip(found, cuts, strict=True):
            at = self.store.add(one.variables, phases[done : done + len(one.values)])
            done += len(one.values)
            leaves += map(Leaf, one.values.tolist(), at.tolist(), some)
        return leaves

    def _cuts(self, found: Optimised, phases: Phases) -> list[list[Cut]]:
        """Neurons to split at, the best first, and what their multipliers gain where they get a phase; row by row."""
        n = len(phases)
        if not len(self.place):
            return [[] for _ in range(n)]
        gap = np.abs(np.nan_to_num(found.gap)) + WIDEST * self.width
        gap[phases[:, self.place] != 0] = -1.0
        cuts: list[list[Cut]] = [[] for _ in range(n)]
        choosy = np.count_nonzero(phases, axis=1) <= (CHOOSY_WORST_FIRST if self.worst_first else CHOOSY)
        for rows, most in ((np.flatnonzero(choosy), CANDIDATES), (np.flatnonzero(~choosy), 1)):
            some = gap[rows]
            at = _largest(some, min(most, gap.shape[1]))
            able = np.take_along_axis(some, at, axis=1) >= 0
            coefficient, slopes = found.negative[rows[:, None], at], found.variables.slopes[rows[:, None], at]
            inactive, active = np.nan_to_num(-coefficient * slopes), np.nan_to_num(coefficient * (1.0 - slopes))
            columns = (self.place[at].tolist(), inactive.tolist(), active.tolist(), able.tolist())
            for row, *lists in zip(rows.tolist(), *columns, strict=True):
                cuts[row] = [Cut(*cut) for *cut, fits in zip(*lists, strict=True) if fits]
        return cuts

    def _settle(self, fresh: list[Pair]) -> None:
        """Certify the leaves that seem to have reached their goal, drop those that have, and keep the others open."""
        trees = list({id(tree): tree for tree, _ in fresh}.values())
        fresh = fresh + [(tree, leaf) for tree in trees for leaf in tree.take_reached()]
        near = [(tree, leaf) for tree, leaf in fresh if tree.near(leaf)]
        left: list[Pair] = []
        for (tree, leaf), bound in zip(near, self.certify(near), strict=True):
            if bound <= tree.goal:
                self.close(tree, leaf, bound)
                continue
            tie = leaf.value > tree.goal or (self.affine.roundoff is not None and bound <= tree.goal + tree.tie)
            leaf.value, leaf.checked = max(leaf.value, bound), True
            if not leaf.cuts:
                left.append((tree, leaf))
            elif tie:
                self.tied(tree, leaf)
        if left:
            self.stuck(left)
        for tree, leaf in fresh:
            if not leaf.closed:
                tree.put(leaf, worst=self.worst_first)
        self._record([tree for tree in trees if len(tree.kept) >= KEPT], complete=False)
        self.finished([tree for tree in trees if not tree.open and not tree.stuck])

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
            variables, phases = self.store.take([leaf for _, leaf in some])
            choices = self.optimizer.choices(variables, phases)
            rows = Rows(self.backward, *_questions([tree for tree, _ in some]), choices)
            of = np.array([tree.number for tree, _ in some], "<u4")
            record_leaves(self.proof, self.by, rows, of, closed=numbers[:0])
        if complete:
            record_leaves(self.proof, self.by, Rows(self.backward, *_questions([]), []), numbers[:0], closed=numbers)
        for tree in trees:
            self.store.drop(tree.kept)
            tree.kept = []

    def certify(self, pairs: Sequence[Pair]) -> list[float]:
        """Rigorous bounds of some leaves; infinite where they cannot be told."""
        found: list[float] = []
        for start in range(0, len(pairs), self.batch):
            found += self._certify(pairs[start : start + self.batch])
        return found

    def _certify(self, pairs: Sequence[Pair]) -> list[float]:
        rows, signs = _questions([tree for tree, _ in pairs])
        variables, phases = self.store.take([leaf for _, leaf in pairs])

        def work(piece: slice) -> list[float]:
            choices = self.optimizer.choices(variables.take(piece), phases[piece])
            bounds, _ = self.backward.upper_bounds(self.affine, rows[piece], signs[piece], choices)
            return [np.inf if np.isnan(bound) else float(bound) for bound in bounds[0]]

        return [bound for some in self._shared(work, len(pairs)) for bound in some]

    def optimise_leaves(self, pairs: Sequence[Pair], steps: int) -> Array:
        """Descend for longer from where leaves stand; the points at which their bounds are attained."""
        rows, signs = _questions([tree for tree, _ in pairs])
        leaves = [leaf for _, leaf in pairs]
        start, phases = self.store.take(leaves)
        found = self.optimizer.run(self.affine, rows, signs, steps, start=start, phases=phases, multipliers=True)
        self.store.put(leaves, found.variables)
        return np.asarray(found.points, np.float64)


def _questions(trees: Sequence[Tree]) -> tuple[Index, Array]:
    """Rows and signs."""
    return np.array([tree.row for tree in trees], np.intp), np.array([tree.sign for tree in trees])


def _largest(values: Array, n: int) -> Index:
    """Where the n largest values of each row stand, in falling order."""
    if n == 1:
        return np.asarray(values.argmax(axis=1)[:, None])
    at = np.argpartition(-values, n - 1, axis=1)[:, :n]
    return np.asarray(np.take_along_axis(at, (-np.take_along_axis(values, at, axis=1)).argsort(axis=1), axis=1))
