"""What is computed in rational numbers: bounds next to zero, and signs that rounding leaves open."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.check.arithmetic import Array
from stablenet.core.network import AffineMap, Network


def exact_maximum(affine: AffineMap, row: int, sign: int, ends: list[tuple[Array, Array]]) -> float:
    """The largest value of ``sign`` times a row over intervals of its sources, in rational numbers, rounded up."""
    total = sign * Fraction(float(affine.offset[row]))
    for term in affine.terms:
        chosen, (low, high) = sparse.coo_array(term.matrix[[row]]), ends[term.source]
        for j, weight in zip(chosen.col.tolist(), chosen.data.tolist(), strict=True):
            total += sign * Fraction(weight) * Fraction((high if sign * weight > 0 else low)[j])
    nearest = float(total)
    return nearest if Fraction(nearest) >= total else float(np.nextafter(nearest, np.inf))


def exact_signs(network: Network, point: Array) -> npt.NDArray[np.int8]:
    """Signs of all pre-activations at a point, in rational numbers."""
    posts = [[Fraction(x) for x in point.tolist()]]
    signs: list[int] = []
    for layer in network.layers:
        values = [Fraction(b) for b in layer.affine.offset.tolist()]
        for term in layer.affine.terms:
            matrix = sparse.coo_array(term.matrix)
            for row, column, weight in zip(matrix.row.tolist(), matrix.col.tolist(), matrix.data.tolist(), strict=True):
                values[row] += Fraction(weight) * posts[term.source][column]
        signs += [(value > 0) - (value < 0) for value in values]
        posts.append([max(value, Fraction()) for value in values])
    return np.array(signs, np.int8)
