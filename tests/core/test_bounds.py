"""Bounds of two origins put together."""

from __future__ import annotations

import numpy as np

from stablenet.core.bounds import Bounds


def test_the_tighter_of_both_keeps_its_method_and_rigour():
    proven = Bounds.of("crown", [(np.array([-1.0, -2.0, 0.0]), np.array([1.0, 5.0, 4.0]))], rigorous=True)
    other = Bounds.of("milp", [(np.array([-3.0, -1.0, 0.0]), np.array([0.5, 6.0, 4.0]))], rigorous=False)
    for both in (proven.intersect(other), other.intersect(proven)):
        layer = both.layers[0]
        assert layer.lower.tolist() == [-1.0, -1.0, 0.0]
        assert layer.upper.tolist() == [0.5, 5.0, 4.0]
        # Of equal bounds the rigorous one stands.
        assert [both.methods[code] for code in layer.lower_by] == ["crown", "milp", "crown"]
        assert [both.methods[code] for code in layer.upper_by] == ["milp", "crown", "crown"]
        assert layer.lower_rigorous.tolist() == [True, False, True]
        assert layer.upper_rigorous.tolist() == [False, True, True]
