"""Folding's error bounds against rational arithmetic: never below the truth, 0 only where it is exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from stablenet.onnx_io import exact_matrices as folding
from stablenet.onnx_io.exact_matrices import Selection

KINDS = ("dense", "csr", "selection", "permutation")


def dense(matrix) -> np.ndarray:
    if isinstance(matrix, Selection):
        matrix = matrix.csr()
    return matrix.toarray() if isinstance(matrix, sparse.csr_array) else matrix


def exact(matrix) -> np.ndarray:
    array = dense(matrix)
    return np.array([Fraction(float(v)) for v in array.reshape(-1)], object).reshape(array.shape)


def numbers(rng, shape, style: str) -> np.ndarray:
    """Matrix entries: integers, float32, wildly scaled, near the edges of the range, or cancelling."""
    if style == "integers":
        return rng.integers(-99, 100, shape).astype(float)
    if style == "float32":
        return rng.normal(size=shape).astype(np.float32).astype(float)
    if style == "wild":
        return rng.normal(size=shape) * 2.0 ** rng.integers(-60, 60, shape)
    if style == "tiny":
        return rng.normal(size=shape) * 2.0 ** rng.integers(-560, -500, shape)
    if style == "powers":
        return rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-9, 9, shape)
    base = rng.normal(size=shape)
    return np.where(rng.random(shape) < 0.5, 1.0 + base * 2.0**-50, -1.0)


STYLES = ("integers", "float32", "wild", "tiny", "powers", "cancelling")


def some(rng, kind: str, shape: tuple[int, int], style: str):
    if kind == "selection":
        return Selection(rng.integers(-1, shape[1], shape[0]), shape[1])
    if kind == "permutation":
        index = np.full(shape[0], -1)
        count = min(shape)
        index[rng.permutation(shape[0])[:count]] = rng.permutation(shape[1])[:count]
        return Selection(index, shape[1])
    values = numbers(rng, shape, style)
    if kind == "csr":
        return sparse.csr_array(np.where(rng.random(shape) < 0.4, values, 0.0))
    return values


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("left", ["dense", "csr"])
@pytest.mark.parametrize("right", KINDS)
def test_products(style, left, right):
    rng = np.random.default_rng(len(style) * 100 + len(left) * 10 + len(right))
    for _ in range(8):
        m, k, n = rng.integers(1, 7, 3)
        a, b = some(rng, left, (m, k), style), some(rng, right, (k, n), style)
        found, error = folding.product(a, b)
        truth = exact(a) @ exact(b)
        was_exact = _holds(found, error, truth)
        size = max((np.abs(exact(a)) @ np.abs(exact(b))).reshape(-1))
        assert Fraction(error) <= size * Fraction(10, 2**53) + Fraction(20, 2**1074)
        if style in ("integers", "powers") or right == "permutation":
            assert was_exact
            assert error == 0.0


def _holds(found, error: float, truth: np.ndarray) -> bool:
    """Assert that the bound holds; return whether the result is exact."""
    worst = max((abs(v) for v in (exact(found) - truth).reshape(-1)), default=Fraction(0))
    assert worst <= Fraction(error)
    return worst == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_sums(style, first, second):
    rng = np.random.default_rng(len(style) * 100 + len(first) * 10 + len(second))
    for _ in range(6):
        shape = tuple(rng.integers(1, 7, 2))
        a, b = some(rng, first, shape, style), some(rng, second, shape, style)
        found, error = folding.added(a, b)
        was_exact = _holds(found, error, exact(a) + exact(b))
        assert was_exact == (error == 0.0)


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_scaled_rows(divide, style, kind):
    rng = np.random.default_rng(len(style) * 100 + len(kind) + divide)
    for factors_of in STYLES:
        shape = tuple(rng.integers(1, 7, 2))
        a, factors = some(rng, kind, shape, style), numbers(rng, shape[0], factors_of)
        factors[factors == 0] = 3.0
        found, error = folding.scaled(a, factors, divide=divide)
        by = np.array([1 / Fraction(f) if divide else Fraction(f) for f in factors], object)[:, None]
        was_exact = _holds(found, error, exact(a) * by)
        if error == 0.0:
            assert was_exact
        if "tiny" not in (style, factors_of):
            assert was_exact == (error == 0.0)


def test_a_product_that_needs_more_bits_than_float64_has_is_not_exact():
    a = np.array([[1.0 + 2.0**-40, 1.0]])
    b = np.array([[1.0 + 2.0**-40], [-1.0]])
    _, error = folding.product(a, b)
    assert error >= 2.0**-80


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_stack(kind):
    rng = np.random.default_rng(len(kind))
    a, b = some(rng, kind, (5, 4), "float32"), some(rng, "csr", (3, 4), "float32")
    index = np.array([2, -1, 0, 0, 4])
    expected = np.where(index[:, None] >= 0, dense(a)[index], 0.0)
    np.testing.assert_array_equal(dense(folding.rows(a, index)), expected)
    np.testing.assert_array_equal(dense(folding.stack([a, a])), np.concatenate([dense(a), dense(a)]))
    np.testing.assert_array_equal(dense(folding.stack([a, b])), np.concatenate([dense(a), dense(b)]))


def test_finished_matrices_are_dense_when_small_or_full():
    full = np.ones((40, 40))
    thin = sparse.random_array((40, 40), density=0.1, format="csr", rng=0)
    assert isinstance(folding.settle(full), np.ndarray)
    assert isinstance(folding.settle(sparse.csr_array(full)), np.ndarray)
    assert isinstance(folding.settle(thin), sparse.csr_array)
    assert isinstance(folding.settle(thin.toarray()), sparse.csr_array)
    assert isinstance(folding.settle(thin[:10]), np.ndarray)
    assert not folding.settle(full).flags.writeable
    for matrix in (full, thin, thin.toarray(), Selection.identity(40)):
        np.testing.assert_array_equal(dense(folding.settle(matrix)), dense(matrix))
