"""CROWN / DeepPoly backward bounds, proof against rounding, for a batch of boxes at once.

To bound ``g_k`` its row is carried back layer by layer: through a ReLU by its upper or lower linear
relaxation, through an affine map by a matrix product, and at the input it is maximised over the box
(Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions*,
NeurIPS 2018; Singh et al., *An Abstract Domain for Certifying Neural Networks*, POPL 2019).

Soundness in floating point: computed coefficients are *choices*. Whatever the exact coefficients of a step
would have been, the ones in hand are used from there on, and what the difference can make over the bounds of
the quantities it multiplies is added to the constant at that very step. Bounding only the final coefficients
is not enough: terms may cancel in floating point and not in truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.network import AffineMap, Network, apply, apply_transposed
from stablenet.propagate.interval import SAFETY, UNDERFLOW, affine_bounds, centre_radius, magnitude, post_bounds
from stablenet.rounding import UNIT, gamma

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Relaxation:
    """``low_slope g <= h <= up_slope g + up_offset`` on ``[l, u]``, all (parts, n); ``most`` is max(|l|, |u|)."""

    low_slope: Array
    up_slope: Array
    up_offset: Array
    most: Array

    @classmethod
    def of(cls, lower: Array, upper: Array) -> Relaxation:
        """The relaxation of least area for given pre-activation bounds."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            open_ = (lower < 0) & (upper > 0)
            slope = np.clip(upper / (upper - lower), 0.0, 1.0)
            # Valid for any slope if it holds at both ends; each expression is rounded up.
            at_lower = np.nextafter(-slope * lower, np.inf)
            at_upper = upper - slope * upper + 4.0 * UNIT * upper
            offset = np.maximum(np.maximum(at_lower, at_upper), 0.0)
            active = ~open_ & (upper > 0)
            low = np.where(open_, (upper > -lower).astype(np.float64), active.astype(np.float64))
        # A NaN bound leaves `open_` false and `upper > 0` false or the slopes NaN; make the result NaN throughout.
        lost = np.isnan(lower) | np.isnan(upper)
        return cls(
            np.where(lost, np.nan, low),
            np.where(lost, np.nan, np.where(open_, slope, active.astype(np.float64))),
            np.where(lost, np.nan, np.where(open_, offset, 0.0)),
            magnitude(lower, upper),
        )


class Backward:
    """Carries linear bounds back through a network over a batch of boxes.

    Layers are pushed in order, each with the bounds of its pre-activations, (parts, n_k); then the rows of
    any affine map that reads only pushed layers can be bounded. ``box_lower`` and ``box_upper`` are
    (parts, n_inputs).
    """

    def __init__(self, network: Network, box_lower: Array, box_upper: Array) -> None:
        self.network = network
        self.n_parts = box_lower.shape[0]
        self.centre, self.radius = centre_radius(box_lower, box_upper)
        self.relaxations: list[Relaxation] = []
        self.source_most: list[Array] = [magnitude(box_lower, box_upper)]
        self.affine_most: list[Array] = []
        self.largest = float(self.source_most[0].max(initial=0.0))

    def push(self, lower: Array, upper: Array) -> None:
        """Fix the bounds of the next layer."""
        affine = self.network.layers[len(self.relaxations)].affine
        most = np.abs(affine.offset)[None, :]
        for term in affine.terms:
            most = most + apply(term.absolute, self.source_most[term.source])
        self.affine_most.append(most)
        self.relaxations.append(Relaxation.of(lower, upper))
        self.source_most.append(post_bounds(lower, upper)[1])
        self.largest = max(self.largest, float(most.max(initial=0.0)))

    def upper_bounds(self, affine: AffineMap, rows: Index, signs: Array) -> Array:
        """Upper bounds of ``signs * affine`` at the given rows, (parts, rows)."""
        with np.errstate(invalid="ignore", over="ignore"):
            state = _State(self, affine, rows, signs)
            for source in range(len(self.relaxations), 0, -1):
                state.through_layer(source)
            return state.concretise()

    def both_bounds(self, affine: AffineMap, rows: Index) -> tuple[Array, Array]:
        """Lower and upper bounds of an affine map at the given rows, (parts, rows) each."""
        signs = np.repeat([1.0, -1.0], len(rows))
        bounds = self.upper_bounds(affine, np.concatenate([rows, rows]), signs)
        return -bounds[:, len(rows) :], bounds[:, : len(rows)]


class _State:
    """A batch of linear upper bounds on their way back: ``sum over s of coefficients[s] h_s + constant``."""

    def __init__(self, owner: Backward, affine: AffineMap, rows: Index, signs: Array) -> None:
        self.owner = owner
        self.coefficients: dict[int, Array] = {}
        shape = (owner.n_parts, len(rows))
        self.error = np.zeros(shape)
        self.constant = np.broadcast_to(signs * affine.offset[rows], shape)
        self.constant_size = np.abs(self.constant)
        self.additions = 4
        self.live = np.zeros(len(rows), dtype=bool)
        for term in affine.terms:
            picked = term.matrix[rows]
            dense = picked.toarray() if isinstance(picked, sparse.csr_array) else picked
            self.live |= dense.any(axis=1)
            self._accumulate(term.source, (signs[:, None] * dense)[None])

    def _add_constant(self, value: Array) -> None:
        self.constant = self.constant + value
        self.constant_size = self.constant_size + np.abs(value)
        self.additions += 1

    def _accumulate(self, source: int, value: Array) -> None:
        known = self.coefficients.get(source)
        if known is None:
            self.coefficients[source] = value
            return
        total = known + value
        self.coefficients[source] = total
        self.error = self.error + 2.0 * UNIT * _dot(np.abs(total), self.owner.source_most[source])

    def through_layer(self, source: int) -> None:
        """Replace coefficients on post-activations by coefficients on what their layer's affine map reads."""
        coefficients = self.coefficients.pop(source, None)
        if coefficients is None:
            return
        relaxation = self.owner.relaxations[source - 1]
        affine = self.owner.network.layers[source - 1].affine
        factor = gamma(coefficients.shape[-1] + 8)
        positive = np.maximum(coefficients, 0.0)
        lifted = _dot(positive, relaxation.up_offset)
        chosen = coefficients - positive  # the negative part, exactly
        chosen = chosen * relaxation.low_slope[:, None, :]
        chosen += positive * relaxation.up_slope[:, None, :]
        # Slopes: one rounding per coefficient. Product with W and b: scalar products over the layer's neurons.
        most = factor * self.owner.affine_most[source - 1] + 4.0 * UNIT * relaxation.most
        self.error = self.error + factor * lifted + _dot(np.abs(chosen), most)
        self._add_constant(lifted)
        self._add_constant(chosen @ affine.offset)
        for term in affine.terms:
            self._accumulate(term.source, apply_transposed(term.matrix, chosen))

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up."""
        owner = self.owner
        value = self.constant
        error = self.error + 2.0 * self.additions * UNIT * self.constant_size
        coefficients = self.coefficients.get(0)
        if coefficients is not None:
            size = np.abs(coefficients)
            value = value + _dot(coefficients, owner.centre) + _dot(size, owner.radius)
            error = error + gamma(coefficients.shape[-1] + 8) * _dot(size, owner.source_most[0])
        error = SAFETY * error + np.where(self.live, UNDERFLOW * (1.0 + owner.largest), 0.0)
        return np.nextafter(value + error, np.inf)


def _dot(rows: Array, vectors: Array) -> Array:
    """(parts or 1, rows, n) times (parts, n): (parts, rows)."""
    return np.asarray(np.matmul(rows, vectors[:, :, None])[..., 0])


MEMORY = 256 * 2**20
"""Bytes of coefficients that one backward pass may hold; more rows are passed in chunks."""


def crown_layers(
    network: Network,
    box_lower: Array,
    box_upper: Array,
    *,
    known: Sequence[tuple[Array, Array]] | None = None,
    up_to: int | None = None,
) -> list[tuple[Array, Array]]:
    """Bounds of every layer's pre-activations on a batch of boxes: per layer ``(lower, upper)``, (parts, n_k).

    Rows that intervals (over bounds so far) decide on every box are not carried back. ``known`` are
    bounds to intersect with, ``up_to`` the number of layers wanted.
    """
    backward = Backward(network, box_lower, box_upper)
    lows, highs = [box_lower], [box_upper]
    result: list[tuple[Array, Array]] = []
    for k, layer in enumerate(network.layers[:up_to]):
        lower, upper = affine_bounds(layer.affine, lows, highs)
        if known is not None:
            lower, upper = np.fmax(lower, known[k][0]), np.fmin(upper, known[k][1])
        if k > 0:
            rows = np.flatnonzero(~((lower >= 0) | (upper <= 0)).all(axis=0))
            for chunk in _chunks(rows, backward, network):
                below, above = backward.both_bounds(layer.affine, chunk)
                lower[:, chunk] = np.fmax(lower[:, chunk], below)
                upper[:, chunk] = np.fmin(upper[:, chunk], above)
        backward.push(lower, upper)
        low, high = post_bounds(lower, upper)
        lows.append(low)
        highs.append(high)
        result.append((lower, upper))
    return result


def _chunks(rows: Index, backward: Backward, network: Network) -> list[Index]:
    if not len(rows):
        return []
    width = max(network.source_sizes[: len(backward.relaxations) + 1])
    per_row = 2 * 8 * 4 * width * backward.n_parts
    n_chunks = -(-len(rows) * per_row // MEMORY)
    return np.array_split(rows, min(n_chunks, len(rows)))
