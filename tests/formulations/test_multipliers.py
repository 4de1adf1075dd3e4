"""Multipliers of a polytope's rows: as good as a linear program for one row, never worse than none.

That the bounds they lead to hold, `test_bounds_rigour` tests in exact arithmetic.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from formulations.networks import cube, dense
from stablenet.bounds import run
from stablenet.bounds.polytope_duals import row_multipliers
from stablenet.domain.regions import Polytope

Array = np.ndarray


def dual_value(y: Array, posed: tuple[Array, ...]) -> Array:
    """What multipliers prove of the maximum of each slope, (q,)."""
    slopes, centre, radius, a, b = posed
    left = slopes - y @ a
    return np.asarray(y @ b + left @ centre + np.abs(left) @ radius)


def problem(seed: int, rows: int) -> tuple[Array, Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    slopes, centre, radius = rng.normal(size=(9, 6)), rng.normal(size=6), rng.random(6)
    slopes[0], radius[2] = 0.0, 0.0
    a = rng.normal(size=(rows, 6)) * (rng.random((rows, 6)) < 0.8)
    return slopes, centre, radius, a, a @ centre + 0.3 * rng.random(rows)


@pytest.mark.parametrize("seed", range(10))
def test_one_row_is_solved_exactly(seed: int) -> None:
    slopes, centre, radius, a, b = problem(seed, 1)
    y = row_multipliers(slopes[None], centre[None], radius[None], a, b)
    assert y.shape == (1, 9, 1)
    assert (y >= 0).all()
    sides = list(zip(centre - radius, centre + radius, strict=True))
    best = [-linprog(-slope, A_ub=a, b_ub=b, bounds=sides).fun for slope in slopes]
    np.testing.assert_allclose(dual_value(y[0], (slopes, centre, radius, a, b)), best, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_several_rows_gain_most_of_what_there_is(seed: int) -> None:
    slopes, centre, radius, a, b = problem(seed, 4)
    y = row_multipliers(slopes[None], centre[None], radius[None], a, b)
    assert (y >= 0).all()
    sides = list(zip(centre - radius, centre + radius, strict=True))
    best = np.array([-linprog(-slope, A_ub=a, b_ub=b, bounds=sides).fun for slope in slopes])
    found = dual_value(y[0], (slopes, centre, radius, a, b))
    none = dual_value(np.zeros_like(y[0]), (slopes, centre, radius, a, b))
    assert (found >= best - 1e-9).all()
    assert (found <= none + 1e-12).all()
    assert (none - found).sum() > 0.6 * (none - best).sum()


def test_parts_are_taken_each_by_itself() -> None:
    slopes, centre, radius, a, b = problem(3, 2)
    centres, radii = np.stack([centre, centre + 0.1]), np.stack([radius, 0.5 * radius])
    together = row_multipliers(slopes[None], centres, radii, a, b)
    for k in range(2):
        alone = row_multipliers(slopes[None], centres[k : k + 1], radii[k : k + 1], a, b)
        np.testing.assert_allclose(together[k], alone[0], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_lost_slopes_make_no_wild_multipliers(bad: float) -> None:
    slopes, centre, radius, a, b = problem(0, 2)
    slopes[4, 1] = bad
    with np.errstate(invalid="ignore"):
        y = row_multipliers(slopes[None], centre[None], radius[None], a, b)
    assert np.isfinite(y).all()
    assert (y >= 0).all()


def test_crown_sees_the_rows_in_every_layer() -> None:
    network, box = dense(1, (4, 12, 12, 12, 2)), cube(4)
    rng = np.random.default_rng(0)
    part = Polytope(box.lower, box.upper, rng.normal(size=(3, 4)), 0.1 + 0.2 * rng.random(3))
    wide, narrow = run("crown", network, box), run("crown", network, part)
    points = rng.uniform(-1, 1, size=(20000, 4))
    passes = network.pre_activations(points[part.holds(points)], 3)
    assert len(passes[0]) > 200
    for k, (before, after) in enumerate(zip(wide.layers, narrow.layers, strict=True)):
        # What the box decides is not bounded again.
        open_ = before.phase == 0
        assert (after.upper - after.lower)[open_].mean() < 0.8 * (before.upper - before.lower)[open_].mean()
        assert ((passes[k] >= after.lower) & (passes[k] <= after.upper)).all()
