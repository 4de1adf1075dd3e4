"""Solving MPS files with any of the solvers: each file once with each solver and seed, under limits from outside.

Models need not come from networks. Each solver keeps its own defaults but
threads, time limit and seed, unless options are given by name. Every solution is checked independently of solvers
(`stablenet.milp.check_solution`), against the file as it was read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.backends.base import Callbacks, Capability, Limits, Settings, Status
from stablenet.backends.base import registry as backends
from stablenet.backends.native_options import changed_options, check_options, parse_options
from stablenet.compare.plan import REPORT
from stablenet.compare.run.execute import Job, WatchdogError, execute
from stablenet.core.errors import InputError, NotInstalledError, StablenetError
from stablenet.core.files import write_text
from stablenet.milp.check_solution import FEASIBLE, check_solution, write_solution
from stablenet.milp.read_mps import SUFFIXES, read_mps

COLUMNS = (
    "file", "sha256", "solver", "version", "seed", "status", "solver_status", "objective", "dual_bound", "seconds",
    "solver_cpu_s", "wall_s", "cpu_s", "peak_mb", "load", "nodes", "checked", "violation", "where", "changed_options",
    "error", "command",
)  # fmt: skip
"""Columns of a row. ``seconds`` (clock) and ``solver_cpu_s`` are inside the solver, ``wall_s`` and ``cpu_s`` of the
whole process, ``load`` is the machine's load average when it began."""

GRACE = 10.0
"""Seconds that a process may overrun its time limit before it is ended from outside."""

MODEL = "{model}"

IN_PROCESS = ("highs", "scip", "gurobi")
"""Solvers whose processor time is that of the process which asks them."""

CPU_LIMIT = "processor time limit"
"""Status of a solve that `Request.cpu_limit` ended."""


@dataclass(frozen=True)
class Request:
    """How each file is solved: seconds, megabytes, threads, seed, options as texts ``NAME=VALUE``.

    ``cpu_limit`` is in seconds of processor time of the process that solves, for solvers that run inside of it. With
    a ``tolerance``, of feasibility and integrality, the solver has the settings of `find` instead of its own defaults.
    """

    solver: str
    time_limit: float
    seed: int = 0
    threads: int = 1
    memory_limit: float | None = None
    options: tuple[str, ...] = ()
    cpu_limit: float | None = None
    tolerance: float | None = None

    def check(self) -> None:
        """Raise `InputError` unless the solver is there and takes all this."""
        backend = backends.get(self.solver)
        state = backend.available()
        if not state.installed:
            raise NotInstalledError(f"solver {self.solver!r} is not installed; {state.install}")
        check_options(backend, self.options, defaults=self.tolerance is None)
        if not 0 < self.time_limit < float("inf"):
            raise InputError(f"time limit {self.time_limit}; a finite number above 0 is expected")
        if self.cpu_limit is not None and self.solver not in IN_PROCESS:
            raise InputError(f"solver {self.solver!r} runs in a process of its own; --cpu-limit is for {IN_PROCESS}")


def model_files(paths: Sequence[Path]) -> list[Path]:
    """The MPS files among ``paths`` and in the folders among them, in order; `InputError` where there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
            if not inside:
                raise InputError(f"{path}: no file in this folder ends in {' or '.join(SUFFIXES)}")
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def solve_file(path: Path, request: Request, solution: Path | None = None) -> dict[str, Any]:
    """Solve one file in this process; the row without what is measured from outside."""
    backend = backends.get(request.solver)
    milp = read_mps(path)
    own = request.tolerance is None
    settings = Settings(
        feasibility=backend.default_tolerance.feasibility if request.tolerance is None else request.tolerance,
        integrality=backend.default_tolerance.integrality if request.tolerance is None else request.tolerance,
        defaults=own,
        options=tuple(parse_options(backend, request.options).items()),
    )
    row: dict[str, Any] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "solver": request.solver,
        "version": backend.available().version,
        "seed": request.seed,
        "changed_options": json.dumps({name: value for name, (value, _) in changed_options(backend, settings).items()}),
    }
    began = time.perf_counter()
    limits = Limits(
        time=request.time_limit,
        threads=request.threads if backend.supports(Capability.THREADS) else 1,
        seed=request.seed if backend.supports(Capability.SEED) else 0,
    )
    try:
        with backend.open(milp, settings) as session:
            spent = time.process_time()
            callbacks = None if request.cpu_limit is None else Callbacks(stop=lambda: _spent(spent, request))
            result = session.solve(limits, callbacks=callbacks)
            spent = time.process_time() - spent
    except StablenetError as error:
        return {**row, "status": "error", "error": str(error)[:500], "seconds": time.perf_counter() - began}
    row |= {
        "status": CPU_LIMIT if result.status is Status.INTERRUPTED else result.status.value,
        "solver_status": result.solver_status,
        "objective": result.objective,
        "dual_bound": result.dual_bound if np.isfinite(result.dual_bound) else None,
        "seconds": result.seconds,
        "solver_cpu_s": spent,
        "nodes": result.nodes,
        "checked": "no solution",
    }
    if result.x is not None:
        found = check_solution(milp, result.x)
        row |= {
            "checked": "feasible" if found.feasible() else f"violated by more than {FEASIBLE:g}",
            "objective": found.objective,
            "violation": found.violation,
            "where": found.where,
        }
        if solution is not None:
            write_solution(milp, result.x, solution)
    return row


def _spent(begin: float, request: Request) -> bool:
    return request.cpu_limit is not None and time.process_time() - begin >= request.cpu_limit


def solve_all(
    files: Sequence[Path], requests: Sequence[Request], solutions: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Solve each file by each request, each in a process of its own; a row as each ends."""
    for request in requests:
        request.check()
    for path in files:
        for request in requests:
            yield _watched(path, request, solutions)


def _watched(path: Path, request: Request, solutions: Path | None) -> dict[str, Any]:
    arguments = ["solve", MODEL, "--solver", request.solver, "--time-limit", f"{request.time_limit:g}"]
    arguments += ["--threads", str(request.threads), "--seed", str(request.seed)]
    if request.cpu_limit is not None:
        arguments += ["--cpu-limit", f"{request.cpu_limit:g}"]
    if request.tolerance is not None:
        arguments += ["--tolerance", f"{request.tolerance:g}"]
    for text in request.options:
        arguments += ["--solver-option", text]
    command = shlex.join(["stablenet", *(str(path) if word == MODEL else word for word in arguments)])
    if solutions is not None:
        stem = path.name.removesuffix(".gz").removesuffix(".mps")
        arguments += ["--solutions", str(solutions / f"{stem}.{request.solver}.{request.seed}.sol")]
    job = Job(
        [*arguments, "--here", "--output", REPORT], {MODEL: path}, request.time_limit + GRACE, request.memory_limit,
        request.threads,
    )  # fmt: skip
    row: dict[str, Any] = {"file": path.name, "solver": request.solver, "seed": request.seed, "command": command}
    try:
        result = execute(job)
    except WatchdogError as error:
        return {**row, "status": "error", "error": str(error)}
    watched = result.watched
    row |= {name: watched[name] for name in ("wall_s", "cpu_s", "peak_mb", "load")}
    if result.report is not None:
        return {**row, **json.loads(result.report)}
    last = next((line for line in reversed(watched["stderr"].splitlines()) if line.strip()), "")
    ended = {"wall": "time limit (ended from outside)", "memory": "memory limit (ended from outside)"}
    status = ended.get(watched["killed"], "error")
    return {**row, "status": status, "error": last or f"exit code {watched['exit_code']}"}


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV, numbers in full."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())
