"""The stages of a backward pass in single precision, for what proves nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.bounds.crown import Stage
from stablenet.core.arrays import Index, Single
from stablenet.core.network import Matrix


class SingleMatrix:
    """A matrix in single precision, applied to rows (…, n) from either side; sparse ones stay sparse."""

    def __init__(self, matrix: Matrix) -> None:
        data = matrix.data if isinstance(matrix, sparse.csr_array) else matrix
        self.largest = float(np.abs(np.asarray(data)).max(initial=0.0))
        if isinstance(matrix, sparse.csr_array):
            single = sparse.csr_array(matrix.astype(np.float32))
            self._forward: Any = single
            self._back: Any = sparse.csr_array(single.T)
        else:
            self._forward = self._back = None
            self._dense = np.ascontiguousarray(matrix, dtype=np.float32)

    def back(self, rows: Single) -> Single:
        """``rows @ matrix``."""
        return self._sparse(self._back, rows) if self._back is not None else rows @ self._dense

    def forward(self, rows: Single) -> Single:
        """``rows @ matrix.T``."""
        return self._sparse(self._forward, rows) if self._forward is not None else rows @ self._dense.T

    @staticmethod
    def _sparse(matrix: Any, rows: Single) -> Single:
        flat = np.ascontiguousarray(rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1]).T)
        return np.asarray((matrix @ flat).T).reshape(*rows.shape[:-1], matrix.shape[0])


@dataclass(frozen=True, eq=False)
class Level:
    """A `Stage` in single precision. ``open`` lists its undecided neurons among the alive ones.

    ``through``, (parts, 1, alive), is 0 where a neuron among them is inactive, else 1; None if there is no such neuron.
    """

    terms: tuple[tuple[int, SingleMatrix], ...]
    offset: Single
    open: Index
    through: Single | None
    lower: Single
    upper: Single
    low_slope: Single
    up_slope: Single
    up_offset: Single

    @property
    def largest(self) -> float:
        """The largest coefficient."""
        return max((matrix.largest for _, matrix in self.terms), default=0.0)

    @classmethod
    def of(cls, stage: Stage) -> Level:
        """A stage in single precision."""
        relaxation = stage.relaxation
        terms = tuple((source, SingleMatrix(matrix)) for source, matrix in stage.terms)
        dead = ~relaxation.open & (relaxation.up_slope == 0)
        return cls(
            terms,
            stage.offset.astype(np.float32),
            np.flatnonzero(relaxation.open.any(axis=0)),
            (~dead).astype(np.float32)[:, None, :] if dead.any() else None,
            *(
                array[:, None, :].astype(np.float32)
                for array in (
                    relaxation.lower,
                    relaxation.upper,
                    relaxation.low_slope,
                    relaxation.up_slope,
                    relaxation.up_offset,
                )
            ),
        )
