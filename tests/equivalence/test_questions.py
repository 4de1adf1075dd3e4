"""Questions that VNN-LIB files ask of networks: what is understood, and the answers against exact enumeration."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from compress_tools import plain

from stablenet.core.errors import DomainError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.vnnlib_query import read_query
from stablenet.equivalence.decide import decide
from stablenet.equivalence.questions import question

ONE = "(declare-network f (declare-input X real [2]) (declare-output Y real [2]))\n"
TWO = (
    "(vnnlib-version <2.0>)\n(declare-network f (declare-input X_f real [2]) (declare-output Y_f real [2]))\n"
    "(declare-network g (isomorphic-to f) (declare-input X_g real [2]) (declare-output Y_g real [2]))\n"
)
BOX = "".join(f"(assert (and (<= X_f[{i}] 1.0) (>= X_f[{i}] -0.5)))\n" for i in range(2))
TIES = "".join(f"(assert (== X_f[{i}] X_g[{i}]))\n" for i in range(2))


def dense(seed: int, sizes: tuple[int, ...] = (2, 4, 3, 2)) -> Network:
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(0.3 * rng.normal(size=m), (Term(k, rng.normal(size=(m, sizes[k])) / np.sqrt(sizes[k])),))
        for k, m in enumerate(sizes[1:])
    ]
    return Network(sizes[0], tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps[:-1])), maps[-1])


def near(network: Network, seed: int, size: float = 0.05) -> Network:
    rng = np.random.default_rng(seed)

    def change(affine: AffineMap) -> AffineMap:
        terms = [Term(t.source, t.matrix * (1 + size * rng.normal(size=t.matrix.shape))) for t in affine.terms]
        return replace(affine, terms=tuple(terms))

    layers = tuple(replace(layer, affine=change(layer.affine)) for layer in network.layers)
    return replace(network, layers=layers, output=change(network.output))


@pytest.fixture
def ask(tmp_path):
    def ask(text, networks, reading="meant"):
        path = tmp_path / "q.vnnlib"
        path.write_text(text)
        return question(read_query(path), networks, reading)

    return ask


def answered(found, **options):
    return decide(found.a, found.b, found.cases, time_limit=600, **options)


def grid(n: int = 301):
    axis = np.linspace(-0.5, 1.0, n)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def band(t: str) -> str:
    return "".join(f"(assert (and (<= Y_g[{j}] (+ Y_f[{j}] {t})) (>= Y_g[{j}] (- Y_f[{j}] {t}))))\n" for j in range(2))


def differ(t: str, op: str = ">=") -> str:
    parts = [f"({op} (- Y_{p}[{j}] Y_{q}[{j}]) {t})" for j in range(2) for p, q in ("fg", "gf")]
    return f"(assert (or {' '.join(parts)}))\n"


def test_a_band_is_turned_around_and_said(ask):
    a = dense(0)
    b = near(a, 0)
    largest = float(np.abs(a.forward(grid()) - b.forward(grid())).max())
    for factor, verdict in ((1.1, "holds"), (0.9, "violated")):
        found = ask(TWO + BOX + TIES + band(f"{factor * largest:.6f}"), [a, b])
        assert "joined by and" in found.words
        assert "what is meant" in found.words
        assert not found.satisfiable
        assert float(found.tolerance) == pytest.approx(factor * largest, rel=1e-3)
        assert answered(found).verdict == verdict
    written = ask(TWO + BOX + TIES + band(f"{0.9 * largest:.6f}"), [a, b], "written")
    assert "taken as written" in written.words
    result = answered(written)
    assert result.verdict == "violated"  # some input stays within the band
    gaps = [abs(two - one) for one, two in zip(result.witness.a, result.witness.b, strict=True)]
    assert max(gaps) <= 0.9 * largest


def test_a_band_that_no_input_meets_has_no_solution_as_written(ask):
    a = dense(0)
    b = replace(a, output=replace(a.output, offset=a.output.offset + 1.0))
    assert answered(ask(TWO + BOX + TIES + band("0.9"), [a, b], "written")).verdict == "holds"
    assert answered(ask(TWO + BOX + TIES + band("0.9"), [a, b])).verdict == "violated"


@pytest.mark.parametrize("op", [">", ">="])
def test_outputs_that_differ(ask, op):
    a = dense(1)
    b = near(a, 1)
    largest = float(np.abs(a.forward(grid()) - b.forward(grid())).max())
    for factor, verdict in ((1.1, "holds"), (0.9, "violated")):
        found = ask(TWO + BOX + TIES + differ(f"{factor * largest:.6f}", op), [a, b])
        assert found.satisfiable
        assert found.strictly == (op == ">=")
        assert ("or more" in found.words) == (op == ">=")
        assert answered(found).verdict == verdict


def test_a_difference_that_is_met_exactly(ask):
    """B is A plus 1/2: by 0.5 or more it differs, by more than 0.5 it does not."""
    a = dense(2)
    exact = replace(a, layers=(), output=AffineMap(np.zeros(2), (Term(0, np.eye(2)),)))
    moved = replace(exact, output=AffineMap(np.array([0.5, 0.0]), (Term(0, np.eye(2)),)))
    assert answered(ask(TWO + BOX + TIES + differ("0.5"), [exact, moved])).verdict == "violated"
    assert answered(ask(TWO + BOX + TIES + differ("0.5", ">"), [exact, moved])).verdict != "violated"


def test_any_conjunction_against_a_grid(ask):
    """``2 Y_f0 - Y_g1 >= c`` and ``Y_g0 <= X_f0``: the grid's best value is near the exact one."""
    for seed in range(4):
        a, b = dense(seed), dense(seed + 10)
        x = grid()
        one, two = a.forward(x), b.forward(x)
        first, second = 2 * one[:, 0] - two[:, 1], x[:, 0] - two[:, 0]
        inside = second > 0.05
        if not inside.any():
            continue
        best = float(first[inside].max())
        for c, verdict in ((best + 0.5, "holds"), (best - 0.05, "violated")):
            rows = f"(>= (- (* 2.0 Y_f[0]) Y_g[1]) {c:.4f})(<= Y_g[0] (- X_g[0] 0.05))"
            found = ask(TWO + BOX + TIES + f"(assert (and {rows}))", [a, b])
            assert found.tolerance is None
            result = answered(found)
            if verdict == "violated":
                assert result.verdict == verdict
            else:  # the grid may miss a larger value where the second row just holds
                assert result.verdict == "holds" or float(2 * result.witness.a[0] - result.witness.b[1]) > best


def test_monotonicity_of_one_network_at_two_inputs(ask):
    """Y falls in X_0 by its weights: no larger X_0 gives a larger Y."""
    text = TWO.replace("isomorphic-to", "equal-to") + BOX
    text += "(assert (== X_f[1] X_g[1]))(assert (and (>= X_g[0] X_f[0]) (<= X_g[0] 1.0) (>= X_g[0] -0.5)))"
    falling = Network(
        2,
        (Layer(AffineMap(np.array([0.1, 0.2]), (Term(0, np.array([[-1.0, 0.5], [-2.0, 1.0]])),)), "relu", (2,)),),
        AffineMap(np.zeros(2), (Term(1, np.array([[1.0, 1.0], [-1.0, 0.0]])),)),
    )
    for networks in ([falling], [falling, falling]):
        found = ask(text + "(assert (> Y_g[0] (+ Y_f[0] 0.5)))", networks)
        assert "of 3 inputs in all" in found.words
        assert answered(found).verdict == "holds"
        up = ask(text + "(assert (> Y_g[1] (+ Y_f[1] 0.01)))", networks)
        result = answered(up)
        assert result.verdict == "violated"
        x = result.witness.point
        assert x[2] >= x[0]
        exact = [plain(falling).forward([x[i], x[1]])[1] for i in (0, 2)]
        assert exact[1][1] > exact[0][1] + Fraction(1, 100)


def test_one_network_alone(ask):
    a = dense(3)
    largest = float(a.forward(grid())[:, 0].max())
    box = BOX.replace("X_f", "X")
    for c, verdict in ((largest + 0.05, "holds"), (largest - 0.05, "violated")):
        found = ask(ONE + box + f"(assert (>= Y[0] {c:.5f}))", [a])
        assert found.a is found.b
        assert answered(found).verdict == verdict
    one = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
    one += "(assert (<= X_0 1))(assert (>= X_0 -0.5))(assert (<= X_1 1))(assert (>= X_1 -0.5))"
    assert answered(ask(one + f"(assert (>= Y_0 {largest - 0.05:.5f}))", [a])).verdict == "violated"
    assert answered(ask(one, [a])).verdict == "violated"  # nothing is asked of the outputs: any input will do


def test_networks_with_different_numbers_of_outputs(ask):
    a, b = dense(4), dense(5, (2, 3, 3))
    text = TWO.replace("(isomorphic-to f) ", "").replace("Y_g real [2]", "Y_g real [3]") + BOX + TIES
    largest = float((b.forward(grid())[:, 2] - a.forward(grid())[:, 1]).max())
    for c, verdict in ((largest + 0.05, "holds"), (largest - 0.05, "violated")):
        found = ask(text + f"(assert (>= Y_g[2] (+ Y_f[1] {c:.5f})))", [a, b])
        assert found.tolerance is None
        assert answered(found).verdict == verdict


def test_what_does_not_fit_is_refused(ask):
    a, b = dense(0), dense(1)
    text = TWO + BOX + TIES + differ("0.5")
    with pytest.raises(DomainError, match="declares 2 networks, but 1 are given"):
        ask(text, [a])
    with pytest.raises(DomainError, match="network g has 2 inputs and 2 outputs, the file given for it 2 and 3"):
        ask(text, [a, dense(0, (2, 3, 3))])
    with pytest.raises(DomainError, match="g is equal to f, the networks given are not"):
        ask(text.replace("isomorphic-to", "equal-to"), [a, b])
    third = "(declare-network h (declare-input X_h real [1]) (declare-output Y_h real [1]))\n"
    more = "(assert (and (<= X_h[0] 1.0) (>= X_h[0] 0.0)))"
    with pytest.raises(DomainError, match="declares 3 networks; one or two are supported"):
        ask(TWO + third + BOX + TIES + more + differ("0.5"), [a, b, a])
    notes = ask(text, [a, dense(1, (2, 4, 4, 2))]).notes
    assert any("isomorphic" in note for note in notes)
    assert ask(text, [a, b]).notes == ()
