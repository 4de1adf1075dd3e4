"""Float32 evaluations of dense networks in many orders of summation, fused or not, with or without subnormals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stablenet.core.network import Network

SMALLEST = np.float32(2.0**-126)


@dataclass(frozen=True)
class Way:
    """A way to add up a row: ``order`` "given", "reversed", "random", "tree" or "large first"."""

    order: str
    fused: bool = False
    flush: bool = False


WAYS = [
    *(Way(order, fused) for order in ("given", "reversed", "random", "large first") for fused in (False, True)),
    Way("tree"),
    Way("given", flush=True),
    Way("random", fused=True, flush=True),
    Way("tree", flush=True),
]


def _flushed(values: np.ndarray, way: Way) -> np.ndarray:
    values = values.astype(np.float32)
    return np.where(np.abs(values) < SMALLEST, np.float32(0.0), values) if way.flush else values


def row_sums(weights: np.ndarray, offset: np.ndarray, x: np.ndarray, way: Way, rng: np.random.Generator) -> np.ndarray:
    """``x @ weights.T + offset`` in float32, (batch, rows), each row added up in that way; x is float32 (batch, n)."""
    weights, offset, x = (_flushed(array, way) for array in (weights, offset, x))
    result = np.zeros((len(x), len(weights)), np.float32)
    for row, (w, b) in enumerate(zip(weights, offset, strict=True)):
        factors = np.concatenate([w, [np.float32(1.0)]]).astype(np.float32)
        values = np.concatenate([x, np.full((len(x), 1), b, np.float32)], axis=1)
        order = np.arange(len(factors))
        if way.order == "reversed":
            order = order[::-1]
        elif way.order in {"random", "tree"}:
            order = rng.permutation(len(factors))
        elif way.order == "large first":
            order = np.argsort(-np.abs(values[0] * factors), kind="stable")
        factors, values = factors[order], values[:, order]
        if way.order == "tree":
            summands = [_flushed(values[:, i] * factors[i], way) for i in range(len(factors))]
            while len(summands) > 1:
                pairs = [_flushed(a + b, way) for a, b in zip(summands[::2], summands[1::2], strict=False)]
                summands = pairs + ([summands[-1]] if len(summands) % 2 else [])
            result[:, row] = summands[0]
            continue
        total = np.zeros(len(x), np.float32)
        for i in range(len(factors)):
            if way.fused:  # a product of two float32 numbers is exact in float64
                total = _flushed(values[:, i].astype(np.float64) * np.float64(factors[i]) + total, way)
            else:
                total = _flushed(total + _flushed(values[:, i] * factors[i], way), way)
        result[:, row] = total
    return result


def pre_activations(network: Network, x: np.ndarray, way: Way, rng: np.random.Generator) -> list[np.ndarray]:
    """Pre-activations of each layer, and the outputs, of a network whose maps read one source each."""
    posts = [np.asarray(x).astype(np.float32)]
    found = []
    for affine in (*(layer.affine for layer in network.layers), network.output):
        (term,) = affine.terms
        matrix = term.matrix if isinstance(term.matrix, np.ndarray) else term.matrix.toarray()
        found.append(row_sums(matrix, affine.offset, posts[term.source], way, rng))
        posts.append(np.maximum(found[-1], np.float32(0.0)))
    return found


def evaluations(network: Network, x: np.ndarray, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """`pre_activations` in every way."""
    rng = np.random.default_rng(seed)
    with np.errstate(under="ignore"):
        for way in WAYS:
            yield pre_activations(network, x, way, rng)
