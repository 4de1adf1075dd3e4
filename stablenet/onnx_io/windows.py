"""Geometry of convolutions and poolings: which elements each window covers, and the matrices that follow.

Output sizes and padding as the ONNX operators Conv, AveragePool and MaxPool define them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array, Index
from stablenet.onnx_io.budget import afford
from stablenet.onnx_io.exact_matrices import BLOCK, csr_of


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over a grid of ``size`` positions.

    ``index`` (n_windows, n_kernel) holds flat positions, -1 in the padding; ``counted`` (same shape) is
    whether the position lies within the padded grid (a window may overhang it with ceil_mode).
    """

    size: int
    shape: tuple[int, ...]
    index: Index
    counted: npt.NDArray[np.bool_]


def windows(
    spatial: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
) -> Windows:
    """The windows over a grid of shape ``spatial``; ``pads`` are all begins, then all ends.

    Raises ValueError if a parameter makes no sense or no window fits.
    """
    dims = len(spatial)
    for what, values, least in (("kernel_shape", kernel, 1), ("strides", strides, 1), ("dilations", dilations, 1)):
        if len(values) != dims or min(values, default=1) < least:
            raise ValueError(f"{what} {list(values)}: {dims} numbers of at least {least} are expected")
    if len(pads) != 2 * dims or min(pads, default=0) < 0:
        raise ValueError(f"pads {list(pads)}: {2 * dims} numbers of at least 0 are expected")
    index = np.zeros((1, 1), np.intp)
    inside = counted = np.ones((1, 1), bool)
    shape = []
    for axis in range(dims):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        begin, end, n = _axis(
            spatial[axis], extent, strides[axis], (pads[axis], pads[dims + axis]), auto_pad, ceil_mode=ceil_mode
        )
        shape.append(n)
        afford(3 * len(index) * n * index.shape[1] * kernel[axis])
        start = np.arange(n)[:, None] * strides[axis] - begin
        position = start + np.arange(kernel[axis])[None, :] * dilations[axis]
        index = _outer(index * spatial[axis], position, np.add)
        inside = _outer(inside, (position >= 0) & (position < spatial[axis]), np.logical_and)
        counted = _outer(counted, position < spatial[axis] + end, np.logical_and)
    return Windows(int(np.prod(spatial)), tuple(shape), np.where(inside, index, -1), counted)


def _outer(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], combine: np.ufunc) -> npt.NDArray[np.intp]:
    """Combine every window of ``a`` (m, k) with every one of ``b`` (n, l): (m n, k l), row-major."""
    both = combine(a[:, None, :, None], b[None, :, None, :])
    return np.asarray(both.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]))


def _axis(
    size: int, extent: int, stride: int, pads: tuple[int, int], auto_pad: str, *, ceil_mode: bool
) -> tuple[int, int, int]:
    """Padding before and after, and the number of windows, along one axis."""
    begin, end = pads
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        n = -(-size // stride)
        total = max((n - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        return (small, large, n) if auto_pad == "SAME_UPPER" else (large, small, n)
    if auto_pad == "VALID":
        begin = end = 0
    elif auto_pad not in ("NOTSET", ""):
        raise ValueError(f"auto_pad {auto_pad!r}; there are: NOTSET, SAME_LOWER, SAME_UPPER, VALID")
    room = size + begin + end - extent
    if room < 0:
        raise ValueError(f"a window of extent {extent} does not fit into {size} positions with padding {begin}, {end}")
    n = room // stride + 1
    # The last window of ceil_mode must start within the input or the padding before it.
    if ceil_mode and room % stride and n * stride < size + begin:
        n += 1
    return begin, end, n


def convolution(weight: Array, groups: int, over: Windows) -> sparse.csr_array:
    """The matrix of a convolution with ``weight`` (M, C / groups, *kernel): rows (M, *out), columns (C, *spatial)."""
    m, cg = weight.shape[:2]
    flat = weight.reshape(m, cg, -1)
    n_windows, k = over.index.shape
    afford(m * n_windows * cg * k)
    inside = (over.index >= 0)[None, :, None, :]
    first = np.arange(m) // (m // groups) * cg
    step = max(1, BLOCK // max(n_windows * cg * k, 1))
    found = []
    for start in range(0, m, step):  # some output channels at a time: temporary arrays are several times the matrix
        some = slice(start, start + step)
        channel = first[some, None] + np.arange(cg)
        # By output channel, window, input channel, place in the kernel.
        columns = channel[:, None, :, None] * over.size + over.index[None, :, None, :]
        keep = inside & (flat[some, None] != 0)
        data = np.broadcast_to(flat[some, None], keep.shape)[keep]
        found.append((data, columns[keep].astype(np.int32), keep.reshape(-1, cg * k).sum(axis=1)))
    data, columns, counts = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return rows_of(data, columns, counts, groups * cg * over.size)


def sums(table: Index, n_columns: int) -> sparse.csr_array:
    """The matrix that sums, per row of ``table``, the elements that it lists (-1: none)."""
    afford(2 * table.size)
    keep = table >= 0
    return rows_of(np.ones(int(keep.sum())), table[keep], keep.sum(axis=1), n_columns)


def rows_of(data: Array, columns: npt.NDArray[np.signedinteger], counts: Index, n_columns: int) -> sparse.csr_array:
    """A csr matrix from its entries row by row and the number of entries in each row."""
    pointers = np.concatenate([[0], np.cumsum(counts)])
    matrix = csr_of(data, columns, pointers, (len(counts), n_columns))
    matrix.sort_indices()
    return matrix


def per_channel(index: Index, n_channels: int, size: int) -> Index:
    """Window indices of one channel, (w, k), for ``n_channels`` of ``size`` positions each: (n_channels * w, k)."""
    afford(2 * n_channels * index.size)
    shifted = np.arange(n_channels)[:, None, None] * size + index[None]
    return np.asarray(np.where(index[None] >= 0, shifted, -1).reshape(-1, index.shape[1]))
