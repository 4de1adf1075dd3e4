"""VNN-LIB 2.0: what is read, held against the official parser on random files; what is refused, and how."""

from __future__ import annotations

import gzip
import random
import time
from fractions import Fraction

import numpy as np
import pytest

from stablenet.core.errors import DomainError
from stablenet.domain.regions import Box, Polytope, Union
from stablenet.domain.vnnlib import ContradictionInFileError, read_vnnlib
from stablenet.domain.vnnlib_query import read_query
from stablenet.domain.vnnlib_text import MAX_INDEX

HEAD = "(vnnlib-version <2.0>)\n"
ONE = "(declare-network f (declare-input X real [1,2]) (declare-output Y real [2]))\n"
TWO = (
    "(declare-network f (declare-input X_f real [2]) (declare-output Y_f real [2]))\n"
    "(declare-network g (isomorphic-to f) (declare-input X_g real [2]) (declare-output Y_g real [2]))\n"
)
BOX = "(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0)))\n(assert (and (>= X[0,1] -1.0) (<= X[0,1] 2.0)))\n"
BOX_F = "(assert (and (>= X_f[0] 0.0) (<= X_f[0] 1.0) (>= X_f[1] 0.0) (<= X_f[1] 1.0)))\n"
TIES = "(assert (== X_f[0] X_g[0]))\n(assert (== X_g[1] X_f[1]))\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="p.vnnlib"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def test_a_box_over_a_tensor(write):
    domain = read_vnnlib(write(HEAD + ONE + BOX + "(assert (>= Y[0] Y[1]))"))
    assert type(domain) is Box
    assert (domain.lower.tolist(), domain.upper.tolist()) == ([0, -1], [1, 2])


@pytest.mark.parametrize("word", ["X[0, 1]", "X [0,1]", "X[ 0 , 1 ]", "X\n[0,1]"])
def test_spaces_in_an_index(write, word):
    domain = read_vnnlib(write(HEAD + ONE + BOX + f"(assert (<= {word} 0.5))"))
    assert domain.upper.tolist() == [1, 0.5]


def test_entries_are_counted_row_by_row(write):
    net = "(declare-network f (declare-input X float32 [2,3,2]) (declare-output Y float32 []))\n"
    cells = [(i, j, k) for i in range(2) for j in range(3) for k in range(2)]
    box = "".join(f"(assert (== X[{i},{j},{k}] {n}.0))" for n, (i, j, k) in enumerate(cells))
    domain = read_vnnlib(write(net + box + "(assert (>= Y 0.0))"))
    assert domain.lower.tolist() == list(range(12))
    query = read_query(write(net + box + "(assert (>= Y 0.0))"))
    assert query.cases[0].conjunctions[0][0].coefficients == ((12, 1),)


def test_version_1_and_its_statements_are_read_as_ever(write):
    text = (
        "(vnnlib-version <1.0>)(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))"
    )
    assert read_vnnlib(write(text)).upper.tolist() == [1]
    query = read_query(write(text + "(assert (or (<= Y_0 1) (>= Y_0 2.5)))"))
    assert query.networks == ()
    assert [[(row.coefficients, row.rhs) for row in c] for c in query.cases[0].conjunctions] == [
        [(((1, -1),), -1)],
        [(((1, 1),), Fraction(5, 2))],
    ]


def test_hidden_tensors_may_be_declared_and_are_no_input(write):
    net = (
        '(declare-network f (declare-input X real [2] "in") (declare-hidden H real [3] "relu0")'
        ' (declare-output Y real [2] "out"))\n'
    )
    box = "(assert (and (>= X[0] 0.0) (<= X[0] 1.0) (>= X[1] 0.0) (<= X[1] 1.0)))\n"
    assert read_vnnlib(write(net + box + "(assert (<= H[2] 0.0))")).n_inputs == 2
    with pytest.raises(DomainError, match=r"line 3: .*hidden"):
        read_query(write(net + box + "(assert (<= H[2] 0.0))"))


@pytest.mark.parametrize(
    "ties",
    [
        TIES,
        "(assert (and (= X_f[0] X_g[0]) (and (== X_f[1] X_g[1]))))",
        "(assert (<= X_f[0] X_g[0]))(assert (>= X_f[0] X_g[0]))(assert (and (<= X_g[1] X_f[1]) (<= X_f[1] X_g[1])))",
    ],
)
def test_tied_inputs_are_one(write, ties):
    text = HEAD + TWO + BOX_F + ties
    domain = read_vnnlib(write(text + "(assert (<= X_g[1] 0.5))"))
    assert type(domain) is Box
    assert domain.upper.tolist() == [1, 0.5]
    query = read_query(write(text + "(assert (>= Y_g[1] Y_f[0]))"))
    assert query.tied
    assert query.n_inputs == 2
    assert query.n_outputs == (2, 2)
    assert query.cases[0].conjunctions[0][0].coefficients == ((2, -1), (5, 1))


@pytest.mark.parametrize(
    "ties",
    [
        "",
        "(assert (== X_f[0] X_g[0]))",
        "(assert (or (== X_f[0] X_g[0]) (<= X_f[0] 0.5)))(assert (== X_f[1] X_g[1]))",
        "(assert (== X_f[0] X_g[1]))(assert (== X_f[1] X_g[0]))",
        "(assert (<= X_f[0] X_g[0]))(assert (<= X_f[1] X_g[1]))",
    ],
)
def test_inputs_that_are_not_tied_one_by_one_are_no_domain(write, ties):
    with pytest.raises(DomainError, match="line 3: the inputs of network g are not tied"):
        read_vnnlib(write(HEAD + TWO + BOX_F + ties))


def test_untied_inputs_of_a_query_are_inputs_of_their_own(write):
    """Monotonicity: the same network at two inputs, one of them larger in the first entry."""
    text = HEAD + TWO.replace("isomorphic-to", "equal-to") + BOX_F + "(assert (== X_f[1] X_g[1]))"
    text += "(assert (and (>= X_g[0] X_f[0]) (<= X_g[0] 1.0) (>= X_g[0] 0.0)))(assert (< Y_g[0] Y_f[0]))"
    query = read_query(write(text))
    assert not query.tied
    assert [places.tolist() for places in query.places] == [[0, 1], [2, 1]]
    (case,) = query.cases
    assert type(case.part) is Polytope
    assert case.part.holds(np.array([[0.2, 0.5, 0.7], [0.7, 0.5, 0.2]])).tolist() == [True, False]
    assert case.conjunctions[0][0].strict
    assert query.networks[1].equal


def test_not_equal_is_either_side(write):
    query = read_query(write(HEAD + ONE + BOX + "(assert (!= Y[0] Y[1]))"))
    assert {(row.coefficients, row.strict) for (row,) in query.cases[0].conjunctions} == {
        (((2, -1), (3, 1)), True),
        (((2, 1), (3, -1)), True),
    }


def test_no_word_on_the_outputs_is_an_empty_conjunction(write):
    query = read_query(write(HEAD + ONE + BOX))
    assert query.cases[0].conjunctions == ((),)


def test_cases_by_part(write):
    text = HEAD + ONE + BOX + "(assert (or (and (<= X[0,0] 0.5) (>= Y[0] 1.0)) (and (>= X[0,0] 0.75) (<= Y[0] 2.0))"
    query = read_query(write(text + "(and (<= X[0,0] 0.5) (>= Y[1] 1.0))))"))
    assert isinstance(query.domain, Union)
    assert [len(case.conjunctions) for case in query.cases] == [2, 1]


REFUSED = [
    ("(vnnlib-version <3.0>)", 1, "versions 1 and 2"),
    ("(vnnlib-version 2.0)", 1, "versions 1 and 2"),
    (ONE + "(declare-const X_0 Real)", 2, "in one file"),
    (ONE + ONE.replace("network f", "network g"), 2, "X is declared twice"),
    (ONE + ONE.replace("X", "A").replace("Y", "B"), 2, "network f is declared twice"),
    ("(declare-network f (declare-input X real [2]))", 1, "declares 0 outputs"),
    (
        "(declare-network f (declare-input X real [2]) (declare-input Z real [2]) (declare-output Y real [1]))",
        1,
        "2 inputs",
    ),
    ("(declare-network f (declare-input X int8 [2]) (declare-output Y real [1]))", 1, "of type int8"),
    ("(declare-network f (declare-input X real [0]) (declare-output Y real [1]))", 1, "shape such as"),
    ("(declare-network f (declare-input X real [2) (declare-output Y real [1]))", 1, "shape such as"),
    ("(declare-network f (declare-input X real) (declare-output Y real [1]))", 1, "shape such as"),
    ("(declare-network f (declare-input X real [999999999]) (declare-output Y real [1]))", 1, "entries"),
    (
        "(declare-network f (isomorphic-to g) (declare-input X real [2]) (declare-output Y real [1]))",
        1,
        "declared before",
    ),
    ("(declare-network f (frobnicate) (declare-input X real [2]) (declare-output Y real [1]))", 1, "not understood"),
    ("(declare-network f (declare-hidden H real [2]) (declare-output Y real [1]))", 1, "ONNX name"),
    ("(declare-network 1f (declare-input X real [2]) (declare-output Y real [1]))", 1, "a name is expected"),
    (ONE + BOX + "(assert (<= X[0] 1.0))", 4, "whose shape is [1,2]"),
    (ONE + BOX + "(assert (<= X[0,2] 1.0))", 4, "whose shape is [1,2]"),
    (ONE + BOX + "(assert (<= X 1.0))", 4, "whose shape is [1,2]"),
    (ONE + BOX + "(assert (<= Z[0] 1.0))", 4, "Z[0] is not declared"),
    (ONE + BOX + "(assert (<= X_0 1.0))", 4, "X_0 is not declared"),
    (ONE + BOX + "(assert (< X[0,0] 1.0))", 4, "'<' on inputs"),
    (ONE + BOX + "(assert (!= X[0,0] 1.0))", 4, "'!=' on inputs"),
    (ONE + BOX + "(assert (<= (* X[0,0] X[0,1]) 1.0))", 4, "not linear"),
    (ONE + BOX + "(assert (== X[0,0] X[0,1]))", 4, "no interior"),
    (ONE + "(assert (<= X[0,0] 1.0))", 1, "X[0,0] has no lower bound"),
    (ONE + BOX + "(assert (>= X[0,0] 2.0))", 4, "X[0,0] has lower bound 2.0"),
    (ONE + BOX + "(assert (<= X[" + "0," * 200 + "0] 1.0))", 4, "whose shape is [1,2]"),
    (ONE + BOX + "(assert (<= X[" + "0 " * 400 + "] 1.0))", 4, f"more than {MAX_INDEX} characters"),
]


@pytest.mark.parametrize(("text", "line", "words"), REFUSED)
def test_refused_with_line_and_reason(write, text, line, words):
    for read in (read_vnnlib, read_query):
        with pytest.raises(DomainError) as caught:
            read(write(text))
        message = str(caught.value)
        assert words in message
        assert "\n" not in message
        assert f"line {line}:" in message


@pytest.mark.parametrize(
    ("assertion", "words"),
    [
        ("(<= (* Y[0] Y[1]) 1.0)", "not linear"),
        ("(not (<= Y[0] 1.0))", "'not' on outputs"),
        ("(=> (<= Y[0] 1.0) (<= Y[1] 1.0))", "'=>' on outputs"),
        ("(<= Y[0])", "two sides"),
        ("(< (- Y[0] Y[0]) 0.0)", "never holds"),
    ],
)
def test_queries_that_are_refused(write, assertion, words):
    with pytest.raises(DomainError, match="line 4: ") as caught:
        read_query(write(ONE + BOX + f"(assert {assertion})"))
    assert words in str(caught.value)


def test_many_networks_are_refused(write):
    text = "".join(
        f"(declare-network n{k} (declare-input X{k} real [1]) (declare-output Y{k} real [1]))\n" for k in range(20)
    )
    with pytest.raises(DomainError, match="more than 16 networks"):
        read_vnnlib(write(text))


def test_hostile_files_end_soon(write):
    clauses = " ".join(f"(>= Y[{k % 2}] {k}.0)" for k in range(30))
    blowup = HEAD + ONE + BOX + f"(assert (or {clauses}))" * 40
    brackets = HEAD + ONE + BOX + "(assert (<= " + "X[ " * 200_000 + "1.0))"
    names = HEAD + ONE + BOX + "(assert (and" + " (<= X[0,0] 1.0)" * 150_000 + "))"
    for text in (blowup, brackets, names):
        began = time.process_time()
        try:
            read_query(write(text, "p.vnnlib.gz"))
        except DomainError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the last one is only long
        assert time.process_time() - began < 20


def test_mutations_raise_nothing_else(write):
    generator = np.random.default_rng(4)
    good = bytearray((HEAD + TWO + BOX_F + TIES + "(assert (or (>= Y_g[0] (+ Y_f[0] 0.5)) (< Y_g[1] 2.0)))").encode())
    for _ in range(400):
        data = bytearray(good)
        for position in generator.integers(len(data), size=generator.integers(1, 6)):
            data[position] = generator.choice(list(b'()[]XYfg_0129<=>+-*,. "real'))
        path = write("x")
        path.write_bytes(data)
        for read in (read_vnnlib, read_query):
            try:
                read(path)
            except DomainError as error:
                assert "\n" not in str(error)  # noqa: PT017 - most, but not all, mutations are errors


# --- against the official parser -----------------------------------------------------------------------------------


class Generator:
    """Random queries in the strict grammar of the standard, with decimals that float64 holds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.shapes = [self.random.choice([[3], [1, 2], [2, 2], []]) for _ in range(2)]
        self.count = self.random.choice([1, 2])

    def entries(self, kind: str, net: int) -> list[str]:
        shape = self.shapes[0] if kind == "X" else self.shapes[1]
        name = f"{kind}_{'fg'[net]}"
        return [f"{name}[{','.join(map(str, at))}]" for at in np.ndindex(*shape)] if shape else [name]

    def number(self) -> str:
        return f"{self.random.randint(-8, 8) / 4!r}"

    def linear(self, entries: list[str], depth: int) -> str:
        choice = self.random.random()
        if depth == 0 or choice < 0.4:
            return self.random.choice([*entries, self.number()])
        if choice < 0.6:
            return f"(* {self.number()} {self.linear(entries, depth - 1)})"
        if choice < 0.7:
            return f"(- {self.linear(entries, depth - 1)})"
        parts = " ".join(self.linear(entries, depth - 1) for _ in range(self.random.randint(2, 3)))
        return f"({self.random.choice('+-')} {parts})"

    def formula(self, depth: int) -> str:
        choice = self.random.random()
        if depth and choice < 0.5:
            parts = " ".join(self.formula(depth - 1) for _ in range(self.random.randint(1, 3)))
            return f"({self.random.choice(['and', 'or'])} {parts})"
        if choice < 0.65:
            entry = self.random.choice(self.entries("X", self.random.randrange(self.count)))
            return f"({self.random.choice(['<=', '>=', '=='])} {entry} {self.number()})"
        outputs = [e for net in range(self.count) for e in self.entries("Y", net)]
        sides = self.random.choice(outputs), self.linear(outputs, 2)
        return f"({self.random.choice(['<=', '>=', '<', '>', '==', '!='])} {' '.join(self.random.sample(sides, 2))})"

    def text(self) -> str:
        lines = ["(vnnlib-version <2.0>)"]
        for net in range(self.count):
            shapes = [f"[{','.join(map(str, shape))}]" for shape in self.shapes]
            like = self.random.choice(["(isomorphic-to f) ", "(equal-to f) ", ""]) if net else ""
            n = "fg"[net]
            tensors = f"(declare-input X_{n} real {shapes[0]}) (declare-output Y_{n} real {shapes[1]})"
            lines.append(f"(declare-network {n} {like}{tensors})")
        lines += [f"(assert (and (>= {entry} -1.0) (<= {entry} 1.5)))" for entry in self.entries("X", 0)]
        if self.count == 2:
            for one, two in zip(self.entries("X", 0), self.entries("X", 1), strict=True):
                ways = [f"(assert (== {one} {two}))", f"(assert (<= {one} {two}))(assert (<= {two} {one}))"]
                lines.append(self.random.choice(ways))
        lines += [f"(assert {self.formula(3)})" for _ in range(self.random.randint(1, 2))]
        return "\n".join(lines) + "\n"


def value(vnnlib, expression, at):
    if isinstance(expression, vnnlib.Var):
        return at[(expression.name, tuple(expression.indices))]
    if isinstance(expression, vnnlib.Literal | vnnlib.Float | vnnlib.Int):
        return Fraction(expression.lexeme)
    if isinstance(expression, vnnlib.Negate):
        return -value(vnnlib, expression.expr, at)
    if isinstance(expression, vnnlib.Minus):
        return value(vnnlib, expression.head, at) - sum(value(vnnlib, e, at) for e in expression.rest)
    values = [value(vnnlib, e, at) for e in expression.args]
    if isinstance(expression, vnnlib.Plus):
        return sum(values)
    product = Fraction(1)
    for v in values:
        product *= v
    return product


def truth(vnnlib, formula, at):
    """What the official parser's tree says at a point."""
    if isinstance(formula, vnnlib.And):
        return all(truth(vnnlib, f, at) for f in formula.args)
    if isinstance(formula, vnnlib.Or):
        return any(truth(vnnlib, f, at) for f in formula.args)
    a, b = value(vnnlib, formula.lhs, at), value(vnnlib, formula.rhs, at)
    table = {"GreaterThan": a > b, "LessThan": a < b, "GreaterEqual": a >= b, "LessEqual": a <= b, "Equal": a == b}
    return table.get(type(formula).__name__, a != b)


def test_random_queries_mean_what_the_official_parser_says(write):
    vnnlib = pytest.importorskip("vnnlib", reason="vnnlib is not installed: pip install vnnlib")
    met = {"holds": 0, "fails": 0, "refused": 0}
    for seed in range(150):
        generator = Generator(seed)
        text = generator.text()
        tree = vnnlib.parse_query_string(text)
        try:
            query = read_query(write(text))
        except ContradictionInFileError:  # by the parser's tree no point may satisfy it then
            query = None
            met["refused"] += 1
        if query is not None:
            assert [n.name for n in tree.networks] == [n.name for n in query.networks]
            assert [n.equal_to or n.isometric_to for n in tree.networks] == [n.like or "" for n in query.networks]
            assert query.tied
        n_x, n_y = len(generator.entries("X", 0)), len(generator.entries("Y", 0))
        for _ in range(60):
            x = [Fraction(generator.random.randint(-5, 7), 4) for _ in range(n_x)]
            ys = [[Fraction(generator.random.randint(-8, 8), 4) for _ in range(n_y)] for _ in range(generator.count)]
            at = {}
            for net, network in enumerate(tree.networks):
                for tensor, numbers in ((network.inputs[0], x), (network.outputs[0], ys[net])):
                    at |= {(tensor.name, i): v for i, v in zip(np.ndindex(*tensor.shape), numbers, strict=True)}
            expected = all(truth(vnnlib, assertion.expr, at) for assertion in tree.assertions)
            found = query is not None and satisfied(query, x, [y for values in ys for y in values])
            assert found == expected, (seed, text, x, ys)
            met["holds" if expected else "fails"] += 1
    assert met["holds"] > 100
    assert met["fails"] > 100
    assert met["refused"] < 60


def satisfied(query, x, outputs):
    values = [*x, *outputs]
    point = np.array([[float(v) for v in x]])
    for case in query.cases:
        if case.part.holds(point)[0] and any(all(row_holds(row, values) for row in rows) for rows in case.conjunctions):
            return True
    return False


def row_holds(row, values):
    total = sum(c * values[i] for i, c in row.coefficients)
    return total > row.rhs if row.strict else total >= row.rhs
