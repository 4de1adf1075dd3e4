"""Solvers that lie: what contradicts them is found, nothing false is reported, and the run says who."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import (
    Twist,
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


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("twist", [false_optimum, false_bound])
def test_a_false_proof_is_contradicted(search: str, twist: Twist, path: Path, lie: Any) -> None:
    lie(twist)
    with pytest.raises(ContradictionError, match=f"'{search}' refuted that neuron") as caught:
        find(path, search=search)
    report = caught.value.report
    assert isinstance(report, Report)
    assert {found["source"] for found in report.contradictions} == {search}
    questions = [n[side] for n in report.data["neurons"] for side in ("positive", "negative")]
    assert not [q for q in questions if q["state"] == "refuted"], "all that the liar refuted is revoked"
    assert report.stopped_by == "solver"
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_infeasible_of_a_feasible_model_is_contradicted_by_the_start(search: str, path: Path, lie: Any) -> None:
    lie(infeasible)
    with pytest.raises(ContradictionError, match="feasible and bounded by construction: a forward pass") as caught:
        find(path, search=search)
    assert isinstance(caught.value.report, Report)
    nothing_false(caught.value.report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_late_infeasibility_revokes_what_was_refuted_before(search: str, path: Path, lie: Any) -> None:
    """Honest for a while, so that something is refuted by the time that the lie comes."""
    answers = iter(range(1000))
    seen: list[int] = []

    def late(milp: Any, result: Any) -> Any:
        seen.append(next(answers))
        return infeasible(milp, result) if len(seen) > len(honest_solves) - 1 else result

    lie(honest)
    honest_solves = find(path, search=search).data["solves"]
    lie(late)
    with pytest.raises(ContradictionError) as caught:
        find(path, search=search)
    report = caught.value.report
    assert isinstance(report, Report)
    assert not [n for n in report.data["neurons"] for s in ("positive", "negative") if n[s]["state"] == "refuted"]
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_time_limit_closes_nothing_whatever_its_bound(search: str, path: Path, lie: Any) -> None:
    lie(false_bound_in_time)
    report = find(path, search=search)
    assert report.stopped_by == "time"
    assert not [n for n in report.data["neurons"] for s in ("positive", "negative") if n[s]["state"] == "refuted"]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_wrong_incumbent_is_set_aside(search: str, path: Path, lie: Any) -> None:
    lie(wrong_incumbent)
    report = find(path, search=search)
    assert not report.complete
    assert report.stopped_by == "borderline"
    nothing_false(report, path)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.filterwarnings("ignore:Liar returned a point:UserWarning")
def test_what_is_no_point_is_a_solver_failure(search: str, path: Path, lie: Any) -> None:
    lie(not_a_point)
    report = find(path, search=search)
    assert report.stopped_by == "solver"
    assert report.counts["unknown"] == 12


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
    lie(false_bound)
    options = {**BARE, "search": search, "solver": "liar"}
    believed = find_stable(path, domain, **options)
    assert believed.verdicts() == [["stably_inactive"]], "the case is of no use if the lie is found without a check"
    with pytest.raises(ContradictionError, match="refuted that neuron 0 of layer 0 can be positive") as caught:
        find_stable(path, domain, **options, check_with="highs")
    assert isinstance(caught.value.report, Report)
    assert caught.value.report.verdicts() != [["stably_inactive"]]
    assert audit(caught.value.report.to_json(), path) == []


@pytest.mark.parametrize("search", SEARCHES)
def test_a_second_solver_that_proves_nothing_confirms_nothing(search: str, path: Path, lie: Any) -> None:
    lie(false_bound_in_time, "slow")
    report = find(path, search=search, solver="highs", check_with="slow")
    assert report.stopped_by == "time"
    assert not [n for n in report.data["neurons"] for s in ("positive", "negative") if n[s]["state"] == "refuted"]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_second_solver_that_says_infeasible_is_named(search: str, path: Path, lie: Any) -> None:
    lie(infeasible)
    with pytest.raises(ContradictionError, match="Liar says 'infeasible'"):
        find(path, search=search, solver="highs", check_with="liar")


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
