"""Upper bounds by weak duality: all that the checker knows about networks.

To bound a row ``c + sum of A h`` over inputs x of a box, where ``g_k = W h + b`` and ``h_k = max(g_k, 0)``, any number nu
may be chosen for every neuron and ``nu (W h + b - g) = 0`` added. Then nothing ties the neurons together any more, and the
largest value is at most the sum of what each can add by itself: ``max (A max(g, 0) - nu g)`` over its interval
``[l, u]``, which is attained at l, at u or at 0, plus ``max A x`` over the box. That holds for any nu: slopes of
relaxations and multipliers of splits are just ways to choose it. A neuron held to a phase has a shorter interval, and rows
``a x <= b`` of a polytope come in with multipliers ``y >= 0`` in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import (
    Array,
    Enclosure,
    ExactMatrix,
    exact_maximum,
    on_grid,
    sum_up,
    times_up,
    up,
)
from stablenet.check.polytope import row_duals
from stablenet.core.network import AffineMap, Network
from stablenet.domain.regions import Part

Index = npt.NDArray[np.intp]

DOUBT = 2.0**-40
"""A bound that misses zero by less than this share of its size is computed again in rational numbers."""

COUNT = 2
"""Slices of the numbers chosen: 40 bits below the largest."""


@dataclass(frozen=True, eq=False)
class Choices:
    """What a proof may choose for rows, per layer before theirs: arrays (1, rows, n), None for the usual.

    ``slopes`` of lower relaxations, ``shifts`` to subtract from nu, ``phases`` (+1, -1, 0) that hold, and ``duals``
    (1, rows, m) of a polytope's rows.
    """

    slopes: Sequence[Array | None]
    shifts: Sequence[Array | None]
    phases: Sequence[npt.NDArray[np.int8] | None]
    duals: Array | None = None


class Map:
    """An affine map of the network, ready for exact products."""

    def __init__(self, affine: AffineMap) -> None:
        self.affine = affine
        self.terms = [
            (term.source, ExactMatrix(term.matrix, affine.offset if i == 0 else np.zeros_like(affine.offset)))
            for i, term in enumerate(affine.terms)
        ]


class Boxes:
    """A batch of boxes, (parts, n_inputs), with proven intervals of the layers so far, (parts, n_k) each.

    They lie in a ``part`` of the domain, whose rows, if it has some, hold on all of them.
    """

    def __init__(self, maps: Sequence[Map], lower: Array, upper: Array, part: Part) -> None:
        self.maps = maps
        self.lower, self.upper = lower, upper
        self.part = part
        self.rows = None if part.a is None or part.b is None else ExactMatrix(part.a, part.b)
        self.lows: list[Array] = []
        self.highs: list[Array] = []

    def post(self, source: int) -> tuple[Array, Array]:
        """Intervals of a source: the input, or what a layer passes on."""
        if source == 0:
            return self.lower, self.upper
        return np.maximum(self.lows[source - 1], 0.0), np.maximum(self.highs[source - 1], 0.0)

    def interval(self, layer: int) -> tuple[Array, Array]:
        """Intervals of a layer over those of its sources, (parts, n) each; signs of ties are exact."""
        owner = self.maps[layer]
        n = owner.affine.size
        shape = (len(self.lower), n)
        if not owner.terms:
            value = np.broadcast_to(owner.affine.offset, shape)
            return value.copy(), value.copy()
        ends: list[list[Array]] = [[], []]
        for source, matrix in owner.terms:
            low, high = self.post(source)
            centre = 0.5 * low + 0.5 * high
            radius = up(np.maximum(up(high - centre), up(centre - low)))
            middle = matrix.forward(centre)
            spread = matrix.forward(radius, absolute=True)
            reach = up(up(spread.value + spread.error) + middle.error)
            for side, sign in zip(ends, (1.0, -1.0), strict=True):
                side += [(sign * middle.value)[..., None], reach[..., None]]
        upper, lower = (sum_up([np.concatenate(side, axis=-1)]) for side in ends)
        lower = -lower
        self._settle(owner.affine, lower, upper)
        return lower, upper

    def _settle(self, affine: AffineMap, lower: Array, upper: Array) -> None:
        """Bounds all but zero, again in rational numbers; in place."""
        sources = [self.post(source) for source in range(max((t.source for t in affine.terms), default=0) + 1)]
        for bound, sign in ((upper, 1), (lower, -1)):
            with np.errstate(invalid="ignore"):
                doubtful = (sign * bound > 0) & (sign * bound <= DOUBT * (np.abs(lower) + np.abs(upper) + 1e-6))
            for part, row in np.argwhere(doubtful):
                lows, highs = [low[part] for low, _ in sources], [high[part] for _, high in sources]
                if all(np.isfinite(end).all() for end in (*lows, *highs)):
                    bound[part, row] = sign * exact_maximum(affine, int(row), sign, lows, highs)

    def push(self, lower: Array, upper: Array) -> None:
        """Take intervals of the next layer as proven."""
        self.lows.append(lower)
        self.highs.append(upper)

    def bound(self, layer: int, rows: Index, signs: Array, choices: Choices | None = None) -> Array:
        """Upper bounds of ``signs`` times rows of a layer, all before it pushed: (parts, rows)."""
        owner = self.maps[layer]
        coefficients: dict[int, Enclosure] = {}
        constants = [(signs * owner.affine.offset[rows])[None, :, None]]
        for source, matrix in owner.terms:
            start = (signs[:, None] * matrix.rows(rows)[:, :-1])[None]
            _add(coefficients, source, Enclosure(start, np.zeros((1, 1, 1))))
        for k in range(layer - 1, -1, -1):
            self._through(k, coefficients, constants, choices)
        low, high = self.lower[:, None, :], self.upper[:, None, :]
        duals = self._duals(coefficients.get(0)) if choices is None else choices.duals
        if self.rows is not None and duals is not None:
            duals = on_grid(-np.maximum(duals, 0.0), self.rows.bits, COUNT)
            _enter(coefficients, constants, 0, self.rows, duals, offset=-1.0)
        inputs = coefficients.get(0)
        if inputs is not None:
            constants.append(np.maximum(times_up(inputs.value, low), times_up(inputs.value, high)))
            constants.append(times_up(inputs.error, np.maximum(np.abs(low), np.abs(high))))
        return np.broadcast_to(sum_up(constants), (len(self.lower), len(rows)))

    def _duals(self, inputs: Enclosure | None) -> Array | None:
        """The usual multipliers of the polytope's rows for coefficients on the inputs."""
        if self.part.a is None or self.part.b is None or inputs is None:
            return None
        return row_duals(inputs.value, self.lower[:, None, :], self.upper[:, None, :], self.part.a, self.part.b)

    def _through(
        self, k: int, coefficients: dict[int, Enclosure], constants: list[Array], choices: Choices | None
    ) -> None:
        """Free layer k's neurons from those before: what they can add goes to the constants."""
        known = coefficients.pop(k + 1, None)
        shift = None if choices is None else choices.shifts[k]
        if known is None and shift is None:
            return
        low, high = self.lows[k][:, None, :], self.highs[k][:, None, :]
        phase = None if choices is None else choices.phases[k]
        slope = None if choices is None else choices.slopes[k]
        zero = np.zeros((1, 1, 1))
        post = known or Enclosure(np.broadcast_to(zero, (1, 1, low.shape[-1])), zero)
        nu = _usual(post.value, low, high, slope, phase)
        if phase is not None:
            low = np.where(phase > 0, np.maximum(low, 0.0), low)
            high = np.where(phase < 0, np.minimum(high, 0.0), high)
        if shift is not None:
            nu = nu - shift
        matrices = self.maps[k].terms
        nu = on_grid(nu, min((matrix.bits for _, matrix in matrices), default=20), COUNT)
        steep = up(up(post.value - nu) + post.error)
        gains = [
            np.where(end >= 0, times_up(steep, np.maximum(end, 0.0)), times_up(-nu, np.minimum(end, 0.0)))
            for end in (low, high)
        ]
        most = np.maximum(*gains)
        constants.append(np.where((low <= 0) & (high >= 0), np.maximum(most, 0.0), most))
        if not matrices:
            constants.append(times_up(nu, self.maps[k].affine.offset))
        for source, matrix in matrices:
            _enter(coefficients, constants, source, matrix, nu)


def _usual(post: Array, low: Array, high: Array, slope: Array | None, phase: npt.NDArray[np.int8] | None) -> Array:
    """The coefficients that the relaxation of least area, or with the given lower slopes, passes on."""
    open_ = (low < 0) & (high > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(open_, np.clip(high / (high - low), 0.0, 1.0), high > 0)
    below = np.where(open_, high > -low, high > 0) if slope is None else np.where(open_, slope, high > 0)
    if phase is not None:
        above, below = (np.where(phase == 0, free, phase > 0) for free in (above, below))
    return np.asarray(post * np.where(post < 0, below, above))


def _add(coefficients: dict[int, Enclosure], source: int, value: Enclosure) -> None:
    known = coefficients.get(source)
    coefficients[source] = value if known is None else known.plus(value)


def _enter(
    coefficients: dict[int, Enclosure],
    constants: list[Array],
    source: int,
    matrix: ExactMatrix,
    nu: Array,
    offset: float = 1.0,
) -> None:
    """Add ``nu [matrix | offset]`` to the coefficients on a source and to the constants."""
    product = matrix.back(nu, COUNT)
    _add(coefficients, source, Enclosure(product.value[..., :-1], product.error[..., :-1]))
    constants.append(offset * product.value[..., -1:])
    constants.append(product.error[..., -1:])


def layer_bounds(
    boxes: Boxes, layer: int, rows: Index | None = None, *, intervals_only: bool = False
) -> tuple[Array, Array]:
    """Intervals of a layer, (parts, n) each, and for the rows that these leave undecided (or only for some of them)
    bounds by duality with the usual choices.
    """
    lower, upper = boxes.interval(layer)
    undecided = np.flatnonzero(~((lower >= 0) | (upper <= 0)).all(axis=0))
    asked = undecided if rows is None else np.intersect1d(undecided, rows)
    if (layer or boxes.rows is not None) and len(asked) and not intervals_only:
        for chunk in chunks(asked, boxes):
            signs = np.repeat([1.0, -1.0], len(chunk))
            found = boxes.bound(layer, np.concatenate([chunk, chunk]), signs)
            upper[:, chunk] = np.minimum(upper[:, chunk], found[:, : len(chunk)])
            lower[:, chunk] = np.maximum(lower[:, chunk], -found[:, len(chunk) :])
    return lower, upper


MEMORY = 64 * 2**20
"""Bytes of the coefficients that are held at a time, about."""


def chunks(rows: Index, boxes: Boxes) -> list[Index]:
    """Rows in chunks whose coefficients fit in `MEMORY`."""
    width = max(boxes.lower.shape[1], *(owner.affine.size for owner in boxes.maps)) if boxes.maps else 1
    size = len(rows) * 2 * 8 * width * len(boxes.lower)
    return np.array_split(rows, min(len(rows), -(-size // MEMORY)))


def exact_maps(network: Network) -> list[Map]:
    """The layers of a network, ready for exact products."""
    return [Map(layer.affine) for layer in network.layers]
