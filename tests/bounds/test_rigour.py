"""Interval and CROWN bounds against exact extrema, as fractions and without tolerance.

`naive_crown` is CROWN with one rounding bound on its final coefficients, as one would write it first: it must be
caught, or these tests have no teeth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from oracle.exact import Extrema, extrema
from oracle.networks import cancelling, case
from oracle.plain import PlainMap, PlainNetwork, Region, plain_map
from scipy import sparse

from stablenet.bounds import registry, run
from stablenet.bounds.crown_layers import crown_layers
from stablenet.bounds.interval import interval_layers
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box

Array = npt.NDArray[np.float64]
Instance = tuple[PlainNetwork, Region]
Sides = list[tuple[Array, Array]]
SEEDS = range(360)
DIRECT = ("interval", "crown", "crown-alpha")
"""Methods that solve nothing, fast enough for every instance; others get every fifth."""
RIGOROUS = [name for name, method in registry.classes.items() if method.rigorous]


def canonical(plain: PlainNetwork, *, csr: bool = False) -> Network:
    """The plain network in the product's own form; its numbers are floats already."""

    def affine(source: PlainMap) -> AffineMap:
        terms = []
        for index, rows in source.terms:
            matrix = np.array([[float(v) for v in row] for row in rows])
            terms.append(Term(index, sparse.csr_array(matrix) if csr else matrix))
        return AffineMap(np.array([float(v) for v in source.offset]), tuple(terms))

    layers = tuple(
        Layer(affine(layer), name=f"relu{k}", shape=(len(layer.offset),)) for k, layer in enumerate(plain.layers)
    )
    return Network(plain.n_inputs, layers, affine(plain.output))


def bounds_of(method: str, network: Network, region: Region) -> Sides:
    found = run(method, network, Box(region.lower, region.upper))
    return [(layer.lower, layer.upper) for layer in found.layers]


def violations(sides: Sides, truth: Extrema) -> list[str]:
    """Every bound that the exact extrema contradict."""
    wrong = []
    for k, (lower, upper) in enumerate(sides):
        assert len(lower) == len(upper) == len(truth.minimum[k])
        for i, (low, high) in enumerate(zip(truth.minimum[k], truth.maximum[k], strict=True)):
            if not Fraction(float(lower[i])) <= low:
                wrong.append(f"layer {k}, neuron {i}: lower {lower[i]!r} > {float(low)!r}")
            if not Fraction(float(upper[i])) >= high:
                wrong.append(f"layer {k}, neuron {i}: upper {upper[i]!r} < {float(high)!r}")
    return wrong


@cache
def random_instances() -> list[Instance]:
    """The oracle's networks, each region by itself."""
    return [(made.plain, region) for made in map(case, SEEDS) for region in made.regions]


def _magnitudes(rng: np.random.Generator, shape: tuple[int, ...], decades: float) -> list[list[float]]:
    values = rng.normal(size=shape) * 10.0 ** rng.uniform(-decades, decades, size=shape)
    return np.asarray(np.where(rng.random(shape) < 0.15, 0.0, values)).tolist()  # type: ignore[no-any-return]


@cache
def wild_instances() -> list[Instance]:
    """Two or three layers, several sources, weights over up to 24 decades."""
    found = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n, decades = int(rng.integers(1, 4)), float(rng.choice([2.0, 6.0, 12.0]))
        sizes = rng.integers(2, 6, size=rng.integers(2, 4)).tolist()
        maps = []
        for k, size in enumerate([*sizes, 1]):
            sources = {k} | ({0} if k and rng.random() < 0.5 else set())
            terms = [(s, _magnitudes(rng, (size, [n, *sizes][s]), decades)) for s in sorted(sources)]
            maps.append(plain_map(_magnitudes(rng, (1, size), decades)[0], terms))
        low = rng.uniform(-1, 1, size=n)
        region = Region(tuple(low.tolist()), tuple((low + rng.uniform(0, 1, size=n)).tolist()))
        found.append((PlainNetwork(n, tuple(maps[:-1]), maps[-1]), region))
    return found


def _paths(first: Sequence[float], second: Sequence[float], offset: Sequence[float] = ()) -> PlainNetwork:
    """``g = second . relu(first * x + offset)`` and -g; the neurons in this order and reversed, as sums may be run."""
    maps = [plain_map(offset or [0.0] * len(first), [(0, [[w] for w in first])])]
    negated = [-w for w in second]
    maps.append(plain_map([0.0, 0.0], [(1, [list(second), negated])]))
    return PlainNetwork(1, tuple(maps), plain_map([0.0], [(2, [[1.0, 1.0]])]))


def _orders(first: list[float], second: list[float], offset: list[float]) -> Iterable[PlainNetwork]:
    for order in (list(range(len(first))), list(reversed(range(len(first)))), [1, 0, *range(2, len(first))]):
        yield _paths(*([values[i] for i in order] for values in (first, second, offset)))


@cache
def cancellations() -> list[Instance]:
    """Paths whose products or sums cancel in float64 and not in truth, all neurons active on the domain."""
    tiny, region = 2.0**-30, Region((1.0,), (2.0,))
    designs = [
        # (1 + t)^2 - (1 + 2 t) = t^2, which the rounded product loses.
        ([1 + tiny, 1 + 2 * tiny], [1 + tiny, -1.0], [0.0, 0.0]),
        # 1e16 + 1 - 1e16 = 1, which the sum loses.
        ([1e16, 1.0, 1e16], [1.0, 1.0, -1.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [1e16, 1.0, -1e16], [0.0, 0.0, 0.0]),
        # The same in the constants.
        ([1.0, 1.0, 1.0], [1e16, 1.0, -1e16], [1.0, 1.0, 1.0]),
        # 1e16 times the last bit of 1 + 2^-52, beside 2.22.
        ([1.0, 1.0 + 2.0**-52, 1.0], [-1e16, 1e16, -2.0], [0.0, 0.0, 0.0]),
    ]
    plains = [plain for design in designs for plain in _orders(*design)]
    found = [(plain, region) for plain in plains]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        first = rng.uniform(0.5, 2.0, size=6)
        second = rng.normal(size=6) * 10.0 ** rng.uniform(0, 12, size=6)
        # The last pair takes back, to the last bit of float64, what the others give.
        second[-1] = -float((first[:-1] * second[:-1]).sum() / first[-1])
        plain = _paths(first.tolist(), second.tolist())
        found.append((plain, region))
    lost = [(made.plain, region) for made in map(cancelling, range(60)) for region in made.regions]
    return found + _residual_cancellations() + lost


def _residual_cancellations() -> list[Instance]:
    """g = W2 relu(W1 x) - V x where V is the rounded product: a shortcut takes back a path, but for rounding."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        first, second = rng.uniform(0.1, 3.0, size=(4, 2)), rng.uniform(-3.0, 3.0, size=(3, 4))
        maps = (
            plain_map([0.0] * 4, [(0, first.tolist())]),
            plain_map([0.0] * 3, [(0, (-(second @ first)).tolist()), (1, second.tolist())]),
        )
        plain = PlainNetwork(2, maps, plain_map([0.0], [(2, [[1.0] * 3])]))
        found.append((plain, Region((1.0, 2.0), (2.0, 3.0))))
    return found


INSTANCES: dict[str, Callable[[], list[Instance]]] = {
    "random": random_instances,
    "wild": wild_instances,
    "cancellations": cancellations,
}


@cache
def truths(group: str) -> list[Extrema]:
    return [extrema(plain, [region]) for plain, region in INSTANCES[group]()]


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("method", RIGOROUS)
@pytest.mark.parametrize("group", INSTANCES)
def test_bounds_contain_the_exact_extrema(group: str, method: str, csr: bool) -> None:
    found = []
    every = slice(None, None, 1 if method in DIRECT else 5)
    for (plain, region), truth in zip(INSTANCES[group]()[every], truths(group)[every], strict=True):
        found += violations(bounds_of(method, canonical(plain, csr=csr), region), truth)
    assert not found, f"{len(found)}: {found[:5]}"


def naive_crown(network: Network, lower: Array, upper: Array, within: Sides | None = None) -> Sides:
    """CROWN on a box with one gamma on the final coefficients and constant: unsound. ``within`` is intersected with."""
    unit, result = 2.0**-53, []
    most = np.maximum(np.abs(lower), np.abs(upper))
    for k, layer in enumerate(network.layers):
        bounds = []
        for sign in (1.0, -1.0):
            rows = {t.source: sign * np.asarray(t.matrix) for t in layer.affine.terms}
            constant = sign * layer.affine.offset
            for source in range(k, 0, -1):
                if source not in rows:
                    continue
                low, high = result[source - 1]
                coefficients = rows.pop(source)
                crossing = (low < 0) & (high > 0)
                slope = np.where(crossing, high / np.where(crossing, high - low, 1.0), high > 0)
                shift = np.where(crossing, -slope * low, 0.0)
                under = np.where(crossing, high > -low, high > 0)
                positive, negative = np.maximum(coefficients, 0), np.minimum(coefficients, 0)
                chosen = positive * slope + negative * under
                affine = network.layers[source - 1].affine
                constant = constant + positive @ shift + chosen @ affine.offset
                for term in affine.terms:
                    rows[term.source] = rows.get(term.source, 0.0) + chosen @ np.asarray(term.matrix)
            final = rows.get(0, np.zeros((layer.size, len(lower))))
            value = constant + np.maximum(final, 0) @ upper + np.minimum(final, 0) @ lower
            n_terms = 10 + sum(network.source_sizes)
            bounds.append(value + 4 * n_terms * unit * (np.abs(final) @ most + np.abs(constant)))
        low, high = (-np.inf, np.inf) if within is None else within[k]
        result.append((np.maximum(-bounds[1], low), np.minimum(bounds[0], high)))
    return result


def test_one_rounding_bound_on_the_final_coefficients_is_caught() -> None:
    caught = 0
    for (plain, region), truth in zip(cancellations(), truths("cancellations"), strict=True):
        naive = naive_crown(canonical(plain), np.array(region.lower), np.array(region.upper))
        assert not violations(naive[:1], truth), "the first layer knows no cancellation"
        caught += bool(violations(naive, truth))
    assert caught >= 20


def test_the_naive_bounds_are_right_where_nothing_cancels() -> None:
    """What is caught above is the rounding, not a slip in the copy."""
    for (plain, region), truth in zip(random_instances(), truths("random"), strict=True):
        naive = naive_crown(canonical(plain), np.array(region.lower), np.array(region.upper))
        for k, (lower, upper) in enumerate(naive):
            low, high = np.array(truth.minimum[k], float), np.array(truth.maximum[k], float)
            slack = 1e-9 * (1 + max(float(np.abs(b).max()) for side in naive for b in side))
            assert (lower <= low + slack).all()
            assert (upper >= high - slack).all()


def test_crown_is_as_tight_as_the_naive_one_but_for_rounding() -> None:
    """Rigour is not bought with looseness. CROWN is not monotone: both intersect with the same intervals."""
    compared = 0
    for plain, region in random_instances():
        network = canonical(plain)
        within = bounds_of("interval", network, region)
        naive = naive_crown(network, np.array(region.lower), np.array(region.upper), within)
        for (lower, upper), (low, high) in zip(bounds_of("crown", network, region), naive, strict=True):
            slack = 1e-9 * (1 + np.abs(low) + np.abs(high))
            open_ = (lower < 0) & (upper > 0)
            assert (lower >= low - slack)[open_].all()
            assert (upper <= high + slack)[open_].all()
            compared += int(open_.sum())
    assert compared > 500


def test_first_layer_intervals_are_exact_but_for_rounding() -> None:
    for (plain, region), truth in zip(random_instances(), truths("random"), strict=True):
        lower, upper = bounds_of("interval", canonical(plain), region)[0]
        reach = [max(abs(a), abs(b)) for a, b in zip(region.lower, region.upper, strict=True)]
        size = np.array([abs(float(v)) for v in plain.layers[0].offset])
        for _, rows in plain.layers[0].terms:
            size = size + np.abs(np.array(rows, float)) @ np.array(reach)
        assert (np.abs(lower - np.array(truth.minimum[0], float)) <= 1e-14 * size).all()
        assert (np.abs(upper - np.array(truth.maximum[0], float)) <= 1e-14 * size).all()


def test_exact_ties_of_the_first_layer_are_decided() -> None:
    """A maximum or minimum of exactly 0, and a dead neuron, on a box: the bound says 0, not 1e-17."""
    ties = 0
    for (plain, region), truth in zip(random_instances(), truths("random"), strict=True):
        lower, upper = bounds_of("crown", canonical(plain), region)[0]
        for i, (low, high) in enumerate(zip(truth.minimum[0], truth.maximum[0], strict=True)):
            assert (upper[i] <= 0) == (high <= 0)
            assert (lower[i] >= 0) == (low >= 0)
            ties += 0 in (low, high)
    assert ties > 80


@pytest.mark.parametrize("layers", [interval_layers, crown_layers])
def test_a_batch_of_parts_is_bounded_like_each_part_alone(layers: Callable[[Network, Array, Array], Sides]) -> None:
    """Every row holds on its own piece (one is a point), and is no looser than a run on it alone, but for rounding."""
    for seed in range(0, 360, 5):
        made = case(seed)
        rng = np.random.default_rng(seed)
        low, high = np.array(made.regions[0].lower), np.array(made.regions[0].upper)
        cuts = np.sort(low + rng.random((2, 5, len(low))) * (high - low), axis=0)
        cuts[1, 0] = cuts[0, 0]
        cuts = np.clip(cuts, low, high)
        network = canonical(made.plain)
        batch = layers(network, cuts[0], cuts[1])
        for part in range(5):
            truth = extrema(made.plain, [Region(tuple(cuts[0, part].tolist()), tuple(cuts[1, part].tolist()))])
            rows = [(lower[part], upper[part]) for lower, upper in batch]
            assert not violations(rows, truth), (seed, part)
            alone = layers(network, cuts[0, part : part + 1], cuts[1, part : part + 1])
            for (lower, upper), (single_low, single_high) in zip(rows, alone, strict=True):
                size = 1e-9 * (1e-6 + max(float(np.abs(s).max()) for sides in alone for s in sides))
                assert (lower >= single_low[0] - size).all()
                assert (upper <= single_high[0] + size).all()


@pytest.mark.parametrize("method", DIRECT)
def test_values_that_overflow_or_underflow(method: str) -> None:
    """Weights at both ends of the range of float64: the bounds hold, or the method says that it cannot."""
    from stablenet.core.errors import InputError

    refused = 0
    for big in (1e-160, 1e-200, 5e-324, 1e150, 1e200):
        for shrink in (1e-160, 1.0, 1e160):
            maps = (
                plain_map([0.0, big], [(0, [[big], [-big]])]),
                plain_map([0.0, -shrink], [(1, [[shrink, -shrink], [shrink, shrink]])]),
            )
            plain = PlainNetwork(1, maps, plain_map([0.0], [(2, [[1.0, 1.0]])]))
            region = Region((-1.0,), (0.75,))
            try:
                sides = bounds_of(method, canonical(plain), region)
            except InputError:
                refused += 1
                continue
            assert not violations(sides, extrema(plain, [region])), (big, shrink)
    assert refused <= 3
