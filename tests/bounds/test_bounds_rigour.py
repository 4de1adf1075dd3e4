"""Every rigorous tightening method against exact extrema, as fractions and without tolerance; see `test_rigour`."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from oracle.exact import Extrema, extrema
from oracle.plain import PlainNetwork, Region
from test_rigour import INSTANCES, bounds_of, canonical, random_instances, truths, violations

from stablenet.bounds import registry, run
from stablenet.domain.regions import Box, Polytope

METHODS = ["crown-alpha", "lp", "progressive:lp", "branch:12"]
SHARE = {"random": 4, "wild": 2, "cancellations": 3}
"""Every so many of the instances, for time."""


def test_every_rigorous_method_is_tested() -> None:
    rigorous = {name for name, cls in registry.classes.items() if cls.rigorous}
    assert rigorous == {"interval", "crown", "loose", "crown-alpha", "lp", "branch"}
    assert all(registry.get(method).rigorous for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", INSTANCES)
def test_bounds_contain_the_exact_extrema(group: str, method: str) -> None:
    found = []
    pairs = list(zip(INSTANCES[group](), truths(group), strict=True))[:: SHARE[group]]
    for number, ((plain, region), truth) in enumerate(pairs):
        found += violations(bounds_of(method, canonical(plain, csr=number % 3 == 0), region), truth)
    assert len(pairs) > 40
    assert not found, f"{len(found)}: {found[:5]}"


@pytest.mark.parametrize("method", METHODS)
def test_no_bound_is_looser_than_crown_and_many_are_tighter(method: str) -> None:
    tighter = 0
    for plain, region in INSTANCES["random"]()[::3]:
        network, box = canonical(plain), Box(region.lower, region.upper)
        for mine, crown in zip(run(method, network, box).layers, run("crown", network, box).layers, strict=True):
            assert (mine.lower >= crown.lower).all()
            assert (mine.upper <= crown.upper).all()
            assert mine.lower_rigorous.all()
            assert mine.upper_rigorous.all()
            width = 1e-6 * (1e-9 + np.abs(crown.upper - crown.lower))
            tighter += int((mine.lower > crown.lower + width).sum() + (mine.upper < crown.upper - width).sum())
    assert tighter > 40


@cache
def polytopes() -> list[tuple[PlainNetwork, Region, Extrema]]:
    """Random instances cut by two rows that leave the centre in, one of them with a wild scale."""
    found = []
    for seed, (plain, region) in enumerate(random_instances()[::9]):
        rng = np.random.default_rng(seed)
        middle = 0.5 * (np.array(region.lower) + np.array(region.upper))
        rows = rng.normal(size=(2, plain.n_inputs)) * np.array([[1.0], [10.0 ** rng.uniform(-6, 6)]])
        sides = rows @ middle + rng.uniform(0.0, 0.3, size=2) * np.abs(rows).sum(axis=1)
        cut = Region(region.lower, region.upper, tuple(map(tuple, rows.tolist())), tuple(sides.tolist()))
        found.append((plain, cut, extrema(plain, [cut])))
    return found


@pytest.mark.parametrize("method", ["interval", "crown", *METHODS])
def test_polytopes(method: str) -> None:
    """Valid on the polytope; the first layer is as tight as can be; and no looser than on the box."""
    tighter = 0
    for plain, region, truth in polytopes():
        network, box = canonical(plain), Box(region.lower, region.upper)
        part = Polytope(region.lower, region.upper, np.array(region.a), np.array(region.b))
        found = run(method, network, part).layers
        assert not violations([(layer.lower, layer.upper) for layer in found], truth), region
        assert all(layer.lower_rigorous.all() and layer.upper_rigorous.all() for layer in found)
        first, boxed = found[0], run(method, network, box).layers[0]
        size = 1e-7 * (1e-9 + np.abs(boxed.lower) + np.abs(boxed.upper))
        undecided = boxed.phase == 0
        assert (first.upper - size <= np.array(truth.maximum[0], float))[undecided].all()
        assert (first.lower + size >= np.array(truth.minimum[0], float))[undecided].all()
        tighter += int((first.upper < boxed.upper - size).sum())
    assert tighter >= 10
