"""Error bounds of expressions: they hold for the worst numbers that the operands' own bounds allow."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stablenet.onnx_io.expression import Constant, Expression, concatenated

SEEDS = range(8)


def exact(array) -> np.ndarray:
    array = np.asarray(array, np.float64)
    return np.array([Fraction(float(v)) for v in array.reshape(-1)], object).reshape(array.shape)


def nudged(rng, array, error: float) -> np.ndarray:
    """A true value that the stored one may stand for: off by exactly the error, up or down."""
    signs = rng.choice([-1, 1], np.shape(array)) if rng.random() < 0.7 else np.ones(np.shape(array), int)
    return exact(array) + signs * Fraction(error)


def expression(rng, shape, error: float, n: int = 3) -> tuple[Expression, np.ndarray, np.ndarray]:
    """An expression over one source, and its true matrix and offset."""
    size = int(np.prod(shape))
    matrix, offset = rng.normal(size=(size, n)), rng.normal(size=size)
    value = Expression(tuple(shape), {0: matrix}, offset, batch=0, error=error)
    return value, nudged(rng, matrix, error), nudged(rng, offset, error)


def judge(found: Expression, matrix: np.ndarray, offset: np.ndarray) -> None:
    stored = found.terms[0]
    worst = max([*abs(exact(stored) - matrix).reshape(-1), *abs(exact(found.offset) - offset).reshape(-1)])
    assert worst <= Fraction(found.error)
    # Within what the operations can justify: a bound that is huge would be right, and useless.
    assert found.error <= 100.0 * float(worst) + 1e-14


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("own", "other"), [(0.0, 1e-9), (1e-9, 0.0), (1e-9, 1e-9), (1e-7, 1e-10)])
def test_products_and_quotients_by_constants(seed, own, other):
    rng = np.random.default_rng(seed)
    value, matrix, offset = expression(rng, (1, 4), own)
    factor = rng.uniform(0.5, 2.0, 4) * rng.choice([-1, 1], 4)
    truth = nudged(rng, factor, other)
    judge(value.times(Constant(factor, other)), matrix * truth[:, None], offset * truth)
    judge(value.over(Constant(factor, other)), matrix / truth[:, None], offset / truth)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("own", "other"), [(0.0, 1e-9), (1e-9, 0.0), (1e-9, 1e-9)])
def test_sums_and_differences(seed, own, other):
    rng = np.random.default_rng(seed)
    a, a_matrix, a_offset = expression(rng, (1, 4), own)
    b, b_matrix, b_offset = expression(rng, (1, 4), other)
    judge(a.plus(b), a_matrix + b_matrix, a_offset + b_offset)
    judge(a.minus(b), a_matrix - b_matrix, a_offset - b_offset)
    shift = rng.normal(size=4)
    truth = nudged(rng, shift, other)
    judge(a.plus(Constant(shift, other)), a_matrix, a_offset + truth)
    judge(a.minus(Constant(shift, other)), a_matrix, a_offset - truth)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("own", "other"), [(0.0, 1e-9), (1e-9, 0.0), (1e-9, 1e-9)])
def test_linear_maps(seed, own, other):
    rng = np.random.default_rng(seed)
    value, matrix, offset = expression(rng, (1, 4), own)
    weights = rng.normal(size=(5, 4))
    truth = nudged(rng, weights, other)
    judge(value.apply(weights, (1, 5), 0, error=other), truth @ matrix, truth @ offset)


def test_joined_tensors_carry_the_larger_error():
    rng = np.random.default_rng(0)
    a, a_matrix, a_offset = expression(rng, (1, 2), 1e-9)
    b, b_matrix, b_offset = expression(rng, (1, 3), 1e-7)
    judge(concatenated([a, b], 1), np.concatenate([a_matrix, b_matrix]), np.concatenate([a_offset, b_offset]))
    judge(concatenated([b, a], 1), np.concatenate([b_matrix, a_matrix]), np.concatenate([b_offset, a_offset]))


def test_taken_elements_keep_the_error_and_fill_is_exact():
    value, _, _ = expression(np.random.default_rng(1), (1, 3), 1e-9)
    taken = value.take(np.array([[2, -1, 0]]), 0, fill=0.5)
    assert taken.error == value.error
    assert taken.offset[1] == 0.5
    assert not taken.terms[0][1].any()
    np.testing.assert_array_equal(taken.terms[0][[0, 2]], value.terms[0][[2, 0]])
