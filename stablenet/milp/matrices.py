"""Matrices as models take them: dense or csr, stacked from blocks. Nothing here needs Pyomo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array

Matrix = Array | sparse.csr_array
Variables = Sequence[Any]  # of pyomo VarData; Pyomo ships no types


def to_csr(matrix: Matrix) -> sparse.csr_array:
    """A csr copy (m, n) without explicit zeros and duplicates."""
    if not isinstance(matrix, np.ndarray):
        result = sparse.csr_array(matrix, copy=True)
        result.sum_duplicates()
        result.eliminate_zeros()
        return result
    rows, columns = matrix.shape
    kept = matrix != 0
    counts = np.count_nonzero(kept, axis=1)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.broadcast_to(np.arange(columns, dtype=np.int32), (rows, columns))[kept]
    return sparse.csr_array((np.asarray(matrix[kept], dtype=np.float64), indices, indptr), shape=(rows, columns))


def block_matrix(n: int, blocks: Sequence[Sequence[Matrix | Array | float | None]]) -> sparse.csr_array:
    """A csr matrix of blocks, as formulations want it.

    An entry is a matrix, a vector (n,) or a number for a diagonal of size n, or None for zeros; every row and column of
    blocks needs one that is not None.
    """

    def block(entry: Matrix | float | None) -> Any:
        if entry is None or not (np.isscalar(entry) or getattr(entry, "ndim", 2) == 1):
            return entry
        return sparse.diags_array(np.broadcast_to(np.asarray(entry, dtype=np.float64), (n,)))

    return sparse.csr_array(sparse.block_array([[block(entry) for entry in row] for row in blocks]))
