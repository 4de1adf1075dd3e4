"""The outputs of a network at a point, in exact arithmetic: what a counterexample is judged by.

Weights and inputs are float64, so integers times powers of two: layers are products of integer matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap, Matrix, Network

Integers = npt.NDArray[np.object_]


@dataclass(frozen=True)
class _Dyadic:
    """Integers times ``2**exponent``."""

    numbers: Integers
    exponent: int

    def at(self, exponent: int) -> Integers:
        """The integers for a smaller or equal exponent."""
        return self.numbers * (1 << (self.exponent - exponent)) if exponent < self.exponent else self.numbers


def _dyadic(values: Array) -> _Dyadic:
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    shift = exponent.astype(np.int64) - 53
    least = int(shift[whole != 0].min(initial=0)) if (whole != 0).any() else 0
    numbers = [int(w) << max(int(s) - least, 0) for w, s in zip(whole.ravel(), shift.ravel(), strict=True)]
    found = np.empty(len(numbers), dtype=object)
    found[:] = numbers
    return _Dyadic(found.reshape(values.shape), least)


def _product(matrix: Matrix, values: Integers) -> _Dyadic:
    """``matrix @ values`` with integers for values; the exponent is the matrix's."""
    if isinstance(matrix, sparse.csr_array):
        made = _dyadic(matrix.data)
        products = made.numbers * values[matrix.indices]
        sums = [sum(products[i:j].tolist()) for i, j in zip(matrix.indptr, matrix.indptr[1:], strict=False)]
        return _Dyadic(np.array(sums, dtype=object), made.exponent)
    made = _dyadic(np.asarray(matrix))
    columns = np.flatnonzero(values != 0)
    total: Any = made.numbers[:, columns] @ values[columns] if len(columns) else np.zeros(len(matrix), dtype=object)
    return _Dyadic(np.asarray(total, dtype=object), made.exponent)


def _apply(affine: AffineMap, sources: Sequence[_Dyadic]) -> _Dyadic:
    parts = [_dyadic(affine.offset)]
    for term in affine.terms:
        source = sources[term.source]
        found = _product(term.matrix, source.numbers)
        parts.append(_Dyadic(found.numbers, found.exponent + source.exponent))
    least = min(part.exponent for part in parts)
    total = parts[0].at(least)
    for part in parts[1:]:
        total = total + part.at(least)
    return _Dyadic(total, least)


def exact_outputs(network: Network, point: Array) -> list[Fraction]:
    """The outputs, (n_outputs,), at ``point``, (n_inputs,), of finite float64 numbers."""
    sources = [_dyadic(np.asarray(point, dtype=np.float64))]
    for layer in network.layers:
        pre = _apply(layer.affine, sources)
        sources.append(_Dyadic(np.maximum(pre.numbers, 0), pre.exponent))
    output = _apply(network.output, sources)
    scale = Fraction(2) ** output.exponent
    return [Fraction(number) * scale for number in output.numbers.tolist()]
