"""VNN-LIB files: what is read, and that what cannot be read is refused with line and reason."""

from __future__ import annotations

import gzip
import random
import time
from fractions import Fraction

import numpy as np
import pytest

from stablenet.core.errors import DomainError
from stablenet.domain.regions import Box, Polytope, Union
from stablenet.domain.vnnlib import read_vnnlib


def declare(n, m=1):
    return "".join(f"(declare-const X_{i} Real)\n" for i in range(n)) + "".join(
        f"(declare-const Y_{i} Real)\n" for i in range(m)
    )


def box(*bounds):
    return "".join(f"(assert (>= X_{i} {lo}))\n(assert (<= X_{i} {hi}))\n" for i, (lo, hi) in enumerate(bounds))


@pytest.fixture
def read(tmp_path):
    def read(text, name="p.vnnlib", pack=None):
        data = text if isinstance(text, bytes) else text.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if (name.endswith(".gz") if pack is None else pack) else data)
        return read_vnnlib(path)

    return read


def assert_box(domain, lower, upper):
    assert type(domain) is Box
    np.testing.assert_array_equal(domain.lower, lower)
    np.testing.assert_array_equal(domain.upper, upper)


@pytest.mark.parametrize(
    ("name", "pack"), [("p.vnnlib", False), ("p.vnnlib.gz", True), ("p.vnnlib.gz", False), ("p.vnnlib", True)]
)
def test_plain_and_gzip_are_told_apart_by_content(read, name, pack):
    text = "; a box\r\n" + declare(2) + box((-1, 0.5), (0, "1e-3")) + "(assert (>= Y_0 3)) ; unsafe"
    assert_box(read(text, name, pack), [-1, 0], [0.5, 1e-3])


@pytest.mark.parametrize(
    ("assertion", "lower", "upper"),
    [
        ("(<= 0.25 X_0)", 0.25, 1),
        ("(>= 0.25 X_0)", 0, 0.25),
        ("(<= 0.25 X_0 0.5)", 0.25, 0.5),
        ("(= X_0 0.5)", 0.5, 0.5),
        ("(and (<= X_0 0.75) (and (>= X_0 .5)))", 0.5, 0.75),
        ("(<= (* 2 X_0) 1)", 0, 0.5),
        ("(<= (* 2 X_0 2) 1)", 0, 0.25),
        ("(<= (* 2 (+ X_0 1)) 3)", 0, 0.5),
        ("(<= (* -2 X_0) (- 1))", 0.5, 1),
        ("(<= (+ X_0 X_0 0.5) 1)", 0, 0.25),
        ("(>= (/ X_0 3) 0.1)", float(Fraction(3, 10)), 1),
        ("(<= (- X_0) (- (/ 1 3)))", 1 / 3, 1),
        ("(<= (- X_0 X_0) 0)", 0, 1),
        ("(or (<= X_0 0.1) (>= Y_0 0))", 0, 1),
        ("(or (and (<= Y_0 0)) (and (>= Y_0 1)))", 0, 1),
        ("(=> (> Y_0 0) (< Y_0 1))", 0, 1),
        ("(<= X_0 5)", 0, 1),
    ],
)
def test_what_an_assertion_means_for_the_inputs(read, assertion, lower, upper):
    assert_box(read(declare(1) + box((0, 1)) + f"(assert {assertion})"), [lower], [upper])


def test_declare_fun_order_strings_and_solver_commands(read):
    text = '(set-logic QF_LRA)\n(set-info :source "a (; b")\n(declare-fun X_1 () Real)(declare-fun X_0 () Real)\n'
    assert_box(read(text + box((0, 1), (2, 3)) + "(check-sat)"), [0, 2], [1, 3])


def test_decimals_are_rounded_to_the_nearest_float64(read):
    generator = random.Random(5)
    numbers = [
        f"{generator.choice(['', '-'])}{generator.random():.25f}e{generator.randint(-30, 30)}" for _ in range(200)
    ]
    lower = read(declare(200) + box(*((x, "1e40") for x in numbers))).lower
    for text, value in zip(numbers, lower, strict=True):
        exact = Fraction(text)
        gaps = [abs(Fraction(float(v)) - exact) for v in (value, np.nextafter(value, -1e99), np.nextafter(value, 1e99))]
        assert gaps[0] == min(gaps)


def test_a_disjunction_of_boxes_is_a_union(read):
    domain = read(
        declare(2, 2)
        + "(assert (or\n (and (>= X_0 0) (<= X_0 1) (>= X_1 0) (<= X_1 1) (<= Y_0 Y_1))\n"
        + " (and (>= X_0 2) (<= X_0 3) (>= X_1 0) (<= X_1 1) (<= Y_0 Y_1))))"
    )
    assert isinstance(domain, Union)
    assert [part.lower.tolist() for part in domain.parts] == [[0, 0], [2, 0]]
    assert domain.contains([[0.5, 0.5], [2.5, 1], [1.5, 0.5]]).tolist() == [True, True, False]


def test_equal_branches_are_one_part(read):
    branches = "".join(f"(and (>= X_0 0) (<= X_0 1) (<= Y_{i} 0))" for i in range(3))
    assert_box(read(declare(1, 3) + f"(assert (or {branches} (and (<= X_0 1.0) (>= X_0 -0.0))))"), [0], [1])


def test_disjunctions_multiply_and_empty_combinations_are_dropped(read):
    domain = read(
        declare(2)
        + box((0, 10), (0, 10))
        + "(assert (or (<= X_0 3) (>= X_0 7)))(assert (or (<= X_0 1) (and (>= X_0 8) (or (<= X_1 1) (>= X_1 9)))))"
    )
    assert sorted((p.lower.tolist(), p.upper.tolist()) for p in domain.parts) == [
        ([0, 0], [1, 10]),
        ([8, 0], [10, 1]),
        ([8, 9], [10, 10]),
    ]


def test_repetitions_do_not_multiply(read):
    same = "(assert (or (<= X_0 1) (<= X_0 1.0) (<= 1e0 X_0)))" * 20
    domain = read(declare(1) + box((0, 2)) + same)
    assert {(*part.lower, *part.upper) for part in domain.parts} == {(0, 1), (1, 2), (1, 1)}
    assert len(domain.parts) == 3
    assert_box(read(declare(1) + box((0, 2)) + "(assert (or (<= X_0 1) (<= X_0 1.0)))" * 20), [0], [1])


def brute_force(formula, x):
    op, *args = formula
    if op == "or":
        return any(brute_force(a, x) for a in args)
    if op == "and":
        return all(brute_force(a, x) for a in args)
    if op == "Y":
        return True
    index, value = args
    return x[index] <= value if op == "<=" else x[index] >= value


def random_formula(generator, depth):
    if depth == 0 or generator.random() < 0.3:
        if generator.random() < 0.1:
            return ("Y",)
        return (generator.choice(["<=", ">="]), generator.randrange(2), generator.randint(0, 4))
    return (
        generator.choice(["and", "or"]),
        *(random_formula(generator, depth - 1) for _ in range(generator.randint(1, 3))),
    )


def write(formula):
    op, *args = formula
    if op == "Y":
        return "(<= Y_0 0)"
    if op in ("and", "or"):
        return f"({op} {' '.join(map(write, args))})"
    return f"({op} X_{args[0]} {args[1]})"


def test_random_nested_formulas_against_their_meaning_point_by_point(read):
    generator = random.Random(1)
    grid = np.array([[a, b] for a in np.arange(0, 4.5, 0.5) for b in np.arange(0, 4.5, 0.5)])
    read_ok = 0
    for _ in range(300):
        formula = random_formula(generator, 3)
        expected = [brute_force(formula, x) for x in grid]
        try:
            domain = read(declare(2) + box((0, 4), (0, 4)) + f"(assert {write(formula)})")
        except DomainError as error:
            assert "empty" in str(error)  # noqa: PT017 - the message is the point; a branch may be contradictory by itself
            continue
        assert domain.contains(grid).tolist() == expected
        read_ok += 1
    assert read_ok > 150


def test_a_linear_row_gives_a_polytope(read):
    domain = read(declare(2) + box((0, 2), (0, 2)) + "(assert (<= (+ X_0 (* 2 X_1)) 3))(assert (>= (- X_0 X_1) (- 1)))")
    assert isinstance(domain, Polytope)
    np.testing.assert_array_equal(domain.a, [[1, 2], [-1, 1]])
    np.testing.assert_array_equal(domain.b, [3, 1])
    assert domain.contains([[0.5, 1], [2, 1], [0, 1.4]]).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "empty"),
        ("; only a comment\n", None, "empty"),
        ("(declare-const Y_0 Real)", None, "declares no input"),
        (declare(2) + box((0, 1)), 2, "X_1 has no lower bound"),
        (declare(1) + "(assert (>= X_0 0))", 1, "X_0 has no upper bound"),
        (declare(1) + "(assert (or\n(and (>= X_0 0) (<= X_0 1))\n(and (>= X_0 2))))", 5, "X_0 has no upper bound"),
        (declare(1) + box((2, 1)), 4, "lower bound 2.0 above upper bound 1.0"),
        (declare(1) + box((0, 1)) + "(assert (or (<= X_0 -1)\n(>= X_0 2)))", 5, "the domain is empty"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 nan))", 5, "nan is no finite number"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 1e400))", 5, "1e400 is no finite number"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 1_0))", 5, "1_0 is no finite number"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 0x10))", 5, "0x10 is no finite number"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 (* 1e308 100)))", 5, "beyond float64"),
        (declare(1) + box((0, 1)) + "(assert (<= X_1 0))", 5, "X_1 is not declared"),
        (declare(1) + box((0, 1)) + "(assert (<= Y_7 0))", 5, "Y_7 is not declared"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)", 2, "X_1 is not"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", 2, "declared twice"),
        ("(declare-const X_0 Int)", 1, "not understood"),
        ("(declare-const Z Real)", 1, "inputs are named X_0"),
        (declare(1) + box((0, 1)) + "(assert (<= (* X_0 X_0) 1))", 5, "not linear"),
        (declare(1) + box((0, 1)) + "(assert (<= (/ X_0 0) 1))", 5, "not linear"),
        (declare(1) + box((0, 1)) + "(assert (< X_0 1))", 5, "'<' on inputs"),
        (declare(1) + box((0, 1)) + "(assert (not (<= X_0 1)))", 5, "'not' on inputs"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0 Y_0))", 5, "ties inputs to outputs"),
        (declare(2) + box((0, 1), (0, 1)) + "(assert (= X_0 X_1))", 8, "no interior"),
        (declare(2) + box((0, 1), (0, 1)) + "\n(assert (<= (+ X_0 X_1)\n -1))", 9, "domain is empty"),
        (declare(1) + box((0, 1)) + "(assert (<= 1 0))", 5, "never holds"),
        (declare(1) + box((0, 1)) + "(assert (or))", 5, "without arguments"),
        (declare(1) + box((0, 1)) + "(assert (<= X_0))", 5, "two sides"),
        (declare(1) + box((0, 1)) + "(assert X_0)", 5, "not understood"),
        (declare(1) + box((0, 1)) + "(assert ((<= X_0 1)))", 5, "where a constraint"),
        (declare(1) + box((0, 1)) + "(assert (or X_0 (<= X_0 1)))", 5, "where a constraint"),
        (declare(1) + "(assert (<= X_0 1)", 3, "never closed"),
        (declare(1) + "(assert (<= X_0 1)))", 3, "closing parenthesis"),
        (declare(1) + "X_0", 3, "where a command"),
        (declare(1) + "(minimize X_0)", 3, "not understood"),
        ("(" * 5000, 1, "nested deeper"),
        (b"\x00\x01\x02" * 50, 1, "not a text file (byte 0x00)"),
        (b"; fine\n\xff\xfe\x80", 2, "not a text file (byte 0xff)"),
        (
            declare(2) + "".join(f"(assert (or {' '.join(f'(= X_{i} {k})' for k in range(101))}))\n" for i in range(2)),
            5,
            "more than 10000",
        ),
    ],
)
def test_refused_with_line_and_reason(read, text, line, reason):
    with pytest.raises(DomainError) as caught:
        read(text)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert "p.vnnlib" in message
    if line is not None:
        assert f"line {line}:" in message


def test_an_empty_branch_by_itself_is_refused_not_dropped(read):
    with pytest.raises(DomainError, match="line 4: X_0 has lower bound"):
        read(declare(1) + "(assert (or (and (>= X_0 0) (<= X_0 1))\n(and (>= X_0 3) (<= X_0 2))))")


@pytest.mark.parametrize("cut", [5, 15, -5])
def test_a_truncated_gzip_file(tmp_path, cut):
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress((declare(50) + box(*[(0, 1)] * 50)).encode())[:cut])
    with pytest.raises(DomainError, match="gzip"):
        read_vnnlib(path)


def test_gzip_with_a_flipped_byte(tmp_path):
    data = bytearray(gzip.compress((declare(50) + box(*[(0, 1)] * 50)).encode()))
    data[-6] ^= 0xFF
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(data)
    with pytest.raises(DomainError, match="gzip"):
        read_vnnlib(path)


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_such_file(tmp_path, what):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DomainError, match="cannot be read"):
        read_vnnlib(tmp_path / what)


def test_random_bytes_and_mutations_raise_nothing_else(tmp_path):
    generator = np.random.default_rng(3)
    good = (declare(3) + box((0, 1), (0, 1), (0, 1)) + "(assert (or (<= X_0 .5) (<= (+ X_1 X_2) 1)))").encode()
    path = tmp_path / "p.vnnlib"
    for _ in range(300):
        data = bytearray(good)
        for position in generator.integers(len(data), size=generator.integers(1, 6)):
            data[position] = generator.choice(list(b"()XY_019<=>+-*/. e;\x00\xff"))
        path.write_bytes(data)
        try:
            read_vnnlib(path)
        except DomainError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most, but not all, mutations are errors


def test_a_cifar_sized_file_is_read_fast(read):
    n = 3072
    text = declare(n, 10) + box(*((i / n, i / n + 0.1) for i in range(n)))
    text += f"(assert (or {' '.join(f'(and (>= Y_{k} Y_2))' for k in range(10))}))"
    domain = read(text)
    assert domain.n_inputs == n
    start = time.process_time()
    read(text, "q.vnnlib.gz")
    assert time.process_time() - start < 1.0  # 0.05 s on an idle machine


def test_real_specifications(real_networks):
    sizes = {"acasxu": 5, "mnistfc": 784, "eran": 784, "verivital": 784, "cifar10": 3072, "oval": 3072}
    files = sorted(real_networks.glob("*.vnnlib.gz"))
    assert files
    for path in files:
        domain = read_vnnlib(path)
        assert domain.n_inputs == sizes[path.name.split("_")[0]], path
        assert len(domain.parts) == (2 if "prop_6" in path.name else 1), path
        widths = np.stack([part.upper - part.lower for part in domain.parts])
        assert (widths >= 0).all()
        assert (widths <= 2).all()
