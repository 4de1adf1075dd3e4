"""Forward passes in exact arithmetic, for the conformance suites: slow, for a few points of small networks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from stablenet.bounds.linear import to_dense
from stablenet.core.network import AffineMap, Network


def exact_pre_activations(network: Network, point: npt.NDArray[np.float64]) -> list[list[Fraction]]:
    """The pre-activations of every layer at one point, (n_inputs,), without any rounding."""
    sources = [[Fraction(float(value)) for value in point]]
    result: list[list[Fraction]] = []
    for layer in network.layers:
        result.append(_exact(layer.affine, sources))
        sources.append([max(value, Fraction(0)) for value in result[-1]])
    return result


def _exact(affine: AffineMap, sources: list[list[Fraction]]) -> list[Fraction]:
    values = [Fraction(float(value)) for value in affine.offset]
    for term in affine.terms:
        read = sources[term.source]
        for i, row in enumerate(to_dense(term.matrix).tolist()):
            values[i] += sum((Fraction(w) * read[j] for j, w in enumerate(row) if w), Fraction(0))
    return values
