"""The search `milp`: one solve of the single MILP to its end, asked alike of all solvers, held against enumeration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from oracle.exact import extrema
from oracle.networks import case
from scipy import optimize
from small import dense
from stablenet.backends.base import registry
from stablenet.backends.highs import HighsSession
from stablenet.backends.session import ArraySession

from stablenet import Box, Polytope, Union, find_stable
from stablenet.core.errors import UnsupportedError

SOLVERS = ("highs", "scip", "cbc", "gurobi")


def have(solver: str) -> str:
    if not registry.get(solver).available().installed:
        pytest.skip(f"{solver} is not installed")
    return solver


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", [0, 4, 8, 16, 24, 28])
def test_plain_answers_hold_against_exact_extrema(seed: int, solver: str, tmp_path: Path) -> None:
    made = case(seed)
    path = tmp_path / "net.onnx"
    path.write_bytes(made.onnx)
    domain = Union([Polytope(r.lower, r.upper, r.a, r.b) if r.a else Box(r.lower, r.upper) for r in made.regions])
    report = find_stable(
        path, domain, search="milp", solver=have(solver), falsify=False, start=False, solver_defaults=True, threads=1
    )
    assert not audit(report.to_json(), path, exact=extrema(made.plain, made.regions))
    assert len(report.data["solves"]) <= len(made.regions)
    assert all(solve["by"] == "milp" for solve in report.data["solves"])
    assert "solver_options" not in report.data


def test_all_solvers_find_the_optimum_of_scipy_and_are_asked_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dense(tmp_path, (4, 12, 10, 2), seed=3)
    asked: list[Any] = []
    honest = ArraySession.solve

    def spy(self: ArraySession, limits: Any, **more: Any) -> Any:
        asked.append((self.milp, {name: value for name, value in more.items() if value is not None}))
        return honest(self, limits, **more)

    monkeypatch.setattr(ArraySession, "solve", spy)
    found: dict[str, float] = {}
    for solver in SOLVERS:
        if not registry.get(solver).available().installed:
            continue
        report = find_stable(
            path, "box:-1:1", search="milp", solver=solver, falsify=False, solver_defaults=True, threads=1, seed=1
        )
        (solve,) = report.data["solves"]
        assert solve["ended"] == "optimal"
        found[solver] = solve["objective"]
    assert len(found) >= 2
    first, _ = asked[0]
    for milp, more in asked:
        assert not more, "a plain solve has no start, target, dual stop or callbacks"
        assert (milp.rows.matrix != first.rows.matrix).nnz == 0
        assert np.array_equal(milp.objective, first.objective)
        assert np.array_equal(milp.rows.lower, first.rows.lower)
        assert np.array_equal(milp.upper, first.upper)
    truth = optimize.milp(
        -first.objective,
        integrality=first.integer.astype(int),
        bounds=optimize.Bounds(first.lower, first.upper),
        constraints=optimize.LinearConstraint(first.rows.matrix, first.rows.lower, first.rows.upper),
        options={"mip_rel_gap": 0.0},
    )
    assert truth.status == 0
    assert truth.fun < -0.5, "a model whose optimum is 0 shows little"
    assert found == pytest.approx(dict.fromkeys(found, -truth.fun), rel=1e-3)


def test_an_optimum_of_zero_refutes_all_and_one_that_is_not_refutes_none(tmp_path: Path) -> None:
    path = dense(tmp_path, (3, 8, 8, 2), seed=8)
    bare = find_stable(path, "box:-1:1", search="off", threads=1)
    left = find_stable(path, "box:-1:1", search="milp", solver_defaults=True, threads=1)
    complete = find_stable(path, "box:-1:1", search="neuron", threads=1)
    assert bare.counts["unknown"] > 0, "bounds and samples decide all: another network is needed"
    assert complete.complete
    assert left.counts == {**complete.counts, "rigorous": left.counts["rigorous"]}
    open_ended = find_stable(path, "box:-1:1", search="milp", falsify=False, solver_defaults=True, threads=1)
    assert not any(
        neuron[side].get("by") == "milp" and neuron[side]["state"] == "refuted"
        for neuron in open_ended.data["neurons"]
        for side in ("positive", "negative")
    )


def test_the_bound_of_a_solve_that_was_stopped_refutes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dense(tmp_path, (3, 8, 8, 2), seed=8)
    report = find_stable(path, "box:-1:1", search="milp", threads=1, time_limit=600.0)
    assert report.complete
    monkeypatch.setattr(HighsSession, "_limit", lambda self, *_a, **_k: self._set("time_limit", 0.0))
    stopped = find_stable(path, "box:-1:1", search="milp", threads=1, time_limit=600.0)
    assert stopped.stopped_by == "time"
    assert stopped.counts["unknown"] > 0


def test_a_second_solver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="check-with"):
        find_stable(dense(tmp_path), "box:-1:1", search="milp", check_with="scip", falsify=False)
