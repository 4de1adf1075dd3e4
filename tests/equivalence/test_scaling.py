"""Pairs that are equal by positive homogeneity and permutation, and small pairs against exact arithmetic."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from compress_tools import plain
from oracle.exact import extrema
from oracle.plain import Region

from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.equivalence.counterexample import difference_network
from stablenet.equivalence.joint import Joint, Pairing
from stablenet.equivalence.scaling import factors, times
from stablenet.equivalence.verify import verify

SOLVERS = [pytest.param(s, marks=pytest.mark.backend(s)) for s in ("highs", "scip", "cbc", "gurobi")]


def dense(weights: list[np.ndarray], offsets: list[np.ndarray]) -> Network:
    maps = [AffineMap(b, (Term(k, w),)) for k, (w, b) in enumerate(zip(weights, offsets, strict=True))]
    layers = tuple(Layer(affine, f"g{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(weights[0].shape[1], layers, maps[-1])


def random_net(seed: int, sizes: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(m, n)) / np.sqrt(n) for n, m in pairwise(sizes)]
    return weights, [0.3 * rng.normal(size=m) for m in sizes[1:]]


def rescaled(weights, offsets, layer: int, scale: np.ndarray, order: np.ndarray | None = None):
    """A layer's neurons multiplied by ``scale`` and put in ``order``, the layer after divided by it."""
    order = np.arange(len(scale)) if order is None else order
    weights, offsets = list(weights), list(offsets)
    weights[layer] = (weights[layer] * scale[:, None])[order]
    offsets[layer] = (offsets[layer] * scale)[order]
    weights[layer + 1] = (weights[layer + 1] / scale)[:, order]
    return weights, offsets


def box(n: int) -> Box:
    return Box(-np.ones(n), np.ones(n))


@pytest.mark.parametrize("scale", [3.0, 0.1, 1e-6, 7e5, 0.25])
def test_a_layer_scaled_by_any_number_is_recognised(scale):
    made = random_net(1, (30, 12, 12, 3))
    a = dense(*made)
    for layer in (0, 1):
        b = dense(*rescaled(*made, layer, np.full(12, scale)))
        result = verify(a, b, box(30), steps=["bounds"])
        assert (result.outcome, result.by, result.rigorous) == ("equal", "bounds", True)
        assert result.found is None or result.found.difference <= result.bound
        assert result.bound <= 1e-12
        assert (result.bound == 0.0) == (scale == 0.25)


@pytest.mark.parametrize("seed", range(4))
def test_neurons_scaled_one_by_one_and_permuted_are_recognised(seed):
    rng = np.random.default_rng(seed)
    made = random_net(seed, (20, 10, 10, 10, 2))
    a = dense(*made)
    for layer in range(3):
        made = rescaled(*made, layer, np.exp(rng.uniform(-12, 12, size=10)), rng.permutation(10))
    b = dense(*made)
    for first, second in ((a, b), (b, a)):
        result = verify(first, second, box(20), steps=["bounds"])
        assert (result.outcome, result.rigorous) == ("equal", True)
        assert 0.0 < result.bound <= 1e-11


def test_a_scaled_copy_stored_in_float32_is_equal_within_its_rounding():
    made = random_net(5, (20, 10, 10, 2))
    weights, offsets = rescaled(*made, 0, np.full(10, 3.0))
    b = dense([w.astype(np.float32).astype(float) for w in weights], offsets)
    result = verify(dense(*made), b, box(20), steps=["bounds"], tolerance=1e-4)
    assert result.outcome == "equal"
    assert 1e-9 < result.bound < 1e-4


def test_a_scaled_copy_with_one_weight_changed_is_different():
    made = random_net(2, (20, 10, 10, 2))
    weights, offsets = rescaled(*made, 0, np.full(10, 3.0))
    weights[1] = weights[1].copy()
    weights[1][0, 0] *= 1.5
    result = verify(dense(*made), dense(weights, offsets), box(20))
    assert result.outcome == "different"
    assert result.found.difference <= result.bound


def test_products_are_exact_or_bounded():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=50), [0.0, 1e-308, -3e-308, 5e-324]])
    for factor in (3.0, 0.1, 0.25, 2.0**-40, 1e-20):
        product, error = times(values, np.array(factor))
        for value, p, e in zip(values.tolist(), product.tolist(), error.tolist(), strict=True):
            assert abs(Fraction(value) * Fraction(factor) - Fraction(p)) <= Fraction(e)
    assert not times(values[:50], np.array(0.25))[1].any()


def test_factors_are_positive_whatever_the_values():
    a = np.array([[1.0, 0.0, 1.0, np.inf, 1e-300, -1.0], [2.0, 0.0, -1.0, 1.0, 2e-300, -2.0]])
    b = np.array([[-1.0, 1.0, 0.0, 1.0, 1e300, -3.0], [-2.0, 2.0, 0.0, 1.0, 2e300, -6.0]])
    found = factors(a, b)
    assert ((found > 0) & np.isfinite(found)).all()
    assert found[5] == 3.0


@pytest.mark.parametrize("seed", range(6))
def test_any_scales_and_pairing_are_sound(seed):
    """Bounds hold for scales and partners that fit nothing."""
    rng = np.random.default_rng(seed)
    a, b = dense(*random_net(seed, (2, 4, 3, 2))), dense(*random_net(seed + 50, (2, 4, 3, 2)))
    pairing = Pairing((0, 1), (rng.permutation(4), rng.permutation(3)), (rng.random(4) * 3 + 0.1, rng.random(3) + 0.1))
    lower, upper = Joint(a, b, pairing, low=-np.ones((1, 2)), high=np.ones((1, 2))).run()
    found = extrema(plain(difference_network(a, b)), [Region((-1.0, -1.0), (1.0, 1.0))])
    assert all(Fraction(x) <= y for x, y in zip(lower[0].tolist(), found.minimum[-1], strict=True))
    assert all(Fraction(x) >= y for x, y in zip(upper[0].tolist(), found.maximum[-1], strict=True))


def pair(seed: int) -> tuple[Network, Network, Fraction]:
    """A small pair and the exact largest difference; what the second is varies with the seed."""
    rng = np.random.default_rng(seed)
    weights, offsets = random_net(seed, (2, 4, 3, 1))
    other_w, other_b = [w.copy() for w in weights], [b.copy() for b in offsets]
    kind = seed % 4
    if kind == 0:
        other_w, other_b = rescaled(other_w, other_b, 0, np.exp(rng.uniform(-9, 9, size=4)), rng.permutation(4))
    elif kind == 1:  # a neuron that is positive near one vertex only, of small range and large outgoing weight
        size = 10.0 ** rng.integers(-9, 9)
        corner = rng.choice([-1.0, 1.0], size=2)
        added_w = [np.concatenate([other_w[0], size * corner[None]]), None, None]
        added_b = np.append(other_b[0], -1.9 * size)
        column = np.zeros((3, 1))
        column[0] = rng.choice([-1.0, 1.0]) / size
        other_w = [added_w[0], np.concatenate([other_w[1], column], axis=1), other_w[2]]
        other_b = [added_b, *other_b[1:]]
    elif kind == 2:
        other_w[1] = np.where(np.abs(other_w[1]) < 0.2, 0.0, other_w[1])
    else:
        other_w[0] *= 1.0 + 1e-4 * rng.normal(size=other_w[0].shape)
    a, b = dense(weights, offsets), dense(other_w, other_b)
    found = extrema(plain(difference_network(a, b)), [Region((-1.0, -1.0), (1.0, 1.0))])
    return a, b, max(-found.minimum[-1][0], found.maximum[-1][0])


def hold_against_truth(seed: int, solver: str) -> None:
    a, b, truth = pair(seed)
    for steps in (["milp"], ["bounds", "gradient", "milp"]):
        for tolerance in (1e-5, 0.5 * float(truth), 0.999 * float(truth), 1.1 * float(truth) + 1e-9):
            result = verify(a, b, box(2), tolerance=tolerance, steps=steps, solver=solver, seed=seed, threads=1)
            case = (seed, solver, steps, tolerance, result)
            assert result.outcome != "equal" or truth <= Fraction(tolerance), case
            assert result.outcome != "different" or truth > Fraction(tolerance), case
            if np.isfinite(result.bound):
                assert truth <= Fraction(result.bound), case
            if result.found is not None:
                assert Fraction(result.found.difference) <= truth, case


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_small_pair_is_falsely_equal(seed, solver):
    hold_against_truth(seed, solver)


@pytest.mark.long
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_pair_of_a_campaign_is_falsely_equal(solver):
    start = int(np.random.default_rng().integers(10**6))
    print("seeds from", start)
    for seed in range(start, start + 60):
        hold_against_truth(seed, solver)


def test_scaling_survives_further_terms():
    """Residual networks, and sparse maps."""
    from scipy import sparse

    rng = np.random.default_rng(3)
    w0, w1, skip, out = (rng.normal(size=s) for s in ((8, 6), (5, 8), (5, 6), (2, 5)))
    scale = np.exp(rng.uniform(-3, 3, size=8))

    def made(first, second, kind) -> Network:
        layers = (
            Layer(AffineMap(np.zeros(8), (Term(0, kind(first)),)), "a", (8,)),
            Layer(AffineMap(np.ones(5), (Term(1, kind(second)), Term(0, kind(skip)))), "b", (5,)),
        )
        return Network(6, layers, AffineMap(np.zeros(2), (Term(2, kind(out)),)))

    for kind in (np.asarray, sparse.csr_array):
        a, b = made(w0, w1, kind), made(w0 * scale[:, None], w1 / scale, kind)
        result = verify(a, b, box(6), steps=["bounds"])
        assert (result.outcome, result.rigorous) == ("equal", True)
        assert result.bound < 1e-12
        assert replace(result).to_json()["bound"] == result.bound
