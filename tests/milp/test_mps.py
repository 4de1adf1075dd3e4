"""Files that other programs read as the same model."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from stablenet.backends.base import Limits, registry

from stablenet.core.errors import InputError
from stablenet.milp.arrays import Rows
from stablenet.milp.mps import mps_chunks, write_mps
from stablenet.testing import models


def by_highs(path):
    import highspy

    registry.get("highs").open(models.knapsack(1)).close()  # swallows the banner
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(path)) == highspy.HighsStatus.kOk
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.run()
    return solver.getInfo().objective_function_value


def by_scip(path):
    import pyscipopt

    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(path))
    model.optimize()
    return model.getObjVal()


def by_gurobi(path):
    import gurobipy

    with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.read(str(path), env) as model:
        model.setParam("MIPGap", 0.0)
        model.optimize()
        return model.ObjVal


def by_cbc(path):
    from stablenet.backends.cbc import program

    answer = path.with_suffix(".sol")
    run = [program(), str(path), "-ratioGap", "0", "-solve", "-solution", str(answer)]
    subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return float(answer.read_text().splitlines()[0].split("value")[1])


READERS = {"highs": by_highs, "scip": by_scip, "gurobi": by_gurobi, "cbc": by_cbc}
KNOWN = [*models.feasible()[:3], *models.special_numbers(), *models.sos1(), *models.indicators()]
# CBC's own, not the file's: docs/solvers.md.
NOT_FOR_CBC = {"an indicator over an unbounded column", "optima 5e-6 apart"}


@pytest.mark.parametrize(
    ("reader", "known"),
    [
        pytest.param(reader, known, id=f"{reader}-{known.name}", marks=pytest.mark.backend(reader))
        for reader in READERS
        for known in KNOWN
        if not (reader == "highs" and (known.milp.sos1 or known.milp.indicators))
        and not (reader == "cbc" and known.name in NOT_FOR_CBC)
    ],
)
def test_readers_find_the_same_optimum(reader, known, tmp_path):
    path = tmp_path / "model.mps"
    write_mps(known.milp, path)
    assert READERS[reader](path) == pytest.approx(known.optimum, rel=1e-6, abs=1e-6)


@pytest.mark.backend("highs")
def test_arrays_come_back_exactly(tmp_path):
    import highspy

    rng = np.random.default_rng(0)
    milp = models.model(
        rng.normal(size=(6, 9)).astype(np.float32) * 10.0 ** rng.integers(-6, 6, (6, 9)),
        ([-np.inf, 0.1, 1 / 3, -1 / 3, -np.inf, 2.5], [0.3, np.inf, 1 / 3, 1e-5, np.inf, 1e15]),
        ([-np.inf, 0, -1 / 3, 0, 1, -np.inf, 0, 0.1, -5], [np.inf, np.inf, 2 / 3, 1, 7, -0.1, 0, 0.1, -5]),
        rng.normal(size=9),
        integer=[0, 0, 0, 1, 1, 0, 1, 0, 1],
        constant=1 / 7,
        maximize=True,
    )
    write_mps(milp, tmp_path / "model.mps")
    registry.get("highs").open(milp).close()
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.readModel(str(tmp_path / "model.mps"))
    lp = solver.getLp()
    kept = np.isfinite(milp.rows.lower) | np.isfinite(milp.rows.upper)
    np.testing.assert_array_equal(lp.col_lower_, milp.lower)
    np.testing.assert_array_equal(lp.col_upper_, milp.upper)
    np.testing.assert_array_equal(lp.col_cost_, milp.objective)
    np.testing.assert_array_equal(lp.row_lower_, milp.rows.lower[kept])
    np.testing.assert_array_equal(lp.row_upper_, milp.rows.upper[kept])
    np.testing.assert_array_equal([k == highspy.HighsVarType.kInteger for k in lp.integrality_], milp.integer)
    assert lp.offset_ == milp.constant
    assert lp.sense_ == highspy.ObjSense.kMaximize
    dense = np.zeros((kept.sum(), 9))
    matrix = lp.a_matrix_
    for j in range(9):
        part = slice(matrix.start_[j], matrix.start_[j + 1])
        dense[np.array(matrix.index_)[part], j] = np.array(matrix.value_)[part]
    np.testing.assert_array_equal(dense, milp.rows.matrix.toarray()[kept])


def test_ranges_come_back_exactly_in_the_arithmetic_of_readers():
    rng = np.random.default_rng(1)
    lower = rng.normal(size=2000) * 10.0 ** rng.integers(-8, 8, 2000)
    upper = lower + np.abs(rng.normal(size=2000)) * 10.0 ** rng.integers(-8, 8, 2000)
    milp = models.model(np.ones((2000, 1)), (lower, upper), (0, 1), [1.0])
    text = "".join(mps_chunks(milp))
    kinds = dict(line.split()[::-1] for line in text.split("ROWS\n")[1].split("COLUMNS\n")[0].splitlines())
    side = {name: float(value) for name, value in _entries(text, "RHS")}
    width = {name: float(value) for name, value in _entries(text, "RANGES")}
    rows = [(side[name], width.get(name, 0.0), kinds[name]) for name in (f"r{i}" for i in range(2000))]
    # What a reader makes of it, in float64.
    read_lower = np.array([value - range_ if kind == "L" else value for value, range_, kind in rows])
    read_upper = np.array([value if kind == "L" else value + range_ for value, range_, kind in rows])
    assert {"L", "G"} <= {kind for _, _, kind in rows}
    np.testing.assert_array_equal(read_lower, lower)
    np.testing.assert_array_equal(read_upper, upper)


def _entries(text, section):
    lines = text.split(f"\n{section}\n")[1].splitlines()
    for line in lines:
        if not line.startswith(" "):
            return
        _, name, value = line.split()
        yield name, value


@pytest.mark.parametrize("name", ["", "two words", "naïve", "*star", "$dollar", "'quote", "line\nbreak"])
def test_names_that_do_not_fit_are_refused(name, tmp_path):
    milp = replace(models.knapsack(2, n=2), columns=["x", name])
    with pytest.raises(InputError, match="column name"):
        write_mps(milp, tmp_path / "model.mps")


def test_names_must_be_distinct_and_complete(tmp_path):
    milp = models.knapsack(2, n=2)
    with pytest.raises(InputError, match="more than once"):
        write_mps(replace(milp, columns=["x", "x"]), tmp_path / "model.mps")
    with pytest.raises(InputError, match="1 column names where 2"):
        write_mps(replace(milp, columns=["x"]), tmp_path / "model.mps")
    with pytest.raises(InputError, match="the objective's"):
        write_mps(replace(milp, row_names=["obj", "a", "b"]), tmp_path / "model.mps")


def test_names_are_used_and_indicator_rows_avoid_them():
    known = models.indicators()[0].milp
    names = [f"indicator_{i}" for i in range(known.n_rows)]
    text = "".join(mps_chunks(replace(known, row_names=names)))
    rows = [line.split()[1] for line in text.split("ROWS\n")[1].split("COLUMNS\n")[0].splitlines()]
    assert len(set(rows)) == len(rows)
    assert set(names) < set(rows)


def test_rows_without_sides_are_left_out():
    milp = models.knapsack(3)
    free = Rows(milp.rows.matrix, np.full(3, -np.inf), np.array([5.0, np.inf, 6.0]))
    text = "".join(mps_chunks(replace(milp, rows=free)))
    assert " L r0\n" in text
    assert " L r2\n" in text
    assert "r1" not in text


@pytest.mark.backend("cbc")
def test_cbc_reads_numbered_names_whatever_the_model_calls_them():
    milp = replace(models.knapsack(4), columns=[f"a name with blanks {i}" for i in range(7)])
    with registry.get("cbc").open(milp) as session:
        assert session.solve(Limits()).objective == pytest.approx(models.enumerate_optimum(milp))
