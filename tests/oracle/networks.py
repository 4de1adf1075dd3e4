"""Random small networks with domains, made to be awkward: ties, dead and constant neurons, twins, tiny weights.

`case(seed)` is a pure function of its seed. Seeds go round the families below, so any range of consecutive ones
holds all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from oracle.builder import Builder, Tensor
from oracle.plain import PlainNetwork, Region

Array = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Case:
    """A network, as ONNX bytes and in plain numbers, and a domain as a union of regions.

    ``exact`` says that all coefficients of the plain network are float64 numbers.
    """

    seed: int
    family: str
    onnx: bytes
    plain: PlainNetwork
    regions: tuple[Region, ...]
    exact: bool


def _gaussian(rng: Random, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.normal(size=shape) * np.sqrt(2.0 / max(shape[-1], 2)))


def _single(rng: Random, shape: tuple[int, ...]) -> Array:
    return _gaussian(rng, shape).astype(np.float32).astype(np.float64)


def _integer(rng: Random, shape: tuple[int, ...]) -> Array:
    return rng.integers(-2, 3, size=shape).astype(np.float64)


def _dyadic(rng: Random, shape: tuple[int, ...]) -> Array:
    return rng.integers(-6, 7, size=shape) / 4.0


def _tiny(rng: Random, shape: tuple[int, ...]) -> Array:
    """Every other weight below 1e-9, where solvers drop coefficients."""
    scale = np.where(rng.random(shape) < 0.5, 1.0, 10.0 ** rng.uniform(-13, -9.3, size=shape))
    return _gaussian(rng, shape) * scale


def _all_tiny(rng: Random, shape: tuple[int, ...]) -> Array:
    return _gaussian(rng, shape) * 1e-10


def _wild(rng: Random, shape: tuple[int, ...]) -> Array:
    return np.asarray(_gaussian(rng, shape) * 10.0 ** rng.uniform(-4, 4, size=shape))


Weights = Callable[[Random, tuple[int, ...]], Array]


def _marked(rng: Random, weight: Array, bias: Array) -> None:
    """Make some rows dead, constant, twins of others or their negatives, in place."""
    for i in range(len(weight)):
        other = int(rng.integers(len(weight)))
        kind = rng.random()
        if kind < 0.08:
            weight[i], bias[i] = 0.0, 0.0
        elif kind < 0.14:
            weight[i], bias[i] = 0.0, float(rng.choice([-1.0, 1.0, 2.0**-40]))
        elif kind < 0.22 and other != i:
            weight[i], bias[i] = weight[other], bias[other]
        elif kind < 0.30 and other != i:
            weight[i], bias[i] = -weight[other], -bias[other]


def _touching(rng: Random, weight: Array, bias: Array, region: Region, dtype: type[np.floating[Any]]) -> None:
    """Shift some rows so that their exact maximum or minimum over the region is 0, where the shift is a float."""
    low, high = np.array(region.lower), np.array(region.upper)
    for i in range(len(weight)):
        if rng.random() < 0.3:
            top = rng.random() < 0.5
            corner = np.where((weight[i] > 0) == top, high, low)
            value = sum((Fraction(w) * Fraction(x) for w, x in zip(weight[i], corner, strict=True)), Fraction(0))
            if Fraction(float(dtype(float(value)))) == value:
                bias[i] = -float(value)


def _region(rng: Random, n: int, *, grid: bool) -> Region:
    """A random box; on a grid of quarters if asked, now and then flat in a coordinate, or in all."""
    if grid:
        ends = np.sort(rng.integers(-4, 5, size=(2, n)), axis=0) / 4.0
    else:
        ends = np.sort(rng.uniform(-1.5, 1.5, size=(2, n)), axis=0)
    kind = rng.random()
    if kind < 0.25:
        ends[0], ends[1] = -1.0, 1.0
    elif kind < 0.35:
        ends[0], ends[1] = 0.0, 1.0
    elif kind < 0.5:
        flat = rng.integers(n)
        ends[1, flat] = ends[0, flat]
    elif kind < 0.53:
        ends[1] = ends[0]
    return Region(tuple(ends[0].tolist()), tuple(ends[1].tolist()))


def _regions(rng: Random, n: int, *, grid: bool) -> tuple[Region, ...]:
    count = 2 if rng.random() < 0.25 else 1
    return tuple(_region(rng, n, grid=grid) for _ in range(count))


def _dense_layers(
    rng: Random, builder: Builder, weights: Weights, region: Region, *, sizes: list[int], style: str
) -> Tensor:
    tensor = builder.input
    for k, size in enumerate(sizes):
        weight = weights(rng, (size, len(tensor.rows)))
        bias = weights(rng, (size,)) * (0.5 if weights is _gaussian else 1.0)
        _marked(rng, weight, bias)
        if k == 0:
            _touching(rng, weight, bias, region, builder.dtype)
        tensor = builder.relu(builder.dense(tensor, weight, bias, style))
    return tensor


def _head(rng: Random, builder: Builder, weights: Weights, tensor: Tensor, style: str = "gemm") -> Tensor:
    return builder.dense(tensor, weights(rng, (2, len(tensor.rows))), weights(rng, (2,)), style)


def _dense(weights: Weights, *, single: bool = False) -> Callable[[Random], tuple[Builder, Tensor, list[Region]]]:
    def make(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
        n = int(rng.integers(1, 5))
        sizes = rng.integers(1, 7 if n < 4 else 6, size=rng.integers(1, 4)).tolist()
        regions = _regions(rng, n, grid=weights in (_integer, _dyadic))
        style = str(rng.choice(["gemm", "gemm_t", "matmul"]))
        builder = Builder([n], single=single, batch="N" if rng.random() < 0.5 else 1)
        tensor = _dense_layers(rng, builder, weights, regions[0], sizes=sizes, style=style)
        if rng.random() < 0.8:  # else the last node is a Relu
            tensor = _head(rng, builder, weights, tensor, style)
        return builder, tensor, list(regions)

    return make


def _inactive(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """One layer wholly inactive (or, with the opposite bias, wholly active); what follows is constant (or linear)."""
    n = int(rng.integers(1, 4))
    regions = _regions(rng, n, grid=True)
    builder = Builder([n])
    tensor, shift = builder.input, float(rng.choice([-64.0, 64.0]))
    for k in range(3):
        weight, bias = _dyadic(rng, (3, len(tensor.rows))), _dyadic(rng, (3,)) + (shift if k == 1 else 0.0)
        tensor = builder.relu(builder.dense(tensor, weight, bias))
    return builder, _head(rng, builder, _dyadic, tensor), list(regions)


def _residual(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """Sums of computed tensors: identity and linear shortcuts, from the input and over ReLUs."""
    n, width = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    weights = _integer if rng.random() < 0.5 else _dyadic
    regions = _regions(rng, n, grid=True)
    builder = Builder([n], single=bool(rng.random() < 0.5))
    linear = builder.dense(builder.input, weights(rng, (width, n)), weights(rng, (width,)))
    tensor = builder.relu(linear)
    for _ in range(int(rng.integers(1, 3))):
        weight, bias = weights(rng, (width, width)), weights(rng, (width,))
        _marked(rng, weight, bias)
        inner = builder.dense(tensor, weight, bias, "matmul")
        shortcut = [tensor, linear, builder.dense(builder.input, weights(rng, (width, n)), None)][rng.integers(3)]
        tensor = builder.relu(builder.add(inner, shortcut, str(rng.choice(["Add", "Sub"]))))
    return builder, _head(rng, builder, weights, tensor), list(regions)


def _branches(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """Two ReLUs side by side, joined by Concat or Add, cut by Slice, scaled by Mul, Div, Add, Sub."""
    n, width = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    regions = _regions(rng, n, grid=True)
    builder = Builder([n])
    scaled = builder.channelwise(builder.input, "Sub", _dyadic(rng, (n,)))
    scaled = builder.channelwise(scaled, "Div", np.ldexp(1.0, rng.integers(-1, 3, size=n)))
    first = builder.relu(builder.dense(scaled, _integer(rng, (width, n)), _integer(rng, (width,))))
    second = builder.relu(builder.dense(builder.input, _dyadic(rng, (width, n)), _dyadic(rng, (width,)), "gemm_t"))
    joined = builder.add(first, second) if rng.random() < 0.4 else builder.concat(first, second)
    size = len(joined.rows)
    if size > 2:
        joined = builder.slice(joined, 1, size)
    joined = builder.channelwise(joined, "Mul", _integer(rng, (len(joined.rows),)))
    third = builder.dense(joined, _dyadic(rng, (3, len(joined.rows))), _dyadic(rng, (3,)))
    return builder, builder.relu(builder.channelwise(third, "Add", _dyadic(rng, (3,)))), list(regions)


def _convolution(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """An image of at most 4 pixels: convolutions with strides, padding and groups, pooling, a dense end."""
    shape, pad, kernel = [((1, 2, 2), 1, 2), ((1, 2, 2), 0, 1), ((2, 1, 2), 0, 1), ((1, 1, 4), 1, 3)][rng.integers(4)]
    regions = _regions(rng, int(np.prod(shape)), grid=True)
    builder = Builder(shape, single=bool(rng.random() < 0.5))
    groups = shape[0]
    stride = int(rng.integers(1, 3)) if pad else 1
    weight = _dyadic(rng, (groups, 1, kernel, kernel))
    tensor = builder.conv(builder.input, weight, _dyadic(rng, (groups,)), stride=stride, pad=pad, groups=groups)
    tensor = builder.relu(tensor)
    tensor = builder.channelwise(tensor, "Mul", _dyadic(rng, (groups,)))
    if min(tensor.shape[1:]) >= 2 and rng.random() < 0.5:
        tensor = builder.average_pool(tensor, 2)
    weight = _integer(rng, (2, groups, 1, 1))
    tensor = builder.relu(builder.conv(tensor, weight, _integer(rng, (2,)), stride=2))
    flat = builder.flatten(tensor)
    last = builder.relu(builder.dense(flat, _integer(rng, (3, len(flat.rows))), _dyadic(rng, (3,))))
    return builder, _head(rng, builder, _integer, last), list(regions)


def _lowered(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """Operators that stand for ReLUs: LeakyRelu, Abs, Clip, Max, Min."""
    n = int(rng.integers(1, 4))
    regions = _regions(rng, n, grid=True)
    builder = Builder([n], single=bool(rng.random() < 0.5))
    tensor = builder.leaky(builder.dense(builder.input, _dyadic(rng, (3, n)), _dyadic(rng, (3,))), 0.25)
    other = builder.dense(builder.input, _integer(rng, (3, n)), _integer(rng, (3,)))
    tensor = builder.extreme(str(rng.choice(["Max", "Min"])), tensor, other)
    tensor = builder.clip(tensor, -0.5, 1.0) if rng.random() < 0.5 else builder.leaky(tensor, -1)
    tensor = builder.relu(builder.dense(tensor, _integer(rng, (2, 3)), _dyadic(rng, (2,))))
    return builder, _head(rng, builder, _integer, tensor), list(regions)


def _cancelling(rng: Random) -> tuple[Builder, Tensor, list[Region]]:
    """Paths that take each other back but for the last bit: a pre-activation's sign is lost in rounding."""
    n = int(rng.integers(1, 4))
    regions = [Region((0.5,) * n, (2.0,) * n)]
    builder = Builder([n])
    direction, share = rng.random(n) + 0.1, rng.random((2, 2)) + 0.5
    first = np.concatenate([np.outer(share[0], direction), rng.normal(size=(1, n))])
    tensor = builder.relu(builder.dense(builder.input, first, np.array([0.0, 0.0, -0.1])))
    weight = np.zeros((4, 3))
    for row, scale in enumerate(share[1] * 10.0 ** rng.integers(0, 9, size=2)):
        taken = scale * share[0, 0] / share[0, 1] * (1.0 + float(rng.integers(-1, 2)) * 2.0**-52)
        weight[2 * row] = scale, -taken, 0.0
        weight[2 * row + 1] = -scale, taken, rng.normal()
    tensor = builder.relu(builder.dense(tensor, weight, np.zeros(4)))
    return builder, _head(rng, builder, _gaussian, tensor), regions


FAMILIES: dict[str, Callable[[Random], tuple[Builder, Tensor, list[Region]]]] = {
    "dense": _dense(_gaussian),
    "float32": _dense(_single, single=True),
    "integer": _dense(_integer),
    "residual": _residual,
    "tiny": _dense(_tiny),
    "convolution": _convolution,
    "dyadic": _dense(_dyadic),
    "branches": _branches,
    "wild": _dense(_wild),
    "inactive": _inactive,
    "all_tiny": _dense(_all_tiny),
    "lowered": _lowered,
}


def case(seed: int) -> Case:
    """The network and domain of a seed."""
    family = list(FAMILIES)[seed % len(FAMILIES)]
    return _finished(seed, family, FAMILIES[family](np.random.default_rng([20240, seed])))


def cancelling(seed: int) -> Case:
    """A network some of whose signs no evaluation in float64 can tell; not among the families of `case`."""
    return _finished(seed, "cancelling", _cancelling(np.random.default_rng([20241, seed])))


def _finished(seed: int, family: str, made: tuple[Builder, Tensor, list[Region]]) -> Case:
    builder, tensor, regions = made
    data, plain, exact = builder.finish(tensor)
    return Case(seed, family, data, plain, tuple(regions), exact)
