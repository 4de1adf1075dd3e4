"""Branch on the input: a box is bounded, and replaced by its halves while questions are pending on it.

All boxes of a batch are bounded at once (`crown_layers`). A question is refuted on a part once it is refuted on
every box that the part was cut into, and witnessed as soon as one point shows it; verdicts of boxes are never
combined. On a polytope boxes are cut down to what its rows leave of them, and bounded with its rows. The input to
halve is the one whose width moves the linear upper bounds of the box's pending questions most (Bunel et al., *Branch
and Bound for Piecewise Linear Neural Network Verification*, JMLR 2020).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from stablenet.bounds.certificates import Batch, record_boxes
from stablenet.bounds.crown_layers import Bounded, crown_layers
from stablenet.bounds.polytope import narrowed
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.network import Network
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDES
from stablenet.domain.halving import MOST, best, divisible, halves, middle, width
from stablenet.search.base import Problem, Search

Numbers = npt.NDArray[np.uint32]

BATCH = 256
"""Boxes bounded together: enough for BLAS, few enough for the caches."""

KEPT = 16_384
"""Boxes that wait to be bounded at a time, about."""

KNOWN_MEMORY = 128 * 2**20
"""Bytes that bounds of waiting boxes may take; on larger networks they are not kept, but computed again."""

FINEST = 2.0**-40
"""Boxes are not cut below this share of the part's width, nor where no number of float64 lies between their bounds."""

ASPECT = 8.0
"""Inputs in a polytope's rows are not left so many times wider than the others, as shares of the part's width."""

TIE = 1e-7
"""A bound of a box that misses the refuting sign by less than this share of the neuron's range is a tie."""

TIES = 1000
"""A question with more ties is left to other searches: its optimum seems to be zero, and no cutting gives a bound
below that. A few ties come by chance."""


class SplitSearch(Search):
    """Branching on the input with batched rigorous bounds."""

    name = "split"
    title = "the domain cut into boxes until bounds or points close every question"
    paper = "Bunel et al. 2020 (JMLR 21); bounds: Zhang et al. 2018"
    needs_solver = False

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        for part in range(len(problem.domain.parts)):
            Splitter(problem, part).run()


@dataclass(eq=False)
class Boxes:
    """A batch of boxes with the questions pending on each: (b, n_inputs) twice, (b, q); ``number`` names them, (b,).

    ``known``, (b, 2, n_neurons), are lower and upper bounds of all neurons on a box of which each is a part; None if
    they are not kept.
    """

    lower: Array
    upper: Array
    mask: Mask
    number: Numbers
    known: Array | None = None

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, rows: Mask | slice) -> Boxes:
        """Some of the boxes."""
        known = None if self.known is None else self.known[rows]
        return Boxes(self.lower[rows], self.upper[rows], self.mask[rows], self.number[rows], known)


@dataclass(eq=False)
class BoundedBoxes:
    """What bounding a batch of b boxes showed: refuted (b, q), ties (q,), inputs to cut (b,), points to try; and which
    neurons were carried back to the inputs, (n,).
    """

    boxes: Boxes
    refuted: Mask
    ties: Index
    cut: Index
    points: Array
    carried: Mask


class Splitter:
    """The boxes of one part of the domain."""

    def __init__(self, problem: Problem, part: int, by: str = "split") -> None:
        self.problem = problem
        self.part = part
        self.by = by
        self.ledger = problem.ledger
        pending = problem.pending(part)
        self.flat = np.concatenate([np.flatnonzero(pending[POSITIVE]), np.flatnonzero(pending[NEGATIVE])])
        self.side = np.repeat([POSITIVE, NEGATIVE], np.count_nonzero(pending, axis=1)).astype(np.intp)
        box = problem.domain.parts[part]
        self.rows = None if box.a is None or box.b is None else (box.a, box.b)
        self.pull = problem.falsifier.pullers[part]
        self.finest = FINEST * width(box.lower, box.upper)
        every = np.ones((1, len(self.flat)), bool)
        self.counts = np.ones(len(self.flat), dtype=np.int64)
        layers = problem.bounds[part].layers
        ranges = np.concatenate([np.zeros(0), *(layer.upper - layer.lower for layer in layers)])
        self.tie = TIE * ranges[self.flat]
        self.ties = np.zeros(len(self.flat), dtype=np.int64)
        self.n_boxes = 0
        self.n_numbers = 1
        problem.leaves[self.side, self.flat] = 0
        self.proof = problem.proof_of(part)
        # The checker bounds each box of a proof alone, without bounds from a larger box.
        known = None if self.proof is not None or 16 * self.ledger.n_neurons * KEPT > KNOWN_MEMORY else self._whole()
        self.stack = [Boxes(box.lower[None, :], box.upper[None, :], every, np.zeros(1, "<u4"), known)]
        if self.proof is not None:
            asked = {"question": self.flat.astype("<u4"), "sign": np.where(self.side == POSITIVE, 1, -1).astype("<i1")}
            self.proof.write("split", {}, asked)

    def _whole(self) -> Array:
        """Infinite bounds, for the box that is not yet bounded."""
        whole = np.full((1, 2, self.ledger.n_neurons), np.inf)
        whole[:, 0] = -np.inf
        return whole

    def run(self, max_boxes: int | None = None) -> bool:
        """Bound and cut until no question can be closed any more, or so many boxes are used.

        True if nothing is pending on the part.
        """
        if not len(self.flat):
            return True
        workers = max(1, self.problem.options.threads)
        # Each batch has one core: BLAS threads would only wait for each other.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            while self.stack:
                self.problem.deadline.check()
                live = self._still_pending() & (self.ties <= TIES)
                believed = self.by not in self.ledger.dead_sources
                if not (believed and live.any()) or (max_boxes is not None and self.n_boxes >= max_boxes):
                    break
                batches = self._next_batches(workers, live)
                for outcome in pool.map(self._bound, batches):
                    self._digest(outcome)
        return not self._still_pending().any()

    def _still_pending(self) -> Mask:
        return np.asarray(self.problem.pending(self.part)[self.side, self.flat])

    def _next_batches(self, workers: int, live: Mask) -> list[Boxes]:
        """Up to a batch per worker from the top of the stack: depth first, so that the stack stays small."""
        batches: list[Boxes] = []
        while self.stack and len(batches) < workers:
            boxes = self.stack.pop()
            while self.stack and len(boxes) < BATCH:
                boxes = _join(self.stack.pop(), boxes)
            if len(boxes) > BATCH:
                self.stack.append(boxes.take(slice(0, len(boxes) - BATCH)))
                boxes = boxes.take(slice(len(boxes) - BATCH, None))
            boxes.mask &= live
            keep = np.asarray(boxes.mask.any(axis=1))
            if keep.any():
                batches.append(boxes.take(keep))
        return batches

    def _bound(self, boxes: Boxes) -> BoundedBoxes:
        """Bound a batch; touches nothing that other threads use."""
        network = self.problem.network
        empty = np.zeros(len(boxes), dtype=bool)
        if self.rows is not None:
            low, high, empty = narrowed(boxes.lower, boxes.upper, *self.rows)
            boxes = Boxes(low, high, boxes.mask, boxes.number, boxes.known)
        asked = np.flatnonzero(boxes.mask.any(axis=0))
        flat, side = self.flat[asked], self.side[asked]
        guide = _Guide(network, self.ledger.offsets, boxes.mask[:, asked], flat, side)
        depth = self.ledger.locate(int(flat.max()))[0] + 1
        last = np.zeros((len(boxes), network.layers[depth - 1].size), dtype=bool)
        start = self.ledger.offsets[depth - 1]
        for q in np.flatnonzero(flat >= start):
            last[:, flat[q] - start] |= boxes.mask[:, asked[q]]
        layers = crown_layers(
            *(network, boxes.lower, boxes.upper),
            known=None if boxes.known is None else self._known(boxes.known),
            polytope=self.rows,
            up_to=depth,
            last=last,
            watch=guide.watch,
        )
        if boxes.known is not None:
            boxes.known = boxes.known.copy()
            for (low, high), (old_low, old_high) in zip(layers, self._known(boxes.known), strict=False):
                old_low[...], old_high[...] = low, high
        lower = np.concatenate([low for low, _ in layers], axis=1)[:, flat]
        upper = np.concatenate([high for _, high in layers], axis=1)[:, flat]
        refuted = np.zeros_like(boxes.mask)
        excess = np.where(side == POSITIVE, upper, -lower)
        excess[empty] = -np.inf
        refuted[:, asked] = boxes.mask[:, asked] & (excess <= 0)
        ties = np.zeros(len(self.flat), dtype=np.int64)
        ties[asked] = (boxes.mask[:, asked] & (excess > 0) & (excess <= self.tie[asked])).sum(axis=0)
        points = self._candidates(boxes, guide, asked)
        return BoundedBoxes(boxes, refuted, ties, self._cut(boxes, guide.score), points, guide.carried)

    def _known(self, known: Array) -> list[tuple[Array, Array]]:
        """Bounds of all neurons, (b, 2, n), layer by layer."""
        ends = pairwise(self.ledger.offsets.tolist())
        return [(known[:, 0, start:stop], known[:, 1, start:stop]) for start, stop in ends]

    def _cut(self, boxes: Boxes, score: Array) -> Index:
        """The input at which to cut each box, (b,); -1 where there is none that can be."""
        wide = width(boxes.lower, boxes.upper)
        able = (wide > self.finest) & divisible(boxes.lower, boxes.upper)
        with np.errstate(over="ignore"):
            gain = np.nan_to_num(score) * wide + 1e-12 * wide
        cut = best(gain, able)
        return np.where(cut < 0, cut, self._balanced(np.where(able, wide, 0.0), cut))

    def _balanced(self, width: Array, cut: Index) -> Index:
        """The inputs to cut, (b,), and in their place those in a polytope's rows that are much wider by now.

        The bounds' slopes do not show what an input does by the rows: where multipliers are not the best, the gap can
        be in an input whose slope they have made zero.
        """
        if self.rows is None:
            return cut
        with np.errstate(over="ignore"):
            share = np.minimum(width / np.maximum(self.finest, 1e-300), MOST)
        wide = np.where((self.rows[0] != 0).any(axis=0), share, 0.0).argmax(axis=1)
        each = np.arange(len(cut))
        return np.where(share[each, wide] > ASPECT * share[each, cut], wide, cut)

    def _candidates(self, boxes: Boxes, guide: _Guide, asked: Index) -> Array:
        """Centres and likely maximisers that show something pending."""
        centre = middle(boxes.lower, boxes.upper)
        points = self.pull(np.concatenate([centre, np.where(guide.direction > 0, boxes.upper, boxes.lower)]))
        pre = np.concatenate(self.problem.network.pre_activations(points), axis=1)[:, self.flat[asked]]
        shows = np.where(self.side[asked] == POSITIVE, pre > 0, pre < 0)
        shows &= np.concatenate([boxes.mask[:, asked]] * 2)
        return points[shows.any(axis=1)]

    def _digest(self, outcome: BoundedBoxes) -> None:
        boxes, refuted = outcome.boxes, outcome.refuted
        self.n_boxes += len(boxes)
        self.ties += outcome.ties
        if len(outcome.points):
            self.problem.falsifier.witnesser.offer(outcome.points, self.by)
        left = boxes.mask & ~refuted
        open_ = left.any(axis=1)
        cut = outcome.cut >= 0
        # A box too small to cut keeps its questions open for good: it leaves the stack and stays counted.
        halves = open_ & cut
        if self.proof is not None:
            cuts, corners = np.where(halves, outcome.cut, -1), (boxes.lower, boxes.upper)
            record = Batch(boxes.number, corners, refuted, cuts, outcome.carried)
            record_boxes(self.proof, record, first=self.n_numbers)
        self.problem.leaves[self.side, self.flat] += (boxes.mask & refuted).sum(axis=0)
        self._count(boxes.mask, left, halves)
        if halves.any():
            known = None if boxes.known is None else boxes.known[halves]
            parents = Boxes(boxes.lower[halves], boxes.upper[halves], left[halves], boxes.number[halves], known)
            self.stack.append(_halve(parents, outcome.cut[halves], self.n_numbers))
            self.n_numbers += 2 * len(parents)

    def _count(self, before: Mask, after: Mask, halves: Mask) -> None:
        """Keep the number of boxes on which each question is pending; refute those that come to none."""
        had = self.counts > 0
        self.counts -= (before & ~after).sum(axis=0)
        self.counts += after[halves].sum(axis=0)
        for side in SIDES:
            done = had & (self.counts == 0) & (self.side == side)
            if done.any() and self.proof is not None:
                self.proof.write("cut", {"by": self.by}, {"done": np.flatnonzero(done).astype("<u4")})
            if done.any():
                self.ledger.refute(self.part, side, self.flat[done], self.by, rigorous=True)


class _Guide:
    """Gathers, from the slopes of linear upper bounds, which input to cut and where a maximum may lie.

    An input's score is how far its width moves the bounds of undecided neurons, as a share of their range; those
    with pending questions count twice. Pending questions alone would not do: what keeps their bounds loose
    may depend on inputs that their own slopes hardly show.
    """

    def __init__(self, network: Network, offsets: Index, mask: Mask, flat: Index, side: Index) -> None:
        self.offsets = offsets
        self.wanted = np.zeros((2, len(mask), network.n_neurons), dtype=bool)
        self.wanted[side, :, flat] = mask.T
        self.score = np.zeros((len(mask), network.n_inputs))
        self.direction = np.zeros((len(mask), network.n_inputs))
        self.carried = np.zeros(network.n_neurons, dtype=bool)

    def watch(self, found: Bounded) -> None:
        """See `crown_layers`."""
        neurons = found.rows + self.offsets[found.layer]
        self.carried[neurons] = True
        wanted = self.wanted[[POSITIVE, NEGATIVE]][:, found.parts, neurons]
        upper, negated = found.bounds
        boxes, starts = np.unique(found.parts, return_index=True)
        with np.errstate(over="ignore", invalid="ignore"):
            share = np.where((upper > 0) & (negated > 0), 1.0 / np.maximum(upper + negated, 1e-300), 0.0)
            weight = (1.0 + wanted) * share
            moved = (weight[:, :, None] * np.abs(found.slopes)).sum(axis=0)
            self.score[boxes] += np.add.reduceat(moved, starts, axis=0)
            if wanted.any():
                self.direction[boxes] += np.add.reduceat(
                    (wanted[:, :, None] * found.slopes).sum(axis=0), starts, axis=0
                )


def _join(a: Boxes, b: Boxes) -> Boxes:
    known = None if a.known is None or b.known is None else np.concatenate([a.known, b.known])
    return Boxes(
        np.concatenate([a.lower, b.lower]),
        np.concatenate([a.upper, b.upper]),
        np.concatenate([a.mask, b.mask]),
        np.concatenate([a.number, b.number]),
        known,
    )


def _halve(boxes: Boxes, cut: Index, first: int) -> Boxes:
    """Both halves of each box, numbered from ``first``; they share the face between them, so that nothing is lost."""
    left_upper, right_lower = halves(boxes.lower, boxes.upper, cut)
    return Boxes(
        np.concatenate([boxes.lower, right_lower]),
        np.concatenate([left_upper, boxes.upper]),
        np.concatenate([boxes.mask, boxes.mask]),
        np.arange(first, first + 2 * len(boxes), dtype="<u4"),
        None if boxes.known is None else np.concatenate([boxes.known, boxes.known]),
    )
