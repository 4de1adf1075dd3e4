"""The largest ``|A(x) - B(x)|`` on a part of the domain from both sides: points from below, boxes from above.

Boxes wait in batches of neighbours, those with the largest bound first; a batch is bounded at once
(`stablenet.equivalence.difference`), and what is not settled is halved at the input that makes most of the gap of its
worst output: the relaxations' gaps, weighted by what they add to this bound, are shared out to the inputs that leave
their neurons undecided (in the spirit of Bunel et al., JMLR 2020, section on smart branching). The bound that holds for
the part is at all times the largest among the boxes that wait and those that are settled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.deadline import Deadline
from stablenet.core.network import Network
from stablenet.domain.halving import guided, halves, middle, width
from stablenet.domain.regions import Part
from stablenet.equivalence.aligned import Aligned, aligned, batch_of
from stablenet.equivalence.counterexample import Seeker
from stablenet.equivalence.difference import DifferenceBounds, DifferenceSystem
from stablenet.equivalence.joint import Joint, Pairing

SPLIT_INPUTS = 24
"""More inputs of positive width than this are not cut: the number of boxes would explode."""

MOST_BOXES = 20_000
"""Boxes of a part that are bounded before a MILP is asked, where no time limit is given."""

FIRST_BOXES = 500
"""Boxes of a part that are bounded before gradient steps seek a counterexample."""

RATIO = 1.1
"""A range of the largest difference is close enough when its upper end is no more than this multiple of the lower."""

RANGE_RATIO, RANGE_BOXES = 2.0, 2000
"""The same, and the boxes spent, where a difference was found and no tolerance was asked for."""

JOINT_BYTES = 96 * 2**20

TRIED = 4
"""Points of a batch that are certified, those with the largest differences."""

CLIMBS = 16
"""Batches after which the best points of a batch are raised by gradient steps."""


Bounder = Callable[[Array, Array], DifferenceBounds]
"""Bounds of ``A(x) - B(x)`` on boxes, given by their lower and upper corners, (parts, n_inputs) each."""


def aligned_bounder(pair: Aligned) -> tuple[Bounder, int]:
    """The bounds of `DifferenceSystem`, and how many boxes to give at once."""
    return lambda low, high: DifferenceSystem(pair, low, high).bounds(), batch_of(pair)


def joint_bounder(a: Network, b: Network, pairing: Pairing) -> tuple[Bounder, int]:
    """The bounds of `Joint`, for networks of any structure, and how many boxes to give at once."""

    def bounds(low: Array, high: Array) -> DifferenceBounds:
        joint = Joint(a, b, pairing, low=low, high=high)
        lower, upper = joint.run()  # of B - A
        lost = np.isnan(lower) | np.isnan(upper)
        influence = joint.system.influence
        share = influence / np.maximum(influence.max(axis=1, keepdims=True), 1e-300)
        gain = width(low, high) * (np.nan_to_num(share) + 0.05)
        return DifferenceBounds(np.where(lost, -np.inf, -upper), np.where(lost, np.inf, -lower), None, gain)

    per_box = 8 * 12 * (sum(a.source_sizes) + sum(b.source_sizes)) * max(a.n_outputs, 50)
    return bounds, int(np.clip(JOINT_BYTES // per_box, 8, 512))


def bounder_of(a: Network, b: Network, pairing: Pairing, *, wide: bool) -> tuple[Bounder, int] | None:
    """The best bounds for the two structures; None where these are `Joint`'s and the domain is too ``wide`` to cut."""
    pair = aligned(a, b, pairing)
    if pair is not None:
        return aligned_bounder(pair)
    return None if wide else joint_bounder(a, b, pairing)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes, (n, n_inputs) twice, the bound of each, (n,), the input to halve, (n,), and their numbers, (n,)."""

    lower: Array
    upper: Array
    bound: Array
    cut: Index
    number: Index

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, rows: Mask | slice) -> Boxes:
        """Some of them."""
        return Boxes(self.lower[rows], self.upper[rows], self.bound[rows], self.cut[rows], self.number[rows])

    @property
    def middle(self) -> Array:
        """Where each is halved, (n,)."""
        rows = np.arange(len(self))
        return middle(self.lower[rows, self.cut], self.upper[rows, self.cut])

    def halves(self, first: int) -> Boxes:
        """Both halves of each, with its bound and numbers from ``first`` on; they share a face. Halves of one box are
        neighbours in the list.
        """
        left, right = halves(self.lower, self.upper, self.cut)
        shape = (2 * len(self), self.lower.shape[1])
        return Boxes(
            np.stack([self.lower, right], axis=1).reshape(shape),
            np.stack([left, self.upper], axis=1).reshape(shape),
            np.repeat(self.bound, 2),
            np.repeat(self.cut, 2),
            first + np.arange(2 * len(self)),
        )


@dataclass(frozen=True, eq=False)
class Halving:
    """Boxes by their numbers, the input and the place where each is halved, (n,) each; halves are numbered in pairs,
    lower then upper, from ``first`` on.
    """

    number: Index
    axis: Index
    at: Array
    first: int


@dataclass(eq=False)
class DifferenceSearch:
    """The search on one part. ``tolerance`` is what shall be proven or disproven; None asks for the range.

    Without a tolerance boxes are settled once their bound is at most ``ratio`` times the largest difference seen.
    ``upper`` is the proven bound, valid at any time; ``n_boxes`` counts the boxes bounded; ``halvings`` tell how the
    part, box 0, was cut.
    """

    bounder: Bounder
    part: Part
    seeker: Seeker
    batch: int
    tolerance: float | None
    ratio: float = 1.1
    threads: int = 1
    n_boxes: int = 0
    n_batches: int = 0
    settled: float = 0.0
    pushed: int = 0
    heap: list[tuple[float, int, Boxes]] = field(default_factory=list)
    halvings: list[Halving] = field(default_factory=list)

    def __post_init__(self) -> None:
        low, high = self.part.lower[None], self.part.upper[None]
        none = np.zeros(1, np.intp)
        boxes, points = self._bounded(Boxes(low, high, np.full(1, np.inf), none, none))
        self._add(boxes)
        self._offer(points)

    @property
    def upper(self) -> float:
        """The proven bound on the part."""
        return max(self.settled, -self.heap[0][0] if self.heap else 0.0)

    @property
    def goal(self) -> float:
        """Boxes with a bound up to this are settled."""
        if self.tolerance is not None:
            return self.tolerance
        return 0.0 if self.seeker.best is None else self.ratio * self.seeker.best.difference

    def run(self, deadline: Deadline, most_boxes: float, stop: Callable[[], bool]) -> bool:
        """Halve boxes until all are settled; False if time, boxes or ``stop`` ended it before."""
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            while self.upper > self.goal:
                if not self.heap or deadline.over or self.n_boxes >= most_boxes or stop():
                    return False
                batches = self._next()
                for boxes, points in pool.map(self._halved, batches, [self._note(batch) for batch in batches]):
                    self._add(boxes)
                    self._offer(points)
        return True

    def _next(self) -> list[Boxes]:
        """Up to a batch for each thread, of boxes whose bound is above the goal."""
        batches: list[Boxes] = []
        while self.heap and len(batches) < max(1, self.threads):
            found: list[Boxes] = []
            while self.heap and sum(map(len, found)) < max(1, self.batch // 2):
                boxes = heapq.heappop(self.heap)[2]
                open_ = boxes.bound > self.goal
                self.settled = max(self.settled, float(boxes.bound[~open_].max(initial=0.0)))
                if open_.any():
                    found.append(boxes.take(open_))
            if not found:
                break
            boxes = _joined(found)
            size = max(1, self.batch // 2)
            for start in range(size, len(boxes), size):
                self._push(boxes.take(slice(start, start + size)))
            batches.append(boxes.take(slice(0, size)))
        return batches

    def _note(self, boxes: Boxes) -> int:
        """Keep how boxes will be halved; the number of their first half."""
        last = self.halvings[-1] if self.halvings else None
        first = 1 if last is None else last.first + 2 * len(last.number)
        self.halvings.append(Halving(boxes.number, boxes.cut, boxes.middle, first))
        return first

    def _halved(self, boxes: Boxes, first: int) -> tuple[Boxes, Array]:
        return self._bounded(boxes.halves(first))

    def _bounded(self, boxes: Boxes) -> tuple[Boxes, Array]:
        """The boxes with bounds of their own, and points where the difference may be large; no state is touched."""
        found = self.bounder(boxes.lower, boxes.upper)
        bound = np.fmin(found.worst, boxes.bound)
        own = Boxes(boxes.lower, boxes.upper, bound, guided(boxes.lower, boxes.upper, found.gain), boxes.number)
        return own, self._points(boxes, found)

    def _points(self, boxes: Boxes, found: DifferenceBounds) -> Array:
        """Centres and the corners that the worst output's linear bounds point to: those that differ most."""
        both = np.nan_to_num(np.concatenate([found.upper, -found.lower], axis=1), nan=np.inf)
        centre = middle(boxes.lower, boxes.upper)
        if not both.shape[1]:
            return centre[:0]
        points = centre
        if found.slopes is not None:
            slope = found.slopes[np.arange(len(boxes)), both.argmax(axis=1)]
            points = np.concatenate([centre, np.where(slope > 0, boxes.upper, boxes.lower)])
        value = np.abs(self.seeker.a.forward(points) - self.seeker.b.forward(points)).max(axis=1)
        return points[np.argsort(-np.nan_to_num(value), kind="stable")[:TRIED]]

    def _offer(self, points: Array) -> None:
        self.n_batches += 1
        self.seeker.offer(points)
        if self.n_batches % CLIMBS == 1:
            self.seeker.climb_from(points, self.part)

    def _add(self, boxes: Boxes) -> None:
        """Keep what is not settled, in batches; boxes that no number of float64 divides are settled as they are."""
        self.n_boxes += len(boxes)
        done = (boxes.bound <= self.goal) | (boxes.cut < 0)
        self.settled = max(self.settled, float(boxes.bound[done].max(initial=0.0)))
        left = boxes.take(~done)
        order = np.argsort(-left.bound, kind="stable")
        # Halves go apart where their bounds do, so that a batch is as good as its best.
        half = len(left) // 2
        for rows in (np.sort(order[:half]), np.sort(order[half:])):
            if len(rows):
                mask = np.zeros(len(left), bool)
                mask[rows] = True
                self._push(left.take(mask))

    def _push(self, boxes: Boxes) -> None:
        self.pushed += 1  # breaks ties of the bound
        heapq.heappush(self.heap, (-float(boxes.bound.max()), self.pushed, boxes))


def _joined(found: list[Boxes]) -> Boxes:
    return Boxes(
        np.concatenate([boxes.lower for boxes in found]),
        np.concatenate([boxes.upper for boxes in found]),
        np.concatenate([boxes.bound for boxes in found]),
        np.concatenate([boxes.cut for boxes in found]),
        np.concatenate([boxes.number for boxes in found]),
    )
