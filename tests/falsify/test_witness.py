"""Certification of witnesses: exact membership, and signs that rounding cannot have made."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stablenet.core.ledger import NEGATIVE, POSITIVE, Ledger, State
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Domain, Polytope, Union
from stablenet.falsify.witness import Witnesser

EPS = 2.0**-52


def network(*layers: tuple[list[list[float]], list[float]]) -> Network:
    """A dense chain; the output is the sum of the last layer."""
    made = []
    for k, (weight, bias) in enumerate(layers):
        affine = AffineMap(np.array(bias, float), (Term(k, np.array(weight, float)),))
        made.append(Layer(affine, f"relu{k}", (len(bias),)))
    last = np.ones((1, len(layers[-1][1])))
    n = len(layers[0][0][0])
    return Network(n, tuple(made), AffineMap(np.zeros(1), (Term(len(layers), last),)))


def witnesser(net: Network, domain: Domain) -> Witnesser:
    return Witnesser(net, domain, Ledger([layer.size for layer in net.layers], len(domain.parts)))


def states(found: Witnesser) -> list[list[int]]:
    return found.ledger.states.T.tolist()


IDENTITY = network(([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]))
SQUARE = Box([-1.0, -1.0], [1.0, 1.0])


def test_a_point_closes_what_it_shows() -> None:
    found = witnesser(IDENTITY, SQUARE)
    assert found.offer(np.array([0.5, -0.5]), "samples") == 1
    assert states(found) == [[State.WITNESSED, State.OPEN], [State.OPEN, State.WITNESSED]]


@pytest.mark.parametrize(
    "point",
    [
        [1.0 + EPS, 0.5],
        [0.5, -1.0 - EPS],
        [np.nan, 0.5],
        [np.inf, 0.5],
    ],
)
def test_points_outside_close_nothing(point: list[float]) -> None:
    found = witnesser(IDENTITY, SQUARE)
    assert found.offer(np.array([point]), "samples") == 0
    assert (found.ledger.states == State.OPEN).all()
    assert not found.ledger.points


def test_the_boundary_belongs_to_the_domain() -> None:
    found = witnesser(IDENTITY, SQUARE)
    assert found.offer(np.array([[1.0, -1.0]]), "samples") == 1


def test_polytopes_hold_only_points_that_surely_satisfy_their_rows() -> None:
    triangle = Polytope([0.0, 0.0], [1.0, 1.0], [[1.0 / 3.0, 1.0 / 3.0]], [1.0 / 3.0])
    found = witnesser(IDENTITY, triangle)
    assert found.offer(np.array([[0.5, 0.5], [1.0, 0.1]]), "samples") == 0
    assert found.offer(np.array([[0.5, 0.499]]), "samples") == 1


def test_points_between_the_parts_of_a_union_close_nothing() -> None:
    union = Union([Box([-2.0, -2.0], [-1.0, -1.0]), Box([1.0, 1.0], [2.0, 2.0])])
    found = witnesser(IDENTITY, union)
    assert found.offer(np.array([[0.5, 0.5], [-1.5, 1.5]]), "samples") == 0
    assert found.offer(np.array([[1.5, 1.5], [-1.5, -1.5]]), "samples") == 2
    assert (found.ledger.states == State.WITNESSED).all()


def test_zero_shows_no_sign() -> None:
    found = witnesser(IDENTITY, SQUARE)
    assert found.offer(np.array([[0.0, -0.0]]), "samples") == 0


def exact(net: Network, x: list[float]) -> list[list[Fraction]]:
    """Pre-activations of a dense chain in rational arithmetic."""
    values, result = [Fraction(v) for v in x], []
    for layer in net.layers:
        matrix = layer.affine.terms[0].matrix
        assert isinstance(matrix, np.ndarray)
        rows = zip(matrix.tolist(), layer.affine.offset.tolist(), strict=True)
        pre = [sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b)) for row, b in rows]
        result.append(pre)
        values = [max(v, Fraction(0)) for v in pre]
    return result


def test_a_sign_made_by_rounding_is_not_believed() -> None:
    """(1 + x) - 1 - x is 0, and in floating point it is not."""
    x = 0.1 * 2.0**-30
    net = network(([[1.0], [1.0]], [1.0, 0.0]), ([[1.0, -1.0], [-1.0, 1.0]], [-1.0, 1.0]))
    assert exact(net, [x])[1] == [0, 0]
    assert net.pre_activations(np.array([x]))[1].any(), "the case is of no use unless rounding shows"
    found = witnesser(net, Box([0.0], [1.0]))
    found.offer(np.array([[x]]), "samples")
    assert found.ledger.states[:, 2:].tolist() == [[State.OPEN] * 2] * 2


@pytest.mark.parametrize("seed", range(30))
def test_certified_signs_are_those_of_rational_arithmetic(seed: int) -> None:
    """Rows built so that they cancel at the point up to a few units in the last place."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1.0, 6)
    first = rng.normal(size=(5, 6)) * 10.0 ** rng.integers(-8, 8, (5, 1))
    b1 = -first @ x + np.abs(first @ x) * rng.choice([0.0, EPS, -3 * EPS, 1e-3, 1.0], 5)
    h = np.maximum(first @ x + b1, 0.0)
    second = rng.normal(size=(4, 5)) * 10.0 ** rng.integers(-8, 8, (4, 1))
    b2 = -second @ h + np.abs(second @ h) * rng.choice([0.0, EPS, -3 * EPS, 1e-3, 1.0], 4)
    net = network((first.tolist(), b1.tolist()), (second.tolist(), b2.tolist()))
    found = witnesser(net, Box(np.zeros(6), np.ones(6)))
    claimed = found.signs(x[None, :])[0]
    truth = [v for layer in exact(net, x.tolist()) for v in layer]
    assert [c for c, t in zip(claimed.tolist(), truth, strict=True) if c and c != (t > 0) - (t < 0)] == []


def test_signs_within_twice_the_rounding_bound_close_nothing() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(1, 50))
    x = rng.uniform(-1, 1, 50)
    value = float((weight @ x)[0])
    for share, certain in ((1.5, False), (4.0, True)):
        net = network((weight.tolist(), [0.0]))
        bound = float(net.evaluate(x).pre_error[0][0, 0])
        # Shift the neuron so that its computed value is about ``share`` times the bound on its error.
        net = network((weight.tolist(), [-value + share * bound]))
        evaluation = net.evaluate(x)
        ratio = float(evaluation.pre[0][0, 0] / evaluation.pre_error[0][0, 0])
        assert (ratio > 2.0) == certain, ratio
        found = witnesser(net, Box(-np.ones(50), np.ones(50)))
        assert found.offer(x[None, :], "samples") == int(certain)


def test_few_points_carry_many_questions() -> None:
    """The point that shows most is kept, and those that add nothing are not."""
    found = witnesser(IDENTITY, SQUARE)
    points = np.array([[0.1, 0.0], [0.0, 0.1], [0.2, 0.2], [0.3, 0.0], [-0.1, -0.1]])
    assert found.offer(points, "samples") == 2
    assert [point.tolist() for point in found.ledger.points] == [[0.2, 0.2], [-0.1, -0.1]]


def test_points_that_close_nothing_are_not_kept() -> None:
    found = witnesser(IDENTITY, SQUARE)
    found.ledger.refute(0, POSITIVE, np.array([0]), "network", rigorous=False)
    assert found.offer(np.array([[-0.5, 0.0]]), "samples") == 0, "the neuron has its verdict"
    assert not found.ledger.points


def test_a_point_against_a_refutation_revokes_it_and_closes_what_opens_again() -> None:
    found = witnesser(network(([[1.0], [2.0]], [0.0, 1.0])), Box([-1.0], [1.0]))
    found.ledger.refute(0, NEGATIVE, np.array([0, 1]), "liar", rigorous=False)
    found.offer(np.array([[0.5]]), "samples")  # shows nothing that is pending
    assert not found.ledger.points
    found.offer(np.array([[-0.25]]), "samples")  # contradicts the first refutation only
    assert [c.source for c in found.ledger.contradictions] == ["liar"]
    assert states(found) == [[State.OPEN, State.WITNESSED], [State.WITNESSED, State.OPEN]]


def test_a_union_sees_contradictions_only_in_the_part_of_the_point() -> None:
    net = network(([[1.0]], [0.0]))
    found = witnesser(net, Union([Box([-1.0], [0.0]), Box([0.0], [1.0])]))
    found.ledger.refute(0, POSITIVE, np.array([0]), "interval", rigorous=True)
    found.offer(np.array([[0.5]]), "samples")
    assert not found.ledger.contradictions
    found.ledger.refute(1, NEGATIVE, np.array([0]), "interval", rigorous=True)
    found.offer(np.array([[-0.5]]), "samples")
    assert not found.ledger.contradictions
    assert states(found) == [[State.WITNESSED, State.WITNESSED]]
    found.ledger.refute(1, POSITIVE, np.array([0]), "liar", rigorous=False)
    assert [c.source for c in found.ledger.contradictions] == ["liar"]


def test_chunks_change_nothing() -> None:
    rng = np.random.default_rng(1)
    net = network((rng.normal(size=(20, 4)).tolist(), rng.normal(size=20).tolist()))
    points = rng.uniform(-1, 1, (64, 4))
    whole, pieces = (witnesser(net, Box(-np.ones(4), np.ones(4))) for _ in range(2))
    pieces.chunk = 5
    whole.offer(points, "samples")
    pieces.offer(points, "samples")
    assert (whole.ledger.states == pieces.ledger.states).all()
