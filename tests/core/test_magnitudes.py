"""Numbers from the smallest to nearly the largest of float64: what is proof against rounding is so there too.

Networks and points are evaluated as fractions. Scales are drawn so that products underflow in one layer and meet large
weights in the next, which multiplies whatever an error bound has lost.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from stablenet import Box, Network, Polytope, find_stable
from stablenet.bounds import run
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.interval import affine_bounds
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.errors import InputError, NetworkError
from stablenet.core.network import AffineMap, Layer, Term

TAU = 5e-324
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
FEWER = settings(QUICK, max_examples=40)
FEWEST = settings(QUICK, max_examples=15)


def number(exponent: int) -> st.SearchStrategy[float]:
    """Numbers of magnitude about ``2**exponent``, some 0, some with all bits in use."""
    digits = st.sampled_from([0, 1, -1, 3, -3, 2**52 + 1, -(2**52 + 1), 2**53 - 1, -(2**53 - 1)])
    return st.builds(
        lambda n, down: 0.0 if n == 0 else math.ldexp(float(n), exponent - down - abs(n).bit_length()),
        digits,
        st.sampled_from([0, 0, 1, 30, 55]),
    )


def array(draw: Any, shape: tuple[int, ...], exponent: int) -> np.ndarray:
    n = math.prod(shape)
    return np.array(draw(st.lists(number(exponent), min_size=n, max_size=n))).reshape(shape)


@st.composite
def cases(draw: Any, n_layers: int = 2) -> tuple[Network, Box]:
    """A network of two neurons a layer on a box in two dimensions, and the box."""
    at = draw(st.sampled_from([-1073, -1060, -1020, -500, 0, 600, 900]))
    low = array(draw, (2,), at)
    box = Box(low, np.maximum(low, low + np.abs(array(draw, (2,), at))))
    layers = []
    for k in range(n_layers):
        goal = draw(st.sampled_from([-1073, -1040, -500, 0, 600, 900]))
        weight = min(max(goal - at, -1070), 980)
        matrix = array(draw, (2, 2), weight)
        offset = array(draw, (2,), max(weight + at, -1073))
        term = Term(k, sparse.csr_array(matrix) if draw(st.booleans()) else matrix)
        layers.append(Layer(AffineMap(offset, (term,)), f"l{k}", (2,)))
        at = max(weight + at, -1073)
    return Network(2, tuple(layers), AffineMap(np.zeros(1), (Term(n_layers, np.ones((1, 2))),))), box


def exact(network: Network, x: list[Fraction]) -> list[list[Fraction]]:
    """Pre-activations of every layer."""
    posts, pre = [x], []
    for layer in network.layers:
        values = [Fraction(float(b)) for b in layer.affine.offset]
        for term in layer.affine.terms:
            rows = term.matrix.toarray() if isinstance(term.matrix, sparse.csr_array) else term.matrix
            for i, row in enumerate(rows.tolist()):
                values[i] += sum((Fraction(w) * h for w, h in zip(row, posts[term.source], strict=True)), Fraction())
        pre.append(values)
        posts.append([max(value, Fraction()) for value in values])
    return pre


def points(box: Any) -> list[list[Fraction]]:
    """The corners of a box, and some points between them that need not be floats."""
    sides = list(zip(map(Fraction, box.lower.tolist()), map(Fraction, box.upper.tolist()), strict=True))
    shares = (Fraction(0), Fraction(1), Fraction(1, 3))
    return [
        [low + s * (high - low) for s, (low, high) in zip(at, sides, strict=True)]
        for at in itertools.product(shares, repeat=len(sides))
    ]


def at_most(value: Fraction, bound: float) -> bool:
    return (math.isinf(bound) and bound > 0) or (not math.isnan(bound) and value <= Fraction(bound))


@QUICK
@given(case=cases(3))
def test_the_error_of_a_forward_pass_is_bounded(case: tuple[Network, Box]) -> None:
    network, box = case
    corners = np.array([box.lower, box.upper])
    with np.errstate(all="ignore"):
        evaluation = network.evaluate(corners)
    for i, corner in enumerate(corners.tolist()):
        for k, values in enumerate(exact(network, [Fraction(v) for v in corner])):
            for j, value in enumerate(values):
                got, error = float(evaluation.pre[k][i, j]), float(evaluation.pre_error[k][i, j])
                if math.isfinite(error):
                    assert abs(Fraction(got) - value) <= Fraction(error)
                sign = int(evaluation.signs(k)[i, j])
                assert sign * value > 0 or sign == 0


@QUICK
@given(data=st.data())
def test_a_point_held_by_a_polytope_lies_in_it(data: Any) -> None:
    at, weight = data.draw(st.sampled_from([-1073, -600, 0, 900])), data.draw(st.sampled_from([-1060, -500, 0, 980]))
    point = array(data.draw, (3,), at)
    a = array(data.draw, (2, 3), weight)
    b = array(data.draw, (2,), min(max(at + weight, -1073), 990))
    part = Polytope(np.minimum(point, 0), np.maximum(point, 0), a, b)
    values = [sum(Fraction(w) * Fraction(x) for w, x in zip(row, point.tolist(), strict=True)) for row in a.tolist()]
    inside = all(value <= Fraction(float(rhs)) for value, rhs in zip(values, b, strict=True))
    assert inside or not part.holds(point[None])[0]


def test_a_point_where_nothing_is_computed_lies_on_its_row() -> None:
    part = Polytope([0.0, 0.0], [1e-150, 1e-150], [[1e-200, 1e-200]], [0.0])
    assert part.holds(np.array([[0.0, 0.0], [1e-150, 0.0], [1e-150, 1e-150]])).tolist() == [True, False, False]


def test_overflow_holds_and_shows_nothing() -> None:
    part = Polytope([-1e300] * 2, [1e300] * 2, [[1e300, -1e300]], [0.0])
    assert not part.holds(np.array([[1e300, 1e300]])).any()
    network = deep([[1e200]], [[1e200]])
    with np.errstate(all="ignore"):
        evaluation = network.evaluate(np.array([[1.0]]))
    assert evaluation.signs(1).tolist() == [[0]]


def deep(*matrices: list[list[float]], offsets: Any = None) -> Network:
    """A network without offsets of these matrices."""
    layers = []
    for k, matrix in enumerate(matrices):
        offset = np.zeros(len(matrix)) if offsets is None else np.array(offsets[k])
        layers.append(Layer(AffineMap(offset, (Term(k, np.array(matrix)),)), f"l{k}", (len(matrix),)))
    return Network(
        len(matrices[0][0]), tuple(layers), AffineMap(np.zeros(1), (Term(0, np.zeros((1, len(matrices[0][0])))),))
    )


@pytest.mark.parametrize(
    "method",
    ["interval", "crown", "crown-alpha:5", "lp", "branch:4"],
)
@FEWER
@given(case=cases(3))
def test_bounds_contain_what_is_reached(method: str, case: tuple[Network, Box]) -> None:
    network, box = case
    try:
        with np.errstate(all="ignore"):
            layers = run(method, network, box).layers
    except InputError as error:
        assume("overflow" not in str(error))
        raise
    for point in points(box):
        for known, values in zip(layers, exact(network, point), strict=True):
            assert known.rigorous
            for low, high, value in zip(known.lower.tolist(), known.upper.tolist(), values, strict=True):
                assert at_most(value, high)
                assert at_most(-value, -low)


@QUICK
@given(case=cases(3), data=st.data())
def test_any_choice_of_a_backward_pass_gives_a_bound(case: tuple[Network, Box], data: Any) -> None:
    """Over loose bounds too, with slopes and multipliers at random: what dual solutions may lead to."""
    network, box = case
    affine = network.layers[2].affine
    with np.errstate(all="ignore"):
        backward = Backward.on(network, box)
        lows, highs = [box.lower[None]], [box.upper[None]]
        choices = []
        for layer in network.layers[:2]:
            low, high = affine_bounds(layer.affine, lows, highs)
            assume(bool(np.isfinite(low).all() and np.isfinite(high).all()))
            backward.push(low, high, keep=np.arange(2))
            lows.append(np.maximum(low, 0.0))
            highs.append(np.maximum(high, 0.0))
            slopes = np.array(data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))).reshape(1, 2, 2)
            shift = array(data.draw, (1, 2, 2), data.draw(st.sampled_from([-1070, -500, 0, 500])))
            choices.append(Choice(slopes, None, shift))
        bounds, _ = backward.upper_bounds(affine, np.array([0, 1]), np.array([1.0, -1.0]), choices)
    for point in points(box):
        value = exact(network, point)[2]
        assert math.isnan(bounds[0, 0]) or at_most(value[0], bounds[0, 0])
        assert math.isnan(bounds[0, 1]) or at_most(-value[1], bounds[0, 1])


@pytest.mark.parametrize("search", ["off", "branch", "split"])
@FEWEST
@given(case=cases(2))
@pytest.mark.filterwarnings("ignore")
def test_what_is_found_is_true(search: str, case: tuple[Network, Box]) -> None:
    network, box = case
    try:
        with np.errstate(all="ignore"):
            report = find_stable(network, box, search=search, threads=1, time_limit=5)
    except InputError as error:
        assume("overflow" not in str(error))
        raise
    witnesses = [exact(network, [Fraction(v) for v in x]) for x in report.data["witnesses"]]
    reached = [exact(network, point) for point in points(box)]
    for neuron in report.data["neurons"]:
        k, i = neuron["layer"], neuron["neuron"]
        for side, sign in (("positive", 1), ("negative", -1)):
            question = neuron[side]
            if question["state"] == "witnessed":
                assert sign * witnesses[question["witness"]][k][i] > 0
            elif question["state"] == "refuted":
                assert all(sign * values[k][i] <= 0 for values in reached)
    assert all(box.contains(x)[0] for x in report.data["witnesses"])


def test_errors_that_underflow_and_meet_large_weights_count() -> None:
    """The computed value of the neuron has the wrong sign."""
    s = 2.0**900
    w, b = [(1 + 2.0**-52) * s, -(3 + 2.0**-51) * s], -1.5 * 2.0**-52 * s * TAU
    network, x = deep([w], offsets=[[b]]), [3 * TAU, TAU]
    value = exact(network, [Fraction(v) for v in x])[0][0]
    evaluation = network.evaluate(np.array([x]))
    assert abs(Fraction(float(evaluation.pre[0][0, 0])) - value) <= Fraction(float(evaluation.pre_error[0][0, 0]))
    assert evaluation.pre_error[0][0, 0] > 0
    for method in ("interval", "crown"):
        known = run(method, network, Box(x, x)).layers[0]
        assert Fraction(float(known.lower[0])) <= value <= Fraction(float(known.upper[0]))


def test_coefficients_that_cancel_in_rounding_count_at_subnormal_inputs() -> None:
    """The difference of the two neurons is 0 by rounded coefficients, and 2^896 x in truth."""
    first = [[1 + 2.0**-52], [1 + 2.0**-51]]
    network = deep(first, [[(1 + 2.0**-52) * 2.0**1000, -(2.0**1000)]])
    box = Box([2.0**-1070], [2.0**-1060])
    assert float(backward_bound(network, box)) >= exact(network, [Fraction(2.0**-1060)])[1][0] > 0


def test_coefficients_that_underflow_count_at_large_inputs() -> None:
    network = deep([[2.0**-600]], [[2.0**-600]])
    box = Box([0.0], [2.0**900])
    assert Fraction(backward_bound(network, box)) >= exact(network, [Fraction(2.0**900)])[1][0] > 0


def test_sizes_that_underflow_count_under_large_coefficients() -> None:
    """What the first layer's sum is made of underflows; the second layer's weights make it large again."""
    w = 2.0**-537 * (1 + 2.0**-52)
    network = deep([[w, w, w]], [[2.0**1000]], offsets=[[0.0], [0.0]])
    x = 2.0**-538 * (1 + 2.0**-52)
    box = Box([x, x, x], [x, x, x])
    assert Fraction(backward_bound(network, box)) >= exact(network, [Fraction(x)] * 3)[1][0] > 0


def backward_bound(network: Network, box: Box) -> float:
    """An upper bound of the first neuron of the last layer by a backward pass alone."""
    backward = Backward.on(network, box)
    lows, highs = [box.lower[None]], [box.upper[None]]
    for layer in network.layers[:-1]:
        low, high = affine_bounds(layer.affine, lows, highs)
        backward.push(low, high)
        lows.append(np.maximum(low, 0.0))
        highs.append(np.maximum(high, 0.0))
    return float(backward.upper_bounds(network.layers[-1].affine, np.array([0]), np.array([1.0]))[0][0, 0])


@pytest.mark.parametrize("unit", [TAU, 2.0**-1030, 1.0, 2.0**900])
def test_a_relaxation_lies_above_the_relu_at_both_ends(unit: float) -> None:
    lower, upper = (side.reshape(1, -1) for side in np.meshgrid(-unit * np.arange(1, 40), unit * np.arange(1, 40)))
    found = Relaxation.of(lower, upper)
    for slope, offset, low, high in zip(found.up_slope[0], found.up_offset[0], lower[0], upper[0], strict=True):
        exactly = [Fraction(float(value)) for value in (slope, offset, low, high)]
        assert exactly[0] * exactly[2] + exactly[1] >= 0
        assert exactly[0] * exactly[3] + exactly[1] >= exactly[3]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_beyond_float64_are_refused_and_not_a_fault(sign: float) -> None:
    network = deep([[1e200]], [[sign * 1e200]], [[sign]])
    with pytest.raises(InputError, match="overflow"):
        find_stable(network, Box([1.0], [2.0]), search="off")
    with pytest.raises(InputError, match="overflow"):
        find_stable(network, Box([0.0], [1.0]), search="off")


def test_split_ends_on_a_box_with_no_number_between_its_bounds() -> None:
    network = deep([[1.0], [1.0]], [[1.0, -1.0]], offsets=[[-1.0, -1.0 - 2.0**-52], [-(2.0**-53)]])
    box = Box([1.0], [1.0 + 2.0**-52])
    report = find_stable(network, box, search="split", falsify=False, bounds="loose", threads=1)
    assert report.stopped_by == "search"
    assert report.verdicts()[1] == ["unknown"]


@pytest.mark.parametrize("at", [0.0, -TAU, 1e300])
def test_split_ends_on_boxes_of_extreme_size(at: float) -> None:
    box = Box([at, -1e300], [np.nextafter(at, np.inf), 1e300])
    network = deep([[1.0, 1e-10], [1.0, -1e-10]], [[1.0, -1.0]], offsets=[[0.0, 0.0], [1e280]])
    report = find_stable(network, box, search="split", threads=1, time_limit=600)
    assert report.stopped_by != "time"


@pytest.mark.filterwarnings("ignore:the search's model cannot be given:UserWarning")
def test_numbers_that_no_solver_takes_leave_a_report() -> None:
    network = deep([[2.0**900, 0.0], [0.0, 1.0]], [[2.0**100, -1.0]])
    report = find_stable(network, Box([-(2.0**-900), -1.0], [2.0**-900, 1.0]), search="network", falsify=False)
    assert (report.stopped_by, report.counts["unknown"]) == ("solver", 3)


@pytest.mark.parametrize(
    ("kind", "numbers"), [(np.int8, [[-128, 1]]), (np.uint8, [[200, 100]]), (np.float32, [[0.1, 1]])]
)
def test_weights_of_any_type_are_float64(kind: type, numbers: list[list[float]]) -> None:
    matrix = np.array(numbers, kind)
    term = Term(0, matrix)
    assert term.matrix.dtype == np.float64
    assert term.absolute.tolist() == np.abs(matrix.astype(float)).tolist()
    assert Term(0, sparse.csr_array(matrix)).absolute.toarray().tolist() == term.absolute.tolist()


@pytest.mark.parametrize("matrix", [np.array([[2**53 + 1]]), np.array([[1j]]), np.array([["1"]])])
def test_weights_that_float64_does_not_hold_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(NetworkError, match="a weight"):
        Term(0, matrix)
