"""Matrix arithmetic for folding affine maps, with rigorous bounds on its rounding errors.

Each operation returns its result in float64 and a bound on the absolute error of its entries; 0.0 means
proven exact. Exactness is proven by error-free transformations (Knuth's two-sum, Dekker's product; Muller
et al., *Handbook of Floating-Point Arithmetic*, ch. 4) for single operations, and for scalar products by
a common grid: where all partial sums are multiples of one power of two and stay below 2^53 times it,
nothing is rounded in any order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.network import Matrix
from stablenet.core.rounding import UNIT, gamma
from stablenet.onnx_io.budget import FLOPS, SPARSE_FLOPS, afford, work

Index: TypeAlias = npt.NDArray[np.intp]

TINY = 2.0**-1074
"""The smallest positive float64: what underflow may cost in one product."""

_SAFE_LOW, _SAFE_HIGH = 2.0**-960, 2.0**990
"""Products between these have an exact residual in float64."""

DENSE_SHARE = 0.25
"""Matrices with a larger share of nonzeros are stored dense."""

SMALL = 1024
"""Matrices with fewer entries are always stored dense."""

BLOCK = 2**18
"""Entries that are looked at in one go where temporary arrays would else be many times the matrix."""


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


def stored(matrix: Folded) -> int:
    """How many entries are stored."""
    if isinstance(matrix, Selection):
        return len(matrix.index)
    return int(matrix.nnz) if isinstance(matrix, sparse.csr_array) else int(matrix.size)


def _blocks(array: Array) -> Iterator[Array]:
    """An array's entries, flattened, in blocks."""
    flat = array.reshape(-1)
    return (flat[i : i + BLOCK] for i in range(0, len(flat), BLOCK))


def largest(matrix: Folded) -> float:
    """The largest magnitude of an entry."""
    if isinstance(matrix, Selection):
        return 1.0
    data = entries(matrix)
    if not data.size:
        return 0.0
    return float(max(np.max(data), -np.min(data)))


def explicit(matrix: Folded) -> Matrix:
    """Selections as csr, others as they are."""
    return matrix.csr() if isinstance(matrix, Selection) else matrix


def settle(matrix: Folded) -> Matrix:
    """The form in which a finished matrix is stored: dense if small or full, else csr in canonical order."""
    shape = matrix.shape
    n_entries = shape[0] * shape[1]
    afford(stored(matrix))
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
        afford(len(index))
        return Selection(np.where(index >= 0, matrix.index[index], -1), matrix.n_columns)
    keep = index >= 0
    if isinstance(matrix, sparse.csr_array):
        afford(np.diff(matrix.indptr)[index[keep]].sum(dtype=np.int64) + len(index))
    else:
        afford(len(index) * matrix.shape[1])
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
    afford(sum(stored(matrix) for matrix in matrices))
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


_Operation: TypeAlias = Callable[[Array, Array], tuple[Array, float]]


def _in_blocks(operate: _Operation, a: Array, b: Array) -> tuple[Array, float]:
    """An elementwise operation on equally shaped arrays, block by block; the largest of the errors."""
    value, error = np.empty(a.shape), 0.0
    flat = value.reshape(-1)
    for i, (left, right) in enumerate(zip(_blocks(a), _blocks(b), strict=True)):
        flat[i * BLOCK : i * BLOCK + len(left)], rounding = operate(left, right)
        error = max(error, rounding)
    return value, error


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
    afford(stored(matrix))
    if isinstance(matrix, Selection):
        values, error = _in_blocks(operate, np.ones(len(factors)), np.where(matrix.index >= 0, factors, 1.0))
        return matrix.scaled(values), error
    if isinstance(matrix, sparse.csr_array):
        values, error = _in_blocks(operate, matrix.data, np.repeat(factors, np.diff(matrix.indptr)))
        return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape), error
    return _in_blocks(operate, matrix, np.broadcast_to(factors[:, None], matrix.shape))


def added(a: Folded, b: Folded) -> tuple[Matrix, float]:
    """The sum of two matrices of one shape."""
    is_sparse = all(isinstance(matrix, Selection | sparse.csr_array) for matrix in (a, b))
    afford(2 * (stored(a) + stored(b)) if is_sparse else 2 * a.shape[0] * a.shape[1])
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
    found = [_grid_of(data[data != 0]) for data in _blocks(entries(matrix)) if data.any()]
    if not found:
        return 0, 0
    return min(q for q, _ in found), max(bits for _, bits in found)


def _grid_of(data: Array) -> tuple[int, int]:
    mantissa, exponent = np.frexp(data)
    integer = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    zeros = np.frexp((integer & -integer).astype(np.float64))[1] - 1
    return int((exponent - 53 + zeros).min()), int((53 - zeros).max())


def _afford_product(left: Matrix, right: Folded) -> None:
    """Count what a product makes, at most, and the multiplications that it takes."""
    (m, k), n = left.shape, right.shape[1]
    if isinstance(right, Selection):
        dense = not isinstance(left, sparse.csr_array) and not right.is_identity
        afford(0 if right.is_identity else m * n if dense else stored(left))
        return
    if isinstance(left, sparse.csr_array) and isinstance(right, sparse.csr_array):
        flops = int(np.diff(right.indptr)[left.indices].sum(dtype=np.int64))
        afford(min(flops, m * n))
        work(flops // SPARSE_FLOPS)
        return
    afford(m * n)
    if isinstance(left, sparse.csr_array):
        work(int(left.nnz) * n // SPARSE_FLOPS)
    elif isinstance(right, sparse.csr_array):
        work(int(right.nnz) * m // SPARSE_FLOPS)
    else:
        work(m * k * n // FLOPS)


def product(left: Matrix, right: Folded) -> tuple[Matrix, float]:
    """``left @ right``, shapes (m, k) and (k, n)."""
    few = isinstance(right, Selection) and left.shape[1] < DENSE_SHARE * right.n_columns
    if few and not isinstance(left, sparse.csr_array) and left.size > SMALL:
        left = sparse.csr_array(left)
    _afford_product(left, right)
    if isinstance(right, Selection):
        if right.is_identity:
            return left, 0.0
        if right.is_injective:
            return _scattered(left, right), 0.0
        return product(left, right.csr())
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


def row_sums(matrix: Folded) -> Array:
    """The sum of magnitudes of each row."""
    if isinstance(matrix, Selection):
        return (matrix.index >= 0).astype(np.float64)
    return np.asarray(_absolute(matrix).sum(axis=1)).reshape(-1)


def longest_row(matrix: Matrix) -> int:
    """The largest number of nonzeros in a row."""
    return _longest(matrix, 1)


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
