"""A solver that fails at every question is given up after a fixed number of failures, and the report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import dense, honest, infeasible, twisted
from stablenet.backends.base import Capability, Limits
from stablenet.backends.base import registry as backends
from stablenet.backends.own_points import MOST_FAILURES, RELAXATIONS, SOLVES, FailuresInRow

from stablenet import Box, find_stable
from stablenet.core.errors import SolverError
from stablenet.report.report import Report

DOMAIN = Box(-np.ones(3), np.ones(3))
NARROW = Box(np.full(3, 0.4), np.full(3, 0.41))
"""Nearly every question is to be refuted here: no point closes it."""


class Counted:
    """How often a fake solver was asked for a solve and for a relaxation."""

    def __init__(self) -> None:
        self.solves = self.relaxations = 0


def broken(*, solves: bool, relaxations: bool, counted: Counted) -> type[Any]:
    """A backend that fails at every solve, every relaxation, or both."""

    def twist(milp: Any, result: Any) -> Any:
        counted.solves += 1
        return infeasible(milp, result) if solves else honest(milp, result)

    base = twisted(twist, "broken")

    class Broken(base):
        name = "broken"
        capabilities = base.capabilities | {Capability.DUALS}

        def open(self, milp: Any, settings: Any = None) -> Any:
            session = super().open(milp, settings)
            relax = session.relax

            def failing(limits: Limits) -> Any:
                counted.relaxations += 1
                if relaxations:
                    raise SolverError("Broken: no relaxation")
                return relax(limits)

            session.relax = failing
            return session

    return Broken


def find(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, failing: dict[str, bool], domain: Box = DOMAIN, **options: Any
) -> tuple[Report, Counted]:
    counted = Counted()
    monkeypatch.setitem(backends.classes, "broken", broken(counted=counted, **failing))
    path = dense(folder, sizes=(3, 24, 24, 2))
    return find_stable(path, domain, solver="broken", threads=1, falsify=False, **options), counted


def notices(report: Report) -> list[str]:
    return [row["sentence"] for row in report.data["solver_failures"] if row["status"] == "given up"]


@pytest.mark.parametrize("search", ["network", "layer", "neuron", "auto"])
def test_a_search_gives_up_a_solver_whose_every_answer_is_false(
    search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, counted = find(
        monkeypatch,
        tmp_path,
        failing={"solves": True, "relaxations": False},
        domain=NARROW,
        search=search,
        bounds="interval",
        decide_by_bounds=False,
    )
    assert report.stopped_by == "solver"
    assert len(notices(report)) == 1
    assert f"failed in {MOST_FAILURES} solves in a row" in notices(report)[0]
    assert counted.solves == 2 * MOST_FAILURES  # each question is asked once more with safer settings
    assert len(report.data["solver_failures"]) == 2 * MOST_FAILURES + 1
    assert report.counts["unknown"] > 0


@pytest.mark.parametrize("method", ["milp", "rolling", "lp"])
def test_bounds_give_up_a_solver_too(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, counted = find(
        monkeypatch, tmp_path, failing={"solves": True, "relaxations": True}, search="off", bounds=method
    )
    assert len(notices(report)) == 1
    if method == "lp":
        assert counted.relaxations == MOST_FAILURES
    else:
        assert counted.solves == 2 * MOST_FAILURES
    assert {row["by"] for row in report.data["solver_failures"]} == {method}


@pytest.mark.parametrize("formulation", ["bigm", "ideal:root"])
def test_failures_of_relaxations_are_recorded(
    formulation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The single MILP takes inputs and cuts from relaxations; without them it goes on."""
    report, counted = find(
        monkeypatch,
        tmp_path,
        failing={"solves": False, "relaxations": True},
        search="network",
        formulation=formulation,
        bounds="interval",
        decide_by_bounds=False,
        time_limit=60.0,
    )
    sentences = [row["sentence"] for row in report.data["solver_failures"]]
    assert counted.relaxations == sum("no relaxation" in sentence for sentence in sentences) > 0
    assert counted.solves > 0


def test_an_answer_begins_the_count_anew() -> None:
    failures = FailuresInRow(most=3)
    assert [failures.add("A") for _ in range(2)] == [None, None]
    failures.answered("A")
    failures.add("A", RELAXATIONS)
    assert [failures.add("A") is None for _ in range(3)] == [True, True, False]
    assert failures.given_up("A", SOLVES)
    assert not failures.given_up("A", RELAXATIONS)
    assert not failures.given_up("B")
