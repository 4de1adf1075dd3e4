"""Properties of two networks against exact enumeration: top-1, order, norms, rows of inputs and outputs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from compress_tools import plain
from oracle.exact import extrema
from oracle.plain import PlainMap, PlainNetwork, Region

from stablenet.core.errors import DomainError, InputError, NetworkError, UnknownNameError, UnsupportedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Polytope, Union
from stablenet.domain.vnnlib_region import OutputRow
from stablenet.equivalence.decide import STEPS, Case, decide
from stablenet.equivalence.exact_outputs import exact_outputs
from stablenet.equivalence.form_bounds import FormBounds, outside
from stablenet.equivalence.functionals import below, functionals, refuting
from stablenet.equivalence.hunt import Hunter
from stablenet.equivalence.pairing import by_matching
from stablenet.equivalence.specification import Violation, parse_property, within

BOX = Box([-1.0, -0.5], [0.5, 1.0])


def dense(seed: int, sizes: tuple[int, ...] = (2, 4, 3, 3)) -> Network:
    """A random network; the output is the last size."""
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(0.3 * rng.normal(size=m), (Term(k, rng.normal(size=(m, n)) / np.sqrt(n)),))
        for k, (n, m) in enumerate(pairwise(sizes))
    ]
    layers = tuple(Layer(affine, f"relu{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


def changed(network: Network, seed: int, size: float) -> Network:
    """A copy with all weights changed by random relative amounts."""
    rng = np.random.default_rng(seed)

    def change(affine: AffineMap) -> AffineMap:
        terms = [Term(t.source, t.matrix * (1 + size * rng.normal(size=t.matrix.shape))) for t in affine.terms]
        return replace(affine, terms=tuple(terms))

    return replace(
        network,
        layers=tuple(replace(layer, affine=change(layer.affine)) for layer in network.layers),
        output=change(network.output),
    )


def decided(a, b, violation, domain=BOX, **options):
    return decide(a, b, [Case(part, violation) for part in domain.parts], time_limit=600, **options)


class Rows:
    """Exact rows over a plain network that has both networks' layers, and what is made of them by ReLUs."""

    def __init__(self, a: Network, b: Network) -> None:
        one, two = plain(a), plain(b)
        shift = len(one.layers)
        moved = [
            PlainMap(m.offset, tuple((s + shift if s else 0, rows) for s, rows in m.terms))
            for m in (*two.layers, two.output)
        ]
        self.n_inputs = a.n_inputs
        self.sizes = [a.n_inputs, *(len(m.offset) for m in (*one.layers, *moved[:-1]))]
        self.layers = [*one.layers, *moved[:-1]]
        identity = [({(0, i): Fraction(1)}, Fraction(0)) for i in range(a.n_inputs)]
        self.variables = [*identity, *self._rows(one.output), *self._rows(moved[-1])]

    @staticmethod
    def _rows(affine: PlainMap):
        return [
            ({(s, j): w for s, rows in affine.terms for j, w in enumerate(rows[i]) if w}, offset)
            for i, offset in enumerate(affine.offset)
        ]

    @staticmethod
    def total(parts):
        terms: dict[tuple[int, int], Fraction] = {}
        for factor, (row, _) in parts:
            for key, value in row.items():
                terms[key] = terms.get(key, Fraction(0)) + factor * value
        return terms, sum((factor * offset for factor, (_, offset) in parts), Fraction(0))

    def map(self, rows) -> PlainMap:
        sources = sorted({s for terms, _ in rows for s, _ in terms})
        shaped = [
            (s, tuple(tuple(terms.get((s, j), Fraction(0)) for j in range(self.sizes[s])) for terms, _ in rows))
            for s in sources
        ]
        return PlainMap(tuple(offset for _, offset in rows), tuple(shaped))

    def largest(self, conjunction, regions) -> Fraction:
        """The largest value that the least of a conjunction's rows takes, less its right-hand side."""
        layers, sizes = list(self.layers), list(self.sizes)
        least = None
        for row in conjunction:
            terms, offset = self.total([(c, self.variables[i]) for i, c in row.coefficients])
            value = (terms, offset - row.rhs)
            if least is not None:  # min(p, q) = p - relu(p - q)
                layers.append(self.map([self.total([(Fraction(1), least), (Fraction(-1), value)])]))
                self.sizes.append(1)
                value = self.total(
                    [(Fraction(1), least), (Fraction(-1), ({(len(layers), 0): Fraction(1)}, Fraction(0)))]
                )
            least = value
        last = self.map([least])
        self.sizes = sizes
        return extrema(PlainNetwork(self.n_inputs, tuple(layers), last), regions, outputs=True).maximum[-1][0]


def region(part) -> Region:
    rows = () if part.a is None else tuple(map(tuple, part.a.tolist()))
    return Region(tuple(part.lower.tolist()), tuple(part.upper.tolist()), rows, () if part.b is None else tuple(part.b))


def truth(a, b, violation, domain=BOX) -> Fraction:
    rows = Rows(a, b)
    return max(rows.largest(c, [region(part) for part in domain.parts]) for c in violation.conjunctions)


def check(a, b, violation, domain=BOX, **options) -> str:
    """The verdict, held against the exact truth; what is clear must be decided."""
    exact, result = truth(a, b, violation, domain), decided(a, b, violation, domain, **options)
    if result.verdict == "holds":
        assert exact <= 0
    if result.verdict == "violated":
        assert exact >= 0
        x = [Fraction(v) for v in result.witness.point.tolist()]
        assert domain.contains(result.witness.point).all()
        one, two = plain(a).forward(x)[1], plain(b).forward(x)[1]
        assert (list(one), list(two)) == (result.witness.a, result.witness.b)
        assert violation.holds_at(x, one, two)
    if abs(exact) > 1e-4:
        assert result.verdict == ("violated" if exact > 0 else "holds")
    return result.verdict


PROPERTIES = ["top1", "top1:0.05", "order", "order:0.05", "within:0.02", "within:0.1", "l1:0.1", "l1:0.3"]


def named(text: str, n_inputs: int, n_outputs: int) -> Violation:
    name, _, number = text.partition(":")
    if name in ("within", "l1"):
        norm = "linf" if name == "within" else name
        return parse_property("within", n_inputs, n_outputs, tolerance=float(number), norm=norm)
    return parse_property(text, n_inputs, n_outputs, tolerance=0.0)


@pytest.mark.parametrize("text", PROPERTIES)
def test_verdicts_are_those_of_exact_enumeration(text):
    seen = set()
    for seed in range(5):
        a = dense(seed, (2, 4, 3, 2 + seed % 2))
        for size in (0.002, 0.03, 0.3):
            b = changed(a, seed, size)
            seen.add(check(a, b, named(text, 2, a.n_outputs)))
    assert {"holds", "violated"} <= seen


@pytest.mark.parametrize("text", PROPERTIES)
def test_a_network_and_itself(text):
    a = dense(3)
    result = decided(a, a, named(text, 2, 3))
    assert (result.verdict, result.by) == ("holds", "bounds")


def test_networks_of_other_sizes_and_depths():
    seen = set()
    for seed in range(4):
        a, b = dense(seed, (2, 4, 2)), dense(seed + 50, (2, 3, 3, 2))
        seen |= {check(a, b, named(text, 2, 2)) for text in ("top1", "within:0.5", "within:4", "order:3")}
    assert seen == {"holds", "violated"}


def test_unions_and_polytopes():
    a = dense(1)
    b = changed(a, 1, 0.05)
    cut = Polytope([-1.0, -1.0], [1.0, 1.0], [[1.0, 1.0], [-1.0, -0.5]], [0.1, 0.6])
    for domain in (cut, Union([Box([-1.0, -1.0], [-0.5, -0.5]), Box([0.2, 0.0], [0.4, 1.0])])):
        for text in ("top1:0.01", "within:0.1", "within:0.05", "order:0.02"):
            check(a, b, named(text, 2, 3), domain)


def test_boxes_outside_of_a_polytope_are_not_cut():
    a = np.array([[1.0, 1.0]])
    low, high = np.array([[0.0, 0.0], [0.5, 0.6]]), np.array([[0.5, 0.5], [1.0, 1.0]])
    assert outside(low, high, a, np.array([1.0])).tolist() == [False, True]
    assert outside(low, high, a, np.array([1.1])).tolist() == [False, False]


def test_rows_that_tie_inputs_and_outputs_of_both():
    for seed in range(6):
        a = dense(seed, (2, 3, 2))
        b = changed(a, seed, 0.1)
        rng = np.random.default_rng(seed)
        rows = tuple(
            OutputRow(
                tuple((i, Fraction(int(c), 7)) for i, c in enumerate(rng.integers(-9, 10, 6)) if c), Fraction(r), s
            )
            for r, s in ((Fraction(1, 3), True), (Fraction(-1, 10), False))
        )
        check(a, b, Violation("a random conjunction", 2, 2, (rows, rows[:1])))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_norms_against_a_dense_grid(norm):
    """With one input the largest norm is at a kink or an end: a fine grid comes near it from below."""
    for seed in range(5):
        a = dense(seed, (1, 4, 3, 10 if norm == "l1" else 3))
        b = changed(a, seed, 0.1)
        x = np.linspace(-1, 1, 20001)[:, None]
        largest = float(np.linalg.norm(b.forward(x) - a.forward(x), 1 if norm == "l1" else 2, axis=1).max())
        for factor, verdict in ((1.02, "holds"), (0.98, "violated")):
            violation = within(1, a.n_outputs, Fraction(factor * largest), norm)
            assert violation.norm == norm
            result = decided(a, b, violation, Box([-1.0], [1.0]))
            assert result.verdict == verdict
            if result.witness is not None:
                gaps = [two - one for one, two in zip(result.witness.a, result.witness.b, strict=True)]
                exact = sum(map(abs, gaps)) if norm == "l1" else sum(g * g for g in gaps)
                assert exact > (violation.radius if norm == "l1" else violation.radius**2)


def test_a_norm_that_is_met_exactly_holds():
    """``|B - A|`` is (3, 4) everywhere: within 5 in l2, not within the next number below; 7 in l1."""
    zero = Network(1, (), AffineMap(np.zeros(2), ()))
    moved = Network(1, (), AffineMap(np.array([3.0, -4.0]), ()))
    for norm, radius in (("l2", Fraction(5)), ("l1", Fraction(7)), ("linf", Fraction(4))):
        less = Fraction(np.nextafter(float(radius), 0))
        assert decided(zero, moved, within(1, 2, less, norm), Box([0.0], [1.0])).verdict == "violated"
        assert decided(zero, moved, within(1, 2, radius, norm), Box([0.0], [1.0])).verdict != "violated"
        more = radius * (1 + Fraction(1, 10**9))
        assert decided(zero, moved, within(1, 2, more, norm), Box([0.0], [1.0])).verdict == "holds"


def test_nan_bounds_prove_no_norm():
    a = dense(0)
    for norm in ("l1", "l2"):
        bounds = FormBounds(a, a, by_matching(a, a, np.zeros((1, 2))), within(2, 20, Fraction(1), norm))
        most = np.array([[0.0, np.nan], [0.0, np.inf], [0.0, 0.0], [1e200, 0.0]])
        assert bounds._norm_below(most).tolist() == [False, False, True, False]


def test_ties_violate_nothing():
    """A is constant with equal outputs, B prefers one of them: every order is one of A's."""
    tie = Network(1, (), AffineMap(np.array([0.0, 0.0, -1.0]), ()))
    first = Network(1, (), AffineMap(np.array([1.0, 0.0, -1.0]), ()))
    third = Network(1, (), AffineMap(np.array([-1.0, -1.0, 0.0]), ()))
    box = Box([0.0], [1.0])
    assert decided(tie, first, named("top1", 1, 3), box).verdict == "holds"
    assert decided(tie, first, named("order", 1, 3), box).verdict == "holds"
    assert decided(tie, third, named("top1", 1, 3), box).verdict == "violated"
    assert decided(tie, third, named("top1:0.1", 1, 3), box).verdict == "holds"  # A's winner is not sure
    assert decided(first, third, named("top1:0.99", 1, 3), box).verdict == "violated"
    assert decided(first, third, named("top1:1", 1, 3), box).verdict != "violated"  # it exceeds by 1, not by more
    assert decided(first, third, named("top1:1.000001", 1, 3), box).verdict == "holds"


def test_what_is_not_decided_is_said():
    a = dense(2, (6, 12, 12, 3))
    b = changed(a, 2, 0.05)
    box = Box(-np.ones(6), np.ones(6))
    violation = named("within:0.45", 6, 3)
    result = decide(a, b, [Case(box, violation)], steps=["bounds"])
    assert (result.verdict, result.by, result.left) == ("undecided", "no step", 1)
    assert result.to_json()["rigorous"] is False
    short = decide(a, b, [Case(box, violation)], time_limit=0.0)
    assert (short.verdict, short.by) == ("undecided", "time limit")


def test_many_inputs_are_not_cut():
    a = dense(2, (30, 8, 3))
    result = decided(a, changed(a, 2, 0.2), named("top1:1", 30, 3), Box(-np.ones(30), np.ones(30)))
    if result.verdict == "undecided":
        assert any("30 inputs" in note for note in result.notes)


def test_each_step_alone():
    a = dense(4)
    b = changed(a, 4, 0.2)
    violation = named("within:0.1", 2, 3)
    assert truth(a, b, violation) > 0
    for step in STEPS:
        assert check_alone(a, b, violation, step) in ("violated", "undecided")


def check_alone(a, b, violation, step):
    return decide(a, b, [Case(BOX, violation)], steps=[step], time_limit=600).verdict


def test_numbers_beside_a_fraction():
    for value in (
        Fraction(1, 3),
        Fraction(-1, 3),
        Fraction(1, 2),
        Fraction(10**400),
        Fraction(-(10**400)),
        Fraction(0),
    ):
        down = below(value)
        assert down == -np.inf or Fraction(down) <= value
        strict, weak = refuting(value, strict=True), refuting(value, strict=False)
        assert Fraction(weak if np.isfinite(weak) else -(10**500)) < value or np.isinf(weak)
        assert strict >= weak
    assert refuting(Fraction(1, 2), strict=True) == 0.5
    assert refuting(Fraction(1, 2), strict=False) == np.nextafter(0.5, 0)


def test_forms_are_shared_and_a_cancels():
    """Three outputs: 3 pairs each of A, of B and of the difference."""
    forms = functionals(named("top1", 1, 3))
    assert forms.size == 9
    sums = np.unique(forms.form[~forms.own])
    assert len(sums)
    assert not forms.a[sums].any()


def test_exact_outputs_are_those_of_rational_arithmetic():
    for seed in range(3):
        net = dense(seed, (3, 5, 4, 2))
        x = np.array([1e-300, -0.3, 2.0**60]) * (seed + 1)
        assert tuple(exact_outputs(net, x)) == plain(net).forward(x.tolist())[1]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("top2", UnknownNameError, "order, top1, within"),
        ("top1:", InputError, "a finite number"),
        ("top1:-1", InputError, "a finite number"),
        ("order:nan", InputError, "a finite number"),
        ("order:1_0", InputError, "a finite number"),
        ("within:0.1", InputError, "--tolerance"),
    ],
)
def test_properties_that_are_refused(text, error, words):
    with pytest.raises(error, match=words):
        parse_property(text, 2, 3, tolerance=0.1)


def test_questions_that_do_not_fit_are_refused():
    a = dense(0)
    with pytest.raises(UnsupportedError, match="top1 of 2000 outputs"):
        parse_property("top1", 2, 2000, tolerance=0)
    with pytest.raises(InputError, match="belongs to the property within"):
        parse_property("top1", 2, 3, tolerance=0, norm="l1")
    with pytest.raises(UnknownNameError, match="l1, l2, linf"):
        parse_property("within", 2, 3, tolerance=0, norm="l3")
    with pytest.raises(NetworkError, match="same shapes"):
        decided(a, dense(0, (2, 3, 2)), named("top1", 2, 3))
    with pytest.raises(DomainError, match="3 inputs"):
        decided(a, a, named("top1", 2, 3), Box(np.zeros(3), np.ones(3)))
    with pytest.raises(UnknownNameError, match="bounds, gradient, split, stable"):
        decided(a, a, named("top1", 2, 3), steps=["milp"])


@pytest.mark.parametrize("text", [*PROPERTIES, "l2:0.1"])
def test_what_is_violated_is_never_proven_though_no_input_is_found(text, monkeypatch):
    """Without counterexamples the proof is on its own: boxes are cut until time is over."""
    name, _, number = text.partition(":")
    violated = []
    for seed in range(12):
        a = dense(seed, (2, 4, 3, 3))
        b = changed(a, seed, 0.4 if name == "top1" else 0.15)
        violation = within(2, 3, Fraction(number), "l2") if name == "l2" else named(text, 2, 3)
        # Violated, but on a small share of the box: bounds alone would see what holds everywhere.
        x = np.random.default_rng(seed).uniform(BOX.lower, BOX.upper, (4000, 2))
        gaps = b.forward(x) - a.forward(x)
        if name in ("l1", "l2", "within"):
            sizes = np.linalg.norm(gaps, {"l1": 1, "l2": 2, "within": np.inf}[name], axis=1)
            violation = within(2, 3, Fraction(float(0.97 * sizes.max())), "linf" if name == "within" else name)
        if decided(a, b, violation).verdict == "violated":
            violated.append((a, b, violation))
    assert violated
    monkeypatch.setattr(Hunter, "_judge", lambda self, point: None)
    for a, b, violation in violated[:5]:
        result = decide(a, b, [Case(BOX, violation)], steps=["bounds", "split"], time_limit=0.7)
        assert result.verdict == "undecided"
        assert result.left
