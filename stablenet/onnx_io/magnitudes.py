"""A network read twice, once for its coefficients and once for their magnitudes, joined into one with bounds on
float32 errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from stablenet.core.float32 import roundoff_of
from stablenet.core.network import AffineMap, Matrix, Network, Term


def with_roundoff(network: Network, sizes: Network, counted: Sequence[tuple[int, float, float]]) -> Network:
    """The network with a `Roundoff` for each map, the output last.

    ``sizes`` is the network of the same file read with absolute expressions, ``counted`` are for each map the
    roundings, the loss and the peak of its expression.
    """
    maps = [
        replace(own, roundoff=roundoff_of(roundings, lost, size.offset, _terms(own, size), peak))
        for own, size, (roundings, lost, peak) in zip(_maps(network), _maps(sizes), counted, strict=True)
    ]
    layers = tuple(replace(layer, affine=own) for layer, own in zip(network.layers, maps, strict=False))
    return replace(network, layers=layers, output=maps[-1])


def _maps(network: Network) -> list[AffineMap]:
    return [*(layer.affine for layer in network.layers), network.output]


def _terms(own: AffineMap, sizes: AffineMap) -> tuple[Term, ...]:
    """Terms of magnitudes; those that are the magnitudes of the map's own terms share their memory."""
    known = {term.source: term.absolute for term in own.terms}
    found = []
    for term in sizes.terms:
        mine = known.get(term.source)
        found.append(Term(term.source, mine) if mine is not None and _equal(mine, term.matrix) else term)
    return tuple(found)


def _equal(a: Matrix, b: Matrix) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if not (isinstance(a, sparse.csr_array) and isinstance(b, sparse.csr_array)):
        return False
    parts = ((a.indptr, b.indptr), (a.indices, b.indices), (a.data, b.data))
    return a.shape == b.shape and all(np.array_equal(one, two) for one, two in parts)
