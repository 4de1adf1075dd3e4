"""A part of the domain cut into boxes: refuted on the part is what is refuted on boxes that make up all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import CHOSEN, Array, Index, Mask
from stablenet.check.duality import Boxes, Map, layer_bounds
from stablenet.check.polytope import narrowed
from stablenet.core.proof_records import Record
from stablenet.domain.regions import Part

Known = tuple[list[Array], list[Array]]
Asked = tuple[Index, Array, Mask]
NONE = 2**32 - 1  # no axis, no child
DEPTH = 4  # times that a box is halved on which bounds fail: a run may have had better ones from its other boxes


class Cuts:
    """The boxes of one cutting. ``flat`` and ``sign`` are its questions, ``wanted`` those that it claims to refute;
    ``known`` are bounds proven on the part, lower and upper ones by layer; ``depth`` says how often a box is halved.
    """

    def __init__(self, maps: Sequence[Map], part: Part, known: Known, asked: Asked, depth: int) -> None:
        self.maps, self.part, self.known, self.depth = maps, part, known, depth
        self.flat, self.sign, self.wanted = asked
        self.offsets = np.cumsum([0, *(owner.size for owner in maps)])
        self.width = np.maximum(part.upper - part.lower, 1e-300)
        self.waiting = {0: (part.lower, part.upper)}  # boxes made by a cut that no record has named yet
        self.made = 1
        self.nodes: list[tuple[Index, Index, Index, Mask]] = []

    def add(self, record: Record) -> None:
        """Boxes, each with where it is cut and the questions refuted on it; these are looked into at once."""
        box = record.indices("box", None, NONE)
        n = len(box)
        axis, at = record.indices("axis", n, NONE + 1), record.numbers("at", n)
        left, right = record.indices("left", n, NONE + 1), record.indices("right", n, NONE + 1)
        packed = record.indices("refuted", n * -(-len(self.flat) // 8), 256).reshape(n, -1).astype(np.uint8)
        claimed = np.unpackbits(packed, axis=1, count=len(self.flat)).astype(bool) & self.wanted
        bits = record.indices("carried", -(-int(self.offsets[-1]) // 8), 256).astype(np.uint8)
        self.carried = np.flatnonzero(np.unpackbits(bits, count=int(self.offsets[-1])))
        if len(set(box.tolist())) < n or not self.waiting.keys() >= set(box.tolist()):
            raise record.fail("a box comes from no cut, or is there twice")
        ends = [self.waiting.pop(number) for number in box.tolist()]
        lower, upper = (np.array([end[side] for end in ends]).reshape(n, self.part.n_inputs) for side in (0, 1))
        empty = np.zeros(n, bool)
        if self.part.a is not None and self.part.b is not None:
            lower, upper, empty = narrowed(lower, upper, self.part.a, self.part.b)
        cut = axis < self.part.n_inputs
        for i in np.flatnonzero(cut).tolist():
            # Whatever the place, the two boxes make up the one that is cut. Each has a number of its own.
            low, high = lower[i].copy(), upper[i].copy()
            high[axis[i]], low[axis[i]] = at[i], at[i]
            halves = {int(left[i]): (lower[i], high), int(right[i]): (low, upper[i])}
            fresh = len(halves) == 2 and not halves.keys() & self.waiting.keys()
            if not (fresh and self.made <= min(halves) <= max(halves) < NONE):
                raise record.fail("numbers of boxes have to be new, and rise")
            self.waiting |= halves
        self.made = max([self.made, *(1 + right[cut]), *(1 + left[cut])])
        refuted = claimed & empty[:, None]
        needed = np.flatnonzero(claimed.any(axis=1) & ~empty)
        refuted[needed] = self._refuted(lower[needed], upper[needed], claimed[needed], self.depth)
        self.nodes.append((box, np.where(cut, left, NONE), np.where(cut, right, NONE), refuted))

    def _refuted(self, lower: Array, upper: Array, asked: Mask, depth: int) -> Mask:
        """Which of the questions asked are refuted on boxes; where bounds do not do it, on both halves of a box."""
        found, again = np.zeros_like(asked), np.arange(len(lower))
        for slices in (1, CHOSEN):  # where coarse numbers do, they cost less
            if len(again):
                found[again] |= self._bound(lower[again], upper[again], asked[again] & ~found[again], slices)
            left = asked & ~found
            again = np.flatnonzero(left.any(axis=1))
        if depth and len(again):
            axis = ((upper - lower)[again] / self.width).argmax(axis=1)
            low, high, each = lower[again].copy(), upper[again].copy(), np.arange(len(again))
            high[each, axis] = low[each, axis] = 0.5 * (lower + upper)[again, axis]
            lows, highs = np.concatenate([lower[again], low]), np.concatenate([high, upper[again]])
            halves = self._refuted(lows, highs, np.concatenate([left[again], left[again]]), depth - 1)
            found[again] |= halves[: len(again)] & halves[len(again) :]
        return found

    def _bound(self, lower: Array, upper: Array, asked: Mask, slices: int) -> Mask:
        """Which questions bounds refute, (boxes, questions), of those asked on any of the boxes."""
        which = np.flatnonzero(asked.any(axis=0))
        layers = np.searchsorted(self.offsets, self.flat[which], side="right") - 1
        boxes, found = Boxes(self.maps, lower, upper, self.part), np.zeros_like(asked)
        boxes.slices = slices
        for k in range(int(layers.max()) + 1):
            here = which[layers == k]
            neurons = self.flat[here] - self.offsets[k]
            inside = (self.carried >= self.offsets[k]) & (self.carried < self.offsets[k + 1])
            rows = self.carried[inside] - self.offsets[k]
            low, high = layer_bounds(boxes, k, np.intersect1d(rows, neurons) if k == layers.max() else rows)
            low, high = np.maximum(low, self.known[0][k]), np.minimum(high, self.known[1][k])
            boxes.ends.append((low, high))
            found[:, here] = np.where(self.sign[here] > 0, high[:, neurons] <= 0, low[:, neurons] >= 0)
        return found

    def proven(self, done: Index) -> Index:
        """Those of some questions that are refuted on boxes which make up the part."""
        covered: dict[int, npt.NDArray[np.uint8]] = {}
        nothing = np.packbits(np.zeros(len(done), bool))
        for box, left, right, refuted in reversed(self.nodes):
            packed = np.packbits(refuted[:, done], axis=1)
            for i, number in enumerate(box.tolist()):
                both = covered.get(int(left[i]), nothing) & covered.get(int(right[i]), nothing)
                covered[number] = packed[i] | both
        return np.asarray(done[np.unpackbits(covered.get(0, nothing), count=len(done)).astype(bool)])
