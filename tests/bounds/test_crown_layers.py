"""Rows carried back on single boxes of a batch, against each box by itself and against points."""

from __future__ import annotations

import numpy as np
import pytest
from test_bounds_methods import dense

from stablenet.bounds import crown_layers as module
from stablenet.bounds.crown_layers import Bounded, crown_layers
from stablenet.core.network import AffineMap, Layer, Network, Term


def residual(seed: int) -> Network:
    """A network whose third layer reads the first one too."""
    network = dense((4, 16, 16, 12, 2), seed)
    layers = list(network.layers)
    more = np.random.default_rng(seed).normal(size=(12, 16))
    affine = layers[2].affine
    layers[2] = Layer(AffineMap(affine.offset, (*affine.terms, Term(1, more))), name="sum", shape=(12,))
    return Network(4, tuple(layers), network.output)


def boxes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Small boxes here and there, in which most neurons are decided."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(-1, 1, (60, 4)), 0.2 * rng.random((60, 4))
    return centre - radius, centre + radius


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_bounds_each_box_as_if_it_were_alone(seed: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS", 37)
    monkeypatch.setattr(module, "SHARE", 1.0)
    network = residual(seed)
    lower, upper = boxes(seed)
    rng = np.random.default_rng(seed)
    polytope = (rng.normal(size=(rows, 4)), 0.5 + rng.random(rows)) if rows else None
    shown: list[Bounded] = []
    batch = crown_layers(network, lower, upper, polytope=polytope, watch=shown.append)
    assert any(len(found.rows) < len(lower) * len(np.unique(found.rows)) for found in shown)
    monkeypatch.setattr(module, "SHARE", 0.0)  # all rows asked for together, on the one box
    for i in range(len(lower)):
        alone = crown_layers(network, lower[i : i + 1], upper[i : i + 1], polytope=polytope)
        for (low, high), (one_low, one_high) in zip(batch, alone, strict=True):
            np.testing.assert_allclose(low[i], one_low[0], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(high[i], one_high[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_a_box_is_out_of_its_bounds(seed: int) -> None:
    network = residual(seed)
    lower, upper = boxes(seed)
    found = crown_layers(network, lower, upper)
    points = lower + (upper - lower) * np.random.default_rng(seed).random((400, *lower.shape))
    points[:16] = np.where(np.arange(16)[:, None, None] >> np.arange(4) & 1, lower, upper)
    values = network.pre_activations(points.reshape(-1, 4))
    tight = 0
    for value, (low, high) in zip(values, found, strict=True):
        inside = value.reshape(400, len(lower), -1)
        error = 1e-12 * (1 + np.abs(inside))
        assert (inside >= low - error).all()
        assert (inside <= high + error).all()
        tight += int((inside.max(axis=0) > 0.9 * high).sum())
    assert tight > 100


def test_only_the_rows_asked_for_are_carried_back_in_the_last_layer() -> None:
    network = residual(0)
    lower, upper = boxes(0)
    last = np.zeros((len(lower), 12), bool)
    last[::3, 4] = True
    shown: list[Bounded] = []
    some = crown_layers(network, lower, upper, last=last, watch=shown.append)[2]
    every = crown_layers(network, lower, upper)[2]
    at = {(int(part), int(row)) for found in shown if found.layer == 2 for part, row in zip(found.parts, found.rows)}  # noqa: B905
    assert at
    assert at <= {(part, 4) for part in range(0, len(lower), 3)}
    for part, row in at:
        assert some[0][part, row] == pytest.approx(every[0][part, row], rel=1e-12)
        assert some[1][part, row] == pytest.approx(every[1][part, row], rel=1e-12)
    assert (some[1] > every[1]).any()
