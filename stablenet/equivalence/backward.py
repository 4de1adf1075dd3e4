"""Linear bounds carried back through a system of ReLUs and of differences of ReLUs, proof against rounding.

As `stablenet.bounds.crown`, with two additions: relaxations with an offset on the lower side too, for the
difference ``relu(g + d) - relu(g)`` of two neurons in terms of ``d`` (Paulsen, Wang & Wang, *ReluDiff*, ICSE 2020;
*NeuroDiff*, ASE 2020), and a slack on every row, for coefficients that were computed by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from stablenet.bounds.interval import affine_bounds, centre_radius, magnitude
from stablenet.bounds.linear import LinearBounds, dot, to_dense
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, apply, apply_transposed
from stablenet.core.rounding import UNIT, gamma, underflow

MEMORY = 192 * 2**20
"""Bytes of coefficients that one backward pass may hold."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """``low_slope g + low_offset <= h <= up_slope g + up_offset``, and ``low <= h <= high``; all (parts, n)."""

    low_slope: Array
    low_offset: Array
    up_slope: Array
    up_offset: Array
    low: Array
    high: Array

    @classmethod
    def relu(cls, lower: Array, upper: Array) -> Self:
        """``h = max(g, 0)`` on ``lower <= g <= upper``."""
        open_ = (lower < 0) & (upper > 0)
        active = (~open_ & (upper > 0)).astype(np.float64)
        slope, offset = chord(lower, upper, open_)
        low = np.where(open_, (upper > -lower).astype(np.float64), active)
        zero = np.zeros_like(lower)
        return cls(
            low,
            zero,
            np.where(open_, slope, active),
            np.where(open_, offset, 0.0),
            np.maximum(lower, 0.0),
            np.maximum(upper, 0.0),
        )

    @classmethod
    def identity(cls, lower: Array, upper: Array) -> Self:
        """``h = g`` on ``lower <= g <= upper``: for outputs that further rows are made of."""
        one, zero = np.ones_like(lower), np.zeros_like(lower)
        return cls(one, zero, one, zero, lower, upper)

    @classmethod
    def difference(cls, lower: Array, upper: Array, base: tuple[Array, Array]) -> Self:
        """``h = max(g + d, 0) - max(g, 0)`` in terms of d on ``lower <= d <= upper``, with g within ``base``.

        h lies between 0 and d; it is d where both neurons are active, and 0 where both are inactive.
        """
        both_on = (base[0] >= 0) & (np.nextafter(base[0] + lower, -np.inf) >= 0)
        both_off = (base[1] <= 0) & (np.nextafter(base[1] + upper, np.inf) <= 0)
        open_ = (lower < 0) & (upper > 0)
        up_slope, up_offset = chord(lower, upper, open_)
        low_slope, low_offset = chord(-upper, -lower, open_)
        up_slope = np.where(open_, up_slope, (upper > 0).astype(np.float64))
        low_slope = np.where(open_, low_slope, (lower < 0).astype(np.float64))
        on, off = both_on & ~both_off, both_off
        zero = np.zeros_like(lower)
        settled = on | off
        return cls(
            np.where(on, 1.0, np.where(off, 0.0, low_slope)),
            np.where(settled | ~open_, 0.0, -low_offset),
            np.where(on, 1.0, np.where(off, 0.0, up_slope)),
            np.where(settled | ~open_, 0.0, up_offset),
            np.where(on, lower, np.where(off, zero, np.minimum(lower, 0.0))),
            np.where(on, upper, np.where(off, zero, np.maximum(upper, 0.0))),
        )


def chord(lower: Array, upper: Array, open_: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """A line above ``max(g, 0)`` on ``[lower, upper]``: it holds if it does at both ends; offsets rounded up."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        slope = np.where(open_, np.clip(upper / (upper - lower), 0.0, 1.0), 0.0)
        at_lower = np.nextafter(-slope * lower, np.inf)
        at_upper = np.nextafter(upper - slope * upper + 4.0 * UNIT * np.abs(upper), np.inf)
    return slope, np.maximum(np.maximum(at_lower, at_upper), 0.0)


@dataclass(frozen=True, eq=False)
class Node:
    """A block of neurons: ``g = affine(sources) +- slack``, relaxed.

    ``relaxed`` are indices of rows; the magnitudes ``affine_most`` (of the sum) and ``most`` (of g) are (parts, n).
    """

    affine: AffineMap
    slack: Array
    relaxation: Relaxation
    affine_most: Array
    most: Array


class System:
    """Nodes over a batch of boxes; source 0 is the input, source t + 1 what node t gives."""

    def __init__(self, low: Array, high: Array) -> None:
        self.n_parts = len(low)
        self.centre, self.radius = centre_radius(low, high)
        self.nodes: list[Node] = []
        self.lows, self.highs = [low], [high]
        self.influence = np.zeros_like(low)

    def most(self, source: int) -> Array:
        """Largest magnitudes of a source's entries, (parts, n)."""
        return magnitude(self.lows[source], self.highs[source])

    def push(self, affine: AffineMap, slack: Array, bounds: tuple[Array, Array], relaxation: Relaxation) -> int:
        """Add a node whose g lies within ``bounds``; returns the number of its source."""
        most = np.abs(affine.offset)[None, :] + underflow(affine.n_terms) + np.zeros_like(slack)
        for term in affine.terms:
            most = most + apply(term.absolute, self.most(term.source))
        self.nodes.append(Node(affine, slack, relaxation, most, magnitude(*bounds)))
        self.lows.append(relaxation.low)
        self.highs.append(relaxation.high)
        return len(self.nodes)

    def take(self, affine: AffineMap) -> tuple[Array, Array]:
        """Add a layer of plain ReLUs; returns the bounds of its g, linear ones where intervals leave the sign open."""
        none = np.zeros((self.n_parts, affine.size))
        lower, upper = self.bounds(affine, none, np.zeros(0, np.intp))
        undecided = np.flatnonzero(~((lower >= 0) | (upper <= 0)).all(axis=0))
        if len(undecided):
            lower, upper = self.bounds(affine, none, undecided)
        self.push(affine, none, (lower, upper), Relaxation.relu(lower, upper))
        return lower, upper

    def bounds(self, affine: AffineMap, slack: Array, rows: Index | None = None) -> tuple[Array, Array]:
        """Bounds of ``affine +- slack``, (parts, n): intervals, and linear bounds for ``rows`` (None: for all).

        ``influence``, (parts, n_inputs), is left as the largest slopes of the linear bounds in the inputs.
        """
        self.influence = np.zeros_like(self.lows[0])
        lower, upper = affine_bounds(affine, self.lows, self.highs)
        with np.errstate(invalid="ignore", over="ignore"):
            lower = np.where(slack > 0, np.nextafter(lower - slack, -np.inf), lower)
            upper = np.where(slack > 0, np.nextafter(upper + slack, np.inf), upper)
            chosen = np.arange(affine.size) if rows is None else rows
            if self.nodes:
                for chunk in self._chunks(chosen):
                    above = self._upper(affine, slack, chunk, 1.0)
                    below = -self._upper(affine, slack, chunk, -1.0)
                    upper[:, chunk] = np.fmin(upper[:, chunk], above)
                    lower[:, chunk] = np.fmax(lower[:, chunk], below)
        return lower, upper

    def _chunks(self, rows: Index) -> Iterator[Index]:
        width = max([self.centre.shape[1], *(node.affine.size for node in self.nodes)])
        count = -(-len(rows) * 8 * 6 * width * self.n_parts // MEMORY)
        return iter(np.array_split(rows, min(max(count, 1), max(len(rows), 1))) if len(rows) else [])

    def _upper(self, affine: AffineMap, slack: Array, rows: Index, sign: float) -> Array:
        state = _State(self, affine, rows, sign)
        state.error = state.error + slack[:, rows]
        for source in range(len(self.nodes), 0, -1):
            state.through(source)
        slopes = state.coefficients.get(0)
        if slopes is not None:
            self.influence = np.maximum(self.influence, np.abs(slopes).max(axis=1))
        return state.concretise()


class _State(LinearBounds):
    """Rows of an affine map on their way back through the nodes of a `System`."""

    def __init__(self, system: System, affine: AffineMap, rows: Index, sign: float) -> None:
        super().__init__(sign * affine.offset[rows], system.n_parts)
        self.system = system
        for term in affine.terms:
            self.begin(term.source, sign * to_dense(term.matrix[rows]))

    def most(self, source: int) -> Array:
        """See `LinearBounds`."""
        return self.system.most(source)

    def through(self, source: int) -> None:
        """Replace coefficients on what a node gives by coefficients on what it reads."""
        coefficients = self.coefficients.pop(source, None)
        if coefficients is None:
            return
        node = self.system.nodes[source - 1]
        relaxation = node.relaxation
        factor = gamma(coefficients.shape[-1] + 8)
        positive = np.maximum(coefficients, 0.0)
        negative = coefficients - positive  # exact
        lifted = dot(positive, relaxation.up_offset) + dot(negative, relaxation.low_offset)
        chosen = negative * relaxation.low_slope[:, None, :] + positive * relaxation.up_slope[:, None, :]
        # Slopes: one rounding per coefficient. Product with W and b: scalar products over the node's neurons.
        size = np.abs(chosen)
        rounded = 2.0 * lifted + dot(size, node.affine_most + node.most)
        self.error = self.error + factor * rounded + dot(size, node.slack)
        self.add_constant(lifted)
        self.add_constant(chosen @ node.affine.offset)
        for term in node.affine.terms:
            self.accumulate(term.source, apply_transposed(term.matrix, chosen))

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up; exact where nothing could round."""
        system = self.system
        met = [system.most(0), *(most for node in system.nodes for most in (node.affine_most, node.most))]
        largest = max(float(most.max(initial=0.0, where=~np.isnan(most))) for most in met)
        value, error = self.maximum(system.centre, system.radius, largest)
        return np.where(self.live | (error > 0), np.nextafter(value + error, np.inf), value)
