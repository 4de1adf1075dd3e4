"""Computed tensors as affine expressions over the sources of a network, and constants.

A tensor that depends on the input is ``offset + sum over sources of matrix @ h[source]``, flattened in row-major
order. Operations fold in float64 and carry a bound on the absolute error of every coefficient and offset.

The error bounds of float32 evaluations need magnitudes that do not cancel: an expression that is ``absolute`` has every
coefficient and offset replaced by its magnitude, from the source on, so that a difference of two maps has the
size of their sum. Beside that it counts what a float32 evaluation rounds on the way (`stablenet.core.float32`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Index
from stablenet.core.float32 import matrix_sizes, sizes_of
from stablenet.core.network import Matrix
from stablenet.core.rounding import SMALLEST32
from stablenet.onnx_io import exact_matrices as folding
from stablenet.onnx_io.budget import afford, afford_tensor
from stablenet.onnx_io.exact_matrices import Folded, Selection

_OUTWARD = 1.0 + 2.0**-20
"""Covers the rounding of the error bounds themselves."""


class Batch:
    """The unknown size of the batch, where a file computes shapes with it. It can be copied into shapes, but not
    calculated with.
    """

    def __repr__(self) -> str:
        return "the batch size"


BATCH = Batch()


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the input, with a bound on the absolute error of its entries.

    ``value`` keeps the type that it has in the file. Shapes that contain the batch size are object arrays.
    """

    value: npt.NDArray[Any]
    error: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.value.shape

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers (bfloat16 has a kind of its own in NumPy)."""
        return self.value.dtype.kind == "f" or self.value.dtype.name == "bfloat16"

    @property
    def numbers(self) -> Array:
        """The values in float64, which is exact for all floating-point types of ONNX."""
        return np.asarray(self.value.astype(np.float64))


@dataclass(frozen=True, eq=False)
class Expression:
    """An affine expression over sources, one row per element of a tensor.

    ``shape`` is the tensor's shape with a batch dimension of 1, ``batch`` and ``channel`` the axes that are known to be
    those (None: none is). ``error`` bounds the absolute error of every coefficient and offset; ``nodes`` are the
    indices of the graph nodes folded into it. ``roundings`` is how many times float32 rounds on any way from a source
    to an element (for expressions that are not ``absolute``: whether it does), ``lost`` bounds what underflow and
    subnormals taken for zero cost an element, whatever the sources are; ``peak`` is that of `Roundoff`, for absolute
    ones.
    """

    shape: tuple[int, ...]
    terms: Mapping[int, Folded]
    offset: Array
    batch: int | None = None
    channel: int | None = None
    error: float = 0.0
    nodes: frozenset[int] = field(default_factory=frozenset)
    absolute: bool = False
    roundings: int = 0
    lost: float = 0.0
    peak: float = 0.0

    @classmethod
    def source(
        cls,
        number: int,
        shape: tuple[int, ...],
        batch: int | None = None,
        channel: int | None = None,
        *,
        absolute: bool = False,
    ) -> Expression:
        """The source itself as a tensor of the given shape; the network's input (number 0) is rounded to float32."""
        size, terms = prod(shape), {number: Selection.identity(prod(shape))}
        roundings = 1 if number == 0 else 0
        return cls(
            shape, terms, np.zeros(size), batch, channel, absolute=absolute, roundings=roundings, lost=SMALLEST32
        )

    @classmethod
    def lift(cls, constant: Constant) -> Expression:
        """A constant as an expression without sources."""
        return cls(constant.shape, {}, constant.numbers.reshape(-1), error=constant.error)

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.offset)

    @property
    def index(self) -> Index:
        """The row of each element, in the tensor's shape."""
        return np.arange(self.size).reshape(self.shape)

    @property
    def shape_without_batch(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(n for axis, n in enumerate(self.shape) if axis != self.batch)

    @property
    def channel_axis(self) -> int | None:
        """The channel axis within `shape_without_batch`, None for vectors."""
        if self.channel is None or len(self.shape_without_batch) < 2:
            return None
        return self.channel - (self.batch is not None and self.batch < self.channel)

    @property
    def largest(self) -> float:
        """The largest magnitude of a coefficient or offset."""
        parts = [folding.largest(matrix) for matrix in self.terms.values()]
        return max([float(np.abs(self.offset).max(initial=0.0)), *parts])

    def reshaped(self, shape: Sequence[int], batch: int | None, channel: int | None = None) -> Expression:
        """The same elements in the same order in another shape."""
        return replace(self, shape=tuple(shape), batch=batch, channel=channel)

    def take(self, index: Index, batch: int | None = None, channel: int | None = None, fill: float = 0.0) -> Expression:
        """The elements ``index`` in its shape; ``fill`` where it is -1. Exact."""
        flat = index.reshape(-1)
        if len(flat) == self.size and (flat == np.arange(self.size)).all():
            return self.reshaped(index.shape, batch, channel)
        afford_tensor(index.shape)
        terms = {source: folding.rows(matrix, flat) for source, matrix in self.terms.items()}
        # Indexing an empty tensor is possible only where every element is filled.
        padded = np.append(self.offset, abs(fill) if self.absolute else fill)
        offset = padded[np.where(flat >= 0, flat, self.size)]
        return replace(self, shape=index.shape, terms=terms, offset=offset, batch=batch, channel=channel)

    def broadcast(self, shape: tuple[int, ...]) -> Expression:
        """The tensor broadcast to a shape, axes aligned at the end as in NumPy."""
        if shape == self.shape:
            return self
        afford_tensor(shape)
        added = len(shape) - len(self.shape)
        index = np.broadcast_to(self.index, shape)
        return self.take(index, moved(self.batch, added, shape, single=True), moved(self.channel, added, shape))

    def apply(
        self, matrix: Matrix, shape: Sequence[int], batch: int | None, channel: int | None = None, error: float = 0.0
    ) -> Expression:
        """``matrix @ self``; ``error`` bounds the absolute error of the matrix' entries."""
        roundings, lost = self.roundings + 1, 0.0
        if self.absolute:
            matrix = matrix_sizes(matrix)
            longest = folding.longest_row(matrix)
            roundings += longest
            lost = folding.row_sum(matrix) * (self.lost + 2.0 * SMALLEST32) + (2.0 * longest + 2.0) * SMALLEST32
        offset, rounding = folding.product(matrix, self.offset[:, None])
        terms: dict[int, Folded] = {}
        for source, inner in self.terms.items():
            terms[source], added = folding.product(matrix, inner)
            rounding = max(rounding, added)
        total = rounding
        if self.error or error:
            total += folding.row_sum(matrix) * self.error + error * self.size * (self.largest + self.error)
        return replace(
            self,
            shape=tuple(shape),
            terms=terms,
            offset=np.asarray(offset).reshape(-1),
            batch=batch,
            channel=channel,
            error=total * _OUTWARD,
            roundings=roundings,
            lost=lost * _OUTWARD,
        ).peaked()

    def peaked(self) -> Expression:
        """The same with its own sums among those that ``peak`` bounds."""
        if not self.absolute:
            return self
        rows = self.offset.copy()
        for matrix in self.terms.values():
            rows = rows + folding.row_sums(matrix)
        return replace(self, peak=max(self.peak, float(rows.max(initial=0.0)) * _OUTWARD))

    def times(self, constant: Constant) -> Expression:
        """Elementwise product, broadcast."""
        wide, factors = self._against(constant)
        result, rounding = _rows_scaled(wide, factors, divide=False)
        size = float(np.abs(factors).max(initial=0.0))
        carried = size * self.error + (self.largest + self.error) * constant.error
        lost = size * (self.lost + 2.0 * SMALLEST32) + 2.0 * SMALLEST32
        return replace(
            result, error=(carried + rounding) * _OUTWARD, roundings=self.roundings + 2, lost=lost * _OUTWARD
        ).peaked()

    def over(self, constant: Constant) -> Expression:
        """Elementwise quotient, broadcast; the constant must be further from 0 than its error."""
        wide, divisors = self._against(constant)
        result, rounding = _rows_scaled(wide, divisors, divide=True)
        distance = float(np.abs(divisors).min(initial=np.inf)) - constant.error
        carried = 0.0
        if self.error or constant.error:
            carried = (self.error + (result.largest + rounding) * constant.error) / distance
        lost = (self.lost + 2.0 * SMALLEST32) / distance + 4.0 * SMALLEST32
        return replace(
            result, error=(carried + rounding) * _OUTWARD, roundings=self.roundings + 3, lost=lost * _OUTWARD
        ).peaked()

    def _against(self, constant: Constant) -> tuple[Expression, Array]:
        shape = np.broadcast_shapes(self.shape, constant.shape)
        afford_tensor(shape, constant.value.size)
        numbers = np.broadcast_to(constant.numbers, shape).reshape(-1)
        return self.broadcast(shape), sizes_of(numbers) if self.absolute else numbers

    def negated(self) -> Expression:
        """``-self``; exact."""
        if self.absolute:
            return self
        return replace(self.times(Constant(np.array(-1.0))), roundings=self.roundings, lost=self.lost)

    def as_absolute(self) -> Expression:
        """Itself if it is absolute, else the magnitudes of a constant's elements."""
        if self.absolute:
            return self
        if self.terms:
            raise ValueError("an expression over sources is made absolute from its sources on")
        return replace(self, offset=sizes_of(self.offset), absolute=True, lost=SMALLEST32)

    def plus(self, other: Expression | Constant) -> Expression:
        """Elementwise sum, broadcast."""
        if isinstance(other, Constant):
            other = Expression.lift(other)
        shape = np.broadcast_shapes(self.shape, other.shape)
        left, right = self.broadcast(shape), other.broadcast(shape)
        if left.absolute or right.absolute:
            left, right = left.as_absolute(), right.as_absolute()
        offset, rounding = folding.added(left.offset[:, None], right.offset[:, None])
        terms = dict(left.terms)
        for source, matrix in right.terms.items():
            if source not in terms:
                terms[source] = matrix
                continue
            terms[source], added = folding.added(terms[source], matrix)
            rounding = max(rounding, added)
        return replace(
            left,
            terms=terms,
            offset=np.asarray(offset).reshape(-1),
            batch=_agreed(left, right, left.batch, right.batch),
            channel=_agreed(left, right, left.channel, right.channel),
            error=(left.error + right.error + rounding) * _OUTWARD,
            nodes=left.nodes | right.nodes,
            # A constant may be rounded to float32 before.
            roundings=max(left.roundings, right.roundings) + 2,
            lost=(left.lost + right.lost + 2.0 * SMALLEST32) * _OUTWARD,
            peak=max(left.peak, right.peak),
        ).peaked()

    def minus(self, other: Expression | Constant) -> Expression:
        """Elementwise difference, broadcast."""
        if isinstance(other, Constant):
            return self.plus(Constant(-other.numbers, other.error))
        return self.plus(other.negated())


Value: TypeAlias = Expression | Constant


def _rows_scaled(value: Expression, factors: Array, *, divide: bool) -> tuple[Expression, float]:
    """Rows times ``factors``, or divided by them, and the rounding error."""
    offset, rounding = folding.scaled(value.offset[:, None], factors, divide=divide)
    terms: dict[int, Folded] = {}
    for source, matrix in value.terms.items():
        terms[source], added = folding.scaled(matrix, factors, divide=divide)
        rounding = max(rounding, added)
    return replace(value, terms=terms, offset=np.asarray(offset).reshape(-1)), rounding


def moved(axis: int | None, by: int, shape: tuple[int, ...], *, single: bool = False) -> int | None:
    """An axis after ``by`` new leading ones; None if a batch axis (``single``) would no longer have size 1."""
    if axis is None or (single and shape[axis + by] != 1):
        return None
    return axis + by


def _agreed(left: Expression, right: Expression, a: int | None, b: int | None) -> int | None:
    """The axis that both operands call batch or channel; constants have none."""
    if not left.terms:
        return b
    if not right.terms:
        return a
    return a if a == b else None


def concatenated(parts: Sequence[Expression], axis: int) -> Expression:
    """Tensors joined along an axis (>= 0). The batch axis is kept if all have the same one and it is not the axis of
    joining.
    """
    if any(part.absolute for part in parts):
        parts = [part.as_absolute() for part in parts]
    computed = [part for part in parts if part.terms]
    starts = np.cumsum([0, *(part.size for part in parts)])
    afford(int(starts[-1]) * max(1, len({source for part in parts for source in part.terms})))
    index = np.concatenate([part.index + start for part, start in zip(parts, starts, strict=False)], axis=axis)
    widths = {source: matrix.shape[1] for part in parts for source, matrix in part.terms.items()}
    terms: dict[int, Folded] = {}
    for source, width in sorted(widths.items()):
        empty = [Selection(np.full(part.size, -1), width) for part in parts]
        terms[source] = folding.stack([part.terms.get(source, none) for part, none in zip(parts, empty, strict=True)])
    batches = {part.batch for part in computed}
    channels = {part.channel for part in computed}
    batch = batches.pop() if len(batches) == 1 else None
    joined = Expression(
        (int(starts[-1]),),
        terms,
        np.concatenate([part.offset for part in parts]),
        error=max(part.error for part in parts),
        nodes=frozenset().union(*(part.nodes for part in parts)),
        absolute=any(part.absolute for part in parts),
        roundings=max(part.roundings for part in parts),
        lost=max(part.lost for part in parts),
        peak=max(part.peak for part in parts),
    )
    keeps = batch is not None and index.shape[batch] == 1
    return joined.take(index, batch if keeps else None, channels.pop() if len(channels) == 1 else None)
