"""Descent on the choices of a backward pass: its values are those of the rigorous pass, its gradients their slopes."""

from __future__ import annotations

import numpy as np
import pytest
from test_bounds_methods import dense

from stablenet.bounds import run
from stablenet.bounds.adam import Variables
from stablenet.bounds.crown import Backward
from stablenet.bounds.optimize import BoundOptimizer, _Run
from stablenet.core.network import AffineMap, Layer, Network
from stablenet.domain.regions import LinfBall


def shifted(inactive: int, active: int, seed: int) -> Network:
    """A random network; so many neurons of each layer are surely inactive, so many surely active."""
    network = dense((5, 20, 20, 6, 2), seed)
    layers = []
    for layer in network.layers:
        offset = layer.affine.offset.copy()
        offset[:inactive] -= 50.0
        offset[inactive : inactive + active] += 50.0
        layers.append(Layer(AffineMap(offset, layer.affine.terms), name=layer.name, shape=layer.shape))
    return Network(network.n_inputs, tuple(layers), network.output)


def pushed(network: Network) -> Backward:
    """A backward pass over the first two layers."""
    part = LinfBall(np.full(5, 0.2), 0.5)
    backward = Backward.on(network, part)
    for bounds in run("crown", network, part).layers[:2]:
        backward.push(bounds.lower[None, :], bounds.upper[None, :])
    return backward


def any_choice(
    optimizer: BoundOptimizer, n_rows: int, rng: np.random.Generator, *, phases: bool
) -> tuple[Variables, list[np.ndarray]]:
    """Slopes and multipliers at random, and phases that some of the undecided neurons are held to."""
    start = optimizer.start(n_rows, multipliers=True)
    slopes = [rng.random(a.shape).astype(np.float32) for a in start.slopes]
    multipliers = [(0.1 * rng.normal(size=a.shape)).astype(np.float32) for a in start.multipliers or []]
    held = []
    for level, multiplier in zip(optimizer.levels, multipliers, strict=True):
        phase = np.zeros(multiplier.shape, np.int8)
        if phases:
            phase[..., level.open] = rng.integers(-1, 2, size=(*phase.shape[:2], len(level.open)))
        held.append(phase)
    return Variables(slopes, multipliers), held


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize(("inactive", "active"), [(0, 0), (2, 3), (3, 15), (12, 0)])
def test_values_are_those_of_the_rigorous_pass(inactive: int, active: int, phases: bool) -> None:
    """Layers are kept whole where few of their neurons are inactive: these must count for nothing all the same."""
    rng = np.random.default_rng(inactive + 100 * active)
    network = shifted(inactive, active, seed=3)
    backward = pushed(network)
    optimizer = BoundOptimizer(backward)
    affine = network.layers[2].affine
    rows, signs = np.tile(np.arange(6), 2), np.repeat([1.0, -1.0], 6)
    variables, held = any_choice(optimizer, len(rows), rng, phases=phases)
    found = optimizer.run(affine, rows, signs, 0, start=variables.copy(), phases=held)
    bounds, _ = backward.upper_bounds(affine, rows, signs, optimizer.choices(variables, held))
    np.testing.assert_allclose(found.values, bounds, rtol=1e-4, atol=1e-4 * np.abs(bounds).max())
    assert np.ptp(bounds) > 0.1


@pytest.mark.parametrize(("inactive", "active"), [(0, 0), (2, 3), (12, 0)])
def test_gradients_are_the_slopes_of_the_values(inactive: int, active: int) -> None:
    rng = np.random.default_rng(7)
    network = shifted(inactive, active, seed=3)
    optimizer = BoundOptimizer(pushed(network))
    rows, signs = np.arange(6), np.ones(6)
    variables, held = any_choice(optimizer, 6, rng, phases=True)
    state = _Run(optimizer, network.layers[2].affine, rows, signs, held)
    back = state.back(variables)
    _, pres = state.forward(variables, back)
    step = 1e-3
    wrong: list[bool] = []
    for array, gradient in zip(variables.arrays(), state.gradient(variables, back, pres), strict=True):
        for at in rng.integers(array.shape[2], size=8) if array.shape[2] else []:
            kept = array[..., at].copy()
            values = []
            for sign in (1.0, -1.0):
                array[..., at] = kept + np.float32(sign * step)
                values.append(state.back(variables).value.astype(np.float64))
            array[..., at] = kept
            difference = (values[0] - values[1]) / (2 * step)
            wrong += (np.abs(gradient[..., at] - difference) > 5e-3 * (1 + np.abs(difference).max())).ravel().tolist()
    # The values are piecewise linear: between two points there may be a kink.
    assert len(wrong) >= 96
    assert np.mean(wrong) < 0.05
