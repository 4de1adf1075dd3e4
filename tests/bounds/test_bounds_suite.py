"""The conformance suite of bounds: this package's pass it, and broken ones of each kind do not."""

from __future__ import annotations

import numpy as np
import pytest

from stablenet.bounds import registry, run
from stablenet.bounds.base import BoundMethod
from stablenet.core.bounds import Bounds
from stablenet.domain.regions import Box
from stablenet.testing import bounds as suite
from stablenet.testing.suite import ConformanceError

METHODS = ["interval", "crown", "crown-alpha", "lp", "branch", "loose"]


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_the_methods_that_come_along_pass(method: str, check) -> None:
    check(method)


def test_the_methods_that_are_left_out_here_are_those_with_a_solver() -> None:
    assert set(registry.names()) - set(METHODS) <= {"milp", "rolling", "progressive"}


def test_tightness_tells_wide_from_tight() -> None:
    assert 1.0 <= suite.tightness("branch") <= suite.tightness("crown") <= suite.tightness("interval")


class Broken(BoundMethod):
    title = "broken on purpose"
    paper = "-"
    rigorous = True

    def run(self, network, part, context=None):
        return Bounds.of(self.name, self.sides(network, part), rigorous=True)

    def sides(self, network, part):
        raise NotImplementedError


class Halved(Broken):
    """Intervals of half their width."""

    name = "halved"

    def sides(self, network, part):
        for known in run("interval", network, part).layers:
            middle, radius = (known.lower + known.upper) / 2, (known.upper - known.lower) / 4
            yield middle - radius, middle + radius

    def run(self, network, part, context=None):
        return Bounds.of(self.name, list(self.sides(network, part)), rigorous=True)


class Sampled(Broken):
    """The least and greatest values of many forward passes: what no proof has confirmed."""

    name = "sampled"

    def sides(self, network, part):
        points = np.random.default_rng(0).uniform(part.lower, part.upper, size=(5000, part.n_inputs))
        return [(g.min(axis=0), g.max(axis=0)) for g in network.pre_activations(points)]


class Cut(Broken):
    """Intervals that rows of a polytope tighten on the wrong side."""

    name = "cut"

    def sides(self, network, part):
        box = part
        if part.a is not None:
            lower = part.lower.copy()
            lower[0] = (part.lower[0] + part.upper[0]) / 2
            box = Box(lower, part.upper)
        return [(k.lower, k.upper) for k in run("interval", network, box).layers]


class Floating(Broken):
    """Intervals without regard to rounding, and called rigorous."""

    name = "floating"

    def sides(self, network, part):
        lows, highs, found = [part.lower], [part.upper], []
        for layer in network.layers:
            low = high = layer.affine.offset
            for term in layer.affine.terms:
                matrix = term.matrix.toarray() if hasattr(term.matrix, "toarray") else term.matrix
                plus, minus = np.maximum(matrix, 0), np.minimum(matrix, 0)
                low = low + plus @ lows[term.source] + minus @ highs[term.source]
                high = high + plus @ highs[term.source] + minus @ lows[term.source]
            found.append((low, high))
            lows.append(np.maximum(low, 0))
            highs.append(np.maximum(high, 0))
        return found


class Skipless(Broken):
    """Intervals that forget all sources of a layer but the last."""

    name = "skipless"

    def sides(self, network, part):
        from stablenet.core.network import AffineMap, Layer, Network

        layers = tuple(
            Layer(AffineMap(layer.affine.offset, layer.affine.terms[:1]), layer.name, layer.shape)
            for layer in network.layers
        )
        return [
            (k.lower, k.upper) for k in run("interval", Network(network.n_inputs, layers, network.output), part).layers
        ]


class Boundless(Broken):
    name = "boundless"

    def sides(self, network, part):
        return [(np.full(layer.size, -np.inf), np.full(layer.size, np.inf)) for layer in network.layers]


class Short(Broken):
    name = "short"

    def sides(self, network, part):
        return [(k.lower, k.upper) for k in run("interval", network, part).layers[:-1]]


class Boasting(Broken):
    """Marks as rigorous what it does not call so."""

    name = "boasting"
    rigorous = False

    def sides(self, network, part):
        return [(k.lower - 1, k.upper + 1) for k in run("interval", network, part).layers]


class Fickle(Broken):
    name = "fickle"
    calls = 0

    def sides(self, network, part):
        self.calls += 1
        return [(k.lower - self.calls, k.upper) for k in run("interval", network, part).layers]


class Rushed(Broken):
    """Bounds that hold, unless time is short."""

    name = "rushed"

    def run(self, network, part, context=None):
        known = run("interval", network, part)
        if context is None or not context.deadline.over:
            return known
        return Bounds.of(self.name, [(0 * k.lower, 0 * k.upper) for k in known.layers], rigorous=True)


class Meddling(Broken):
    """Moves the domain that it was given."""

    name = "meddling"

    def sides(self, network, part):
        sides = [(k.lower - 9, k.upper + 9) for k in run("interval", network, part).layers]
        part.lower.setflags(write=True)
        part.lower[0] = np.nextafter(part.lower[0], -np.inf)
        return sides


FAULTS = {
    Halved: ("true_extremes", "is reached"),
    Sampled: ("true_extremes", "is reached"),
    Cut: ("true_extremes", "polytope.* is reached"),
    Skipless: ("true_extremes", "with skips.* is reached"),
    Floating: ("exact_values", "is marked rigorous, but .* exact arithmetic"),
    Boundless: ("complete", "is not finite"),
    Short: ("complete", "layers of"),
    Boasting: ("rigour", "marked rigorous"),
    Fickle: ("repeatable", "another result"),
    Meddling: ("repeatable", "changed the network or the domain"),
    Rushed: ("deadline", "no time left"),
}


@pytest.fixture(autouse=True)
def _fresh():
    """Instances are kept between calls; a method that writes to them must not spoil them for others."""
    yield
    suite.boxes.cache_clear()
    suite.instances.cache_clear()


@pytest.mark.parametrize("broken", FAULTS, ids=lambda cls: cls.name)
def test_a_broken_bound_is_found_by_the_check_for_it(broken: type[BoundMethod]) -> None:
    name, words = FAULTS[broken]
    check = getattr(suite, name)
    assert check in suite.CHECKS
    with pytest.raises(ConformanceError, match=words):
        check(broken())
    with pytest.raises(ConformanceError):
        suite.run_all(broken())
