"""Multi-neuron cuts: big-M, and the facets of the joint hull of two neurons as cuts.

Two neurons of a layer are held in the octagon that their own bounds and the ranges of ``g_i + g_j`` and ``g_i - g_j``
over the box of the inputs make. ReLU is linear on each quadrant, so the hull of ``(g_i, g_j, h_i, h_j)`` over the
octagon is that of the vertices of its four quadrants; its facets hold for the network, and one that couples both
neurons cuts off points that the triangles of the two leave.

G. Singh, R. Ganvir, M. Püschel, M. Vechev, *Beyond the single neuron convex barrier for neural network
certification*, NeurIPS 2019 (k = 2, octagons); M. N. Müller, G. Makarchuk, G. Singh, M. Püschel, M. Vechev, *PRIMA:
general and precise neural network certification via scalable convex hull approximations*, POPL 2022 (arXiv
2103.03638). There the hulls serve linear bounds; here they are cuts of a MILP.

In a layer of up to `EVERY` neurons all pairs are used, in a wider one each neuron's `PARTNERS` with the most alike or
most opposite weights, for which the octagon is narrow. Size for n neurons: n binaries, 3 n rows, 7 n nonzeros, as
big-M; each round adds at most one row of four nonzeros a pair. ``pairs:root`` is separated in rounds on the root
relaxation, ``pairs:cuts`` also in the solver's tree and needs a solver that takes cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse
from stablenet.formulations.base import Cuts, Encoding, ReluLayer
from stablenet.formulations.bigm import BigMWithCuts

from stablenet.core.arrays import Array, Index
from stablenet.milp.matrices import Variables, to_csr

VIOLATED = 1e-6
"""Facets violated by less (their normals have length 1) are not worth a row."""

EVERY = 8
"""Neurons of a layer up to which all pairs are used."""

PARTNERS = 3
"""Partners of each neuron in a wider layer."""

ROUNDING = 1e-10
"""What the vertices may be off, in units in which pre-activations are near 1; their computation is off by 1e-14."""

Facets = tuple[Index, Array, Array]
"""Pairs (f, 2), normals over ``g_i, g_j, h_i, h_j`` (f, 4) and right-hand sides (f,)."""


class Pairs(BigMWithCuts):
    """Big-M and facets of joint hulls of two neurons, as cuts."""

    name = "pairs"
    title = "big-M with facets of the joint hull of two neurons, pairs:root|cuts"
    paper = "Singh, Ganvir, Püschel & Vechev 2019; Müller et al. 2022 (arXiv 2103.03638)"
    equations = "octagons of two neurons"
    variants = ("pairs:root", "pairs:cuts")

    def __init__(self, when: str = "root") -> None:
        super().__init__(when)
        self._facets: WeakKeyDictionary[ReluLayer, Facets] = WeakKeyDictionary()

    def separate(self, layer: ReluLayer, encoding: Encoding, value: Callable[[Variables], Array]) -> Cuts | None:
        """The most violated facet of each pair, where it is violated."""
        del encoding
        if layer not in self._facets:
            self._facets[layer] = _layer_facets(layer)
        pairs, normals, sides = self._facets[layer]
        if not len(sides):
            return None
        g, h = value(layer.pre), value(layer.post)
        over = np.einsum("fk,fk->f", normals, np.hstack([g[pairs], h[pairs]])) - sides
        # Facets stand pair by pair; of each pair the one that is violated most.
        starts = np.flatnonzero(np.any(np.diff(pairs, axis=0, prepend=-1) != 0, axis=1))
        most = np.repeat(np.maximum.reduceat(over, starts), np.diff(starts, append=len(over)))
        chosen = np.flatnonzero((over == most) & (over > VIOLATED))
        if not chosen.size:
            return None
        n = layer.size
        columns = np.hstack([pairs[chosen], n + pairs[chosen]])
        rows = np.repeat(np.arange(len(chosen)), 4)
        matrix = sparse.csr_array((normals[chosen].ravel(), (rows, columns.ravel())), shape=(len(chosen), 2 * n))
        matrix.eliminate_zeros()
        return Cuts(matrix, [*layer.pre, *layer.post], np.full(len(chosen), -np.inf), sides[chosen])


def _layer_facets(layer: ReluLayer) -> Facets:
    """Facets of the hulls of a layer's pairs, pair by pair."""
    pairs, normals, sides = [], [], []
    for i, j, total, difference in _octagons(layer):
        octagon = _octagon(layer.lower[[i, j]], layer.upper[[i, j]], total, difference)
        found = None if octagon is None else _hull(octagon)
        if found is not None:
            normals.append(found[0])
            sides.append(found[1])
            pairs.append(np.tile([i, j], (len(found[1]), 1)))
    if not pairs:
        return np.zeros((0, 2), np.intp), np.zeros((0, 4)), np.zeros(0)
    return np.vstack(pairs), np.vstack(normals), np.concatenate(sides)


def _octagons(layer: ReluLayer) -> Iterator[tuple[int, int, tuple[float, float], tuple[float, float]]]:
    """Pairs of neurons with the ranges of their sum and of their difference over the box of the inputs."""
    weights = to_csr(layer.matrix)
    for i, j in _chosen(weights):
        first, second = (np.asarray(weights[[k]].toarray()[0]) for k in (i, j))
        slack = float(layer.slack[i] + layer.slack[j])
        ranges = []
        for sign in (1.0, -1.0):
            w, b = first + sign * second, float(layer.offset[i] + sign * layer.offset[j])
            low = np.where(w >= 0, layer.input_lower, layer.input_upper) @ w + b
            high = np.where(w >= 0, layer.input_upper, layer.input_lower) @ w + b
            most = np.maximum(np.abs(layer.input_lower), np.abs(layer.input_upper))
            terms = float((np.abs(first) + np.abs(second)) @ most) + abs(b)
            error = slack + (len(w) + 8) * 2.0**-50 * terms
            ranges.append((float(low) - error, float(high) + error))
        yield i, j, ranges[0], ranges[1]


def _chosen(weights: sparse.csr_array) -> list[tuple[int, int]]:
    n = weights.shape[0]
    if n <= EVERY:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    length = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    unit = sparse.diags_array(1.0 / np.maximum(length, 1e-300)) @ weights
    alike = np.abs((unit @ unit.T).toarray())
    np.fill_diagonal(alike, -1.0)
    partners = np.argsort(-alike, axis=1, kind="stable")[:, :PARTNERS]
    return sorted({(min(i, int(j)), max(i, int(j))) for i in range(n) for j in partners[i] if alike[i, j] > 0})


def _octagon(lower: Array, upper: Array, total: tuple[float, float], difference: tuple[float, float]) -> Array | None:
    """Vertices of the octagon in order, (v, 2); None where its diagonal sides cut nothing off the box."""
    box = np.array([[lower[0], lower[1]], [upper[0], lower[1]], [upper[0], upper[1]], [lower[0], upper[1]]])
    polygon = box
    for direction, (low, high) in (((1.0, 1.0), total), ((1.0, -1.0), difference)):
        polygon = _clip(_clip(polygon, np.array(direction), high), -np.array(direction), -low)
    return None if polygon.shape == box.shape and np.array_equal(polygon, box) else polygon


def _clip(polygon: Array, normal: Array, side: float) -> Array:
    """The part of a convex polygon with ``normal @ g <= side``."""
    kept = []
    values = polygon @ normal - side
    for a, b, at_a, at_b in zip(polygon, np.roll(polygon, -1, axis=0), values, np.roll(values, -1), strict=True):
        if at_a <= 0:
            kept.append(a)
        if (at_a < 0 < at_b) or (at_b < 0 < at_a):
            kept.append(a + (b - a) * (at_a / (at_a - at_b)))
    return np.array(kept).reshape(-1, 2)


def _hull(octagon: Array) -> tuple[Array, Array] | None:
    """Normals of length 1 (f, 4) and right-hand sides (f,) of the hull of the graph over a polygon.

    What is computed is a choice of normals; the right-hand sides are the largest values over the vertices, so that
    every row holds whatever the hull's computation made of them.
    """
    from scipy.spatial import ConvexHull, QhullError

    pieces = [octagon]
    for axis in np.eye(2):
        pieces = [_clip(piece, sign * axis, 0.0) for piece in pieces for sign in (1.0, -1.0) if len(piece)]
    corners = np.vstack([piece for piece in pieces if len(piece)] or [np.zeros((0, 2))])
    if len(corners) < 5:
        return None
    graph = np.hstack([corners, np.maximum(corners, 0.0)])
    try:
        normals = np.asarray(ConvexHull(graph, qhull_options="QJ Pp").equations[:, :4])
    except QhullError:  # a pair that is flat in a way that joggling does not mend: it gives no cut
        return None
    normals = np.where(np.abs(normals) < 1e-7, 0.0, normals)
    normals = np.unique(np.round(normals, 9), axis=0)
    both = (normals[:, 2:] != 0).any(axis=1)
    return normals[both], (graph @ normals[both].T).max(axis=0) + ROUNDING
