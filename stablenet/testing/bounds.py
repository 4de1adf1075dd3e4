"""Conformance suite for bound methods: what every bound must hold, checked against true extremes and exact arithmetic.

For the author of a bound, with pytest::

    import pytest
    from stablenet.testing import bounds as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyBound())

Each check takes a method (or its specification) and raises `ConformanceError` that says what is wrong, and where.
The true answers come from enumerating activation patterns, and from forward passes in exact arithmetic: no other bound
is used. A method whose bounds are merely wide passes; `tightness` says how wide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache

import numpy as np
from scipy import sparse

from stablenet.bounds import BoundMethod, Context, registry, run
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Part, Polytope
from stablenet.testing.exact import exact_pre_activations
from stablenet.testing.formulation_instances import Instance, extremes, instances
from stablenet.testing.suite import ConformanceError, demand

SLACK = 1e-6
"""The largest error of the enumeration's linear programs, relative to the size of the numbers (1 to 10)."""


def _method(method: str | BoundMethod) -> BoundMethod:
    return registry.get(method) if isinstance(method, str) else method


def _say(method: BoundMethod, label: str, layer: int, neuron: int, words: str) -> str:
    return f"bounds {method.name!r}, {label}, layer {layer}, neuron {neuron}: {words}"


@cache
def boxes() -> tuple[Instance, ...]:
    """Small networks on boxes: those of the formulations' suite, and one of them with sparse matrices."""
    first = instances()[0]
    maps = [_sparse(layer.affine) for layer in first.network.layers]
    layers = tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps))
    sparse_network = Network(first.network.n_inputs, layers, _sparse(first.network.output))
    return (*instances(), Instance(first.label + ", sparse", sparse_network, first.part, first.points))


def _sparse(affine: AffineMap) -> AffineMap:
    return AffineMap(affine.offset, tuple(Term(t.source, sparse.csr_array(t.matrix)) for t in affine.terms))


@cache
def polytopes() -> tuple[tuple[str, Network, Part], ...]:
    """The same networks on polytopes: boxes with two rows that cut corners off."""
    found: list[tuple[str, Network, Part]] = []
    for seed, instance in enumerate(instances()):
        n, rng = instance.part.n_inputs, np.random.default_rng(seed)
        rows = np.concatenate([np.ones((1, n)), rng.normal(size=(1, n))])
        centre = (instance.part.lower + instance.part.upper) / 2
        sides = rows @ centre + np.array([0.1, 0.2])
        part = Polytope(instance.part.lower, instance.part.upper, rows, sides)
        found.append((instance.label + ", polytope", instance.network, part))
    return tuple(found)


@cache
def badly_rounding() -> tuple[Instance, ...]:
    """Networks whose float64 forward pass is wrong in its last digits, or in all: large terms that cancel."""
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        large = rng.uniform(1e7, 1e8, size=(3, 2))
        first = np.concatenate([large, -large[:1] * (1 + 2.0**-40), rng.normal(size=(1, 2)) / 3.0])
        second = rng.normal(size=(3, 5)) * np.array([1.0, -1.0, 1.0, -1.0, 1e8])
        maps = [AffineMap(rng.normal(size=5) / 3, (Term(0, first),)), AffineMap(np.zeros(3), (Term(1, second),))]
        layers = tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps))
        network = Network(2, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, 3))),)))
        part = Box(np.array([-0.1, 1.0 / 3.0]), np.array([0.7, 1.0 / 3.0 + 1e-9]))
        corners = np.array(list(itertools.product(*zip(part.lower, part.upper, strict=True))))
        points = np.concatenate([corners, rng.uniform(part.lower, part.upper, size=(12, 2))])
        found.append(Instance(f"cancelling terms, seed {seed}", network, part, part.clip(points)))
    return tuple(found)


def complete(method: str | BoundMethod) -> None:
    """One finite pair of bounds for every neuron, in the shape of the network."""
    chosen = _method(method)
    for instance in boxes():
        found = chosen.run(instance.network, instance.part)
        demand(isinstance(found, Bounds), f"bounds {chosen.name!r}: {type(found).__name__} instead of Bounds")
        sizes = [len(known.lower) for known in found.layers]
        wanted = [layer.size for layer in instance.network.layers]
        demand(sizes == wanted, f"bounds {chosen.name!r}, {instance.label}: layers of {sizes}, not {wanted}, neurons")
        for k, known in enumerate(found.layers):
            bad = np.flatnonzero(~(np.isfinite(known.lower) & np.isfinite(known.upper)))
            if bad.size:
                i = int(bad[0])
                raise ConformanceError(
                    _say(chosen, instance.label, k, i, f"[{known.lower[i]}, {known.upper[i]}] is not finite")
                )


def true_extremes(method: str | BoundMethod) -> None:
    """No bound cuts off the least or the greatest pre-activation, on boxes and on polytopes."""
    chosen = _method(method)
    every = [(i.label, i.network, i.part) for i in boxes()]
    for label, network, part in [*every, *polytopes()]:
        found = chosen.run(network, part)
        for k, ((low, high), known) in enumerate(zip(extremes(network, part), found.layers, strict=True)):
            slack = SLACK * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
            for i in np.flatnonzero((known.lower > low + slack) | (known.upper < high - slack)).tolist():
                raise ConformanceError(
                    _say(
                        chosen, label, k, i,
                        f"[{known.lower[i]:.9g}, {known.upper[i]:.9g}], but [{low[i]:.9g}, {high[i]:.9g}] is reached",
                    )
                )  # fmt: skip


def exact_values(method: str | BoundMethod) -> None:
    """Bounds marked rigorous hold for the exact values at many points, to the last digit."""
    chosen = _method(method)
    for instance in (*boxes(), *badly_rounding()):
        found = chosen.run(instance.network, instance.part)
        for point in instance.points:
            for k, values in enumerate(exact_pre_activations(instance.network, point)):
                _hold(chosen, found, instance.label, k, values)


def _hold(method: BoundMethod, found: Bounds, label: str, k: int, values: Sequence[Fraction]) -> None:
    known = found.layers[k]
    for i, value in enumerate(values):
        low, high = float(known.lower[i]), float(known.upper[i])
        wrong = (known.lower_rigorous[i] and low > value) or (known.upper_rigorous[i] and high < value)
        if wrong:
            what = f"[{low!r}, {high!r}] is marked rigorous, but {float(value)!r} is reached"
            raise ConformanceError(_say(method, label, k, i, what + " in exact arithmetic"))


def rigour(method: str | BoundMethod) -> None:
    """A method that is not rigorous marks none of its own bounds as rigorous."""
    chosen = _method(method)
    if chosen.rigorous:
        return
    for instance in boxes():
        found = chosen.run(instance.network, instance.part)
        own = [code for code, name in enumerate(found.methods) if name.partition(":")[0] == chosen.name]
        for k, known in enumerate(found.layers):
            for codes, proof in ((known.lower_by, known.lower_rigorous), (known.upper_by, known.upper_rigorous)):
                for i in np.flatnonzero(np.isin(codes, own) & proof).tolist():
                    words = "marked rigorous, which the method says it is not"
                    raise ConformanceError(_say(chosen, instance.label, k, i, words))


def one_point(method: str | BoundMethod) -> None:
    """On a box that is one point, the bounds contain its forward pass."""
    chosen = _method(method)
    for instance in boxes():
        point = instance.points[-1]
        found = chosen.run(instance.network, Box(point, point))
        for k, values in enumerate(exact_pre_activations(instance.network, point)):
            for i, value in enumerate(map(float, values)):
                low, high = found.layers[k].lower[i] - SLACK, found.layers[k].upper[i] + SLACK
                demand(
                    low <= value <= high,
                    _say(chosen, f"{instance.label}, one point", k, i, f"[{low}, {high}] without {value}"),
                )


def repeatable(method: str | BoundMethod) -> None:
    """The same call gives the same bounds, and leaves network and domain as they were."""
    chosen = _method(method)
    for instance in boxes():
        network, part = instance.network, instance.part
        before = network.content_digest, part.digest
        first, second = chosen.run(network, part), chosen.run(network, part)
        copy = Network(network.n_inputs, network.layers, network.output)
        demand(
            (copy.content_digest, part.digest) == before, f"bounds {chosen.name!r} changed the network or the domain"
        )
        for k, (a, b) in enumerate(zip(first.layers, second.layers, strict=True)):
            same = np.array_equal(a.lower, b.lower) and np.array_equal(a.upper, b.upper)
            demand(same, f"bounds {chosen.name!r}, {instance.label}, layer {k}: another result the second time")


def deadline(method: str | BoundMethod) -> None:
    """With no time left, a method ends: by `SearchStoppedError`, or with bounds that hold."""
    chosen = _method(method)
    for instance in boxes()[:2]:
        try:
            found = chosen.run(instance.network, instance.part, Context(deadline=Deadline(0.0)))
        except SearchStoppedError:
            continue
        for point in instance.points:
            for k, values in enumerate(exact_pre_activations(instance.network, point)):
                _hold(chosen, found, f"{instance.label}, no time left", k, values)


CHECKS: tuple[Callable[[str | BoundMethod], None], ...] = (
    complete,
    true_extremes,
    exact_values,
    rigour,
    one_point,
    repeatable,
    deadline,
)
"""All checks, in the order in which failures are best read."""


def run_all(method: str | BoundMethod) -> None:
    """Run all checks; raises the first `ConformanceError`."""
    for check in CHECKS:
        check(method)


def tightness(method: str | BoundMethod) -> float:
    """The mean width of the bounds over that of the true ranges, on the suite's boxes: 1 at best; no check."""
    return float(np.mean([ratio for instance in boxes() for ratio in _ratios(_method(method), instance)]))


def _ratios(method: BoundMethod, instance: Instance) -> Iterator[float]:
    truth = extremes(instance.network, instance.part)
    for (low, high), known in zip(truth, run(method, instance.network, instance.part).layers, strict=True):
        wide = high - low > SLACK
        yield from ((known.upper - known.lower)[wide] / (high - low)[wide]).tolist()
