"""Networks whose bounds and errors hold for every evaluation in float32 too, in any order of summation.

A float32 evaluation rounds each product and each sum to the nearest number, fused or not, in whichever order it adds;
subnormal operands and results may be taken for zero. A coefficient w on its way to a result then comes to
``w (1 + t)``, where t is at most gamma_d for d roundings (Higham, *Accuracy and Stability of Numerical Algorithms*,
sections 3.1 and 4.2), and each operation loses at most the smallest normal number more. `Roundoff` holds both for
a whole affine map.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, UnknownNameError
from stablenet.core.network import AffineMap, Matrix, Network, Roundoff, Term
from stablenet.core.rounding import LARGEST32, SAFETY, SMALLEST32, UNIT32, gamma32

ARITHMETICS = ("real", "float32")


def check_arithmetic(name: str) -> None:
    """Raise `UnknownNameError` unless it is one of `ARITHMETICS`."""
    if name not in ARITHMETICS:
        raise UnknownNameError("arithmetic", name, ARITHMETICS)


def sizes_of(values: Array) -> Array:
    """Magnitudes of coefficients for error bounds: a subnormal of float32, which may be lost whole, counts for more."""
    size = np.abs(values)
    if not size.max(initial=0.0) < LARGEST32:
        raise InputError(f"a coefficient of {size.max():.3g} overflows float32; --arithmetic real does not need it")
    return np.where((size > 0) & (size < SMALLEST32), size / UNIT32, size)


def matrix_sizes(matrix: Matrix) -> Matrix:
    """`sizes_of` a matrix, dense or csr."""
    if isinstance(matrix, sparse.csr_array):
        return sparse.csr_array((sizes_of(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
    return sizes_of(matrix)


def roundoff_of(roundings: int, lost: float, offset: Array, terms: tuple[Term, ...], peak: float = 0.0) -> Roundoff:
    """A bound on the effect of ``roundings`` on the way to a result, and of a loss of ``lost`` by underflow.

    ``peak`` is the `Roundoff.peak` of what comes before the result itself, if anything. One more rounding stands for
    what folding in float64 has rounded; twice the loss, for what is rounded after it.
    """
    return Roundoff(gamma32(roundings + 1), 2.0 * lost, offset, terms, max(peak, peak_of(offset, terms)))


def peak_of(offset: Array, terms: tuple[Term, ...]) -> float:
    """No sum of these magnitudes is larger than the result times that of the largest source, or than the result."""
    rows = offset.copy()
    for term in terms:
        rows = rows + np.asarray(term.matrix.sum(axis=1)).reshape(-1)
    return SAFETY * float(rows.max(initial=0.0))


def in_float32(network: Network) -> Network:
    """A network that was made in memory, each of its affine maps evaluated as one product of a matrix and a vector."""
    layers = tuple(replace(layer, affine=_single(layer.affine)) for layer in network.layers)
    return replace(network, layers=layers, output=_single(network.output))


def in_real(network: Network) -> Network:
    """The same network, read as a function of real numbers: without the float32 rounding bounds."""
    layers = tuple(replace(layer, affine=replace(layer.affine, roundoff=None)) for layer in network.layers)
    return replace(network, layers=layers, output=replace(network.output, roundoff=None))


def _single(affine: AffineMap) -> AffineMap:
    terms = tuple(Term(term.source, matrix_sizes(term.matrix)) for term in affine.terms)
    # From each source to a result: the input and a weight (or the offset) are rounded to float32, one product, a sum
    # for every term.
    n = affine.n_terms + len(terms)
    reach = sum(float(np.asarray(term.matrix.sum(axis=1)).max(initial=0.0)) for term in terms)
    lost = SMALLEST32 * (2.0 * n + 6.0 + 4.0 * reach)
    return replace(affine, roundoff=roundoff_of(n + 3, lost, sizes_of(affine.offset), terms))
