"""Upper bounds by weak duality, the only bounds of the checker.

To bound a row ``c + sum of A h`` over inputs x of a box, where ``g = W h + b`` and ``h = max(g, 0)`` layer by layer,
any number nu may be chosen for every neuron and ``nu (W h + b - g) = 0`` added. Then nothing ties the neurons together
any more, and the largest value is at most the sum of what each can add by itself: ``max (A max(g, 0) - nu g)`` over its
interval ``[l, u]``, which is attained at l, at u or at 0, plus ``max A x`` over the box. That holds for any nu: slopes
of relaxations and multipliers of splits are just ways to choose it. A neuron held to a phase has a shorter interval,
and rows ``a x <= b`` of a polytope come in with multipliers ``y >= 0`` in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.check.arithmetic import (
    CHOSEN,
    SLACK,
    Array,
    Enclosure,
    ExactMatrix,
    Index,
    Mask,
    Slices,
    row_sum,
    sum_up,
    up,
)
from stablenet.check.polytope import row_duals
from stablenet.check.rational import exact_maximum
from stablenet.core.network import AffineMap, Matrix, Term
from stablenet.domain.regions import Part

DOUBT = 2.0**-40  # a bound that misses zero by less than this share of its size is computed again in rational numbers
TINY = 2.0**-1000  # more than what underflow takes from a product
Ends = tuple[Array, Array]
MEMORY = 8 * 2**20  # bytes of the coefficients that are held at a time, about


@dataclass(frozen=True, eq=False)
class Choices:
    """What a proof may choose for rows. Per layer before theirs three arrays (rows, n), None for the usual: slopes of
    lower relaxations, shifts to subtract from nu, phases (+1, -1, 0) that hold; and ``duals`` (rows, m) of a polytope's
    rows.
    """

    layers: Sequence[Sequence[Array | None]]
    duals: Array | None


class Block:
    """A matrix and an offset that add ``matrix @ source[first:] + offset`` to the rows from ``row`` on."""

    def __init__(self, source: int, row: int, matrix: Matrix, offset: Array, first: int = 0) -> None:
        self.source, self.row, self.matrix, self.offset = source, row, matrix, offset
        self.stop, self.columns = row + len(offset), slice(first, first + matrix.shape[1])

    def prepare(self, longest: int) -> None:
        """Make the matrix ready for exact products with others of a map."""
        self.exact = ExactMatrix(self.matrix, self.offset, longest)

    def inside(self, rows: Index) -> Index:
        """Which of some rows it has."""
        return np.flatnonzero((rows >= self.row) & (rows < self.stop))


class Map:
    """An affine map as the sum of blocks. ``read`` are the rows that later maps may read."""

    def __init__(self, size: int, blocks: list[Block]) -> None:
        self.size, self.blocks, self.read = size, blocks, np.ones(size, bool)
        longest = max(n + 1 for block in blocks for n in block.matrix.shape)
        for block in blocks:
            block.prepare(longest)

    @classmethod
    def of(cls, affine: AffineMap) -> Map:
        """A network's map; the offset goes with its first term."""
        none = [Term(0, sparse.csr_array((affine.size, 0)))]
        terms = enumerate(affine.terms or none)
        return cls(affine.size, [Block(t.source, 0, t.matrix, affine.offset * (i == 0)) for i, t in terms])

    def together(self, kept: Index, low: Array, high: Array, ends: Ends) -> Any:
        """Neurons among those kept, with ends (parts, 1, kept), that are freed together; None in a map of one network.
        What it returns has `choose(post, nu)` and `bound(post, nu, most)`, which change nu and most for these in place.
        ``ends`` are those of all rows, (parts, rows).
        """
        del kept, low, high, ends
        return None

    def tighten(self, boxes: Boxes, layer: int, rows: Index | None, lower: Array, upper: Array) -> None:
        """Intersect intervals of a layer with bounds by duality of undecided rows (of some)."""
        undecided = np.asarray(~((lower >= 0) | (upper <= 0)).all(axis=0))
        by_duality(boxes, layer, some_of(undecided, rows), lower, upper)


class Boxes:
    """A batch of boxes, (parts, n_inputs), with proven intervals of the layers so far, (parts, n_k) each.

    They lie in a ``part`` of the domain, whose rows, if it has some, hold on all of them.
    """

    def __init__(self, maps: Sequence[Map], lower: Array, upper: Array, part: Part) -> None:
        self.maps, self.part = maps, part
        self.rows = None if part.a is None or part.b is None else ExactMatrix(part.a, part.b)
        self.slices = CHOSEN  # of what may be chosen: fewer cost less, and may give worse bounds
        self.ends = [(lower, upper)]  # of the input, then of pre-activations, layer by layer, as they are proven

    def interval(self, layer: int) -> Ends:
        """Intervals of a layer over those of its sources, (parts, n) each; signs of ties are exact."""
        owner = self.maps[layer]
        posts = [self.ends[0], *((np.maximum(low, 0.0), np.maximum(high, 0.0)) for low, high in self.ends[1:])]
        values, reaches, error = [], [], np.zeros((len(self.ends[0][0]), 1))
        for block in owner.blocks:
            low, high = (end[:, block.columns] for end in posts[block.source])
            centre = 0.5 * low + 0.5 * high
            middle = block.exact.forward(centre)
            spread = block.exact.forward(np.maximum(up(high - centre), up(centre - low)), absolute=True)
            values.append(_among(middle.value, block, owner.size))
            reaches += [_among(x, block, owner.size) for x in (spread.value, middle.error, spread.error)]
            error = up(error + up(middle.error + spread.error))
        upper, lower = sum_up(values + reaches), -sum_up([-value for value in values] + reaches)
        for bound, sign in ((upper, 1), (lower, -1)):
            doubtful = (sign * bound > 0) & (sign * bound <= 4.0 * error + DOUBT * (np.abs(lower) + np.abs(upper)))
            for part, row in np.argwhere(doubtful & np.isfinite(lower + upper)):
                mine = [block for block in owner.blocks if block.row <= row < block.stop]
                ends = [[end[part, block.columns] for end in posts[block.source]] for block in mine]
                rows = [block.exact.rows(np.array([row - block.row]))[0] for block in mine]
                bound[part, row] = sign * exact_maximum(rows, sign, ends)
        return lower, upper

    def bound(self, layer: int, rows: Index, signs: Array, choices: Choices | None = None) -> Array:
        """Upper bounds of ``signs`` times rows of a layer, all before it pushed: (parts, rows)."""
        state = _Row(self)
        for block in self.maps[layer].blocks:
            mine = block.inside(rows)
            chosen = np.zeros((1, len(rows), block.matrix.shape[1] + 1))
            chosen[0, mine] = signs[mine, None] * block.exact.rows(rows[mine] - block.row)
            state.add(block.source, Enclosure(chosen[..., :-1], np.zeros((1, 1, 1))), block.columns)
            state.constants.append(chosen[..., -1:])
        for k in range(layer - 1, -1, -1):
            self._free(k, state, choices)
        low, high = (end[:, None, :] for end in self.ends[0])
        if self.rows is not None and self.part.a is not None and self.part.b is not None:
            inputs = state.coefficients.get(0)
            duals = None if choices is None else choices.duals
            if choices is None and inputs is not None:
                duals = row_duals(inputs.value, low, high, self.part.a, self.part.b)
            if duals is not None:
                duals = np.maximum(duals, 0.0).reshape(-1, len(rows), duals.shape[-1])
                taken = replace(Slices.of(-duals, self.rows.bits, CHOSEN), rest=False)
                state.through(0, slice(None), self.rows.back(taken), -1.0)
        inputs = state.coefficients.get(0)
        if inputs is not None:
            most = row_sum(np.maximum(inputs.value * low, inputs.value * high), 1)
            state.constants.append(np.where(inputs.value.any(axis=-1, keepdims=True), most, 0.0))
            state.constants.append(_spread(inputs.error, np.maximum(np.abs(low), np.abs(high))))
        return np.broadcast_to(sum_up(state.constants), (len(low), len(rows)))

    def _free(self, k: int, state: _Row, choices: Choices | None) -> None:
        """Free layer k's neurons from those before: what they can add goes to the constants."""
        owner, post = self.maps[k], state.coefficients.pop(k + 1, None)
        of = (None,) * 3 if choices is None else choices.layers[k]
        if post is None and of[1] is None:
            return
        post = post or Enclosure(np.zeros((1, 1, owner.size)), np.zeros((1, 1, 1)))
        # Neurons that cannot be active add nothing where nu is 0.
        alive = ~(self.ends[k + 1][1] <= 0).all(axis=0) | (False if of[1] is None else of[1].any(axis=0))
        kept = np.flatnonzero(alive & owner.read)
        low, high = (end[:, None, kept] for end in self.ends[k + 1])
        slope, shift, phase = (None if choice is None else choice[:, kept] for choice in of)
        post = Enclosure(post.value[..., kept], post.error)
        nu = usual(post.value, low, high, slope, phase)
        if shift is not None:
            nu = nu - shift
        if phase is not None:
            low = np.where(phase > 0, np.maximum(low, 0.0), low)
            high = np.where(phase < 0, np.minimum(high, 0.0), high)
        together = owner.together(kept, low, high, self.ends[k + 1])
        if together is not None and choices is None:
            together.choose(post.value, nu)
        chosen = Slices.of(nu, owner.blocks[0].exact.bits, self.slices)
        nu = np.asarray(sum(chosen.pieces))  # exact
        steep = post.value - nu
        # A max(g, 0) - nu g at both ends: one of the two terms is 0, so these are two roundings.
        most = np.where((low <= 0) & (high >= 0), 0.0, -np.inf)
        for end in (low, high):
            most = np.maximum(most, steep * np.maximum(end, 0.0) - nu * np.minimum(end, 0.0))
        if together is not None:
            together.bound(post.value, nu, most)
        idle = ~(post.value.any(axis=-1, keepdims=True) | nu.any(axis=-1, keepdims=True))  # nothing is rounded there
        state.constants += [np.where(idle, 0.0, row_sum(most, 2)), _spread(post.error, np.maximum(high, 0.0))]
        for block in owner.blocks:
            mine = block.inside(kept)
            if len(mine):
                pieces = [x if len(mine) == len(kept) else x[..., mine] for x in chosen.pieces]
                part = Slices(pieces, chosen.exponent, rest=False)
                state.through(block.source, block.columns, block.exact.back(part, kept[mine] - block.row), 1.0)


def _among(values: Array, block: Block, size: int) -> Array:
    """Values of a block's rows, (parts, rows or 1), among all rows: (parts, size, 1)."""
    if len(block.offset) == size:
        return values[..., None]
    wide = np.zeros((len(values), size, 1))
    wide[:, block.row : block.stop, 0] = values
    return wide


def _spread(error: Array, most: Array) -> Array:
    """Upper bounds of what errors of coefficients, (parts or 1, rows, 1), can add over quantities up to ``most``."""
    total = most.sum(axis=-1, keepdims=True) * (1.0 + (most.shape[-1] + 2) * SLACK)
    return np.asarray(up(error * total) + np.where(error * total < TINY, TINY, 0.0) * (error > 0))


class _Row:
    """Rows on their way back: coefficients on sources, and the terms of their constants."""

    def __init__(self, boxes: Boxes) -> None:
        self.boxes = boxes
        self.coefficients: dict[int, Enclosure] = {}
        self.constants: list[Array] = []

    def add(self, source: int, value: Enclosure, columns: slice) -> None:
        n = self.boxes.ends[source][0].shape[1]
        if value.value.shape[-1] < n:
            wide = np.zeros((*value.value.shape[:-1], n))
            wide[..., columns] = value.value
            value = Enclosure(wide, value.error)
        known = self.coefficients.get(source)
        self.coefficients[source] = value if known is None else known.plus(value)

    def through(self, source: int, columns: slice, product: Enclosure, offset: float) -> None:
        """Add products with ``[matrix | offset]``; ``offset`` is the sign of the last."""
        self.add(source, Enclosure(product.value[..., :-1], product.error), columns)
        self.constants += [offset * product.value[..., -1:], product.error]


def usual(post: Array, low: Array, high: Array, slope: Array | None = None, phase: Array | None = None) -> Array:
    """The coefficients that the relaxation of least area, or with the given lower slopes, passes on."""
    open_ = (low < 0) & (high > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(open_, np.clip(high / (high - low), 0.0, 1.0), high > 0)
    below = np.where(open_, high > -low if slope is None else slope, high > 0)
    if phase is not None:
        above, below = (np.where(phase == 0, free, phase > 0) for free in (above, below))
    return np.asarray(post * np.where(post < 0, below, above))


def layer_bounds(boxes: Boxes, layer: int, rows: Index | None = None, *, intervals_only: bool = False) -> Ends:
    """Intervals of a layer, (parts, n) each, and for those (of some rows) that intervals leave undecided bounds by
    duality with the usual choices.
    """
    lower, upper = boxes.interval(layer)
    # Intervals over the inputs of a box are exact, if no two blocks read them.
    if not (intervals_only or (layer == 0 and boxes.rows is None and len(boxes.maps[layer].blocks) == 1)):
        boxes.maps[layer].tighten(boxes, layer, rows, lower, upper)
    return lower, upper


def some_of(wanted: Mask, rows: Index | None) -> Index:
    """The rows (of some) that are wanted."""
    return np.flatnonzero(wanted) if rows is None else rows[wanted[rows]]


def by_duality(boxes: Boxes, layer: int, asked: Index, lower: Array, upper: Array) -> None:
    """Intersect intervals of some rows with bounds by duality."""
    widest = max(boxes.ends[0][0].shape[1], *(owner.size for owner in boxes.maps))
    size = len(asked) * 2 * 8 * widest * len(lower)
    for chunk in np.array_split(asked, min(len(asked), -(-size // MEMORY))) if size else ():
        signs = np.repeat([1.0, -1.0], len(chunk))
        found = boxes.bound(layer, np.concatenate([chunk, chunk]), signs)
        upper[:, chunk] = np.minimum(upper[:, chunk], found[:, : len(chunk)])
        lower[:, chunk] = np.maximum(lower[:, chunk], -found[:, len(chunk) :])
