"""The campaign over the instance library: what is left to do, and how rows become status, values and bounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from stablenet.backends.base import registry

from stablenet.cli.main import _run
from stablenet.instances.manifest import Entry, load

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import instances as campaign

VERSION = registry.get("highs").available().version


def entry(**changes: Any) -> Entry:
    return Entry("a", "library", "milp", "", "d", 1, 2, 1, 2, True, "", "MIT", **changes)


def row(status: str = "optimal", cpu: float = 1.0, **changes: Any) -> dict[str, Any]:
    known = {"name": "a", "sha256": "d", "solver": "highs", "version": VERSION, "seed": 0, "limit": 10.0}
    return known | {"status": status, "solver_cpu_s": cpu, "objective": 3.0, "dual_bound": 3.0} | changes


STOPPED = "processor time limit"


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([], "unmeasured"),
        ([row()], "easy"),
        ([row(cpu=12.0)], "hard"),
        ([row(STOPPED, 10.1)], "hard"),
        ([row(STOPPED, 5.1, limit=5.0)], "unmeasured"),
        ([row(STOPPED, 3600.0, limit=3600.0)], "open"),
        ([row(STOPPED, 10.1), row(solver="scip", cpu=3.0)], "easy"),
        ([row(STOPPED, 10.1), row(cpu=20.0, limit=60.0)], "hard"),
        ([row("time limit", 1.0)], "unmeasured"),
        ([row(sha256="other")], "unmeasured"),
        ([row("error")], "unmeasured"),
        ([row("infeasible")], "unmeasured"),
    ],
)
def test_status_is_what_was_measured(rows: list[dict[str, Any]], status: str, tmp_path: Path) -> None:
    one = entry()
    campaign.enter(one, rows, tmp_path)
    assert one.status == status
    assert (one.best is not None) == (any(r["status"] == "optimal" and r["sha256"] == "d" for r in rows))


def test_the_best_bound_is_kept_with_its_solver(tmp_path: Path) -> None:
    one = entry()
    campaign.enter(one, [row(STOPPED, dual_bound=9.0), row(STOPPED, solver="scip", dual_bound=7.0)], tmp_path)
    assert (one.dual, one.dual_by) == (7.0, f"scip {VERSION}")
    campaign.enter(one, [row(dual_bound=0.0)], tmp_path)
    one.dual, one.dual_by = 1.0, "by construction"
    campaign.enter(one, [row(dual_bound=0.0)], tmp_path)
    assert one.dual == 1.0


def test_resuming_leaves_out_what_was_done() -> None:
    def left(rows: list[dict[str, Any]], limit: float = 10.0, *, any_solver: bool = False) -> bool:
        return not campaign.done(rows, entry(), "highs", limit, any_solver=any_solver)

    assert left([])
    assert not left([row()])
    assert not left([row(STOPPED)])
    assert left([row(STOPPED)], 60.0)
    assert not left([row()], 60.0)
    assert left([row(version="0.1")])
    assert left([row(sha256="other")])
    assert left([row(solver="scip")])
    assert not left([row(solver="scip")], any_solver=True)
    assert left([row(checked="violated by more than 1e-06")], 60.0)


def test_a_campaign_enters_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, target = tmp_path / "models", tmp_path / "library"
    name = "digits-2x50-l1_0.001-box-milp"
    assert _run(["instances", "build", str(folder), "--only", name]) == 0
    command = [
        "instances.py",
        str(folder),
        "--solvers",
        "highs",
        "--limit",
        "20",
        "--resume",
        "--manifest",
        str(target),
    ]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        campaign.main()
    rows = [json.loads(line) for line in (folder / campaign.ROWS).read_text().splitlines()]
    assert len(rows) == 1
    found = load(target)[name]
    assert found.status == "easy"
    assert found.primal == pytest.approx(3.0, abs=1e-6)
    assert found.dual == pytest.approx(3.0, abs=1e-6)
    assert (target / str(found.solution)).is_file()
    assert _run(["instances", "check", str(folder)]) == 0
