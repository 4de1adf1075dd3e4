"""Two networks of like structure laid side by side: layer k, neuron i of one belongs to layer k, neuron i of the other.

Neurons without a partner get one that is constantly 0. What is computed of the pair is ``d = g_A - g_B``, row by row

    d_k = sum over sources of  W_A (h_A - h_B) + (W_A - W_B) h_B,   plus  b_A - b_B,

where the difference of the weights is formed once, and what its rounding loses is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stablenet.bounds.linear import to_dense
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, Network, Term
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.scaling import times

MOST_WEIGHTS = 8_000_000
"""Larger pairs (weights of both as dense matrices) are not laid side by side."""


@dataclass(frozen=True, eq=False)
class Change:
    """``W_A - W_B`` of one source and ``b_A - b_B`` of a layer's map, with bounds on what the subtraction rounded.

    ``affine`` gives d from the sources ``x, e_1, h_1, e_2, h_2, ...``: of layer k's neurons ``e = h_A - h_B`` is source
    ``2 k + 1`` and ``h = h_B`` is source ``2 k + 2``. ``lost`` are pairs of a source and a matrix of bounds on its
    coefficients, ``offset_lost`` (rows,) those of the offset.
    """

    affine: AffineMap
    lost: tuple[tuple[int, Array], ...]
    offset_lost: Array


@dataclass(frozen=True, eq=False)
class Aligned:
    """A and B with the same layer sizes, and the maps of their differences, one for each layer and the output."""

    a: Network
    b: Network
    changes: tuple[Change, ...]


def aligned(a: Network, b: Network, pairing: Pairing) -> Aligned | None:
    """The two networks side by side; None where their structures are not alike or they are too large.

    Alike means: as many layers, each paired with the layer of its number or with none, and no map that reads one
    source by two matrices. Scales of the pairing that are powers of two are taken out of B, which is exact.
    """
    if len(a.layers) != len(b.layers) or any(k not in (-1, i) for i, k in enumerate(pairing.layers)):
        return None
    weights = 0
    for network in (a, b):
        for affine in _maps(network):
            sources = [term.source for term in affine.terms]
            if len(set(sources)) < len(sources):
                return None
            weights += affine.size * sum(int(term.matrix.shape[1]) for term in affine.terms)
    if weights > MOST_WEIGHTS:
        return None
    second = _unscaled(b, pairing)
    if second is None:
        return None
    places_a, places_b, sizes = _places(a, b, pairing)
    one, two = _moved(a, places_a, sizes), _moved(second, places_b, sizes)
    changes = tuple(_change(x, y, sizes) for x, y in zip(_maps(one), _maps(two), strict=True))
    return Aligned(one, two, changes)


BATCH = 128
"""Boxes that are bounded together, at most."""

BATCH_BYTES = 3 * 2**19
"""Bytes of one array of coefficients of a batch: few enough for the caches."""


def batch_of(pair: Aligned) -> int:
    """How many boxes to bound at once."""
    widest = max(pair.a.source_sizes)
    return int(np.clip(BATCH_BYTES // (16 * widest * widest), 1, BATCH))


def _maps(network: Network) -> tuple[AffineMap, ...]:
    return (*(layer.affine for layer in network.layers), network.output)


def _unscaled(b: Network, pairing: Pairing) -> Network | None:
    """B with neurons divided by their scales where these are powers of two; None if that is not exact."""
    scales = [np.ones(b.n_inputs)]
    for k in range(len(b.layers)):
        scale = pairing.scale(k)
        scales.append(np.where(np.frexp(scale)[0] == 0.5, scale, 1.0))
    if all((scale == 1).all() for scale in scales):
        return b
    maps = []
    for k, affine in enumerate(_maps(b)):
        own = 1.0 / scales[k + 1] if k < len(b.layers) else np.ones(affine.size)
        offset, lost = times(affine.offset, own)
        terms, exact = [], not lost.any()
        for term in affine.terms:
            columns, lost_columns = times(to_dense(term.matrix), scales[term.source])
            rows, lost_rows = times(columns, own[:, None])
            exact &= not (lost_columns.any() or lost_rows.any())
            terms.append(Term(term.source, rows))
        if not exact or not all(np.isfinite(to_dense(term.matrix)).all() for term in terms):
            return None
        maps.append(AffineMap(offset, tuple(terms)))
    return _with_maps(b, maps)


def _with_maps(network: Network, maps: list[AffineMap]) -> Network:
    layers = tuple(
        replace(layer, affine=affine, shape=(affine.size,), channel_axis=None)
        for layer, affine in zip(network.layers, maps[:-1], strict=True)
    )
    return replace(network, layers=layers, output=maps[-1], sha256="", content="")


def _places(a: Network, b: Network, pairing: Pairing) -> tuple[list[Index], list[Index], list[int]]:
    """Where the entries of each source of A and of B go, and how many entries the joint sources have."""
    n = np.arange(a.n_inputs)
    of_a, of_b, sizes = [n], [n], [a.n_inputs]
    for k, (one, two) in enumerate(zip(a.layers, b.layers, strict=True)):
        partner = pairing.neurons[k] if pairing.layers[k] == k else np.full(two.size, -1)
        own = np.flatnonzero(partner < 0)
        place = np.array(partner)
        place[own] = one.size + np.arange(len(own))
        of_a.append(np.arange(one.size))
        of_b.append(place)
        sizes.append(one.size + len(own))
    m = np.arange(a.n_outputs)
    return [*of_a, m], [*of_b, m], [*sizes, a.n_outputs]


def _moved(network: Network, places: list[Index], sizes: list[int]) -> Network:
    """The network with entries moved to their places; what stands in no place is 0."""
    maps = []
    for k, affine in enumerate(_maps(network)):
        rows, size = places[k + 1], sizes[k + 1]
        offset = np.zeros(size)
        offset[rows] = affine.offset
        terms = []
        for term in affine.terms:
            wide = np.zeros((size, sizes[term.source]))
            wide[np.ix_(rows, places[term.source])] = to_dense(term.matrix)
            terms.append(Term(term.source, wide))
        maps.append(AffineMap(offset, tuple(terms)))
    return _with_maps(network, maps)


def _change(a: AffineMap, b: AffineMap, sizes: list[int]) -> Change:
    of_a, of_b = ({term.source: to_dense(term.matrix) for term in affine.terms} for affine in (a, b))
    terms: list[Term] = []
    lost: list[tuple[int, Array]] = []
    for source in sorted({*of_a, *of_b}):
        zero = np.zeros((a.size, sizes[source]))
        one, two = of_a.get(source, zero), of_b.get(source, zero)
        whole, rounded = _subtract(one, two)
        place = 2 * source
        if source and one.any():
            terms.append(Term(place - 1, one))
        if whole.any():
            terms.append(Term(place, whole))
        if rounded.any():
            lost.append((place, rounded))
    offset, offset_lost = _subtract(a.offset, b.offset)
    return Change(AffineMap(offset, tuple(terms)), tuple(lost), offset_lost)


def _subtract(a: Array, b: Array) -> tuple[Array, Array]:
    """``a - b`` rounded, and the magnitude of what that lost (Knuth's two-sum; exact but for overflow)."""
    total = a - b
    virtual = total - a
    return total, np.abs((a - (total - virtual)) + (-b - virtual))
