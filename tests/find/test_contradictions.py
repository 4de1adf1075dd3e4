"""Solvers that lie: what contradicts them is found, nothing false is reported, and the run says who."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import (
    Twist,
    believable,
    dense,
    false_bound,
    false_bound_in_time,
    false_optimum,
    honest,
    infeasible,
    not_a_point,
    twisted,
    wrong_incumbent,
)
from stablenet.backends.base import Capability
from stablenet.backends.base import registry as backends

from stablenet import Box, find_stable
from stablenet.core.bounds import Bounds
from stablenet.core.errors import ContradictionError
from stablenet.report.report import Report

BARE = {"decide_by_bounds": False, "falsify": False, "threads": 1}
SEARCHES = ("network", "layer", "neuron")
DOMAIN = Box(-np.ones(3), np.ones(3))


@pytest.fixture(name="lie")
def _lie(monkeypatch: pytest.MonkeyPatch):
    def register(twist: Twist, name: str = "liar") -> None:
        monkeypatch.setitem(backends.classes, name, twisted(twist, name))

    return register


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return dense(tmp_path)


def truth(path: Path) -> list[list[str]]:
    report = find_stable(path, DOMAIN, search="neuron", solver="scip", threads=1)
    assert report.complete
    return report.verdicts()


def find(path: Path, **options: Any) -> Report:
    return find_stable(path, DOMAIN, **{**BARE, "solver": "liar", **options})


def nothing_false(report: Report, path: Path) -> None:
    """Each verdict given is the true one, and an auditor has nothing to say."""
    for found, right in zip(report.verdicts(), truth(path), strict=True):
        assert [v for v, r in zip(found, right, strict=True) if v not in ("unknown", r)] == []
    assert audit(report.to_json(), path) == []


@pytest.mark.parametrize("search", SEARCHES)
def test_the_fake_that_does_not_lie_completes(search: str, path: Path, lie: Any) -> None:
    lie(honest)
    report = find(path, search=search)
    assert report.complete
    assert report.verdicts() == truth(path)


def refuted(report: Report) -> list[str]:
    questions = [n[side] for n in report.data["neurons"] for side in ("positive", "negative")]
    return [q["by"] for q in questions if q["state"] == "refuted"]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("twist", [false_optimum, false_bound, infeasible])
def test_what_our_own_points_disprove_is_recorded_and_not_used(search: str, twist: Twist, path: Path, lie: Any) -> None:
    lie(twist)
    report = find(path, search=search)
    assert not report.complete
    assert report.stopped_by == "solver"
    assert not refuted(report)
    assert "contradictions" not in report.data
    failures = report.data["solver_failures"]
    assert {row["by"] for row in failures} == {search}
    assert all(row["solver"] == "Liar" and row["sentence"].startswith("Liar") for row in failures)
    assert sum(row["left"] for row in failures) > 1, "the search goes on with the other questions"
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_one_lie_among_many_answers_costs_a_second_attempt(search: str, path: Path, lie: Any) -> None:
    """Honest at all times but once."""
    told: list[int] = []

    def once(milp: Any, result: Any) -> Any:
        told.append(1)
        return infeasible(milp, result) if len(told) == 2 else result

    lie(once)
    report = find(path, search=search)
    assert report.complete
    assert [row["left"] for row in report.data["solver_failures"]] == [0]
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_late_failures_leave_what_was_refuted_before(search: str, path: Path, lie: Any) -> None:
    """Honest for a while, so that something is closed by the time that the lies come."""
    seen: list[int] = []

    def late(milp: Any, result: Any) -> Any:
        seen.append(1)
        return infeasible(milp, result) if len(seen) >= len(honest_solves) else result

    lie(honest)
    honest_solves = find(path, search=search).data["solves"]
    lie(late)
    report = find(path, search=search)
    assert report.data["solver_failures"]
    nothing_false(report, path)


@pytest.mark.parametrize("method", ["milp", "rolling", "progressive"])
@pytest.mark.parametrize("twist", [false_optimum, false_bound, infeasible])
def test_bounds_that_a_forward_pass_disproves_are_not_used(method: str, twist: Twist, path: Path, lie: Any) -> None:
    lie(twist)
    backends.classes["liar"].capabilities |= {Capability.DUALS}
    report = find(path, search="off", bounds=method, decide_by_bounds=True)
    assert {row["solver"] for row in report.data["solver_failures"]} == {"Liar"}
    assert method not in refuted(report)
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_time_limit_closes_nothing_whatever_its_bound(search: str, path: Path, lie: Any) -> None:
    lie(false_bound_in_time)
    report = find(path, search=search)
    assert report.stopped_by == "time"
    assert not [n for n in report.data["neurons"] for s in ("positive", "negative") if n[s]["state"] == "refuted"]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("twist", [wrong_incumbent, not_a_point])
def test_what_is_no_solution_is_a_solver_failure(search: str, twist: Twist, path: Path, lie: Any) -> None:
    lie(twist)
    report = find(path, search=search)
    assert report.stopped_by == "solver"
    assert {row["solver"] for row in report.data["solver_failures"]} == {"Liar"}
    assert not refuted(report)
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_check_with_confirms_an_honest_solver(search: str, path: Path, lie: Any) -> None:
    report = find(path, search=search, solver="highs", check_with="scip")
    assert report.complete
    assert report.verdicts() == truth(path)
    assert f"{search} (scip)" in {solve["by"] for solve in report.data["solves"]}


def corner(folder: Path) -> Path:
    """One neuron: sum of 24 inputs in [0, 1] above 23.9, positive at one corner of 2^24 only."""
    from onnx_models import model, node, save

    n = 24
    weights = {"w": np.ones((1, n)), "b": np.array([-23.875]), "v": np.ones((1, 1))}
    nodes = [
        node("Gemm", "x", "w", "b", out="g", transB=1),
        node("Relu", "g", out="h"),
        node("MatMul", "h", "v"),
    ]
    return save(model(nodes, [1, n], weights), folder, "corner.onnx")


@pytest.mark.parametrize("search", SEARCHES)
def test_check_with_finds_the_liar_that_no_probe_finds(search: str, tmp_path: Path, lie: Any) -> None:
    path, domain = corner(tmp_path), Box(np.zeros(24), np.ones(24))
    lie(believable)
    options = {**BARE, "search": search, "solver": "liar"}
    believed = find_stable(path, domain, **options, certify=False)
    assert believed.verdicts() == [["stably_inactive"]], "the case is of no use if the lie is found without a check"
    with pytest.raises(ContradictionError, match=f"'{search}' refuted"):
        find_stable(path, domain, **options)
    report = find_stable(path, domain, **options, check_with="highs")
    assert report.verdicts() != [["stably_inactive"]]
    assert {row["solver"] for row in report.data["solver_failures"]} == {"Liar"}
    assert audit(report.to_json(), path) == []


@pytest.mark.parametrize("search", SEARCHES)
def test_a_second_solver_that_proves_nothing_confirms_nothing(search: str, path: Path, lie: Any) -> None:
    lie(false_bound_in_time, "slow")
    report = find(path, search=search, solver="highs", check_with="slow")
    assert report.stopped_by == "time"
    assert not [n for n in report.data["neurons"] for s in ("positive", "negative") if n[s]["state"] == "refuted"]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_second_solver_that_says_infeasible_is_named(search: str, path: Path, lie: Any) -> None:
    lie(infeasible)
    report = find(path, search=search, solver="highs", check_with="liar")
    assert {row["by"] for row in report.data["solver_failures"]} == {f"{search} (liar)"}
    assert all("Liar: says 'infeasible'" in row["sentence"] for row in report.data["solver_failures"])
    assert not refuted(report)
    nothing_false(report, path)


def test_a_claim_of_the_second_solver_that_no_pass_confirms_leaves_the_question_open(path: Path, lie: Any) -> None:
    lie(wrong_incumbent)
    report = find(path, search="network", solver="highs", check_with="liar")
    assert not report.complete
    nothing_false(report, path)


def test_bounds_that_lie_are_contradicted_and_not_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stablenet.bounds import registry as methods

    crown = methods.classes["crown"]

    class Lying(crown):  # type: ignore[misc, valid-type]
        name = "lying"

        def run(self, *args: Any, **kwargs: Any) -> Bounds:
            bounds = super().run(*args, **kwargs)
            low, high = bounds.layers[0].lower, bounds.layers[0].upper
            return bounds.tighten("lying", 0, low, np.minimum(high, 0.0), rigorous=True)

    monkeypatch.setitem(methods.classes, "lying", Lying)
    with pytest.raises(ContradictionError, match="'lying' refuted") as caught:
        find_stable(path, DOMAIN, bounds="lying", search="network", threads=1)
    report = caught.value.report
    assert isinstance(report, Report)
    assert audit(report.to_json(), path) == []
    nothing_false(report, path)
