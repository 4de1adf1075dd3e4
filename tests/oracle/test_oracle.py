"""The oracle itself: against hand-made cases, sampling, other exact arithmetic, onnxruntime and a MILP."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from scipy.optimize import Bounds, LinearConstraint, milp

from oracle.exact import Extrema, extrema
from oracle.networks import FAMILIES, Case, case
from oracle.plain import PlainNetwork, Region, Vector, plain_map

SEEDS = range(240)


def solved(seed: int) -> tuple[Case, Extrema]:
    made = case(seed)
    return made, extrema(made.plain, made.regions)


def network(n_inputs: int, *layers: tuple[list[float], list[tuple[int, list[list[float]]]]]) -> PlainNetwork:
    maps = [plain_map(offset, terms) for offset, terms in layers]
    return PlainNetwork(n_inputs, tuple(maps[:-1]), maps[-1])


def test_one_input_identity_and_its_square() -> None:
    # g0 = x, g1 = relu(x) - 1/2, on [-1, 2]
    net = network(1, ([0.0], [(0, [[1.0]])]), ([-0.5], [(1, [[1.0]])]), ([0.0], []))
    found = extrema(net, [Region((-1.0,), (2.0,))])
    assert found.minimum == [[-1], [Fraction(-1, 2)]]
    assert found.maximum == [[2], [Fraction(3, 2)]]


def test_absolute_value_touches_zero_inside() -> None:
    # |x - y| = relu(x - y) + relu(y - x): minimum 0 on the diagonal, never negative.
    net = network(2, ([0.0, 0.0], [(0, [[1.0, -1.0], [-1.0, 1.0]])]), ([0.0], [(1, [[1.0, 1.0]])]), ([0.0], []))
    found = extrema(net, [Region((0.0, 0.0), (1.0, 3.0))])
    assert (found.minimum[1], found.maximum[1]) == ([0], [3])
    assert found.argmax[1] == [(0, 3)]


def test_a_tent_has_its_maximum_inside_the_domain() -> None:
    # relu(x) - 2 relu(x - 1/3) peaks at exactly the float nearest 1/3.
    third = 1 / 3
    net = network(1, ([0.0, -third], [(0, [[1.0], [1.0]])]), ([0.0], [(1, [[1.0, -2.0]])]), ([0.0], []))
    found = extrema(net, [Region((0.0,), (1.0,))])
    assert found.maximum[1] == [Fraction(third)]
    assert found.argmax[1] == [(Fraction(third),)]


def test_cancellation_below_the_rounding_of_floats() -> None:
    # 1e16 x - (1e16 x - 1) is 1 for every x, though floats cannot see it.
    net = network(1, ([0.0, -1.0], [(0, [[1e16], [1e16]])]), ([0.0], [(1, [[1.0, -1.0]])]), ([0.0], []))
    found = extrema(net, [Region((1.0,), (2.0,))])
    assert (found.minimum[1], found.maximum[1]) == ([1], [1])


def test_unions_take_the_extremes_of_their_parts_and_a_polytope_cuts_its_box() -> None:
    net = network(2, ([0.0], [(0, [[1.0, 1.0]])]), ([0.0], []))
    left, right = Region((-2.0, 0.0), (-1.0, 0.0)), Region((1.0, 1.0), (1.0, 1.0))
    assert extrema(net, [left, right]).minimum == [[-2]]
    assert extrema(net, [left, right]).maximum == [[2]]
    triangle = Region((0.0, 0.0), (1.0, 1.0), ((2.0, 1.0),), (1.0,))
    assert extrema(net, [triangle]).maximum == [[1]]
    line = Region((0.0, 0.0), (1.0, 1.0), ((1.0, -1.0), (-1.0, 1.0), (1.0, 0.0)), (0.0, 0.0, 0.25))
    assert extrema(net, [line]).maximum == [[Fraction(1, 2)]]
    with pytest.raises(ValueError, match="empty"):
        extrema(net, [Region((0.0, 0.0), (1.0, 1.0), ((-1.0, -1.0),), (-3.0,))])


def test_outputs_stand_as_one_more_layer() -> None:
    net = network(1, ([0.0], [(0, [[1.0]])]), ([1.0], [(1, [[-2.0]])]))
    found = extrema(net, [Region((-1.0,), (1.0,))], outputs=True)
    assert (found.minimum[1], found.maximum[1]) == ([-1], [1])


def test_the_families_hold_what_they_promise() -> None:
    cases = [solved(seed) for seed in SEEDS]
    assert {c.family for c, _ in cases} == set(FAMILIES)
    neurons = [
        (low, high)
        for _, found in cases
        for lows, highs in zip(found.minimum, found.maximum, strict=True)
        for low, high in zip(lows, highs, strict=True)
    ]
    touching = [n for n in neurons if 0 in n and n != (0, 0)]
    dead = [n for n in neurons if n == (0, 0)]
    constant = [n for n in neurons if n[0] == n[1] != 0]
    unstable = [n for n in neurons if n[0] < 0 < n[1]]
    assert len(touching) > 60
    assert len(dead) > 50
    assert len(constant) > 50
    assert len(unstable) > 300
    assert any(len(c.regions) == 2 for c, _ in cases)
    assert any(low == high for c, _ in cases for r in c.regions for low, high in zip(r.lower, r.upper, strict=True))
    assert any(len(terms) > 1 for c, _ in cases for layer in c.plain.layers for terms in [layer.terms])
    assert all(c.exact for c, _ in cases)
    assert case(17) == case(17)


def test_extrema_are_attained_where_they_are_said_to_be() -> None:
    for seed in SEEDS:
        made, found = solved(seed)
        for values, points in ((found.minimum, found.argmin), (found.maximum, found.argmax)):
            for k, layer in enumerate(values):
                for i, value in enumerate(layer):
                    assert any(region.contains(points[k][i]) for region in made.regions)
                    assert made.plain.forward(points[k][i])[0][k][i] == value


def test_no_sample_lies_beyond_the_extrema() -> None:
    """A dense grid and random points, in float64 with a generous error bound."""
    for seed in SEEDS:
        made, found = solved(seed)
        rng = np.random.default_rng(seed)
        for region in made.regions:
            low, high = np.array(region.lower), np.array(region.upper)
            ticks = {1: 401, 2: 31, 3: 11, 4: 6}[len(low)]
            grid = np.array(list(product(np.linspace(0, 1, ticks), repeat=len(low))))
            unit = np.concatenate([grid, rng.random((200, len(low)))])
            posts = [low + unit * (high - low)]
            for k, layer in enumerate(made.plain.layers):
                value = np.zeros((len(unit), len(layer.offset))) + np.array(layer.offset, float)
                size = np.abs(value)
                for source, rows in layer.terms:
                    matrix = np.array(rows, float)
                    value = value + posts[source] @ matrix.T
                    size = size + np.abs(posts[source]) @ np.abs(matrix).T
                slack = 1e-9 * (1 + size.max(axis=0))
                assert (value.max(axis=0) <= np.array(found.maximum[k], float) + slack).all(), (seed, k)
                assert (value.min(axis=0) >= np.array(found.minimum[k], float) - slack).all(), (seed, k)
                posts.append(np.maximum(value, 0))


def _solve(rows: list[Vector], rhs: Vector) -> Vector | None:
    """Gaussian elimination in rational arithmetic; None for a singular matrix."""
    table = [[*row, value] for row, value in zip(rows, rhs, strict=True)]
    n = len(table)
    for c in range(n):
        pivot = next((r for r in range(c, n) if table[r][c]), None)
        if pivot is None:
            return None
        table[c], table[pivot] = table[pivot], table[c]
        table[c] = [v / table[c][c] for v in table[c]]
        for r in range(n):
            if r != c and table[r][c]:
                table[r] = [v - table[r][c] * w for v, w in zip(table[r], table[c], strict=True)]
    return tuple(row[n] for row in table)


def brute_force(net: PlainNetwork, region: Region) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """All activation patterns, all intersections of n hyperplanes: slow, and nothing in common with `extrema`."""
    n = net.n_inputs
    unit = [tuple(Fraction(i == j) for j in range(n)) for i in range(n)]
    box = [(row, Fraction(b)) for row, b in zip(unit, region.upper, strict=True)]
    box += [(tuple(-v for v in row), -Fraction(b)) for row, b in zip(unit, region.lower, strict=True)]
    minimum = [[Fraction(10**9)] * len(layer.offset) for layer in net.layers]
    maximum = [[Fraction(-(10**9))] * len(layer.offset) for layer in net.layers]
    sizes = [len(layer.offset) for layer in net.layers[:-1]]
    for pattern in product((0, 1), repeat=sum(sizes)):
        phases, posts = iter(pattern), [[(row, Fraction(0)) for row in unit]]
        constraints = list(box)
        for k, layer in enumerate(net.layers):
            forms = []
            for i, offset in enumerate(layer.offset):
                row, constant = [Fraction(0)] * n, offset
                for source, matrix in layer.terms:
                    for w, (other, c) in zip(matrix[i], posts[source], strict=True):
                        row = [v + w * o for v, o in zip(row, other, strict=True)]
                        constant += w * c
                forms.append((tuple(row), constant))
            corners = [
                point
                for chosen in combinations(constraints, n)
                if (point := _solve([r for r, _ in chosen], tuple(b for _, b in chosen))) is not None
                and all(sum(w * x for w, x in zip(row, point, strict=True)) <= rhs for row, rhs in constraints)
            ]
            for i, (row, constant) in enumerate(forms):
                for point in corners:
                    value = sum((w * x for w, x in zip(row, point, strict=True)), constant)
                    minimum[k][i], maximum[k][i] = min(minimum[k][i], value), max(maximum[k][i], value)
            if k == len(net.layers) - 1:
                break
            post = []
            for row, constant in forms:
                active = next(phases)
                sign = -1 if active else 1
                constraints.append((tuple(sign * v for v in row), -sign * constant))
                post.append((row, constant) if active else (tuple([Fraction(0)] * n), Fraction(0)))
            posts.append(post)
    return minimum, maximum


def test_equals_brute_force_over_patterns_and_hyperplanes() -> None:
    compared = 0
    for seed in SEEDS:
        made, found = solved(seed)
        hidden = sum(len(layer.offset) for layer in made.plain.layers[:-1])
        if hidden > 4 or made.plain.n_inputs > 3 or len(made.regions) > 1:
            continue
        assert brute_force(made.plain, made.regions[0]) == (found.minimum, found.maximum), seed
        compared += 1
    assert compared >= 40


def _milp_extremum(net: PlainNetwork, region: Region, layer: int, neuron: int, sense: int) -> float:
    """Big-M with interval bounds through scipy's HiGHS; columns: inputs, then g, h, z per neuron."""
    columns = net.n_inputs
    low, high = list(region.lower), list(region.upper)
    integer = [0] * columns
    posts = [(0, list(region.lower), list(region.upper))]
    rows: list[tuple[dict[int, float], float, float]] = []
    for k in range(layer + 1):
        size = len(net.layers[k].offset)
        lower, upper = (np.array(net.layers[k].offset, float) for _ in range(2))
        for source, matrix in net.layers[k].terms:
            w = np.array(matrix, float)
            start, below, above = posts[source]
            lower = lower + np.maximum(w, 0) @ below + np.minimum(w, 0) @ above
            upper = upper + np.maximum(w, 0) @ above + np.minimum(w, 0) @ below
        pre = columns
        low += [*lower, *[0.0] * size, *[0.0] * size]
        high += [*upper, *np.maximum(upper, 0), *[1.0] * size]
        integer += [0] * (2 * size) + [1] * size
        for i in range(size):
            row = {pre + i: -1.0}
            for source, matrix in net.layers[k].terms:
                start = posts[source][0]
                for j, w in enumerate(matrix[i]):
                    row[start + j] = row.get(start + j, 0.0) + float(w)
            offset = -float(net.layers[k].offset[i])
            rows.append((row, offset, offset))
            big, small = max(upper[i], 1.0), min(lower[i], -1.0)
            g, h, z = pre + i, pre + size + i, pre + 2 * size + i
            rows.append(({h: 1.0, g: -1.0}, 0.0, np.inf))
            rows.append(({h: 1.0, z: -big}, -np.inf, 0.0))
            rows.append(({h: 1.0, g: -1.0, z: -small}, -np.inf, -small))
        posts.append((pre + size, [0.0] * size, list(np.maximum(upper, 0))))
        columns += 3 * size
    matrix = np.zeros((len(rows), columns))
    for r, (row, _, _) in enumerate(rows):
        for j, v in row.items():
            matrix[r, j] = v
    objective = np.zeros(columns)
    objective[posts[-1][0] - len(net.layers[layer].offset) + neuron] = -sense
    answer = milp(
        objective,
        integrality=integer,
        bounds=Bounds(low, high),
        constraints=LinearConstraint(matrix, [r[1] for r in rows], [r[2] for r in rows]),
    )
    assert answer.status == 0, answer.message
    return float(-sense * answer.fun)


def test_equals_a_big_m_milp_within_its_tolerance() -> None:
    compared = 0
    for seed in range(120):
        made, found = solved(seed)
        if made.family not in ("dense", "dyadic", "integer", "residual", "convolution", "branches"):
            continue
        layer = len(made.plain.layers) - 1
        neuron = seed % len(made.plain.layers[layer].offset)
        highest = max(_milp_extremum(made.plain, r, layer, neuron, 1) for r in made.regions)
        lowest = min(_milp_extremum(made.plain, r, layer, neuron, -1) for r in made.regions)
        assert highest == pytest.approx(float(found.maximum[layer][neuron]), abs=1e-4), seed
        assert lowest == pytest.approx(float(found.minimum[layer][neuron]), abs=1e-4), seed
        compared += 1
    assert compared >= 60


def test_the_onnx_file_and_the_plain_network_are_one_function() -> None:
    for seed in SEEDS:
        made = case(seed)
        runtime = ReferenceEvaluator(onnx.load_from_string(made.onnx))
        kind = runtime.input_types_[0].tensor_type
        shape = [d.dim_value or 1 for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        for point in (made.regions[0].lower, made.regions[-1].upper):
            x = np.array(point, dtype)
            pre, output = made.plain.forward(x.tolist())
            exact = np.array(output, float)
            size = 1.0 + max(abs(float(v)) for layer in (*pre, output) for v in layer)
            run = np.asarray(runtime.run(None, {"input": x.reshape(shape)})[0]).ravel()
            assert run == pytest.approx(exact, rel=0, abs=size * (1e-5 if dtype == np.float32 else 1e-12)), seed
