"""Linear bounds carried back through a system of ReLUs and of differences of ReLUs, proof against rounding.

The steps are those of `stablenet.bounds.linear`, as in `stablenet.bounds.crown`. What a system adds are nodes of any
kind in any order, relaxations with an offset on the lower side too, for the difference of two neurons
(`stablenet.equivalence.difference_relaxation`), and a slack on every row, for coefficients computed by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stablenet.bounds.interval import affine_bounds, centre_radius, magnitude, post_bounds
from stablenet.bounds.linear import Block, LinearBounds, to_dense
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, apply
from stablenet.core.rounding import underflow

Sides = tuple[Array, Array]

MEMORY = 192 * 2**20
"""Bytes of coefficients that one backward pass may hold."""


@dataclass(frozen=True, eq=False)
class Node(Block):
    """A block of neurons, ``g = affine(sources) +- slack``, and the relaxation of what it gives."""

    relaxation: Relaxation


class System:
    """Nodes over a batch of boxes; source 0 is the input, source t + 1 what node t gives."""

    def __init__(self, low: Array, high: Array) -> None:
        self.n_parts = len(low)
        self.centre, self.radius = centre_radius(low, high)
        self.nodes: list[Node] = []
        self.lows, self.highs = [low], [high]
        self.influence = np.zeros_like(low)
        self.largest = float(self.most(0).max(initial=0.0, where=~np.isnan(self.most(0))))

    def most(self, source: int) -> Array:
        """Largest magnitudes of a source's entries, (parts, n)."""
        return magnitude(self.lows[source], self.highs[source])

    def push(self, affine: AffineMap, slack: Array, relaxation: Relaxation, post: Sides) -> int:
        """Add a node that gives values within ``post``, and g within the relaxation's bounds; returns its source."""
        most = np.abs(affine.offset)[None, :] + underflow(affine.n_terms) + np.zeros_like(slack)
        for term in affine.terms:
            most = most + apply(term.absolute, self.most(term.source))
        for met in (most, relaxation.most):
            self.largest = max(self.largest, float(met.max(initial=0.0, where=~np.isnan(met))))
        terms = tuple((term.source, term.matrix) for term in affine.terms)
        self.nodes.append(Node(terms, affine.offset, most + relaxation.most, slack, relaxation))
        self.lows.append(post[0])
        self.highs.append(post[1])
        return len(self.nodes)

    def take(self, affine: AffineMap) -> tuple[Array, Array]:
        """Add a layer of plain ReLUs; returns the bounds of its g, linear ones where intervals leave the sign open."""
        none = np.zeros((self.n_parts, affine.size))
        lower, upper = self.bounds(affine, none, np.zeros(0, np.intp))
        undecided = np.flatnonzero(~((lower >= 0) | (upper <= 0)).all(axis=0))
        if len(undecided):
            lower, upper = self.bounds(affine, none, undecided)
        self.push(affine, none, Relaxation.of(lower, upper), post_bounds(lower, upper))
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
        width = max([self.centre.shape[1], *(len(node.offset) for node in self.nodes)])
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
        self.substitute(*self.relaxed(coefficients, node.relaxation), node)

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up; exact where nothing could round."""
        system = self.system
        value, error = self.maximum(system.centre, system.radius, system.largest)
        return np.where(self.live | (error > 0), np.nextafter(value + error, np.inf), value)
