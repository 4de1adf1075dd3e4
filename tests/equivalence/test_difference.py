"""Bounds of differences on networks laid side by side: against points, exact extrema, and the two ways to bound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from compress_tools import plain
from oracle.exact import extrema
from oracle.plain import Region

from stablenet.core.deadline import Deadline
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.domain.vnnlib_region import OutputRow
from stablenet.equivalence.aligned import Aligned, aligned
from stablenet.equivalence.anytime import RATIO, DifferenceSearch, aligned_bounder, joint_bounder
from stablenet.equivalence.counterexample import Seeker, difference_network
from stablenet.equivalence.difference import DifferenceSystem
from stablenet.equivalence.difference_relaxation import DifferenceRelaxation
from stablenet.equivalence.functionals import functionals
from stablenet.equivalence.joint import Pairing
from stablenet.equivalence.properties import verify_property
from stablenet.equivalence.specification import Violation, within
from stablenet.equivalence.verify import verify

SIZES = (3, 6, 5, 2)


def network(sizes: tuple[int, ...], seed: int, *, skip: bool = False) -> Network:
    """A random dense network; with ``skip`` every map reads the input too."""
    rng = np.random.default_rng(seed)
    maps = []
    for k, (n, m) in enumerate(pairwise(sizes)):
        terms = [Term(k, rng.normal(size=(m, n)))]
        if skip and k:
            terms.insert(0, Term(0, rng.normal(size=(m, sizes[0]))))
        maps.append(AffineMap(0.5 * rng.normal(size=m), tuple(terms)))
    layers = tuple(Layer(affine, f"relu{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


def mapped(a: Network, change) -> Network:
    """A copy with ``change`` applied to every matrix and offset."""

    def moved(affine: AffineMap) -> AffineMap:
        return AffineMap(change(affine.offset), tuple(Term(t.source, change(t.matrix)) for t in affine.terms))

    layers = tuple(replace(layer, affine=moved(layer.affine)) for layer in a.layers)
    return replace(a, layers=layers, output=moved(a.output))


def changed(a: Network, seed: int, size: float) -> Network:
    rng = np.random.default_rng(seed)
    return mapped(a, lambda w: w * (1.0 + size * rng.normal(size=w.shape)))


def in_order(a: Network) -> Pairing:
    return Pairing(tuple(range(len(a.layers))), tuple(np.arange(layer.size) for layer in a.layers))


def pair_of(a: Network, b: Network, pairing: Pairing | None = None) -> Aligned:
    made = aligned(a, b, in_order(a) if pairing is None else pairing)
    assert made is not None
    return made


def boxes(n: int, count: int, width: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    centre = np.random.default_rng(seed).uniform(-1, 1, size=(count, n))
    return centre - width, centre + width


def largest(a: Network, b: Network, box: Box) -> float:
    """The exact largest |B - A| on a box."""
    region = Region(tuple(box.lower.tolist()), tuple(box.upper.tolist()))
    found = extrema(plain(difference_network(a, b)), [region])
    return float(max(*(-v for v in found.minimum[-1]), *found.maximum[-1]))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.3])
@pytest.mark.parametrize("width", [0.01, 0.3, 2.0])
def test_no_point_leaves_the_bounds(skip, size, width):
    a = network(SIZES, 1, skip=skip)
    b = changed(a, 2, size)
    low, high = boxes(3, 16, width, 3)
    found = DifferenceSystem(pair_of(a, b), low, high).bounds()
    points = low[:, None] + (high - low)[:, None] * np.random.default_rng(4).random((16, 400, 3))
    corners = np.where(np.indices((2, 2, 2)).reshape(3, -1).T.astype(bool), high[:, None], low[:, None])
    points = np.concatenate([points, corners], axis=1)
    difference = (a.forward(points.reshape(-1, 3)) - b.forward(points.reshape(-1, 3))).reshape(16, -1, 2)
    assert (difference.max(axis=1) <= found.upper + 1e-14).all()
    assert (difference.min(axis=1) >= found.lower - 1e-14).all()
    if size == 0.0:
        assert not found.worst.any()  # no coefficient differs: no rounding either


@pytest.mark.parametrize("seed", range(12))
def test_bounds_contain_the_exact_extrema(seed):
    a = network((2, 4, 3, 2), seed)
    b = changed(a, seed + 50, [1e-12, 1e-4, 0.2][seed % 3])
    box = Box(np.full(2, -0.7), np.full(2, 0.9))
    found = DifferenceSystem(pair_of(a, b), box.lower[None], box.upper[None]).bounds()
    region = Region(tuple(box.lower.tolist()), tuple(box.upper.tolist()))
    truth = extrema(plain(difference_network(b, a)), [region])  # A - B
    assert all(top <= up for top, up in zip(truth.maximum[-1], found.upper[0].tolist(), strict=True))
    assert all(least >= low for least, low in zip(truth.minimum[-1], found.lower[0].tolist(), strict=True))


def test_small_differences_are_bounded_far_closer_than_by_each_network_alone():
    a = network((3, 20, 20, 2), 5)
    b = changed(a, 6, 1e-6)
    box = np.full((1, 3), -1.0), np.full((1, 3), 1.0)
    found = DifferenceSystem(pair_of(a, b), *box).bounds()
    alone = DifferenceSystem(pair_of(a, mapped(a, np.zeros_like)), *box).bounds()
    assert found.worst[0] < 1e-4 * alone.worst[0]


def test_where_all_phases_are_known_the_bounds_are_those_of_the_linear_difference():
    a = network((3, 20, 20, 2), 5)
    b = changed(a, 6, 0.5)
    point = np.array([[0.3, -0.2, 0.6]])
    found = DifferenceSystem(pair_of(a, b), point - 1e-9, point + 1e-9).bounds()
    value = a.forward(point) - b.forward(point)
    assert np.abs(found.upper - value).max() < 1e-6
    assert np.abs(found.lower - value).max() < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_the_relaxation_holds_at_random_points_of_every_case_of_phases(seed):
    rng = np.random.default_rng(seed)
    n = 4000
    ends = np.sort(rng.normal(size=(2, n, 2)), axis=2)
    a, b = (ends[0, :, 0], ends[0, :, 1]), (ends[1, :, 0], ends[1, :, 1])
    g_a, g_b = (low + (high - low) * rng.random(n) for low, high in (a, b))
    d = g_a - g_b
    spread = 10.0 ** rng.uniform(-6, 0.5, size=(2, n))
    lower, upper = d - spread[0], d + spread[1]
    made = DifferenceRelaxation.of(*(tuple(side[None] for side in sides) for sides in (a, b, (lower, upper))))
    e = np.maximum(g_a, 0) - np.maximum(g_b, 0)
    assert (e <= made.up_slope[0] * d + made.up_offset[0] + 1e-12).all()
    assert (e >= made.low_slope[0] * d - made.low_offset[0] - 1e-12).all()
    assert (e <= made.post[1][0] + 1e-12).all()
    assert (e >= made.post[0][0] - 1e-12).all()
    known = np.minimum(np.maximum(*a), 0), made.by_up[0], made.by_low[0]
    assert 0 < known[1].sum() < n  # both ways occur
    assert 0 < known[2].sum() < n


def test_neurons_in_another_order_parted_and_scaled_by_powers_of_two_are_laid_side_by_side():
    a = network((3, 6, 2), 7)
    order = np.random.default_rng(0).permutation(6)
    first, last = a.layers[0].affine, a.output
    scale = np.array([1.0, 2.0, 0.25, 1.0, 8.0, 1.0])
    weight = np.vstack([first.terms[0].matrix[order] * scale[:, None], np.ones((1, 3))])
    offset = np.append(first.offset[order] * scale, -20.0)  # one neuron more, off on the domain
    after = np.hstack([last.terms[0].matrix[:, order] / scale, np.ones((2, 1))])
    layer = Layer(AffineMap(offset, (Term(0, weight),)), "relu", (7,))
    b = Network(3, (layer,), AffineMap(last.offset, (Term(1, after),)))
    pairing = Pairing((0,), (np.append(order, -1),), (np.append(scale, 1.0),))
    pair = pair_of(a, b, pairing)
    assert pair.a.source_sizes == pair.b.source_sizes == (3, 7)
    found = DifferenceSystem(pair, np.full((1, 3), -1.0), np.full((1, 3), 1.0)).bounds()
    assert not found.worst.any()


def test_subtractions_of_weights_that_round_are_covered():
    a = network((2, 3, 1), 8)
    b = mapped(a, lambda w: w * 2.0**-70 + np.sign(w))  # w_A - w_B is no number of float64
    pair = pair_of(a, b)
    assert any(lost.any() for change in pair.changes for _, lost in change.lost)
    box = Box(np.full(2, -1.0), np.full(2, 1.0))
    found = DifferenceSystem(pair, box.lower[None], box.upper[None]).bounds()
    assert found.worst[0] >= largest(a, b, box)


def test_networks_of_another_structure_are_not_laid_side_by_side():
    a, deeper = network((3, 4, 2), 1), network((3, 4, 4, 2), 1)
    assert aligned(a, deeper, Pairing((0, -1), (np.arange(4), np.full(4, -1)))) is None
    twice = replace(a.output, terms=(*a.output.terms, *a.output.terms))
    assert aligned(a, replace(a, output=twice), in_order(a)) is None


def spiked(a: Network, box: Box, reach: float) -> Network:
    """A with one more neuron, that is active near the upper vertex only and there adds 1 to the first output."""
    first, last = a.layers[0].affine, a.output
    row = np.ones(a.n_inputs)
    offset = -float(row @ box.upper) + reach
    weight = np.vstack([first.terms[0].matrix, row])
    column = np.zeros((a.n_outputs, 1))
    column[0] = 1.0 / reach
    layer = Layer(AffineMap(np.append(first.offset, offset), (Term(0, weight),)), "relu", (len(weight),))
    return Network(a.n_inputs, (layer,), AffineMap(last.offset, (Term(1, np.hstack([last.terms[0].matrix, column])),)))


@pytest.mark.parametrize("reach", [0.5, 1e-2, 1e-4])
def test_a_difference_at_one_vertex_only_is_never_lost(reach):
    a = network((2, 6, 2), 9)
    box = Box(np.full(2, -1.0), np.full(2, 1.0))
    b = spiked(a, box, reach)
    answer = verify(a, b, box, tolerance=0.5, steps=("split",))
    assert answer.outcome != "equal"
    assert answer.bound >= 1.0 - 1e-9
    assert verify(a, b, box, tolerance=1.01, steps=("split",)).outcome == "equal"


@pytest.mark.parametrize("seed", range(6))
def test_a_range_holds_the_exact_largest_difference_and_is_narrow(seed):
    a = network((2, 4, 3, 2), seed)
    b = changed(a, seed + 80, 0.1)
    box = Box(np.full(2, -0.7), np.full(2, 0.9))
    answer = verify(a, b, box, bound=True)
    truth = largest(a, b, box)
    assert answer.outcome == "bounded"
    assert answer.rigorous
    assert answer.tolerance is None
    assert answer.found is not None
    assert answer.found.difference <= truth <= answer.bound <= RATIO * answer.found.difference


@pytest.mark.parametrize("way", ["pairs", "joint"])
def test_at_any_time_the_bound_holds_and_never_grows(way):
    a = network((2, 5, 4, 2), 3)
    b = changed(a, 4, 0.2)
    box = Box(np.full(2, -1.0), np.full(2, 1.0))
    truth = largest(a, b, box)
    bounder, _ = aligned_bounder(pair_of(a, b)) if way == "pairs" else joint_bounder(a, b, in_order(a))
    search = DifferenceSearch(bounder, box, Seeker(a, b, box, 0), 8, None)
    bounds = [search.upper]
    for boxes_ in range(10, 200, 20):
        search.run(Deadline(None), boxes_, lambda: False)
        bounds.append(search.upper)
    assert all(later <= earlier for earlier, later in pairwise(bounds))
    assert bounds[-1] < bounds[0]
    assert min(bounds) >= truth


def test_a_box_of_one_point_ends():
    a = network((2, 5, 2), 3)
    b = changed(a, 4, 1e-13)
    point = Box(np.full(2, 0.1), np.nextafter(np.full(2, 0.1), 1.0))
    answer = verify(a, b, point, tolerance=0.0, steps=("split",))
    assert answer.outcome in {"different", "undecided"}
    assert answer.bound < 1e-9


def test_a_difference_found_without_a_tolerance_comes_with_its_range():
    a = network((2, 6, 5, 2), 3)
    b = mapped(a, lambda w: w.astype(np.float16).astype(np.float64))
    box = Box(np.full(2, -1.0), np.full(2, 1.0))
    answer = verify(a, b, box)
    assert answer.outcome == "different"
    assert answer.rigorous
    assert answer.found is not None
    assert largest(a, b, box) <= answer.bound <= 2.0 * answer.found.difference


@pytest.mark.parametrize("size", [1e-9, 1e-2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_linear_forms_of_both_outputs_hold_at_points(seed, size):
    a = network(SIZES, seed)
    b = changed(a, seed + 50, size)
    n, m = SIZES[0], SIZES[-1]
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(5):
        values = rng.integers(-3, 4, size=n + 2 * m)
        terms = tuple((i, Fraction(int(v), 3)) for i, v in enumerate(values) if v)
        rows.append((OutputRow(terms, Fraction(0), strict=True),))
    forms = functionals(Violation("", n, m, tuple(rows)))
    low, high = boxes(n, 4, 0.2, seed)
    system = DifferenceSystem(pair_of(a, b), low, high)
    lower, upper, _ = system.forms(forms, np.arange(forms.size))
    points = low[:, None] + (high - low)[:, None] * rng.random((4, 200, n))
    for part, some in enumerate(points):
        one, two = a.forward(some), b.forward(some)
        values = some @ forms.x.T + one @ forms.a.T + (two - one) @ forms.difference.T
        assert (values >= lower[part] - 1e-12).all()
        assert (values <= upper[part] + 1e-12).all()
        assert (upper[part] - lower[part]).min() < 50.0


def test_forms_of_the_difference_alone_are_as_tight_as_its_bounds():
    a = network(SIZES, 7)
    b = changed(a, 8, 1e-6)
    low, high = boxes(SIZES[0], 3, 0.3, 9)
    system = DifferenceSystem(pair_of(a, b), low, high)
    forms = functionals(within(SIZES[0], SIZES[-1], Fraction(1)))
    lower, upper, _ = system.forms(forms, np.arange(forms.size))
    worst = np.maximum(np.abs(lower), np.abs(upper)).max(axis=1)
    assert np.allclose(worst, system.bounds().worst, rtol=1e-9)
    assert worst.max() < 1e-3


def test_a_margin_of_top1_is_proven_by_the_difference_on_a_whole_box():
    a = network((4, 20, 20, 20, 3), 1)
    b = changed(a, 2, 1e-9)
    box = Box(np.full(4, -2.0), np.full(4, 2.0))
    decision = verify_property(a, b, box, "top1:0.001", steps=("bounds",))
    assert (decision.verdict, decision.by, decision.boxes) == ("holds", "bounds", 1)


def test_one_box_at_a_time_ends():
    """Batches of wide networks hold a single box."""
    a = network((2, 5, 4, 2), 3)
    box = Box(np.full(2, -1.0), np.full(2, 1.0))
    b = changed(a, 4, 0.2)
    bounder, _ = aligned_bounder(pair_of(a, b))
    search = DifferenceSearch(bounder, box, Seeker(a, b, box, 0), 1, None)
    search.run(Deadline(None), 9, lambda: False)
    assert search.n_boxes > 1
