"""Small networks for the conformance suites of formulations, bounds and searches, and the true answers on them.

The truth comes from `extremes`, which enumerates activation patterns and solves one linear program each with SciPy:
no formulation is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import linprog

from stablenet.bounds.linear import to_dense
from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Part


@dataclass(frozen=True)
class Instance:
    """A small network on a box, with points of the box to check."""

    label: str
    network: Network
    part: Box
    points: Array


def _network(weights: Sequence[Array], offsets: Sequence[Array], *, skip: bool = False) -> Network:
    """A dense network; with ``skip`` the last hidden layer and the output read the input too."""
    n, rng = weights[0].shape[1], np.random.default_rng(1)
    maps = []
    for k, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        terms = [Term(k, weight)]
        if skip and 0 < k >= len(weights) - 2:
            terms.append(Term(0, rng.integers(-2, 3, size=(len(offset), n)).astype(float)))
        maps.append(AffineMap(offset, tuple(terms)))
    layers = tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps[:-1]))
    return Network(n, layers, maps[-1])


def random_instance(seed: int, sizes: tuple[int, ...], *, ties: bool, skip: bool) -> Instance:
    """A dense network; with ``ties`` of small integer weights without offsets, with ``skip`` residual."""
    rng = np.random.default_rng(seed)
    weights, offsets = [], []
    for n, m in itertools.pairwise(sizes):
        weights.append(rng.integers(-2, 3, size=(m, n)).astype(float) if ties else rng.normal(size=(m, n)))
        offsets.append(np.zeros(m) if ties else rng.normal(size=m) * 0.3)
    lower, upper = -np.ones(sizes[0]), np.ones(sizes[0]) * (1.0 if ties else 0.75)
    corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))))
    points = np.concatenate([np.zeros((1, sizes[0])), corners, rng.uniform(lower, upper, size=(4, sizes[0]))])
    label = f"{'integer' if ties else 'real'} weights {sizes}{' with skips' if skip else ''}, seed {seed}"
    return Instance(label, _network(weights, offsets, skip=skip), Box(lower, upper), points)


@cache
def instances() -> tuple[Instance, ...]:
    """Small networks: real weights, integer ones with exact ties at 0, residual, one input, one fixed input."""
    fixed = random_instance(5, (2, 3, 2, 1), ties=False, skip=False)
    box = Box(np.array([-1.0, 0.25]), np.array([0.75, 0.25]))
    return (
        random_instance(0, (2, 3, 3, 2), ties=False, skip=False),
        random_instance(1, (2, 3, 3, 2), ties=True, skip=False),
        random_instance(2, (3, 3, 2, 1), ties=False, skip=True),
        random_instance(3, (2, 4, 2, 1), ties=True, skip=True),
        random_instance(4, (1, 3, 3, 1), ties=False, skip=False),
        Instance(fixed.label + ", one input fixed", fixed.network, box, box.clip(fixed.points)),
    )


@cache
def extremes(network: Network, part: Part) -> tuple[tuple[Array, Array], ...]:
    """True least and greatest pre-activation of every neuron, per layer (n,), by enumeration of patterns.

    One linear program per activation pattern of the layers before, neuron and side: for a dozen neurons at most.
    """
    box = list(zip(part.lower.tolist(), part.upper.tolist(), strict=True))
    found = []
    for k, layer in enumerate(network.layers):
        low, high = np.full(layer.size, np.inf), np.full(layer.size, -np.inf)
        for maps, rows, sides in _cells(network, k):
            a, b = rows, sides
            if part.a is not None and part.b is not None:
                a, b = np.concatenate([rows, part.a]), np.concatenate([sides, part.b])
            weight, offset = maps[k]
            for i, side in itertools.product(range(layer.size), (1.0, -1.0)):
                answer = linprog(-side * weight[i], A_ub=a, b_ub=b, bounds=box)
                if answer.status == 0 and answer.fun is not None:
                    value = offset[i] - side * float(answer.fun)
                    low[i], high[i] = min(low[i], value), max(high[i], value)
        found.append((low, high))
    return tuple(found)


def _cells(network: Network, depth: int) -> Iterator[tuple[list[tuple[Array, Array]], Array, Array]]:
    """For each activation pattern of the layers before ``depth``: all affine maps in x up to it, and the cell."""
    n = network.n_inputs
    sizes = [layer.size for layer in network.layers[:depth]]
    for pattern in itertools.product((False, True), repeat=sum(sizes)):
        posts = [(np.eye(n), np.zeros(n))]
        maps, rows, sides, at = [], [], [], 0
        for layer in network.layers[: depth + 1]:
            weight, offset = np.zeros((layer.size, n)), layer.affine.offset.copy()
            for term in layer.affine.terms:
                matrix = to_dense(term.matrix)
                weight += matrix @ posts[term.source][0]
                offset += matrix @ posts[term.source][1]
            maps.append((weight, offset))
            if len(maps) <= depth:
                on = np.array(pattern[at : at + layer.size])
                at += layer.size
                sign = np.where(on, -1.0, 1.0)
                rows.append(sign[:, None] * weight)
                sides.append(-sign * offset)
                posts.append((weight * on[:, None], offset * on))
        yield maps, np.concatenate(rows) if rows else np.zeros((0, n)), np.concatenate(sides) if sides else np.zeros(0)
