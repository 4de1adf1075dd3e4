"""The stages of a backward pass in single precision, for what proves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.bounds.crown import Stage
from stablenet.core.arrays import Index, Single
from stablenet.core.network import Matrix


class SingleMatrix:
    """A matrix in single precision, applied to rows (rows, n) from either side; sparse ones stay sparse."""

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
        return _sparse(self._back, rows) if self._back is not None else rows @ self._dense

    def forward(self, rows: Single) -> Single:
        """``rows @ matrix.T``."""
        return _sparse(self._forward, rows) if self._forward is not None else rows @ self._dense.T


def _sparse(matrix: Any, rows: Single) -> Single:
    """``rows @ matrix.T``, row by row in memory: what is done with it goes along rows."""
    return np.ascontiguousarray((matrix @ np.ascontiguousarray(rows.T)).T)


@dataclass(frozen=True, eq=False)
class Level:
    """A `Stage` of a single part in single precision, arrays (alive,).

    ``open`` lists its undecided neurons among the alive ones. The slopes of the others are 1 where they are active and
    0 where they are not, above and below.
    """

    terms: tuple[tuple[int, SingleMatrix], ...]
    offset: Single
    open: Index
    lower: Single
    upper: Single
    low_slope: Single
    up_slope: Single
    up_offset: Single

    @property
    def largest(self) -> float:
        """The largest coefficient."""
        return max((matrix.largest for _, matrix in self.terms), default=0.0)

    @property
    def whole(self) -> bool:
        """Whether all of its neurons are undecided."""
        return len(self.open) == len(self.offset)

    @classmethod
    def of(cls, stage: Stage) -> Level:
        """A stage in single precision."""
        relaxation = stage.relaxation
        return cls(
            tuple((source, SingleMatrix(matrix)) for source, matrix in stage.terms),
            stage.offset.astype(np.float32),
            np.flatnonzero(relaxation.open[0]),
            *(
                array[0].astype(np.float32)
                for array in (
                    relaxation.lower,
                    relaxation.upper,
                    relaxation.low_slope,
                    relaxation.up_slope,
                    relaxation.up_offset,
                )
            ),
        )
