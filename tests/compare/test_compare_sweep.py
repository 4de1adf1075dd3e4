"""Whole sweeps: solvers that lie, crash, hog and hang; killed and resumed; rows that repeat."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import highspy
import pytest
from compare_helpers import environment, stablenet, write_fakes, write_grid

from stablenet.compare.grid import read_grid
from stablenet.compare.plan import plan
from stablenet.compare.publish.models import export_models
from stablenet.compare.publish.page import sweep_data
from stablenet.compare.run.runner import frozen_path
from stablenet.compare.store import Store
from stablenet.report.report import Report
from stablenet.testing.suite import slowness

FAKES = """memory_limit = 900
[[runs]]
solver = ["highs", "liar", "crasher", "hog"]
[[runs]]
formulation = "outside"
[frozen]
falsify = false
"""


def rows_of(folder):
    with Store(folder) as store:
        return {(row["formulation"], row["solver"]): row for row in store.rows()}


ONE_WORKER = pytest.mark.xdist_group("faulty sweep")
"""For tests that share the sweep of `faulty`: else each worker would make it."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A finished sweep in which three of five solvers misbehave."""
    folder = tmp_path_factory.mktemp("faulty")
    package = write_fakes(folder)
    grid = write_grid(folder, FAKES)
    run = stablenet("compare", grid, "--output", folder / "sweep", package=package)
    return folder, package, grid, run


@ONE_WORKER
def test_misbehaving_solvers_are_rows_with_their_reason(faulty):
    folder, _, _, run = faulty
    rows = rows_of(folder / "sweep")
    assert rows["bigm", "highs"]["outcome"] == rows["outside", "highs"]["outcome"] == "solved", run.stdout + run.stderr
    assert rows["bigm", "crasher"]["outcome"] == "crash"
    assert "SIGSEGV" in rows["bigm", "crasher"]["reason"]
    # Found out by the run itself (points that it holds) or by what the honest solver found.
    assert rows["bigm", "liar"]["outcome"] in {"wrong", "contradiction"}
    assert "witness" in rows["bigm", "liar"]["reason"]
    assert rows["bigm", "hog"]["outcome"] == "memory"
    assert rows["bigm", "hog"]["peak_mb"] > 900
    # What was found before the solver failed is kept.
    assert rows["bigm", "hog"]["unknown"] is not None


@ONE_WORKER
def test_a_lying_solver_heads_the_result(faulty):
    folder, _, _, run = faulty
    assert run.returncode == 4
    assert "contradiction:" in run.stderr
    assert "liar" in run.stderr
    with Store(folder / "sweep") as store:
        data = sweep_data(store)
    assert len(data["contradictions"]) == 1
    outcomes = {row[data["columns"].index("solver")]: row[data["columns"].index("outcome")] for row in data["rows"]}
    assert outcomes["liar"] == "wrong"
    solver_view = next(view for view in data["views"] if view["axis"] == "solver")
    solved = {row["member"]: row["solved"] for row in solver_view["summary"]["work_s"]}
    assert (solved["liar"], solved["highs"]) == (0, 1)
    again = stablenet("page", folder / "sweep", "--no-figures")
    assert again.returncode == 4


@ONE_WORKER
def test_rows_hold_what_a_comparison_needs(faulty):
    folder, *_ = faulty
    row = rows_of(folder / "sweep")["bigm", "highs"]
    for name in (
        "work_s",
        "wall_s",
        "cpu_s",
        "load_s",
        "bounds_s",
        "solver_s",
        "build_s",
        "translate_s",
        "cuts_s",
        "total_s",
        "peak_mb",
        "nodes",
    ):
        assert row[name] is not None, name
    assert 0 < row["work_s"] < row["wall_s"]
    assert row["pending_start"] > 0 == row["pending_end"]
    assert row["unknown"] == 0
    assert json.loads(row["versions"])["stablenet"]
    assert json.loads(row["machine"])["cores"]
    assert json.loads(row["curve"])[-1][1] == 0


@ONE_WORKER
def test_the_command_of_a_row_repeats_it(faulty):
    folder, package, _, _ = faulty
    row = rows_of(folder / "sweep")["bigm", "highs"]
    words = shlex.split(row["command"])
    assert words[0] == "stablenet"
    words[words.index("--output") + 1] = str(folder / "again.json")
    run = stablenet(*words[1:], package=package)
    assert run.returncode == 0, run.stderr
    again = Report.read(folder / "again.json")
    with Store(folder / "sweep") as store:
        before = store.report(row["key"])
    assert again.verdicts() == Report(before).verdicts()
    assert [solve["nodes"] for solve in again.data["solves"]] == [solve["nodes"] for solve in before["solves"]]


@ONE_WORKER
def test_all_start_from_one_frozen_set(faulty):
    folder, *_ = faulty
    rows = rows_of(folder / "sweep")
    assert len({row["pending_start"] for row in rows.values()}) == 1
    files = list((folder / "sweep" / "frozen").glob("*.json"))
    assert len(files) == 1
    assert all(str(files[0]) in row["command"] for row in rows.values())


@ONE_WORKER
def test_resume_runs_only_new_rows(faulty):
    folder, package, grid, _ = faulty
    before = rows_of(folder / "sweep")
    again = stablenet("compare", grid, "--output", folder / "sweep", package=package)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    larger = grid.with_name("larger.toml")
    larger.write_text(grid.read_text() + '[[runs]]\nbounds = "interval"\n')
    run = stablenet("compare", larger, "--output", folder / "sweep", "--resume", package=package)
    assert run.stdout.count("[1/1]") == 1
    with Store(folder / "sweep") as store:
        after = store.rows()
    assert len(after) == len(before) + 1
    kept = {row["key"]: row["ended"] for row in after}
    assert all(kept[row["key"]] == row["ended"] for row in before.values())
    run = stablenet(
        "compare", larger, "--output", folder / "sweep", "--resume", "--retry", "crash", package=package
    )  # fmt: skip
    assert run.stdout.count("[1/1]") == 1
    assert "crasher" in run.stdout


@pytest.mark.long
def test_a_hanging_solver_is_ended_in_time(tmp_path):
    package = write_fakes(tmp_path)
    grid = write_grid(tmp_path, '[[runs]]\nsolver = "sleeper"\n[frozen]\nfalsify = false\n')
    grid.write_text(grid.read_text().replace("time_limit = 60", "time_limit = 5"))
    began = time.monotonic()
    run = stablenet("compare", grid, "--output", tmp_path / "s", "--workers", 1, package=package)
    assert run.returncode == 0, run.stderr
    (row,) = rows_of(tmp_path / "s").values()
    assert row["outcome"] == "time"
    assert time.monotonic() - began < 60 * slowness()


@pytest.mark.long
def test_killed_while_it_runs_and_resumed(tmp_path):
    grid = write_grid(tmp_path, "[[runs]]\nseeds = [0, 1, 2]\n", networks=1)
    sweep = tmp_path / "s"
    arguments = [
        sys.executable,
        "-m",
        "stablenet.cli.main",
        "compare",
        str(grid),
        "--output",
        str(sweep),
        "--workers",
        "1",
    ]
    parent = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    for line in parent.stdout:
        if line.startswith("[1/3]"):
            break
    parent.send_signal(signal.SIGKILL)
    parent.stdout.close()
    parent.wait()
    with Store(sweep) as store:
        assert 1 <= len(store.rows()) <= 2
    run = stablenet("compare", grid, "--output", sweep, "--resume", "--workers", 1)
    assert run.returncode == 0, run.stderr
    with Store(sweep) as store:
        rows = store.rows()
    assert len(rows) == 3
    assert {row["outcome"] for row in rows} == {"solved"}


def test_a_second_process_on_the_same_sweep_is_refused(tmp_path):
    grid = write_grid(tmp_path, "[[runs]]\n")
    sweep = tmp_path / "s"
    sweep.mkdir()
    with (sweep / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = stablenet("compare", grid, "--output", sweep)
    assert run.returncode == 2
    assert "another process" in run.stderr


def test_more_workers_than_cores_are_refused(tmp_path):
    grid = write_grid(tmp_path, "[[runs]]\n")
    cores = len(os.sched_getaffinity(0))
    run = stablenet("compare", grid, "--output", tmp_path / "s", "--workers", cores + 1)
    assert run.returncode == 2
    assert f"from 1 to {cores}" in run.stderr


def test_models_for_solver_developers(tmp_path):
    body = '[[runs]]\nformulation = ["bigm", "sos1"]\nsolver = ["highs", "scip"]\nseeds = [0, 1]\n'
    body += "[frozen]\nfalsify = false\n"
    made = plan(read_grid(write_grid(tmp_path, body)))
    assert export_models(made, tmp_path / "models") == 2
    manifest = json.loads((tmp_path / "models" / "manifest.json").read_text())
    entries = {entry["formulation"]: entry for entry in manifest["models"]}
    assert set(entries) == {"bigm", "sos1"}
    entry = entries["bigm"]
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.readModel(str(tmp_path / "models" / entry["file"]))
    assert (solver.getNumRow(), solver.getNumCol()) == (entry["rows"], entry["columns"])
    solver.run()
    assert abs(solver.getObjectiveValue()) <= entry["questions"] + 1e-6
    assert entries["sos1"]["sos1"] > 0


@ONE_WORKER
def test_the_frozen_set_has_its_file(faulty):
    folder, *_ = faulty
    with Store(folder / "sweep") as store:
        (key,) = store.frozen()
        assert Report.read(frozen_path(folder / "sweep", key)).data == store.frozen_report(key)
