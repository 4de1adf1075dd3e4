"""Polytopes in every formulation and every bound, against exact extrema."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from oracle.exact import Extrema, extrema
from oracle.plain import PlainMap, PlainNetwork, Region
from stablenet.backends.base import Capability
from stablenet.backends.highs import Highs
from stablenet.formulations.base import registry as formulations

from formulations.networks import canonical
from formulations.test_conformance import SPECS
from stablenet.api import find_stable
from stablenet.bounds import Context, run
from stablenet.bounds import registry as methods
from stablenet.domain.regions import Box, Polytope

NEAR = 1e-6
"""An extremum so close to 0 may be left open."""


def plain(rng: np.random.Generator) -> PlainNetwork:
    """Two layers of four neurons over two inputs, small integers as weights so that ties occur."""

    def affine(n: int, m: int, source: int) -> PlainMap:
        rows = [tuple(map(Fraction, row)) for row in rng.integers(-2, 3, size=(m, n)).tolist()]
        offset = tuple(map(Fraction, rng.integers(-1, 2, size=m).tolist()))
        return PlainMap(offset, ((source, tuple(rows)),))

    return PlainNetwork(2, (affine(2, 4, 0), affine(4, 4, 1)), affine(4, 1, 2))


@cache
def instances() -> list[tuple[PlainNetwork, Polytope, Extrema]]:
    """Networks on a square cut by two rows."""
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        network, a = plain(rng), rng.integers(-3, 4, size=(2, 2)).astype(float)
        b = 0.25 * np.abs(a).sum(axis=1)
        cut = Region((-1.0, -1.0), (1.0, 1.0), tuple(map(tuple, a.tolist())), tuple(b.tolist()))
        part = Polytope(np.array(cut.lower), np.array(cut.upper), a, b)
        found.append((network, part, extrema(network, [cut])))
    return found


def test_the_rows_matter() -> None:
    narrower = 0
    for network, part, truth in instances():
        boxed = extrema(network, [Region(tuple(part.lower), tuple(part.upper))])
        for mine, wide in zip(truth.maximum, boxed.maximum, strict=True):
            narrower += sum(cut < whole for cut, whole in zip(mine, wide, strict=True))
    assert narrower >= 5


@pytest.mark.parametrize("spec", SPECS)
def test_verdicts(spec: str) -> None:
    solver = "highs" if Highs().supports(*formulations.get(spec).requires) else "scip"
    search = "network" if formulations.get(spec).exact else "neuron"
    decided = 0
    for network, part, truth in instances():
        found = find_stable(
            canonical(network), part, formulation=spec, solver=solver, search=search, bounds="interval", falsify=False,
            decide_by_bounds=False,
        ).verdicts()  # fmt: skip
        for verdicts, lows, highs in zip(found, truth.minimum, truth.maximum, strict=True):
            for verdict, low, high in zip(verdicts, lows, highs, strict=True):
                allowed = {"unstable"} if low < 0 < high else set()
                allowed |= {"stably_active"} if low >= 0 else set()
                allowed |= {"stably_inactive"} if high <= 0 else set()
                loose = min(abs(low), abs(high)) <= NEAR or search == "neuron"
                assert verdict in allowed | ({"unknown"} if loose else set()), (verdict, float(low), float(high))
                decided += verdict != "unknown"
    assert decided >= 8


@pytest.mark.parametrize("method", methods.names())
def test_bounds(method: str) -> None:
    gained = 0
    for network, part, truth in instances():
        boxed = run(method, canonical(network), Box(part.lower, part.upper))
        slack = 0.0 if methods.get(method).rigorous else 1e-6
        for k, (layer, wide) in enumerate(zip(run(method, canonical(network), part).layers, boxed.layers, strict=True)):
            pairs = zip(truth.minimum[k], layer.lower.tolist(), layer.upper.tolist(), truth.maximum[k], strict=True)
            assert all(low - slack <= least and most <= high + slack for least, low, high, most in pairs)
            gained += int((layer.upper < wide.upper - 1e-9).sum() + (layer.lower > wide.lower + 1e-9).sum())
    assert gained >= 5


def test_a_solver_without_duals_does_not_cost_the_rows() -> None:
    class Dumb(Highs):
        def __init__(self) -> None:
            super().__init__()
            self.capabilities = Highs.capabilities - {Capability.DUALS}

    network, part, _ = instances()[0]
    usual, dumb = (run("interval", canonical(network), part, Context(backend=b)) for b in (None, Dumb()))
    for a, b in zip(usual.layers, dumb.layers, strict=True):
        np.testing.assert_array_equal(a.lower, b.lower)
        np.testing.assert_array_equal(a.upper, b.upper)


def test_bounds_say_what_they_need() -> None:
    needs = {
        spec: methods.get(spec).requires for spec in ("crown", "lp", "milp", "milp:10s", "rolling", "progressive:lp")
    }
    assert needs == {
        "crown": frozenset(),
        "lp": {Capability.DUALS},
        "milp": {Capability.NODE_LIMIT},
        "milp:10s": frozenset(),
        "rolling": {Capability.NODE_LIMIT},
        "progressive:lp": {Capability.DUALS},
    }
