"""Cutting boxes in two: halves cover the box, and what cannot be cut is not."""

from __future__ import annotations

import numpy as np

from stablenet.domain.halving import best, divisible, guided, halves, middle


def test_halves_share_a_face_and_cover_the_box() -> None:
    rng = np.random.default_rng(0)
    lower = rng.uniform(-1, 0, size=(20, 3))
    upper = lower + rng.uniform(0.1, 1, size=(20, 3))
    cut = rng.integers(0, 3, size=20)
    left, right = halves(lower, upper, cut)
    rows = np.arange(20)
    assert (left[rows, cut] == right[rows, cut]).all()
    for k in range(3):
        same = cut != k
        assert (left[same, k] == upper[same, k]).all()
        assert (right[same, k] == lower[same, k]).all()
    assert ((left[rows, cut] > lower[rows, cut]) & (right[rows, cut] < upper[rows, cut])).all()


def test_the_middle_of_the_largest_numbers_is_finite_and_between() -> None:
    most = np.array([np.finfo(np.float64).max])
    assert middle(most, most) == most
    assert middle(-most, most) == 0.0


def test_neighbouring_numbers_are_not_cut() -> None:
    lower = np.array([[1.0, 0.0]])
    upper = np.array([[np.nextafter(1.0, 2.0), 0.0]])
    assert not divisible(lower, upper).any()
    assert guided(lower, upper, np.ones((1, 2))).tolist() == [-1]


def test_the_input_of_most_gain_is_cut_unless_it_has_no_width() -> None:
    lower, upper = np.zeros((2, 2)), np.array([[1.0, 1.0], [0.0, 1.0]])
    assert guided(lower, upper, np.array([[3.0, 1.0], [3.0, 1.0]])).tolist() == [0, 1]
    assert best(np.array([[np.inf, 1.0]]), np.array([[True, True]])).tolist() == [0]


def test_where_nothing_is_gained_the_widest_is_cut() -> None:
    assert guided(np.zeros((1, 3)), np.array([[1.0, 3.0, 2.0]]), np.zeros((1, 3))).tolist() == [1]
