"""A part of the domain cut into boxes: a question is refuted on the part where it is on boxes that make up all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import Array
from stablenet.check.duality import Boxes, Index, Map, layer_bounds
from stablenet.check.polytope import narrowed
from stablenet.check.proof_file import Record
from stablenet.domain.regions import Part

Mask = npt.NDArray[np.bool_]

NONE = 2**32 - 1
"""Stands for no axis, and no child."""

DEPTH = 4
"""Times that a box is halved on which bounds fail: they may rest on others than those of the run that wrote the proof."""

ENTRIES = 2**22
"""Numbers in the coefficients of the boxes that are bounded together, about."""


class Cuts:
    """The boxes of one cutting. ``flat`` and ``sign`` are its questions, ``wanted`` those that it claims to refute."""

    def __init__(self, maps: Sequence[Map], part: Part, flat: Index, sign: npt.NDArray[np.int64], wanted: Mask) -> None:
        self.maps, self.flat, self.sign, self.wanted = maps, flat, sign, wanted
        sizes = [owner.affine.size for owner in maps]
        self.offsets = np.cumsum([0, *sizes])
        self.part = part
        self.width = np.maximum(part.upper - part.lower, 1e-300)
        self.known = {0: (np.array(part.lower), np.array(part.upper))}
        self.order: list[Index] = []
        self.children: list[tuple[Index, Index]] = []
        self.refuted: list[Mask] = []
        widest = max([part.n_inputs, *sizes])
        self.batch = max(1, ENTRIES // (2 * widest * widest))

    def add(self, record: Record) -> None:
        """Boxes, each with where it is cut and the questions refuted on it; these are looked into at once."""
        n, n_inputs = len(record.array("box", -1)), len(self.known_root())
        box = record.indices("box", n, NONE)
        axis, at = record.indices("axis", n, NONE + 1), record.numbers("at", n)
        left, right = record.indices("left", n, NONE + 1), record.indices("right", n, NONE + 1)
        packed = record.indices("refuted", n * -(-len(self.flat) // 8), 256).reshape(n, -1).astype(np.uint8)
        claimed = np.unpackbits(packed, axis=1, count=len(self.flat)).astype(bool) & self.wanted
        missing = [b for b in box.tolist() if b not in self.known]
        if missing or len(np.unique(box)) < n:
            raise record.fail(f"boxes {missing[:3]} come from no cut, or are there twice")
        lower = np.array([self.known[b][0] for b in box.tolist()]).reshape(n, n_inputs)
        upper = np.array([self.known[b][1] for b in box.tolist()]).reshape(n, n_inputs)
        empty = np.zeros(n, bool)
        if self.part.a is not None and self.part.b is not None:
            lower, upper, empty = narrowed(lower, upper, self.part.a, self.part.b)
        for i in np.flatnonzero(axis < n_inputs).tolist():
            # Whatever the place, the two boxes make up the one that is cut.
            low, high = lower[i].copy(), upper[i].copy()
            high[axis[i]], low[axis[i]] = at[i], at[i]
            for child, ends in ((int(left[i]), (lower[i], high)), (int(right[i]), (low, upper[i]))):
                if child in self.known or child == NONE:
                    raise record.fail(f"box {child} is there twice")
                self.known[child] = ends
        for b in box.tolist():
            if b:
                self.known[b] = (np.zeros(0), np.zeros(0))  # seen: it must not come again
        refuted = np.zeros_like(claimed)
        refuted[empty] = claimed[empty]
        needed = np.flatnonzero(claimed.any(axis=1) & ~empty)
        for start in range(0, len(needed), self.batch):
            some = needed[start : start + self.batch]
            refuted[some] = self._refuted(lower[some], upper[some], claimed[some], DEPTH)
        none = axis >= n_inputs
        self.order.append(box)
        self.children.append((np.where(none, NONE, left), np.where(none, NONE, right)))
        self.refuted.append(refuted)

    def known_root(self) -> Array:
        """The root's lower corner."""
        return self.known[0][0]

    def _refuted(self, lower: Array, upper: Array, asked: Mask, depth: int) -> Mask:
        """Which of the questions asked are refuted on boxes; where bounds do not do it, on both halves of a box."""
        found = asked & self._bound(lower, upper, asked)
        left = asked & ~found
        again = np.flatnonzero(left.any(axis=1))
        if depth and len(again):
            axis = ((upper - lower)[again] / self.width).argmax(axis=1)
            low, high = lower[again].copy(), upper[again].copy()
            each = np.arange(len(again))
            high[each, axis] = low[each, axis] = 0.5 * (lower + upper)[again, axis]
            lows, highs = np.concatenate([lower[again], low]), np.concatenate([high, upper[again]])
            halves = self._refuted(lows, highs, np.concatenate([left[again], left[again]]), depth - 1)
            found[again] |= halves[: len(again)] & halves[len(again) :]
        return found

    def _bound(self, lower: Array, upper: Array, asked: Mask) -> Mask:
        """Which of the questions asked bounds refute, (boxes, questions)."""
        which = np.flatnonzero(asked.any(axis=0))
        layers = np.searchsorted(self.offsets, self.flat[which], side="right") - 1
        boxes = Boxes(self.maps, lower, upper, self.part)
        found = np.zeros_like(asked)
        last = int(layers.max())
        for k in range(last + 1):
            here = which[layers == k]
            neurons = self.flat[here] - self.offsets[k]
            low, high = layer_bounds(boxes, k, neurons if k == last else None)
            boxes.push(low, high)
            found[:, here] = np.where(self.sign[here] > 0, high[:, neurons] <= 0, low[:, neurons] >= 0)
        return found

    def proven(self, done: Index) -> Index:
        """Those of some questions that are refuted on boxes which make up the part."""
        if not self.order:
            return done[:0]
        order = np.concatenate(self.order)
        left = np.concatenate([pair[0] for pair in self.children])
        right = np.concatenate([pair[1] for pair in self.children])
        refuted = np.concatenate(self.refuted)[:, done]
        covered: dict[int, npt.NDArray[np.uint8]] = {}
        nothing = np.packbits(np.zeros(len(done), bool))
        packed = np.packbits(refuted, axis=1)
        for i in range(len(order) - 1, -1, -1):
            both = covered.pop(int(left[i]), nothing) & covered.pop(int(right[i]), nothing)
            covered[int(order[i])] = packed[i] | both
        whole = np.unpackbits(covered.get(0, nothing), count=len(done)).astype(bool)
        return done[whole]
