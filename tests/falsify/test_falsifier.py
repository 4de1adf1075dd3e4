"""Seeking witnesses: gradients, points that stay in the domain, and what is found on known networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import model, node, save
from small import dense

from stablenet import Box, Domain, Network, Polytope, Union, load_onnx
from stablenet.core.ledger import Ledger
from stablenet.core.questions import NEGATIVE, POSITIVE, State
from stablenet.falsify.climb import LEAK, gradient
from stablenet.falsify.falsifier import Falsifier, puller, random_points

RNG = np.random.default_rng(0)
TRIANGLE = Polytope([-1.0, -1.0], [1.0, 1.0], [[1.0, 1.0], [-1.0, 2.0]], [0.3, 0.4])
THIN = Polytope([-1.0, -1.0], [1.0, 1.0], [[1.0, -1.0], [-1.0, 1.0]], [1e-3, 1e-3])


def falsifier(network: Network, domain: Domain, seed: int = 0) -> Falsifier:
    ledger = Ledger([layer.size for layer in network.layers], len(domain.parts))
    return Falsifier(network, domain, ledger, np.random.default_rng(seed), lambda: False)


@pytest.mark.parametrize("part", [TRIANGLE, THIN], ids=["triangle", "thin"])
def test_pulled_points_are_points_of_the_polytope(part: Polytope) -> None:
    points = puller(part)(RNG.uniform(-3, 3, (500, 2)))
    assert part.holds(points).all()


def test_pulling_leaves_inner_points_alone() -> None:
    points = np.array([[-0.5, -0.5], [0.1, 0.1]])
    np.testing.assert_allclose(puller(TRIANGLE)(points), points, rtol=0, atol=1e-15)


def test_pulled_points_of_a_box_are_clipped() -> None:
    box = Box([0.0, 0.0], [1.0, 1.0])
    assert puller(box)(np.array([[2.0, -1.0]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("width", [0.0, 1e-300, 1.0, 1e200])
def test_random_points_lie_in_the_box(width: float) -> None:
    box = Box([-width / 3.0, 0.1], [width / 3.0, 0.1 + width])
    points = puller(box)(random_points(box, 50, RNG))
    assert points.shape == (101, 2)
    assert box.holds(points).all()


def test_gradients_are_those_of_differences(tmp_path: Path) -> None:
    network = load_onnx(dense(tmp_path, (4, 7, 6, 5, 2)))
    neurons, signs = np.array([0, 3, 4]), np.array([1.0, -1.0, 1.0])
    # With every neuron active the slope has no leak in it, and the function is linear nearby.
    points = RNG.uniform(-1, 1, (3, 4))
    values, slopes = gradient(network, 0, neurons, signs, points)
    pre = network.pre_activations(points)[0]
    np.testing.assert_allclose(values, signs * pre[np.arange(3), neurons], rtol=1e-12)
    matrix = network.layers[0].affine.terms[0].matrix
    np.testing.assert_allclose(slopes, signs[:, None] * matrix[neurons], rtol=1e-12)
    values, slopes = gradient(network, 2, neurons, signs, points)
    expected = np.zeros((3, 4))
    for i in range(3):
        row = signs[i] * network.layers[2].affine.terms[0].matrix[neurons[i]]
        for k in (1, 0):
            active = network.pre_activations(points[i])[k][0] > 0
            row = (row * np.where(active, 1.0, LEAK)) @ network.layers[k].affine.terms[0].matrix
        expected[i] = row
    np.testing.assert_allclose(slopes, expected, rtol=1e-10)


def corner(folder: Path, n: int = 24) -> Network:
    """Positive at one corner of the unit cube only, and at the opposite one."""
    weights = {"w": np.array([[1.0] * n, [-1.0] * n]), "b": np.array([0.125 - n, 0.125]), "v": np.ones((2, 1))}
    nodes = [node("Gemm", "x", "w", "b", out="g", transB=1), node("Relu", "g", out="h"), node("MatMul", "h", "v")]
    return load_onnx(save(model(nodes, [1, n], weights), folder))


def test_steps_find_corners_that_chance_does_not(tmp_path: Path) -> None:
    found = falsifier(corner(tmp_path), Box(np.zeros(24), np.ones(24)))
    found.run(steps=())
    assert (found.ledger.states[POSITIVE] == State.OPEN).all(), "the case is of no use if chance finds it"
    found.run()
    assert (found.ledger.states == State.WITNESSED).all()


def test_a_seed_repeats(tmp_path: Path) -> None:
    network = load_onnx(dense(tmp_path))
    runs = [falsifier(network, Box(-np.ones(3), np.ones(3)), seed) for seed in (0, 0, 1)]
    for run in runs:
        run.run()
    one, two, other = ([point.tolist() for point in run.ledger.points] for run in runs)
    assert one == two != other


def test_every_part_of_a_union_is_searched(tmp_path: Path) -> None:
    union = Union([Box(np.zeros(24), 0.5 * np.ones(24)), Box(0.5 * np.ones(24), np.ones(24))])
    found = falsifier(corner(tmp_path), union)
    found.run()
    assert (found.ledger.states == State.WITNESSED).all()


def test_it_stops_when_told(tmp_path: Path) -> None:
    network = load_onnx(dense(tmp_path))
    asked = []

    def stop() -> bool:
        asked.append(True)
        return True

    ledger = Ledger([6, 6])
    Falsifier(network, Box(-np.ones(3), np.ones(3)), ledger, np.random.default_rng(0), stop).run()
    assert len(asked) == 1 or len(asked) == 2


def test_the_probe_is_always_the_same_and_lies_in_the_part(tmp_path: Path) -> None:
    network = load_onnx(dense(tmp_path, (2, 4, 4, 2)))
    domain = Union([TRIANGLE, Box([0.5, 0.5], [1.0, 1.0])])
    found, again = falsifier(network, domain, 0), falsifier(network, domain, 1)
    for part in range(2):
        probe = found.probe(part)
        assert probe.inside[part].all()
        assert (probe.points == again.probe(part).points).all()
        assert (probe.signs == found.witnesser.signs(probe.points)).all()
        assert found.probe(part) is probe


def test_nothing_is_closed_by_chance_of_rounding(tmp_path: Path) -> None:
    """A neuron that is 0 by cancelling gives no witness, however long it is sought."""
    weights = {
        "a": np.array([[0.1], [0.1]]),
        "p": np.array([1.0, 1.0]),
        "b": np.array([[1.0, -1.0]]),
        "q": np.array([0.0]),
        "c": np.ones((1, 1)),
    }
    nodes = [
        node("Gemm", "x", "a", "p", out="g0", transB=1),
        node("Relu", "g0", out="h0"),
        node("Gemm", "h0", "b", "q", out="g1", transB=1),
        node("Relu", "g1", out="h1"),
        node("Gemm", "h1", "c", transB=1),
    ]
    network = load_onnx(save(model(nodes, [1, 1], weights), tmp_path))
    found = falsifier(network, Box([-1.0], [1.0]))
    found.run()
    assert found.ledger.states[:, 2].tolist() == [State.OPEN, State.OPEN]
    assert found.ledger.states[POSITIVE, :2].tolist() == [State.WITNESSED] * 2
    assert (found.ledger.witness[NEGATIVE] < 0).all()
