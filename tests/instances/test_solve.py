"""`stablenet solve`: rows for a folder of MPS files, held against scipy; liars, bad files and limits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, sparse
from stablenet.backends.base import registry

from stablenet.cli.main import _run
from stablenet.core.errors import InputError
from stablenet.instances import solve as module
from stablenet.instances.solve import Request, model_files, solve_file
from stablenet.milp.arrays import MILP, Rows
from stablenet.milp.check_solution import check_solution, read_solution
from stablenet.milp.mps import write_mps
from stablenet.milp.read_mps import read_mps
from stablenet.testing import models


def cover(seed: int, n: int = 12) -> MILP:
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_array((rng.random((8, n)) < 0.4).astype(float) + np.eye(8, n))
    return MILP(
        Rows(matrix, np.ones(8), np.full(8, np.inf)), np.zeros(n), np.ones(n), np.ones(n, dtype=bool),
        rng.integers(1, 9, size=n).astype(float), columns=[f"take[{j}]" for j in range(n)],
    )  # fmt: skip


def truth(milp: MILP) -> float:
    found = optimize.milp(
        milp.objective, integrality=milp.integer.astype(int), bounds=optimize.Bounds(milp.lower, milp.upper),
        constraints=optimize.LinearConstraint(milp.rows.matrix, milp.rows.lower, milp.rows.upper),
    )  # fmt: skip
    return float(found.fun)


@pytest.mark.parametrize("solver", ["highs", "scip", "cbc", "gurobi"])
def test_rows_are_right(solver: str, tmp_path: Path) -> None:
    if not registry.get(solver).available().installed:
        pytest.skip(f"{solver} is not installed")
    for seed in range(3):
        path = tmp_path / f"{seed}.mps"
        write_mps(cover(seed), path)
        row = solve_file(path, Request(solver, 20.0), tmp_path / "point.sol")
        assert row["status"] == "optimal"
        assert row["objective"] == pytest.approx(truth(cover(seed)))
        assert row["dual_bound"] == pytest.approx(row["objective"], rel=1e-3)
        assert row["checked"] == "feasible"
        assert json.loads(row["changed_options"]) == {}
        milp = read_mps(path)
        assert check_solution(milp, read_solution(milp, tmp_path / "point.sol")).objective == row["objective"]


def test_the_command_solves_a_folder_in_processes_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_mps(cover(0), folder / "a.mps")
    (folder / "b.mps").write_text("ROWS\n Q r\n")
    output = tmp_path / "rows.csv"
    code = _run(["solve", str(folder), "--time-limit", "20", "--output", str(output)])
    assert code == 3
    a, b = csv.DictReader(output.open())
    assert (a["file"], a["status"], a["checked"]) == ("a.mps", "optimal", "feasible")
    assert float(a["cpu_s"]) > 0
    assert b["status"] == "error"
    assert "line 2" in b["error"]


def test_a_point_that_is_no_solution_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mps"
    write_mps(cover(0), path)
    tighter = cover(0)
    tighter = MILP(
        Rows(tighter.rows.matrix, tighter.rows.lower + 3.0, tighter.rows.upper), tighter.lower, tighter.upper,
        tighter.integer, tighter.objective, columns=tighter.columns,
    )  # fmt: skip
    monkeypatch.setattr(module, "check_solution", lambda _milp, x: check_solution(tighter, x))
    row = solve_file(path, Request("highs", 20.0))
    assert row["checked"].startswith("violated")
    assert row["violation"] >= 1.0


def test_bad_requests_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        model_files([tmp_path])
    with pytest.raises(InputError, match="near it"):
        Request("highs", 1.0, options=("mip_heuristics_effort=1",)).check()
    with pytest.raises(InputError, match="time limit"):
        Request("highs", 0.0).check()


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_a_limit_of_processor_time_ends_a_solve_and_leaves_a_bound(solver: str, tmp_path: Path) -> None:
    path = tmp_path / "hard.mps"
    write_mps(models.hard().milp, path)
    row = solve_file(path, Request(solver, 600.0, cpu_limit=0.3))
    assert row["status"] == module.CPU_LIMIT
    assert 0.3 <= row["solver_cpu_s"] < 5.0
    assert row["dual_bound"] is not None
    with pytest.raises(InputError, match="process of its own"):
        Request("cbc", 1.0, cpu_limit=1.0).check()


def test_a_tolerance_replaces_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.mps"
    write_mps(cover(0), path)
    row = solve_file(path, Request("highs", 20.0, tolerance=1e-9))
    assert row["status"] == "optimal"
    assert json.loads(row["changed_options"])["mip_feasibility_tolerance"] == 1e-9
