"""What is computed in rational numbers: bounds next to zero, and signs that rounding leaves open."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.check.arithmetic import Array
from stablenet.core.network import Network


def exact_maximum(rows: list[Array], sign: int, ends: list[list[Array]]) -> float:
    """The largest value of ``sign`` times a sum of rows, each with an offset at its end, over intervals of what they
    read, in rational numbers, rounded up.
    """
    total = Fraction(0)
    for row, (low, high) in zip(rows, ends, strict=True):
        total += sign * Fraction(float(row[-1]))
        for j in np.flatnonzero(row[:-1]).tolist():
            total += sign * Fraction(float(row[j])) * Fraction(float((high if sign * row[j] > 0 else low)[j]))
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
