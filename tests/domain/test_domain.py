"""Domains: their construction, their JSON, and the grammar of ``--domain``."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from stablenet.core.errors import DomainError
from stablenet.domain.regions import Box, LinfBall, Polytope, Union, domain_from_json
from stablenet.domain.spec import parse_domain


def test_box_holds_its_corners_and_nothing_beyond():
    box = Box([-1, 0], [1, 2])
    assert box.contains([[-1, 0], [1, 2], [np.nextafter(1, 2), 0], [np.nan, 0]]).tolist() == [True, True, False, False]


def test_bounds_cannot_be_changed_and_are_copies():
    given = np.zeros(2)
    box = Box(given, [1, 1])
    given[0] = 7
    assert box.lower[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        box.lower[0] = 7


@pytest.mark.parametrize(
    ("lower", "upper", "reason"),
    [
        ([0, 0], [1], "2 lower bounds but 1 upper"),
        ([0, 2], [1, 1], "input 1: lower bound 2.0 exceeds"),
        ([0, np.nan], [1, 1], "lower bound of input 1 is nan"),
        ([0, 0], [1, np.inf], "upper bound of input 1 is inf"),
        ([], [], "a vector is expected"),
        ([[0]], [[1]], "a vector is expected"),
        ([[0], [1, 2]], [1, 1], "not a vector"),
        (["a"], ["b"], "vector of numbers"),
        ([1j], [2], "vector of numbers"),
        (0, 1, "a vector is expected"),
    ],
)
def test_bad_boxes(lower, upper, reason):
    with pytest.raises(DomainError, match=reason):
        Box(lower, upper)


def test_the_ball_is_the_smallest_float_box_around_the_real_one():
    generator = np.random.default_rng(0)
    center = generator.normal(size=500) * 10.0 ** generator.integers(-12, 12, size=500)
    for eps in (0.0, 0.05, 1e-9, 3.0):
        ball = LinfBall(center, eps)
        for c, low, high in zip(center, ball.lower, ball.upper, strict=True):
            exact_low, exact_high = Fraction(c) - Fraction(eps), Fraction(c) + Fraction(eps)
            assert Fraction(low) <= exact_low < Fraction(np.nextafter(low, np.inf))
            assert Fraction(np.nextafter(high, -np.inf)) < exact_high <= Fraction(high)


def test_a_ball_is_clipped():
    ball = LinfBall([0.0, 0.5, 1.0], 0.1, 0, [1, 1, 1])
    np.testing.assert_allclose(ball.lower, [0, 0.4, 0.9])
    np.testing.assert_allclose(ball.upper, [0.1, 0.6, 1])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([0.0], -0.1), "radius -0.1"),
        (([0.0], np.nan), "radius nan"),
        (([0.0, np.nan], 0.1), "centre: entry 1 is nan"),
        (([5.0], 0.1, 0, 1), "input 0: no value within 0.1 of the centre 5.0"),
        (([0.0, 0.0], 0.1, [0, 0, 0]), "3 lower limits for a centre of 2"),
        (([0.0], 0.1, None, np.nan), "upper limits: a number is NaN"),
    ],
)
def test_bad_balls(arguments, reason):
    with pytest.raises(DomainError, match=reason):
        LinfBall(*arguments)


def test_polytope_membership_and_emptiness():
    triangle = Polytope([0, 0], [1, 1], [[1, 1]], [1])
    assert triangle.contains([[0.25, 0.25], [0.75, 0.75]]).tolist() == [True, False]
    assert not triangle.is_empty()
    assert Polytope([0, 0], [1, 1], [[1, 1]], [-0.5]).is_empty()
    with pytest.raises(DomainError, match="a has shape"):
        Polytope([0, 0], [1, 1], [[1, 1, 1]], [1])
    with pytest.raises(DomainError, match="finite"):
        Polytope([0, 0], [1, 1], [[1, np.inf]], [1])


def test_unions():
    union = Union([Box([0], [1]), Box([2], [3])])
    assert union.contains([[0.5], [1.5], [2.5]]).tolist() == [True, False, True]
    with pytest.raises(DomainError, match="at least one"):
        Union([])
    with pytest.raises(DomainError, match="different dimensions"):
        Union([Box([0], [1]), Box([0, 0], [1, 1])])


@pytest.mark.parametrize(
    "domain",
    [
        Box([0.1, -1e-320], [1 / 3, 1e300]),
        LinfBall([0.1, 0.2], 0.05, 0, 1),
        Polytope([0, 0], [1, 1], [[0.1, 1 / 3]], [0.7]),
        Union([Box([0], [1]), Polytope([0], [1], [[1]], [0.5])]),
    ],
)
def test_json_keeps_every_bit(domain):
    again = domain_from_json(json.loads(json.dumps(domain.to_json())))
    assert again.digest == domain.digest
    assert again.to_json() == domain.to_json()


@pytest.mark.parametrize(
    "data", [{}, {"kind": "box", "lower": [0]}, {"kind": "star"}, [], {"kind": "union", "parts": []}]
)
def test_bad_json(data):
    with pytest.raises(DomainError):
        domain_from_json(data)


def test_the_digest_is_of_the_set_and_not_of_its_spelling():
    assert Box([0, 0], [1, 1]).digest == Box([-0.0, 0], [1, 1]).digest == parse_domain("box:0:1", 2).digest
    assert Box([0, 0], [1, 1]).digest != Box([0, 0], [1, np.nextafter(1, 2)]).digest
    assert Union([Box([0], [1])]).digest == Box([0], [1]).digest


@pytest.mark.parametrize(
    ("spec", "lower", "upper"), [("box:0:1", 0, 1), ("box:-1:1e-3", -1, 1e-3), ("box:0.5:.5", 0.5, 0.5)]
)
def test_box_specs(spec, lower, upper):
    domain = parse_domain(spec, 3)
    assert domain.lower.tolist() == [lower] * 3
    assert domain.upper.tolist() == [upper] * 3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64, bool])
def test_ball_specs(tmp_path, dtype):
    center = (np.arange(6).reshape(1, 2, 3) / (1 if np.dtype(dtype).kind in "iu" else 10)).astype(dtype)
    np.save(tmp_path / "a:b.npy", center)
    ball = parse_domain(f"ball:{tmp_path}/a:b.npy:0.05", 6)
    assert ball.digest == LinfBall(center.astype(float).reshape(-1), 0.05).digest
    clipped = parse_domain(f"ball:{tmp_path}/a:b.npy:0.05:0:5", 6)
    assert clipped.lower.min() == 0
    assert clipped.upper.max() <= 5


def test_a_fortran_ordered_centre_is_read_in_row_major_order(tmp_path):
    center = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "c.npy", np.asfortranarray(center))
    np.testing.assert_allclose(parse_domain(f"ball:{tmp_path}/c.npy:0", 6).lower, center.reshape(-1))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "expected box:LO:HI"),
        ("cube:0:1", "'cube:0:1' is not understood; expected box:LO:HI, ball:"),
        ("file.txt", "is not understood"),
        ("box", "is not understood"),
        ("box:0", "two numbers"),
        ("box:0:1:2", "two numbers"),
        ("box:a:1", "LO is 'a'"),
        ("box:0:", "HI is ''"),
        ("box:0:nan", "HI is 'nan'"),
        ("box:-inf:1", "LO is '-inf'"),
        ("box:0:1_0", "HI is '1_0'"),
        ("box:1:0", "LO 1.0 exceeds HI 0.0"),
        ("ball:{tmp}/c.npy", "expected ball:CENTER.npy:EPS"),
        ("ball:{tmp}/c.txt:0.1", "expected ball:CENTER.npy:EPS"),
        ("ball:{tmp}/c.npy:0.1:0", "expected ball:CENTER.npy:EPS"),
        ("ball:{tmp}/c.npy:x", "EPS is 'x'"),
        ("ball:{tmp}/c.npy:-1", "EPS -1.0 is negative"),
        ("ball:{tmp}/c.npy:0.1:1:0", "LO 1.0 exceeds HI 0.0"),
        ("ball:{tmp}/c.npy:0.1:5:6", "domain is empty"),
        ("ball:{tmp}/none.npy:0.1", "none.npy: cannot be read"),
        ("ball:{tmp}:0.1", "expected ball:CENTER.npy:EPS"),
        ("ball:{tmp}/junk.npy:0.1", "junk.npy: not a .npy file"),
        ("ball:{tmp}/zero.npy:0.1", "zero.npy: not a .npy file"),
        ("ball:{tmp}/cut.npy:0.1", "cut.npy: not a .npy file"),
        ("ball:{tmp}/object.npy:0.1", "object.npy: not a .npy file"),
        ("ball:{tmp}/text.npy:0.1", "text.npy: holds entries of type <U1"),
        ("ball:{tmp}/complex.npy:0.1", "complex.npy: holds entries of type complex128"),
        ("ball:{tmp}/many.npy:0.1", "many.npy: not a .npy file"),
        ("ball:{tmp}/zip.npy:0.1", "zip.npy: not a .npy file"),
        ("ball:{tmp}/huge.npy:0.1", "huge.npy: not a .npy file"),
        ("ball:{tmp}/braces.npy:0.1", "braces.npy: not a .npy file"),
        ("ball:{tmp}/folder.npy:0.1", "folder.npy: cannot be read"),
        ("ball:{tmp}/a\0.npy:0.1", "null byte"),
        ("{tmp}/a\0.vnnlib", "null byte"),
        ("ball:{tmp}/nan.npy:0.1", "centre: entry 1 is nan"),
        ("ball:{tmp}/five.npy:0.1", "5 numbers .shape .5,.., but the network has 3 inputs"),
        ("{tmp}/none.vnnlib", "none.vnnlib: cannot be read"),
        ("{tmp}/one.vnnlib", "one.vnnlib: declares 1 inputs, but the network has 3"),
    ],
)
def test_bad_specs_are_refused_in_one_line(tmp_path, spec, reason):
    np.save(tmp_path / "c.npy", np.zeros(3))
    np.save(tmp_path / "five.npy", np.zeros(5))
    np.save(tmp_path / "nan.npy", np.array([0, np.nan, 0]))
    np.save(tmp_path / "text.npy", np.array(["a", "b", "c"]))
    np.save(tmp_path / "complex.npy", np.zeros(3, dtype=complex))
    np.save(tmp_path / "object.npy", np.array([0, None, {}], dtype=object), allow_pickle=True)
    with (tmp_path / "many.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "braces.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"{" * 118)
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY junk \x00\xff" * 3)
    (tmp_path / "zero.npy").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:-4])
    (tmp_path / "one.vnnlib").write_text("(declare-const X_0 Real)(assert (<= 0 X_0 1))")
    with pytest.raises(DomainError, match=reason) as caught:
        parse_domain(spec.format(tmp=tmp_path), 3)
    assert "\n" not in str(caught.value)


def test_an_object_array_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    np.save(tmp_path / "c.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DomainError, match=r"not a \.npy file"):
        parse_domain(f"ball:{tmp_path}/c.npy:0.1", 1)


def test_a_vnnlib_spec(tmp_path):
    path = tmp_path / "p.vnnlib"
    path.write_text("(declare-const X_0 Real)(assert (<= 0 X_0 1))")
    assert parse_domain(str(path), 1).digest == Box([0], [1]).digest
