"""Matrix arithmetic for folding affine maps, with rigorous bounds on what rounding did to it.

Each operation returns its result in float64 and a bound on the absolute error of its entries; 0.0 means
proven exact. Exactness is proven by error-free transformations (Knuth's two-sum, Dekker's product; Muller
et al., *Handbook of Floating-Point Arithmetic*, ch. 4) for single operations, and for scalar products by
a common grid: where all partial sums are multiples of one power of two and stay below 2^53 times it,
nothing is rounded in any order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.network import Array, Matrix
from stablenet.core.rounding import UNIT, gamma

Index: TypeAlias = npt.NDArray[np.intp]

TINY = 2.0**-1074
"""The smallest positive float64: what underflow may cost in one product."""

_SAFE_LOW, _SAFE_HIGH = 2.0**-960, 2.0**990
"""Products between these have an exact residual in float64."""

DENSE_SHARE = 0.25
"""Matrices with a larger share of nonzeros are stored dense."""

SMALL = 1024
"""Matrices with fewer entries are always stored dense."""


@dataclass(frozen=True, eq=False)
class Selection:
    """A matrix of shape (rows, n_columns) whose row ``r`` is the unit vector ``index[r]``, or zero if that is -1."""

    index: Index
    n_columns: int

    @classmethod
    def identity(cls, n: int) -> Selection:
        """The identity matrix of size n."""
        return cls(np.arange(n), n)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.index), self.n_columns

    @cached_property
    def is_identity(self) -> bool:
        """Whether it is the identity matrix."""
        return len(self.index) == self.n_columns and bool((self.index == np.arange(self.n_columns)).all())

    @cached_property
    def is_injective(self) -> bool:
        """Whether no column is selected twice."""
        used = self.index[self.index >= 0]
        return len(np.unique(used)) == len(used)

    def scaled(self, factors: Array) -> sparse.csr_array:
        """``diag(factors) @ self`` as csr; exact."""
        keep = self.index >= 0
        pointers = np.concatenate([[0], np.cumsum(keep)])
        return csr_of(factors[keep], self.index[keep], pointers, self.shape)

    def csr(self) -> sparse.csr_array:
        """As csr."""
        return self.scaled(np.ones(len(self.index)))


Folded: TypeAlias = Matrix | Selection


def csr_of(
    data: Array, indices: npt.NDArray[np.signedinteger], pointers: Index, shape: tuple[int, int]
) -> sparse.csr_array:
    """A csr matrix, with 32-bit indices where they suffice."""
    kind = np.int32 if max(*shape, len(data)) < 2**31 else np.int64
    return sparse.csr_array((data, indices.astype(kind), pointers.astype(kind)), shape=shape)


def entries(matrix: Matrix) -> Array:
    """The stored entries, in no particular shape."""
    return np.asarray(matrix.data) if isinstance(matrix, sparse.csr_array) else matrix


def largest(matrix: Folded) -> float:
    """The largest magnitude of an entry."""
    if isinstance(matrix, Selection):
        return 1.0
    return float(np.abs(entries(matrix)).max(initial=0.0))


def explicit(matrix: Folded) -> Matrix:
    """Selections as csr, others as they are."""
    return matrix.csr() if isinstance(matrix, Selection) else matrix


def settle(matrix: Folded) -> Matrix:
    """The form in which a finished matrix is stored: dense if small or full, else csr in canonical order."""
    shape = matrix.shape
    n_entries = shape[0] * shape[1]
    found = explicit(matrix)
    if isinstance(found, sparse.csr_array):
        if n_entries <= SMALL or found.count_nonzero() > DENSE_SHARE * n_entries:
            return _frozen(found.toarray())
        found.sum_duplicates()
        found.eliminate_zeros()
        return found
    if n_entries <= SMALL or np.count_nonzero(found) > DENSE_SHARE * n_entries:
        return _frozen(found)
    return sparse.csr_array(found)


def _frozen(matrix: Array) -> Array:
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    matrix.setflags(write=False)
    return matrix


def rows(matrix: Folded, index: Index) -> Folded:
    """The rows ``index`` of a matrix, zero rows where it is -1."""
    if isinstance(matrix, Selection):
        return Selection(np.where(index >= 0, matrix.index[index], -1), matrix.n_columns)
    keep = index >= 0
    if keep.all():
        return matrix[index]
    if not isinstance(matrix, sparse.csr_array):
        return np.where(keep[:, None], matrix[index], 0.0)
    picked = matrix[index[keep]]
    counts = np.zeros(len(index), np.intp)
    counts[keep] = np.diff(picked.indptr)
    pointers = np.concatenate([[0], np.cumsum(counts)])
    return csr_of(picked.data, picked.indices, pointers, (len(index), matrix.shape[1]))


def stack(matrices: Sequence[Folded]) -> Folded:
    """Matrices with the same number of columns, one under the other."""
    if all(isinstance(matrix, Selection) for matrix in matrices):
        indices = [matrix.index for matrix in matrices if isinstance(matrix, Selection)]
        return Selection(np.concatenate(indices), matrices[0].shape[1])
    parts = [explicit(matrix) for matrix in matrices]
    if any(isinstance(part, sparse.csr_array) for part in parts):
        return sparse.csr_array(sparse.vstack([sparse.csr_array(part) for part in parts], format="csr"))
    return np.concatenate([np.asarray(part) for part in parts])


def split_product(a: Array, b: Array, product: Array) -> Array:
    """Dekker's residual ``a * b - product`` of a rounded product, exact for magnitudes within the safe range."""
    factor = 2.0**27 + 1.0
    high_a, high_b = factor * a, factor * b
    high_a, high_b = high_a - (high_a - a), high_b - (high_b - b)
    low_a, low_b = a - high_a, b - high_b
    return np.asarray(low_a * low_b - (((product - high_a * high_b) - low_a * high_b) - high_a * low_b))


def _in_range(*arrays: Array) -> bool:
    for array in arrays:
        size = np.abs(array)
        if not (((size >= _SAFE_LOW) & (size <= _SAFE_HIGH)) | (size == 0)).all():
            return False
    return True


def _times(a: Array, b: Array) -> tuple[Array, float]:
    """Elementwise product of equally shaped arrays."""
    value = a * b
    exact = _in_range(a, b, value) and not ((value == 0) & (a != 0) & (b != 0)).any()
    if exact and not split_product(a, b, value).any():
        return value, 0.0
    return value, UNIT * float(np.abs(value).max(initial=0.0)) + TINY


def _over(a: Array, b: Array) -> tuple[Array, float]:
    """Elementwise quotient of equally shaped arrays; ``b`` has no zero."""
    value = a / b
    back = value * b
    if _in_range(a, b, value, back) and (back == a).all() and not split_product(value, b, back).any():
        return value, 0.0
    return value, UNIT * float(np.abs(value).max(initial=0.0)) + TINY


def scaled(matrix: Folded, factors: Array, *, divide: bool = False) -> tuple[Folded, float]:
    """Rows times ``factors`` of shape (rows,), or divided by them."""
    operate = _over if divide else _times
    if (factors == 1.0).all():
        return matrix, 0.0
    if isinstance(matrix, Selection):
        values, error = operate(np.ones(len(factors)), np.where(matrix.index >= 0, factors, 1.0))
        return matrix.scaled(values), error
    if isinstance(matrix, sparse.csr_array):
        values, error = operate(matrix.data, np.repeat(factors, np.diff(matrix.indptr)))
        return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape), error
    return operate(matrix, np.broadcast_to(factors[:, None], matrix.shape))


def added(a: Folded, b: Folded) -> tuple[Matrix, float]:
    """The sum of two matrices of one shape."""
    left: Any = explicit(a)
    right: Any = explicit(b)
    if not (isinstance(left, sparse.csr_array) and isinstance(right, sparse.csr_array)):
        left, right = _dense(left), _dense(right)
    total: Matrix = left + right
    # Knuth's two-sum; the same expressions serve dense and sparse operands.
    virtual = total - left
    residual = (left - (total - virtual)) + (right - virtual)
    if not entries(residual).any():
        return total, 0.0
    return total, UNIT * largest(total)


def _dense(matrix: Matrix) -> Array:
    return matrix.toarray() if isinstance(matrix, sparse.csr_array) else matrix


def grid(matrix: Matrix) -> tuple[int, int]:
    """``(q, bits)``: all entries are multiples of ``2**q`` and none needs more than ``bits`` significant bits."""
    data = entries(matrix)
    data = data[data != 0]
    if data.size == 0:
        return 0, 0
    mantissa, exponent = np.frexp(data)
    integer = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    zeros = np.frexp((integer & -integer).astype(np.float64))[1] - 1
    return int((exponent - 53 + zeros).min()), int((53 - zeros).max())


def product(left: Matrix, right: Folded) -> tuple[Matrix, float]:
    """``left @ right``, shapes (m, k) and (k, n)."""
    if isinstance(right, Selection):
        if right.is_identity:
            return left, 0.0
        if right.is_injective:
            return _scattered(left, right), 0.0
        right = right.csr()
    result: Matrix = left @ right
    bound = largest(_absolute(left) @ _absolute(right))
    if not np.isfinite(bound):
        return result, bound
    length = min(_longest(left, axis=1), _longest(right, axis=0))
    (q_left, bits_left), (q_right, bits_right) = grid(left), grid(right)
    single = length <= 1 and bits_left + bits_right <= 53
    lattice = bound * (1.0 + gamma(length + 2)) <= np.ldexp(1.0, min(q_left + q_right + 53, 1023))
    # All products are multiples of 2**(q_left + q_right); below 2**-1074 they underflow, and so may the bound.
    if q_left + q_right >= -1074 and (bound == 0.0 or single or lattice):
        return result, 0.0
    return result, bound * gamma(length + 1) * (1.0 + 2.0 * gamma(length + 2)) + 2.0 * length * TINY


def _absolute(matrix: Matrix) -> Any:
    return abs(matrix)


def row_sum(matrix: Matrix) -> float:
    """The largest sum of magnitudes in a row."""
    return float(_absolute(matrix).sum(axis=1).max(initial=0.0))


def _longest(matrix: Matrix, axis: int) -> int:
    """The largest number of nonzeros in a row (axis 1) or a column (axis 0)."""
    if isinstance(matrix, sparse.csr_array):
        if axis == 1:
            return int(np.diff(matrix.indptr).max(initial=0))
        return int(np.bincount(matrix.indices, minlength=1).max(initial=0))
    return int(np.count_nonzero(matrix, axis=axis).max(initial=0))


def _scattered(left: Matrix, right: Selection) -> Matrix:
    """``left @ right`` where no column is selected twice: columns move, nothing is computed."""
    index = right.index
    if not isinstance(left, sparse.csr_array):
        keep = index >= 0
        moved = np.zeros((left.shape[0], right.n_columns))
        moved[:, index[keep]] = left[:, keep]
        return moved
    columns = index[left.indices]
    keep = columns >= 0
    pointers = np.concatenate([[0], np.cumsum(keep)])[left.indptr]
    moved_csr = csr_of(left.data[keep], columns[keep], pointers, (left.shape[0], right.n_columns))
    moved_csr.sort_indices()
    return moved_csr
