"""The climbers: they never go down, stay in the domain, and find what chance does not."""

from __future__ import annotations

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.falsify.climb import STEPS, climb, roam

WIDTH = np.full(3, 2.0)


def pull(points: Array) -> Array:
    return np.clip(points, -1.0, 1.0)


def hill(points: Array, _: Index) -> tuple[Array, Array]:
    """Highest, 0, at (0.3, -0.2, 0.7)."""
    gap = points - np.array([0.3, -0.2, 0.7])
    return -np.abs(gap).sum(axis=1), -np.sign(gap)


def starts(n: int) -> Array:
    return np.random.default_rng(1).uniform(-1, 1, size=(n, 3))


def test_no_point_ends_below_its_start_or_outside() -> None:
    begin = starts(30)
    points, values = climb(hill, begin, pull, WIDTH)
    assert (values >= hill(begin, np.arange(30))[0]).all()
    assert np.array_equal(values, hill(points, np.arange(30))[0])
    assert (np.abs(points) <= 1).all()
    assert values.max() > -0.2


def test_what_is_enough_stays_and_the_rest_is_told_which_points_it_has() -> None:
    begin = starts(10)
    seen: list[Index] = []

    def told(points: Array, rows: Index) -> tuple[Array, Array]:
        seen.append(rows)
        return hill(points, rows)

    enough = np.where(np.arange(10) < 4, -np.inf, np.inf)
    points, _ = climb(told, begin, pull, WIDTH, enough=enough)
    assert np.array_equal(points[:4], begin[:4])
    assert [rows.tolist() for rows in seen] == [list(range(10))] + [list(range(4, 10))] * len(STEPS)


def test_it_stops_when_told() -> None:
    begin = starts(5)
    points, _ = climb(hill, begin, pull, WIDTH, stop=lambda: True)
    assert np.array_equal(points, begin)


def test_random_moves_find_a_ridge_and_repeat() -> None:
    def ridge(points: Array) -> Array:
        """Steep on both sides of a slanted edge: slopes point across it, not along."""
        return points[:, 0] - 50.0 * np.abs(points[:, 1] - 0.5 * points[:, 0])

    def run() -> Array:
        return roam(ridge, starts(20), pull, WIDTH, rounds=200, rng=np.random.default_rng(3))

    found = run()
    assert ridge(found).max() > 0.9
    assert (ridge(found) >= ridge(starts(20))).all()
    assert np.array_equal(found, run())
