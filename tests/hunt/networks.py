"""Random networks and domains for the campaigns: those of `oracle.networks` and harder ones.

Each function takes a generator of random numbers and is a pure function of its state. All coefficients are float64
numbers as they stand in the file; nothing is left for an importer to round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from oracle.builder import Builder, Tensor
from oracle.networks import FAMILIES
from oracle.plain import PlainNetwork, Region

from hunt.truth import NoPointError, Truth, attained, enumerated

Array = npt.NDArray[np.float64]
Random = np.random.Generator
Layers = list[tuple[Array, Array]]


@dataclass(frozen=True)
class Case:
    """An ONNX file with its domain and what is true of them."""

    family: str
    onnx: bytes
    truth: Truth


def dense(layers: Layers, n_inputs: int, *, style: str = "gemm") -> tuple[Builder, Tensor]:
    """A graph with a ReLU after each map but the last."""
    builder = Builder([n_inputs])
    tensor = builder.input
    for k, (weight, bias) in enumerate(layers):
        tensor = builder.dense(tensor, weight, bias, style)
        if k + 1 < len(layers):
            tensor = builder.relu(tensor)
    return builder, tensor


def plain(layers: Layers, n_inputs: int) -> PlainNetwork:
    """The same network in rational numbers."""
    builder, tensor = dense(layers, n_inputs)
    return builder.finish(tensor)[1]


# Domains


def ends(rng: Random, n: int) -> Array:
    """Lower and upper ends of a box, (2, n), on quarters; some flat, one ulp wide, narrow, or far from 0."""
    box = np.sort(rng.integers(-4, 5, size=(2, n)), axis=0) / 4.0
    box[1] += (box[0] == box[1]) * 0.5
    for j in range(n):
        kind = rng.random()
        if kind < 0.08:
            box[1, j] = box[0, j]
        elif kind < 0.16:
            box[1, j] = np.nextafter(box[0, j], np.inf)
        elif kind < 0.2:
            box[1, j] = box[0, j] + 2.0 ** -rng.integers(10, 40)
        elif kind < 0.24:
            box[:, j] += 2.0 ** rng.integers(4, 24)
    if rng.random() < 0.03:
        box[1] = box[0]
    return box


def polytope(rng: Random, n: int) -> Region:
    """A box cut by rows of small integers through or beside a point of it; now and then of no width, or one point."""
    box = np.sort(rng.integers(-4, 5, size=(2, n)), axis=0) / 4.0
    box[1] += (box[0] == box[1]) * 1.0
    inside = box[0] + (box[1] - box[0]) * rng.integers(0, 5, size=n) / 4.0
    a, b = [], []
    for _ in range(int(rng.integers(1, 4))):
        row = rng.integers(-3, 4, size=n).astype(float)
        if np.count_nonzero(row) < 2:
            row[:2] = 1.0, -2.0
        slack = float(rng.choice([0.0, 0.0, 0.25, 1.0, 2.0**-30]))
        a.append(row)
        b.append(float(row @ inside) + slack)  # exact: multiples of 1/16 and of 2**-30
        if rng.random() < 0.15:
            a.append(-row)
            b.append(-float(row @ inside))
    return Region(tuple(box[0].tolist()), tuple(box[1].tolist()), tuple(map(tuple, np.array(a).tolist())), tuple(b))


def regions(rng: Random, n: int) -> tuple[Region, ...]:
    """One to three boxes or polytopes; parts of a union may overlap, touch, or be the same."""
    count = 1 if rng.random() < 0.65 else int(rng.integers(2, 4))
    found: list[Region] = []
    for _ in range(count):
        if found and rng.random() < 0.2:
            found.append(found[-1])
        elif n > 1 and rng.random() < 0.3:
            found.append(polytope(rng, n))
        else:
            low, high = ends(rng, n).tolist()
            found.append(Region(tuple(low), tuple(high)))
    return tuple(found)


# Networks


def _sizes(rng: Random) -> tuple[int, list[int]]:
    n = int(rng.integers(1, 4))
    return n, [n, *rng.integers(1, 7 if n < 3 else 6, size=rng.integers(1, 4)).tolist()]


def scaled(rng: Random) -> tuple[Layers, int, tuple[Region, ...]]:
    """Values from 1e-300 to 1e80: inputs, layers and rows each at scales of their own."""
    n, sizes = _sizes(rng)
    end = rng.uniform(-300, 80)
    steps = np.diff(np.concatenate([[rng.uniform(-120, 40)], np.sort(rng.uniform(-300, 80, len(sizes) - 2)), [end]]))
    low, high = np.sort(rng.normal(size=(2, n)), axis=0)
    start = rng.uniform(-120, 40) if rng.random() < 0.7 else 0.0
    box = np.array([low, high]) * 10.0**start
    reach, layers = start, []
    for k, (before, after) in enumerate(pairwise(sizes)):
        step = float(np.clip(steps[k % len(steps)], -150, 150))
        if not -300 < reach + step < 80:
            step = 0.0
        rows = 10.0 ** (rng.uniform(-4, 4, size=after) * (rng.random() < 0.5))
        weight = rng.normal(size=(after, before)) * rows[:, None] * 10.0**step
        bias = rng.normal(size=after) * rows * 10.0 ** (reach + step) * (rng.random(after) < 0.8)
        layers.append((weight, bias))
        reach += step
    layers.append((rng.normal(size=(1, sizes[-1])), np.zeros(1)))
    return layers, n, (Region(tuple(box[0].tolist()), tuple(box[1].tolist())),)


def sparse(rng: Random) -> tuple[Layers, int, tuple[Region, ...]]:
    """As an L1 penalty leaves them: most weights 0, some of 1e-13 to 1e-5, a few that count."""
    n, sizes = _sizes(rng)

    def weights(shape: tuple[int, ...]) -> Array:
        kind = rng.random(shape)
        tiny = 10.0 ** rng.uniform(-13, -5, size=shape)
        return np.where(kind < 0.5, 0.0, np.where(kind < 0.75, tiny, 1.0)) * rng.normal(size=shape)

    layers = [(weights((m, k)), weights((m,))) for k, m in pairwise(sizes)]
    return [*layers, (weights((2, sizes[-1])), weights((2,)))], n, regions(rng, n)


def tied(rng: Random) -> tuple[Layers, int, tuple[Region, ...]]:
    """Pre-activations of every layer whose exact maximum or minimum over the domain is 0, or misses it by an ulp."""
    n, sizes = _sizes(rng)
    domain = regions(rng, n)
    layers: Layers = []
    for before, after in pairwise(sizes):
        weight = rng.integers(-6, 7, size=(after, before)) / 4.0
        bias = rng.integers(-6, 7, size=after) / 4.0
        known = enumerated(plain([*layers, (weight, bias), (np.ones((1, after)), np.zeros(1))], n), domain)
        for i in range(after):
            extreme = (known.high if rng.random() < 0.5 else known.low)[-1][i].value
            wanted = Fraction(bias[i]) - extreme
            if rng.random() < 0.6 and Fraction(float(wanted)) == wanted:
                bias[i] = float(wanted)
                if rng.random() < 0.2:
                    bias[i] = np.nextafter(bias[i], float(rng.choice([-np.inf, np.inf])))
        layers.append((weight, bias))
    return [*layers, (np.ones((1, sizes[-1])), np.zeros(1))], n, domain


def planted(rng: Random, *, wide: bool = False) -> tuple[Layers, int, tuple[Region, ...]]:
    """The last layer's neurons reach 1e-10 to 1e-5 of their range beyond 0, at one vertex of the cells; rows and
    columns are badly scaled, by 1e-6 to 1e6. With ``wide`` too large to enumerate: what is planted is the value at a
    known point, the first of `spread`."""
    n = int(rng.integers(3, 7)) if wide else int(rng.integers(1, 4))
    widths = rng.integers(6, 13, size=2) if wide else rng.integers(2, 6, size=rng.integers(1, 3))
    sizes = [n, *widths.tolist(), int(rng.integers(1, 4))]
    low, high = np.sort(rng.uniform(-1, 1, size=(2, n)), axis=0) + np.array([[-0.2], [0.2]])
    domain = (Region(tuple(low.tolist()), tuple(high.tolist())),)
    layers: Layers = []
    scale = np.ones(n)  # of what the layer before puts out
    for before, after in pairwise(sizes):
        own = (
            10.0 ** rng.uniform(-6, 6, size=after) if rng.random() < 0.6 else np.full(after, 10.0 ** rng.uniform(-6, 6))
        )
        weight = rng.normal(size=(after, before)) / scale
        bias = rng.normal(size=after) * 0.5
        layers.append((weight * own[:, None], bias * own))
        scale = own
    head = (np.ones((1, sizes[-1])), np.zeros(1))
    network = plain([*layers, head], n)
    known = attained(network, domain, spread(rng, domain, 400)) if wide else enumerated(network, domain)
    bias = layers[-1][1]
    for i in range(sizes[-1]):
        lowest, highest = known.low[-1][i].value, known.high[-1][i].value
        beyond = Fraction(float(10.0 ** rng.uniform(-10, -5))) * (highest - lowest)
        shift = -highest + beyond if rng.random() < 0.5 else -lowest - beyond
        bias[i] = float(Fraction(bias[i]) + shift)
    return [*layers, head], n, domain


def wide(rng: Random) -> tuple[Layers, int, tuple[Region, ...]]:
    """Larger than can be enumerated."""
    n = int(rng.integers(3, 8))
    sizes = [n, *rng.integers(5, 13, size=rng.integers(2, 5)).tolist()]
    layers = [(rng.normal(size=(m, k)) * np.sqrt(2.0 / k), 0.3 * rng.normal(size=m)) for k, m in pairwise(sizes)]
    return [*layers, (rng.normal(size=(2, sizes[-1])), np.zeros(2))], n, regions(rng, n)


def spread(rng: Random, domain: tuple[Region, ...], count: int) -> list[list[float]]:
    """Points of each part: vertices of its box and random ones; those outside of a polytope's rows are left out."""
    points: list[list[float]] = []
    for region in domain:
        low, high = np.array(region.lower), np.array(region.upper)
        corners = list(product(*zip(region.lower, region.upper, strict=True))) if len(low) <= 6 else []
        share = rng.random((count, len(low)))
        inner = np.clip(low + share * (high - low), low, high)
        mixed = np.where(rng.random(inner.shape) < 0.5, inner, np.where(rng.random(inner.shape) < 0.5, low, high))
        points += [p for p in [*map(list, corners), *inner.tolist(), *mixed.tolist()] if region.contains(p)]
    return points


LAYERED: dict[str, Callable[[Random], tuple[Layers, int, tuple[Region, ...]]]] = {
    "scaled": scaled,
    "l1": sparse,
    "tied": tied,
    "wide": wide,
}


def random_case(rng: Random) -> Case:
    """A case of any family, domain included."""
    names = [*FAMILIES, *LAYERED, *LAYERED]  # the harder ones twice as often
    family = names[rng.integers(len(names))]
    if family in LAYERED:
        while True:
            layers, n, domain = LAYERED[family](rng)
            # A polytope may be so thin that no float64 point of ours lies in it.
            with contextlib.suppress(NoPointError):
                return finished(rng, family, layers, n, domain, small=family != "wide")
    builder, tensor, own = FAMILIES[family](rng)
    domain = tuple(own)
    n = len(domain[0].lower)
    if rng.random() < 0.4 and n < 4:
        domain = regions(rng, n)
    data, network, _ = builder.finish(tensor)
    return Case(family, data, enumerated(network, domain))


def finished(rng: Random, family: str, layers: Layers, n: int, domain: tuple[Region, ...], *, small: bool) -> Case:
    """The case of dense layers; ``small`` ones are enumerated, of others only points are known."""
    builder, tensor = dense(layers, n, style=str(rng.choice(["gemm", "gemm_t", "matmul"])))
    data, network, _ = builder.finish(tensor)
    if small:
        return Case(family, data, enumerated(network, domain))
    points = [*spread(rng, domain, 60), *(_vertex(region) for region in domain if region.a)]
    return Case(family, data, attained(network, domain, [p for p in points if p is not None]))


def _vertex(region: Region) -> list[float] | None:
    """A vertex of a polytope, rounded, if it lies inside: for those that random points miss."""
    ones = plain([(np.ones((1, len(region.lower))), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))], len(region.lower))
    point: list[Any] = [float(v) for v in enumerated(ones, [region]).low[0][0].at]
    return point if region.contains(point) else None
