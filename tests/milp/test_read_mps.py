"""Reading MPS files back, and the checker of solutions, held against exact fractions and against solvers' readers."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stablenet.core.errors import InputError
from stablenet.milp.arrays import MILP, Indicators, Rows
from stablenet.milp.check_solution import check_solution, read_solution, write_solution
from stablenet.milp.mps import write_mps
from stablenet.milp.read_mps import read_mps


def random_milp(seed: int, n: int = 9, m: int = 7) -> MILP:
    """All that the format can say: ranges, equations, one-sided rows, integer and free columns, sets, indicators."""
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_array(np.where(rng.random((m, n)) < 0.5, rng.normal(size=(m, n)), 0.0))
    low, high = -rng.random(m), rng.random(m)
    low[0], high[1] = -np.inf, np.inf
    low[2] = high[2]
    integer = rng.random(n) < 0.5
    integer[:2] = True
    lower, upper = np.where(integer, -2.0, -rng.random(n)), np.where(integer, 3.0, rng.random(n))
    lower[0], upper[0] = 0.0, 1.0
    lower[-1], upper[-1], integer[-1] = -np.inf, np.inf, False
    lower[-2] = upper[-2] = float(integer[-2])
    # In the order of the file: lower sides first.
    guarded = Rows(sparse.csr_array(rng.normal(size=(2, n))), np.array([-1.0, -np.inf]), np.array([np.inf, 0.5]))
    return MILP(
        Rows(matrix, low, high), lower, upper, integer, rng.normal(size=n), float(rng.normal()), bool(seed % 2),
        (np.array([3, 1, 4]),), Indicators(np.array([0, 0]), np.array([True, False]), guarded),
        [f"x[{j}]" for j in range(n)], [f"row_{i}" for i in range(m)],
    )  # fmt: skip


def same(a: MILP, b: MILP) -> None:
    assert (a.rows.matrix != b.rows.matrix).nnz == 0
    for name in ("lower", "upper", "integer", "objective"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for one, other in ((a.rows.lower, b.rows.lower), (a.rows.upper, b.rows.upper)):
        # A range is written by its width: its far side may be the next number.
        assert ((one == other) | (np.nextafter(one, np.inf) == other) | (np.nextafter(one, -np.inf) == other)).all()
    assert (a.constant, a.maximize) == (b.constant, b.maximize)
    assert [s.tolist() for s in a.sos1] == [s.tolist() for s in b.sos1]
    assert list(a.columns) == list(b.columns)
    assert list(a.row_names) == list(b.row_names)
    assert (a.indicators is None) == (b.indicators is None)
    if a.indicators is not None and b.indicators is not None:
        assert (a.indicators.rows.matrix != b.indicators.rows.matrix).nnz == 0
        assert np.array_equal(a.indicators.binary, b.indicators.binary)
        assert np.array_equal(a.indicators.value, b.indicators.value)
        assert np.array_equal(a.indicators.rows.upper, b.indicators.rows.upper)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_is_read_back(seed: int, tmp_path: Path) -> None:
    milp = random_milp(seed)
    path = tmp_path / "model.mps"
    write_mps(milp, path)
    same(milp, read_mps(path))
    packed = tmp_path / "model.mps.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    same(milp, read_mps(packed))


@pytest.mark.parametrize("seed", range(6))
def test_highs_reads_the_same_model(seed: int, tmp_path: Path) -> None:
    highspy = pytest.importorskip("highspy")
    made = random_milp(seed)
    milp = MILP(
        made.rows, made.lower, made.upper, made.integer, made.objective, made.constant, made.maximize,
        columns=made.columns, row_names=made.row_names,
    )  # fmt: skip
    path = tmp_path / "model.mps"
    write_mps(milp, path)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(path)) == highspy.HighsStatus.kOk
    theirs, ours = solver.getLp(), read_mps(path)
    matrix = sparse.csc_array(
        (theirs.a_matrix_.value_, theirs.a_matrix_.index_, theirs.a_matrix_.start_), shape=(milp.n_rows, milp.n_columns)
    )
    assert abs(matrix - ours.rows.matrix).max() == 0
    assert np.array_equal(theirs.col_lower_, ours.lower)
    assert np.array_equal(theirs.row_upper_, ours.rows.upper)
    assert np.allclose(theirs.row_lower_, ours.rows.lower)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ENDATA\n", "", "ENDATA"),
        ("RHS\n", "RHS\n RHS nothing 1\n", "row 'nothing'"),
        ("BOUNDS\n", "BOUNDS\n UP BND nothing 1\n", "column 'nothing'"),
        ("BOUNDS\n", "BOUNDS\n XX BND x[1] 1\n", "bound kind"),
        ("COLUMNS\n", "QUADOBJ\n", "section 'QUADOBJ'"),
        ("RHS\n", "RHS\n RHS row_3 1.2.3\n", "no number"),
        ("ROWS\n", "ROWS\n L row_4\n", "twice"),
    ],
)
def test_mistakes_are_refused_by_line(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.mps"
    write_mps(random_milp(3), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        read_mps(path)


def exact_violation(milp: MILP, x: np.ndarray) -> Fraction:
    """The largest violation in fractions, without the checker's code."""
    point = [Fraction(float(v)) for v in x]
    dense, worst = milp.rows.matrix.toarray(), Fraction(0)
    for row, low, high in zip(dense, milp.rows.lower, milp.rows.upper, strict=True):
        value = sum((Fraction(float(a)) * p for a, p in zip(row, point, strict=True)), Fraction(0))
        worst = max(worst, *([Fraction(float(low)) - value] if np.isfinite(low) else []), worst)
        worst = max(worst, *([value - Fraction(float(high))] if np.isfinite(high) else []), worst)
    for p, low, high, integer in zip(point, milp.lower, milp.upper, milp.integer, strict=True):
        worst = max(worst, Fraction(float(low)) - p) if np.isfinite(low) else worst
        worst = max(worst, p - Fraction(float(high))) if np.isfinite(high) else worst
        worst = max(worst, abs(p - round(p))) if integer else worst
    return worst


@pytest.mark.parametrize("seed", range(10))
def test_the_checker_agrees_with_fractions(seed: int) -> None:
    made, rng = random_milp(seed), np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-8, 9, size=made.rows.matrix.nnz)
    matrix = made.rows.matrix.copy()
    matrix.data *= scale
    milp = MILP(
        Rows(matrix, made.rows.lower, made.rows.upper), made.lower, made.upper, made.integer, made.objective,
        made.constant,
    )  # fmt: skip
    for _ in range(5):
        x = rng.normal(size=milp.n_columns) * 10.0 ** rng.integers(-3, 4)
        found = check_solution(milp, x)
        assert found.violation == pytest.approx(float(exact_violation(milp, x)), rel=1e-12)
        value = sum(Fraction(float(c)) * Fraction(float(v)) for c, v in zip(milp.objective, x, strict=True))
        assert found.objective == float(value + Fraction(milp.constant))


def test_cancelling_terms_hide_nothing() -> None:
    """In floating point the row's terms add up to 0; exactly they add up to 1."""
    big = 2.0**60
    milp = MILP(
        Rows(sparse.csr_array([[big, 1.0, -big]]), np.array([-np.inf]), np.array([0.0])),
        np.full(3, -2.0), np.full(3, 2.0), np.zeros(3, dtype=bool), np.zeros(3),
    )  # fmt: skip
    x = np.ones(3)
    assert milp.violation(x) == 0.0
    assert check_solution(milp, x).violation == 1.0
    assert check_solution(milp, x).where == "row r0"


def test_solution_files_round_trip_and_sets_and_indicators_count(tmp_path: Path) -> None:
    milp = random_milp(2)
    x = np.random.default_rng(0).normal(size=milp.n_columns)
    path = tmp_path / "point.sol"
    write_solution(milp, x, path)
    assert np.array_equal(read_solution(milp, path), x)
    assert check_solution(milp, x).sets == sorted(np.abs(x[milp.sos1[0]]))[-2]
    path.write_text("nothing 1\n")
    with pytest.raises(InputError, match="line 1"):
        read_solution(milp, path)
