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
from dataclasses import dataclass

import numpy as np

from stablenet.check.arithmetic import CHOSEN, SLACK, Array, Enclosure, ExactMatrix, Index, Slices, row_sum, sum_up, up
from stablenet.check.polytope import row_duals
from stablenet.check.rational import exact_maximum
from stablenet.core.network import AffineMap
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


class Map:
    """An affine map of the network, ready for exact products; the offset goes with its first term."""

    def __init__(self, affine: AffineMap) -> None:
        self.affine, self.size = affine, affine.size
        longest = max((n + 1 for term in affine.terms for n in term.matrix.shape), default=1)
        terms = enumerate(affine.terms)
        self.terms = [(t.source, ExactMatrix(t.matrix, affine.offset * (i == 0), longest)) for i, t in terms]


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
        shape = (len(self.ends[0][0]), owner.size, 1)
        values = [] if owner.terms else [np.broadcast_to(owner.affine.offset[:, None], shape)]
        reaches, error = [], np.zeros((shape[0], 1))
        for source, matrix in owner.terms:
            low, high = posts[source]
            centre = 0.5 * low + 0.5 * high
            middle = matrix.forward(centre)
            spread = matrix.forward(np.maximum(up(high - centre), up(centre - low)), absolute=True)
            values.append(middle.value[..., None])
            reaches += [spread.value[..., None], middle.error[..., None], spread.error[..., None]]
            error = up(error + up(middle.error + spread.error))
        upper, lower = sum_up(values + reaches), -sum_up([-value for value in values] + reaches)
        for bound, sign in ((upper, 1), (lower, -1)):
            doubtful = (sign * bound > 0) & (sign * bound <= 4.0 * error + DOUBT * (np.abs(lower) + np.abs(upper)))
            for part, row in np.argwhere(doubtful & np.isfinite(lower + upper)):
                ends = [(low[part], high[part]) for low, high in posts]
                bound[part, row] = sign * exact_maximum(owner.affine, int(row), sign, ends)
        return lower, upper

    def bound(self, layer: int, rows: Index, signs: Array, choices: Choices | None = None) -> Array:
        """Upper bounds of ``signs`` times rows of a layer, all before it pushed: (parts, rows)."""
        owner = self.maps[layer]
        state = _Row([(signs * owner.affine.offset[rows])[None, :, None]])
        for source, matrix in owner.terms:
            state.add(source, Enclosure((signs[:, None] * matrix.rows(rows))[None], np.zeros((1, 1, 1))))
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
                chosen = Slices.of(-duals, self.rows.bits, CHOSEN)
                state.through(0, self.rows, chosen, None, -1.0)
        inputs = state.coefficients.get(0)
        if inputs is not None:
            state.constants.append(row_sum(np.maximum(inputs.value * low, inputs.value * high), 1))
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
        kept = np.flatnonzero(~(self.ends[k + 1][1] <= 0).all(axis=0) | (False if of[1] is None else of[1].any(axis=0)))
        low, high = (end[:, None, kept] for end in self.ends[k + 1])
        slope, shift, phase = (None if choice is None else choice[:, kept] for choice in of)
        post = Enclosure(post.value[..., kept], post.error)
        nu = _usual(post.value, low, high, slope, phase)
        if shift is not None:
            nu = nu - shift
        if phase is not None:
            low = np.where(phase > 0, np.maximum(low, 0.0), low)
            high = np.where(phase < 0, np.minimum(high, 0.0), high)
        chosen = Slices.of(nu, owner.terms[0][1].bits if owner.terms else 20, self.slices)
        nu = np.asarray(sum(chosen.pieces))  # exact
        steep = post.value - nu
        # A max(g, 0) - nu g at both ends: one of the two terms is 0, so these are two roundings.
        most = np.where((low <= 0) & (high >= 0), 0.0, -np.inf)
        for end in (low, high):
            most = np.maximum(most, steep * np.maximum(end, 0.0) - nu * np.minimum(end, 0.0))
        state.constants += [row_sum(most, 2), _spread(post.error, np.maximum(high, 0.0))]
        if not owner.terms:
            state.constants.append(row_sum(nu * owner.affine.offset[kept], 1))
        for source, matrix in owner.terms:
            state.through(source, matrix, chosen, kept, 1.0)


def _spread(error: Array, most: Array) -> Array:
    """Upper bounds of what errors of coefficients, (parts or 1, rows, 1), can add over quantities up to ``most``."""
    total = most.sum(axis=-1, keepdims=True) * (1.0 + (most.shape[-1] + 2) * SLACK)
    return np.asarray(up(error * total) + np.where(error * total < TINY, TINY, 0.0) * (error > 0))


class _Row:
    """Rows on their way back: coefficients on sources, and the terms of their constants."""

    def __init__(self, constants: list[Array]) -> None:
        self.coefficients: dict[int, Enclosure] = {}
        self.constants = constants

    def add(self, source: int, value: Enclosure) -> None:
        known = self.coefficients.get(source)
        self.coefficients[source] = value if known is None else known.plus(value)

    def through(self, source: int, matrix: ExactMatrix, nu: Slices, kept: Index | None, offset: float) -> None:
        """Add ``nu [matrix | offset]`` over rows (None: all); ``offset`` is the sign of the last."""
        product = matrix.back(Slices(nu.pieces, nu.exponent, rest=False), kept)
        self.add(source, Enclosure(product.value[..., :-1], product.error))
        self.constants += [offset * product.value[..., -1:], product.error]


def _usual(post: Array, low: Array, high: Array, slope: Array | None, phase: Array | None) -> Array:
    """The coefficients that the relaxation of least area, or with the given lower slopes, passes on."""
    open_ = (low < 0) & (high > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(open_, np.clip(high / (high - low), 0.0, 1.0), high > 0)
    below = np.where(open_, high > -low if slope is None else slope, high > 0)
    if phase is not None:
        above, below = (np.where(phase == 0, free, phase > 0) for free in (above, below))
    return np.asarray(post * np.where(post < 0, below, above))


def layer_bounds(boxes: Boxes, layer: int, rows: Index | None = None, *, intervals_only: bool = False) -> Ends:
    """Intervals of a layer, (parts, n) each, and for some rows (None: those that intervals leave undecided) bounds by
    duality with the usual choices.
    """
    lower, upper = boxes.interval(layer)
    asked = np.flatnonzero(~((lower >= 0) | (upper <= 0)).all(axis=0)) if rows is None else rows
    if intervals_only or not len(asked) or (layer == 0 and boxes.rows is None):
        return lower, upper
    widest = max(boxes.ends[0][0].shape[1], *(owner.size for owner in boxes.maps))
    size = len(asked) * 2 * 8 * widest * len(lower)
    for chunk in np.array_split(asked, min(len(asked), -(-size // MEMORY))):
        signs = np.repeat([1.0, -1.0], len(chunk))
        found = boxes.bound(layer, np.concatenate([chunk, chunk]), signs)
        upper[:, chunk] = np.minimum(upper[:, chunk], found[:, : len(chunk)])
        lower[:, chunk] = np.maximum(lower[:, chunk], -found[:, len(chunk) :])
    return lower, upper
