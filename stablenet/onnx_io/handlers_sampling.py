"""Handlers of operators that make tensors larger, or move blocks about: transposed convolutions, Resize, Upsample."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Index
from stablenet.onnx_io import windows as geometry
from stablenet.onnx_io.expression import Constant, Expression, Value
from stablenet.onnx_io.handlers_affine import convolution_inputs, convolved
from stablenet.onnx_io.operators import Call, operator, rearranged


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    """The transpose of the convolution that maps its output's shape to its input's."""
    x, weights, groups = convolution_inputs(call)
    w = weights.numbers
    if groups < 1 or w.shape[0] != x.shape[1] or w.shape[0] % groups:
        raise call.wrong(f"a weight of shape {w.shape} with {groups} groups for {x.shape[1]} channels")
    over, spatial = _transposed_windows(call, x, list(w.shape[2:]))
    channels = w.shape[1] * groups
    shape = (x.shape[0], channels, *spatial)
    call.afford(shape)
    matrix = sparse.csr_array(geometry.convolution(w, groups, over).T)
    matrix.sort_indices()
    return convolved(call, x, weights, matrix, shape)


def _transposed_windows(call: Call, x: Expression, kernel: list[int]) -> tuple[geometry.Windows, list[int]]:
    """The windows of the transposed convolution's transpose over its output, and the output's spatial shape."""
    dims = len(kernel)
    numbers = {
        name: [int(n) for n in call.attribute(name, [default] * (2 * dims if name == "pads" else dims))]
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0), ("pads", 0), ("output_shape", 0))
    }
    strides, dilations, extra, pads = (numbers[name] for name in ("strides", "dilations", "output_padding", "pads"))
    given, auto_pad = numbers["output_shape"], call.attribute("auto_pad")
    given = given[-dims:]  # some exporters write batch and channels too
    if any(len(v) != dims for v in (strides, dilations, extra, given)) or len(pads) != 2 * dims:
        raise call.wrong(f"strides, dilations, pads and output_padding do not fit {dims} spatial axes")
    if auto_pad not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.wrong(f"auto_pad {auto_pad!r}; there are: NOTSET, SAME_LOWER, SAME_UPPER, VALID")
    spatial, begins, ends = [], [], []
    for axis, n in enumerate(x.shape[2:]):
        full = strides[axis] * (n - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        begin, end = pads[axis], pads[dims + axis]
        if auto_pad == "VALID":
            begin = end = 0
        if any(given) or auto_pad.startswith("SAME"):
            total = full - (given[axis] if any(given) else n * strides[axis])
            if total < 0:
                raise call.unsupported(f"an output of {full - total} positions, which the kernel does not reach")
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        spatial.append(full - begin - end)
        begins.append(begin)
        ends.append(end)
    call.afford([n + begin + end for n, begin, end in zip(spatial, begins, ends, strict=True)])
    try:
        over = geometry.windows(spatial, kernel, strides=strides, dilations=dilations, pads=[*begins, *ends])
    except ValueError as error:
        raise call.wrong(str(error)) from None
    if over.shape != x.shape[2:]:
        raise call.unsupported(f"output_padding {extra} of a stride or more")
    return over, spatial


@operator("Upsample")
def _upsample(call: Call) -> Value:
    """Nearest neighbours, as in opsets 7 to 9: position ``floor(i / scale)``."""
    x = call.value(0)
    if call.attribute("mode") != "nearest":
        raise call.unsupported(f"mode {call.attribute('mode')!r}; there is: nearest")
    given = call.attribute("scales", []) if not call.gives_inputs else call.weights(1, "scales").numbers.tolist()
    scales = _scales(call, given, len(x.shape))
    sizes = [floor(n * scale) for n, scale in zip(x.shape, scales, strict=True)]
    return _nearest(call, x, sizes, scales, _Nearest("asymmetric", "floor"))


@operator("Resize")
def _resize(call: Call) -> Value:
    """Nearest neighbours; the scales are the file's float32 numbers, or quotients of sizes, and nothing is rounded."""
    x = call.value(0)
    if call.attribute("mode") != "nearest":
        raise call.unsupported(f"mode {call.attribute('mode')!r}; there is: nearest")
    if call.attribute("keep_aspect_ratio_policy") != "stretch":
        raise call.unsupported(f"keep_aspect_ratio_policy {call.attribute('keep_aspect_ratio_policy')!r}")
    rank = len(x.shape)
    axes = [call.axis(int(axis), rank) for axis in call.attribute("axes", range(rank))]
    at = 1 if call.opset < 11 else 2
    if call.has(at) and call.constant(at, "scales").value.size:
        scales = [Fraction(1)] * rank
        for axis, scale in zip(
            axes, _scales(call, call.weights(at, "scales").numbers.tolist(), len(axes)), strict=True
        ):
            scales[axis] = scale
        sizes = [floor(n * scale) for n, scale in zip(x.shape, scales, strict=True)]
    elif call.opset >= 11 and call.has(3):
        sizes = list(x.shape)
        wanted = call.dimensions(3, "sizes")
        for axis, size in zip(axes, wanted, strict=True):
            sizes[axis] = int(size) if isinstance(size, int) else x.shape[axis]  # else the size of the batch
        scales = [Fraction(size, n) for size, n in zip(sizes, x.shape, strict=True)]
    else:
        raise call.wrong("neither scales nor sizes are given")
    if call.opset < 11:
        return _nearest(call, x, sizes, scales, _Nearest("asymmetric", "floor"))
    transform = call.attribute("coordinate_transformation_mode")
    rounding = call.attribute("nearest_mode")
    return _nearest(call, x, sizes, scales, _Nearest(transform, rounding))


def _scales(call: Call, given: list[float], count: int) -> list[Fraction]:
    scales = [Fraction(scale) for scale in given]
    if len(scales) != count or min(scales, default=Fraction(1)) <= 0:
        raise call.wrong(f"scales {list(given)}; {count} numbers above 0 are expected")
    return scales


_ROUND = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_floor": lambda at: ceil(at - Fraction(1, 2)),
    "round_prefer_ceil": lambda at: floor(at + Fraction(1, 2)),
}


def _source(transform: str, i: int, scale: Fraction, size: int, n: int) -> Fraction:
    """Where the coordinate ``i`` of ``size`` lies among the ``n`` positions of the input."""
    half = Fraction(1, 2)
    if transform == "asymmetric":
        return i / scale
    if transform == "align_corners":
        return Fraction(i * (n - 1), size - 1) if size > 1 else Fraction(0)
    if transform == "pytorch_half_pixel" and size <= 1:
        return Fraction(0)
    shift = n * half * (1 - Fraction(size) / (scale * n)) if transform == "half_pixel_symmetric" else Fraction(0)
    return shift + (i + half) / scale - half


_TRANSFORMS = ("align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")

_NEAR = Fraction(1, 2**16)
"""Runtimes compute coordinates in float32: those this near to a change of the neighbour, relative, tell nothing."""


@dataclass(frozen=True)
class _Nearest:
    """How coordinates become positions."""

    transform: str
    rounding: str

    def places(self, call: Call, n: int, size: int, scale: Fraction) -> Index:
        """The position of the input, of ``n``, that each of ``size`` coordinates takes."""
        if self.transform == "align_corners" and n * scale != size:
            raise call.unsupported(f"align_corners with a scale that makes {float(n * scale):g} of {n} positions")
        exact = self.transform == "align_corners" or Fraction(float(np.float32(scale))) == scale
        chosen = []
        for i in range(size):
            at = _source(self.transform, i, scale, size, n)
            off = _NEAR * (1 + abs(at))
            low, place, high = (min(max(_ROUND[self.rounding](at + by), 0), n - 1) for by in (-off, 0, off))
            if low != high and not (exact and self._changes_at(at)):
                raise call.unsupported(
                    f"coordinate {i} of {size}, near {float(at):g} of {n}: its nearest neighbour depends on rounding"
                )
            chosen.append(place)
        return np.array(chosen, np.intp)

    def _changes_at(self, at: Fraction) -> bool:
        """Whether the neighbour changes just there, which float32 computes without rounding from exact scales."""
        return (at if self.rounding in ("floor", "ceil") else at + Fraction(1, 2)).denominator == 1


def _nearest(call: Call, x: Value, sizes: list[int], scales: list[Fraction], how: _Nearest) -> Value:
    if how.transform not in _TRANSFORMS:
        raise call.unsupported(f"coordinate_transformation_mode {how.transform!r}; there are: {', '.join(_TRANSFORMS)}")
    if how.rounding not in _ROUND:
        raise call.unsupported(f"nearest_mode {how.rounding!r}; there are: {', '.join(_ROUND)}")
    call.afford(sizes, int(np.prod(x.shape)))
    chosen = [
        np.arange(n) if n == size and scale == 1 else how.places(call, n, size, scale)
        for n, size, scale in zip(x.shape, sizes, scales, strict=True)
    ]
    key = np.ix_(*chosen)
    return rearranged(x, lambda array: array[key], *_axes(x, sizes))


def _axes(x: Value, sizes: list[int]) -> tuple[int | None, int | None]:
    """The batch axis where its size stays, and the channel axis."""
    if isinstance(x, Constant):
        return None, None
    return (x.batch if x.batch is not None and sizes[x.batch] == x.shape[x.batch] else None), x.channel


@operator("Tile")
def _tile(call: Call) -> Value:
    x, repeats = call.value(0), call.integers(1, "repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 0:
        raise call.wrong(f"repeats {repeats} of a tensor of shape {x.shape}")
    sizes = [n * times for n, times in zip(x.shape, repeats, strict=True)]
    call.afford(sizes, int(np.prod(x.shape)))
    return rearranged(x, lambda array: np.tile(array, repeats), *_axes(x, sizes))


@operator("DepthToSpace", "SpaceToDepth")
def _depth_to_space(call: Call) -> Value:
    """Blocks of channels as blocks of positions, or back."""
    x, b = call.expression(0), int(call.attribute("blocksize", 0))
    if len(x.shape) != 4 or b < 1:
        raise call.wrong(f"a block of {b} in an input of shape {x.shape}; (batch, channels, height, width) is expected")
    n, c, h, w = x.shape
    index: Index
    if call.op == "SpaceToDepth":
        if h % b or w % b:
            raise call.wrong(f"an input of shape {x.shape} is not made of blocks of {b}")
        index = x.index.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return x.take(index.reshape(n, c * b * b, h // b, w // b), x.batch)
    mode = call.attribute("mode")
    if c % (b * b) or mode not in ("DCR", "CRD"):
        raise call.wrong(f"mode {mode!r} with {c} channels and blocks of {b}")
    if mode == "DCR":
        index = x.index.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        index = x.index.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.take(index.reshape(n, c // (b * b), h * b, w * b), x.batch)
