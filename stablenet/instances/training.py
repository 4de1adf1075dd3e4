"""Training of small classifiers whose weights are the same, bit by bit, on every machine.

Sums in floating point depend on their order, which BLAS libraries choose by the processor; after some thousand steps of
training nothing of two runs would agree. Here every matrix product is of fixed-point numbers (multiples of `STEP` for
weights and activations, of `SLOPE_STEP` for gradients) that are clipped so that all partial sums are below 2^53 in
their unit: they are exact in float64, in whatever order. All else is elementwise and rounded as IEEE 754 prescribes.
The loss is cross-entropy with an L1 penalty on the weights, the method Adam (Kingma & Ba 2015) with a rate that
falls linearly to 0. The trained network itself rounds nothing: its weights are multiples of `STEP`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.errors import InputError
from stablenet.core.network import AffineMap, Layer, Network, Term

STEP = 2.0**-12
"""Weights, biases and, in training, activations are multiples of this."""

SLOPE_STEP = 2.0**-20
"""Gradients with respect to pre-activations are multiples of this."""

MOST_WEIGHT, MOST_ACTIVATION, MOST_SLOPE = 8.0, 64.0, 4.0
"""Where weights, activations and gradients are clipped; with `MOST_INPUTS` sums stay below 2^53 units."""

MOST_INPUTS = 1024
BATCH = 64
PRUNED = 1e-3
"""Weights below this end as zero where there was an L1 penalty."""

_LOGIT_STEPS = 256
_ODDS = np.array([round(math.exp(-i / _LOGIT_STEPS) * 2**30) for i in range(24 * _LOGIT_STEPS + 1)], dtype=np.float64)
"""exp(-i / 256), rounded to whole multiples of 2^-30, by which a difference of one bit in ``exp`` vanishes."""


@dataclass(frozen=True)
class Stage:
    """One affine map before a ReLU.

    ``kind`` is ``dense`` with ``size`` outputs, or ``conv`` with ``size`` channels, square kernel and stride, no
    padding. With ``skip`` the post-activations of two stages before are added, as in residual networks.
    """

    kind: str
    size: int
    kernel: int = 0
    stride: int = 1
    skip: bool = False


@dataclass(frozen=True)
class Architecture:
    """Stages over an input of one channel, ``side`` times ``side`` pixels; the output map is dense."""

    name: str
    stages: tuple[Stage, ...]


def dense(depth: int, width: int, *, residual: bool = False) -> Architecture:
    """``depth`` hidden layers of ``width``; residual ones add what was two layers before, from the third on."""
    name = f"{'res' if residual else ''}{depth}x{width}"
    stages = tuple(Stage("dense", width, skip=residual and k >= 2 and k % 2 == 0) for k in range(depth))
    return Architecture(name, stages)


class _Map:
    """A stage with its shapes: the matrix of its parameters, and the way back from gradients."""

    def __init__(self, stage: Stage, shape: tuple[int, int, int]) -> None:
        self.stage = stage
        self.inputs = math.prod(shape)
        channels, height, _ = shape
        if stage.kind == "dense":
            self.shape = (stage.size, 1, 1)
            self.fan_in = self.inputs
        else:
            out = (height - stage.kernel) // stage.stride + 1
            self.shape = (stage.size, out, out)
            self.fan_in = channels * stage.kernel**2
        self.before = shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def index(self) -> Index:
        """For each entry of a convolution's matrix (out, in) the place of its weight, or the number of weights."""
        channels, height, width = self.before
        kernel, stride, out = self.stage.kernel, self.stage.stride, self.shape[1]
        weights = np.arange(self.stage.size * self.fan_in).reshape(self.stage.size, channels, kernel, kernel)
        index = np.full((self.stage.size, out, out, channels, height, width), self.stage.size * self.fan_in)
        for row in range(out):
            for column in range(out):
                top, left = row * stride, column * stride
                index[:, row, column, :, top : top + kernel, left : left + kernel] = weights
        return index.reshape(self.size, self.inputs)

    def matrix(self, weights: Array) -> Array:
        """The matrix (out, in) of parameters (rows, fan_in)."""
        return weights if self.stage.kind == "dense" else np.append(weights.ravel(), 0.0)[self.index]

    def offset(self, biases: Array) -> Array:
        """The offsets (out,): one for each channel."""
        return np.repeat(biases, self.size // self.stage.size)

    def slopes(self, matrix: Array, offset: Array) -> tuple[Array, Array]:
        """Gradients of the parameters from those of matrix and offset."""
        if self.stage.kind == "dense":
            return matrix, offset
        count = self.stage.size * self.fan_in
        found = np.asarray(np.bincount(self.index.ravel(), matrix.ravel(), count + 1)[:-1], dtype=np.float64)
        return found.reshape(self.stage.size, self.fan_in), offset.reshape(self.stage.size, -1).sum(axis=1)


@dataclass(frozen=True)
class Trained:
    """A trained network and its accuracy on one image in ten that was held out."""

    network: Network
    accuracy: float


def train(architecture: Architecture, images: Array, labels: Index, *, l1: float, seed: int, epochs: int,
          rate: float = 2e-3) -> Trained:  # fmt: skip
    """Train a classifier.

    Args:
        architecture: its stages.
        images: (n, side * side), multiples of `STEP` in [0, 1].
        labels: (n,) from 0.
        l1: factor of the sum of absolute weights in the loss.
        seed: of initial weights, of the images held out, and of the order of batches.
        epochs: how often each image is used.
        rate: the first rate of Adam.

    Returns:
        The network; it computes in real numbers what its weights say.

    Raises:
        InputError: a stage reads more than `MOST_INPUTS` values, or one with a skip does not fit what it adds.
    """
    maps = _maps(architecture, images.shape[1], int(labels.max()) + 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    held, chosen = order[: len(images) // 10], order[len(images) // 10 :]
    parameters = _start(maps, rng)
    mean, square = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    first, second = 1.0, 1.0
    batches = max(1, len(chosen) // BATCH)
    for step in range(epochs * batches):
        if step % batches == 0:
            shuffled = np.array_split(rng.permutation(chosen), batches)
        batch = shuffled[step % batches]
        first, second = first * 0.9, second * 0.999
        current = rate * (1.0 - step / (epochs * batches))
        slopes = _gradients(maps, [_fixed(p, STEP, MOST_WEIGHT) for p in parameters], images[batch], labels[batch])
        for weights, slope in zip(parameters[::2], slopes[::2], strict=True):
            np.add(slope, l1 * np.sign(weights), out=slope)
        for k, slope in enumerate(slopes):
            mean[k] += 0.1 * (slope - mean[k])
            square[k] += 0.001 * (slope * slope - square[k])
            parameters[k] -= current / (1.0 - first) * mean[k] / (np.sqrt(square[k] / (1.0 - second)) + 1e-8)
    if l1:
        for weights in parameters[::2]:
            weights[np.abs(weights) < PRUNED] = 0.0
    fixed = [_fixed(p, STEP, MOST_WEIGHT) for p in parameters]
    logits = _forward(maps, fixed, images[held])[-1]
    return Trained(_network(maps, fixed), float((logits.argmax(axis=1) == labels[held]).mean()))


def _maps(architecture: Architecture, inputs: int, classes: int) -> list[_Map]:
    side = math.isqrt(inputs)
    shape, maps = (1, side, side), list[_Map]()
    for stage in (*architecture.stages, Stage("dense", classes)):
        maps.append(_Map(stage, shape))
        shape = maps[-1].shape
        if maps[-1].fan_in > MOST_INPUTS:
            raise InputError(f"{architecture.name}: a stage of {maps[-1].fan_in} inputs; at most {MOST_INPUTS} fit")
        if stage.skip and (len(maps) < 3 or maps[-1].size != maps[-3].size):
            raise InputError(f"{architecture.name}: stage {len(maps) - 1} adds what is of another size")
    return maps


def _start(maps: Sequence[_Map], rng: np.random.Generator) -> list[Array]:
    """Weights (rows, fan_in) and biases by turns; uniform, of He's variance."""
    parameters: list[Array] = []
    for each in maps:
        limit = math.sqrt(6.0 / each.fan_in)
        parameters.append(
            np.asarray(rng.integers(-(2**20), 2**20, (each.stage.size, each.fan_in)) * (2.0**-20) * limit, float)
        )
        parameters.append(np.zeros(each.stage.size))
    return parameters


def _fixed(values: Array, step: float, most: float) -> Array:
    """Rounded to multiples of ``step``, and clipped."""
    return np.asarray(np.clip(np.rint(values / step) * step, -most, most))


def _forward(maps: Sequence[_Map], parameters: Sequence[Array], images: Array) -> list[Array]:
    """The input, the rounded post-activations of each stage, and the logits."""
    values = [images]
    for k, each in enumerate(maps):
        pre = values[-1] @ each.matrix(parameters[2 * k]).T + each.offset(parameters[2 * k + 1])
        if each.stage.skip:
            pre += values[-2]
        last = k == len(maps) - 1
        values.append(pre if last else np.maximum(_fixed(pre, STEP, MOST_ACTIVATION), 0.0))
    return values


def _gradients(maps: Sequence[_Map], parameters: Sequence[Array], images: Array, labels: Index) -> list[Array]:
    """Gradients of mean cross-entropy, in the order of the parameters."""
    values = _forward(maps, parameters, images)
    below = np.rint((values[-1].max(axis=1, keepdims=True) - values[-1]) * _LOGIT_STEPS)
    odds = _ODDS[np.minimum(below, len(_ODDS) - 1).astype(np.intp)]
    slope = odds / odds.sum(axis=1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1.0
    upstream = [np.zeros_like(value) for value in values]
    upstream[-1] = slope
    result: list[Array] = []
    for k in range(len(maps) - 1, -1, -1):
        each = maps[k]
        delta = upstream[k + 1] if k == len(maps) - 1 else np.where(values[k + 1] > 0, upstream[k + 1], 0.0)
        delta = _fixed(delta, SLOPE_STEP, MOST_SLOPE)
        weights, biases = each.slopes(delta.T @ values[k], delta.sum(axis=0))
        result[:0] = [weights / len(labels), biases / len(labels)]
        upstream[k] += delta @ each.matrix(parameters[2 * k])
        if each.stage.skip:
            upstream[k - 1] += delta
    return result


def _network(maps: Sequence[_Map], parameters: Sequence[Array]) -> Network:
    layers: list[Layer] = []
    for k, each in enumerate(maps):
        terms = [Term(k, each.matrix(parameters[2 * k]))]
        if each.stage.skip:
            terms.append(Term(k - 1, np.eye(each.size)))
        affine = AffineMap(each.offset(parameters[2 * k + 1]), tuple(terms))
        if k == len(maps) - 1:
            return Network(maps[0].inputs, tuple(layers), affine)
        conv = each.stage.kind == "conv"
        layers.append(Layer(affine, f"relu{k}", each.shape if conv else (each.size,), channel_axis=0 if conv else None))
    raise AssertionError("the last map is the output's")
