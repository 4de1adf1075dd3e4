"""Measures the instance library and enters what is found in its manifest: values, bounds, status, best solver.

    stablenet instances build models
    python bench/instances.py models --limit 10 --resume --manifest stablenet/instances/library
    python bench/instances.py models --limit 3600 --resume --unsolved --manifest stablenet/instances/library

Each instance is solved by each solver at its own defaults, in a process of its own, within a limit of *processor* time,
so that other work on the machine does not count. Rows are appended to ``rows.jsonl`` in the folder as they come;
``--resume`` leaves out what was solved, or tried with at least this limit, with the same file and version.
``--unsolved`` leaves out what any solver solved. Easy is what some solver solved within 10 s, hard what was not,
open what no solver solved in an hour; what was tried for less than 10 s stays unmeasured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stablenet.backends.base import registry as backends

from stablenet.core.files import make_folder
from stablenet.instances.check import beats
from stablenet.instances.library import write_point
from stablenet.instances.manifest import EASY, OPEN, SOLUTIONS, Entry, load, model_path, save
from stablenet.instances.solve import CPU_LIMIT, Request, solve_all
from stablenet.milp.check_solution import check_solution, read_solution
from stablenet.milp.read_mps import read_mps

ROWS = "rows.jsonl"
FOUND = "found"
"""Folder of the solvers' solutions."""

PATIENCE = 60.0
"""Clock time allowed for a second of processor time: this script may run beside much else."""

KEPT = ("solver", "version", "seed", "status", "objective", "dual_bound", "solver_cpu_s", "nodes", "limit", "load")
MOST_BYTES = 200_000
"""Gzipped solutions up to this are entered; the library has to stay small."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows so far."""
    path = folder / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def solved(row: Mapping[str, Any]) -> bool:
    """Whether a run proved an optimum with a point that the checker accepts."""
    return row["status"] == "optimal" and row.get("checked", "feasible") == "feasible"


def done(rows: Iterable[Mapping[str, Any]], entry: Entry, solver: str, limit: float, *, any_solver: bool) -> bool:
    """Whether there is nothing to do: solved, or tried for as long, with this model and this version."""
    version = backends.get(solver).available().version
    for row in rows:
        if row["name"] != entry.name or row["sha256"] != entry.sha256:
            continue
        if any_solver and solved(row):
            return True
        same = row["solver"] == solver and row.get("version", version) == version
        if same and (solved(row) or row["limit"] >= limit):
            return True
    return False


def measure(entry: Entry, folder: Path, solver: str, limit: float) -> dict[str, Any]:
    """One solve, as a row."""
    request = Request(solver, limit * PATIENCE, cpu_limit=limit)
    (row,) = solve_all([model_path(folder, entry.name)], [request], folder / FOUND)
    return {**row, "name": entry.name, "sha256": entry.sha256, "limit": limit}


def campaign(entries: list[Entry], folder: Path, options: argparse.Namespace) -> None:
    """Solve all that is left, until the time is up."""
    make_folder(folder / FOUND)
    rows = read_rows(folder) if options.resume else []
    with (folder / ROWS).open("a") as file:
        for solver in options.solvers:
            for entry in entries:
                if options.until and time.strftime("%H:%M") >= options.until:
                    return
                if done(rows, entry, solver, options.limit, any_solver=options.unsolved):
                    continue
                row = measure(entry, folder, solver, options.limit)
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                cpu = row.get("solver_cpu_s")
                print(entry.name, solver, row["status"], row.get("objective"), row.get("dual_bound"), cpu, flush=True)


def enter(entry: Entry, rows: list[dict[str, Any]], folder: Path) -> None:
    """Enter the rows of an instance: runs, best point, best bound, status."""
    runs = [row for row in rows if row["name"] == entry.name and row["sha256"] == entry.sha256]
    latest = {(row["solver"], row.get("version"), row["seed"]): row for row in runs}
    entry.runs = [
        {key: _short(row[key]) for key in KEPT if row.get(key) is not None}
        for row in latest.values()
        if row["status"] not in {"error", "infeasible", "unbounded"}
    ]
    _point(entry, folder)
    if entry.dual_by != "by construction":
        bounds = [run for run in entry.runs if run.get("dual_bound") is not None]
        if bounds:
            best = min(bounds, key=lambda run: run["dual_bound"] if entry.maximize else -run["dual_bound"])
            entry.dual, entry.dual_by = best["dual_bound"], f"{best['solver']} {best['version']}"
    ended = [run for run in entry.runs if run["status"] == "optimal"]
    entry.best = None
    if ended:
        fastest = min(ended, key=lambda run: run["solver_cpu_s"])
        entry.best = {key: fastest[key] for key in ("solver", "version", "solver_cpu_s", "nodes") if key in fastest}
    tried = max((run["limit"] for run in entry.runs if run["status"] == CPU_LIMIT), default=0.0)
    if ended:
        entry.status = "easy" if entry.best and entry.best["solver_cpu_s"] < EASY else "hard"
    else:
        entry.status = "unmeasured" if tried < EASY else "hard" if tried < OPEN else "open"


def _short(value: Any) -> Any:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _point(entry: Entry, folder: Path) -> None:
    """Take the best of the solvers' points that the checker accepts, if it is better than what is known."""
    files = sorted((folder / FOUND).glob(f"{entry.name}.*.sol"))
    if not files:
        return
    milp = read_mps(model_path(folder, entry.name))
    for file in files:
        point = read_solution(milp, file)
        found = check_solution(milp, point)
        if not found.feasible():
            continue
        better = entry.primal is None or (found.objective > entry.primal if entry.maximize
                                          else found.objective < entry.primal)  # fmt: skip
        if better and not (entry.primal is not None and abs(found.objective - entry.primal) < 1e-9):
            write_point(milp, point, entry, folder)


def main() -> None:
    """Measure, then write the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `stablenet instances build` wrote")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of processor time for each solve")
    parser.add_argument("--solvers", nargs="+", default=["highs", "scip"])
    parser.add_argument("--only", default="*", help="names, as in a shell")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--unsolved", action="store_true", help="leave out what some solver solved")
    parser.add_argument("--until", default="", metavar="HH:MM", help="begin no solve after this time of day")
    parser.add_argument("--enter-only", action="store_true", help="solve nothing; enter the rows that are there")
    parser.add_argument("--manifest", type=Path, default=None, help="folder whose manifest and solutions are written")
    options = parser.parse_args()
    entries = {e.name: e for e in load(options.folder).values() if e.set != "regression"}
    if not options.enter_only:
        wanted = [entry for name, entry in entries.items() if fnmatchcase(name, options.only)]
        campaign(sorted(wanted, key=lambda entry: entry.nonzeros), options.folder, options)
    if options.manifest is not None:
        publish(options.folder, options.manifest)


def publish(folder: Path, target: Path) -> None:
    """Enter all rows in the folder's manifest, and copy it with the solutions of moderate size."""
    entries, rows = load(folder), read_rows(folder)
    make_folder(target / SOLUTIONS)
    for entry in entries.values():
        if entry.set != "regression":
            enter(entry, rows, folder)
        if entry.primal is not None and entry.dual is not None and beats(entry.primal, entry.dual,
                                                                        maximize=entry.maximize):  # fmt: skip
            raise SystemExit(f"{entry.name}: bound {entry.dual!r} ({entry.dual_by}) excludes {entry.primal!r}")
        if entry.solution is not None:
            data = (folder / entry.solution).read_bytes()
            if len(data) <= MOST_BYTES:
                (target / entry.solution).write_bytes(data)
    save(entries.values(), folder)
    save(entries.values(), target)


if __name__ == "__main__":
    main()
