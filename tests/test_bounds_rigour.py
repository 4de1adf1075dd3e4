"""Every rigorous tightening method against exact extrema, as fractions and without tolerance; see `test_rigour`."""

from __future__ import annotations

import numpy as np
import pytest
from test_rigour import INSTANCES, bounds_of, canonical, truths, violations

from stablenet.domain import Box
from stablenet.propagate import registry, run

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
