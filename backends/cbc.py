"""CBC, run as a program on MPS files in a temporary folder.

The program comes with the package ``cbcbox`` or is a ``cbc`` on PATH. It is always given a minimisation, since its
cutoff and its printed bounds are those of one. Features whose results CBC does not report are not used.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from stablenet.backends.base import (
    Availability,
    Backend,
    Capability,
    Limits,
    NativeOption,
    RelaxResult,
    Settings,
    Status,
    Tolerance,
    Value,
)
from stablenet.backends.cbc_options import RESERVED, native_options, native_settings
from stablenet.backends.request import Request
from stablenet.backends.session import Answer, ResendingSession
from stablenet.backends.thread import POLL

from stablenet.core.arrays import Array
from stablenet.core.errors import NotInstalledError, SolverError, UnsupportedError
from stablenet.milp.arrays import MILP, Rows
from stablenet.milp.mps import write_mps

OVERRUN = 1.0
"""Seconds past its limit after which CBC is told to stop, and then again until it is killed."""

PRINTED = 1e-5
"""Relative rounding of the bounds that CBC prints with six digits."""

_INSTALL = "pip install 'stablenet[cbc]', or put a cbc program on PATH"

_STATUS = {
    "Optimal": Status.OPTIMAL,
    "Optimal (within gap tolerance)": Status.OPTIMAL,
    "Infeasible": Status.INFEASIBLE,
    "Integer infeasible": Status.INFEASIBLE,
    "Unbounded": Status.UNBOUNDED,
    "Stopped on time": Status.TIME,
    "Stopped on iterations": Status.NODES,
    "Stopped on nodes": Status.NODES,
}

_BAD_LOG = re.compile(
    r"^.*(parse warning|loading failed|Unrecognized parameter|valid range is|No match for|Bad image|Unknown image).*$",
    re.MULTILINE,
)
_LOWER = re.compile(r"^Lower bound:\s+(\S+)", re.MULTILINE)
_NODES = re.compile(r"^Enumerated nodes:\s+(\d+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?:\*\*)?\s*\d+\s+([rc])(\d+)\s+(\S+)\s+(\S+)\s*$")


def program() -> str | None:
    """The path of the program, if there is one."""
    if find_spec("cbcbox") is not None:
        import cbcbox

        return str(cbcbox.cbc_bin_path())
    return shutil.which("cbc")


class Cbc(Backend):
    """CBC: COIN-OR branch and cut, open source, as a separate program."""

    name = "cbc"
    title = "CBC"
    tolerance = Tolerance(1e-7, 1e-7, 1e-6)
    default_gap = 2e-4
    reserved = RESERVED
    capabilities = frozenset(
        {
            Capability.SOS1,
            Capability.INDICATOR,
            Capability.START,
            Capability.DUAL_STOP,
            Capability.DUALS,
            Capability.NODE_LIMIT,
            Capability.THREADS,
            Capability.SEED,
            Capability.OPTIONS,
        }
    )

    def available(self) -> Availability:
        """Whether the program is there; it needs no licence."""
        path = program()
        if path is None:
            return Availability(False, None, _INSTALL)
        with contextlib.suppress(metadata.PackageNotFoundError):
            return Availability(True, metadata.version("cbcbox"), _INSTALL)
        return Availability(True, _version(path), _INSTALL)

    def native_options(self) -> Mapping[str, NativeOption]:
        """See `Backend.native_options`."""
        path = program()
        if path is None:
            raise NotInstalledError(f"CBC is not installed: {_INSTALL}")
        return native_options(path)

    def native_settings(self, settings: Settings) -> Mapping[str, Value]:
        """See `Backend.native_settings`; of a model whose columns are bounded."""
        return native_settings(settings, bounded=True)

    def open(self, milp: MILP, settings: Settings = Settings()) -> CbcSession:
        """Take the model; see `Backend.open`."""
        return CbcSession(self, milp, settings)


def _version(path: str) -> str:
    done = subprocess.run(
        [path, "-quit"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
    )
    found = re.search(r"(?:Version:?|CBC)\s+([\w.]+)", done.stdout)
    return found.group(1) if found else "unknown"


@dataclass(frozen=True)
class _Report:
    """What one run of the program left: the words of the solution file, its entries, and the log."""

    words: str
    status: Status
    columns: dict[int, tuple[float, float]]
    rows: dict[int, tuple[float, float]]
    log: str


class CbcSession(ResendingSession):
    """One model, written anew for each solve."""

    def __init__(self, backend: Backend, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        path = program()
        if path is None:
            raise NotInstalledError(f"CBC is not installed: {_INSTALL}")
        self._program = path
        self._stop_asked: Callable[[], bool] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="stablenet-cbc-")

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    def _answer(self, request: Request) -> Answer:
        began = time.perf_counter()
        sign = -1.0 if self.milp.maximize else 1.0
        self._refuse_unbounded_indicators()
        model = replace(self.milp, objective=sign * self.milp.objective, constant=sign * self.milp.constant)
        options = []
        if request.start is not None:
            options += ["-mips", str(self._write_start(request.start))]
        if request.dual_stop is not None:
            # Loosened: a point at the dual stop must not fall to the cutoff by a tolerance.
            slack = 10.0 * max(self.settings.feasibility, self.settings.integrality)
            options += ["-cutoff", repr(sign * request.dual_stop + slack)]
        self._stop_asked = request.callbacks.stop
        report = self._run(model, request.limits, began, options)
        if report.status is Status.UNBOUNDED or (report.status is Status.INFEASIBLE and request.dual_stop is None):
            return self._feasible_or_not(model, report, request.limits, began)
        return self._read(request, report, sign)

    def _feasible_or_not(self, model: MILP, report: _Report, limits: Limits, began: float) -> Answer:
        """Unbounded or infeasible: with a zero objective only an infeasible model has no optimum.

        CBC calls some unbounded models infeasible.
        """
        flat = replace(model, objective=np.zeros(model.n_columns), constant=0.0)
        more = self._run(flat, limits, began, [])
        words = f"{report.words}; without objective: {more.words}"
        if more.status is not Status.OPTIMAL:
            return Answer(more.status, words)
        if report.status is Status.INFEASIBLE:
            raise SolverError(f"CBC contradicts itself: {words!r}")
        return Answer(Status.UNBOUNDED, words)

    def _refuse_unbounded_indicators(self) -> None:
        """CBC turns an indicator row into one with a large constant, wrongly so over an unbounded column."""
        milp = self.milp
        if milp.indicators is None:
            return
        columns = np.unique(milp.indicators.rows.matrix.indices)
        open_ended = columns[~(np.isfinite(milp.lower[columns]) & np.isfinite(milp.upper[columns]))]
        if len(open_ended):
            raise UnsupportedError(f"CBC has no indicators over unbounded columns; column {open_ended[0]} is one")

    def _read(self, request: Request, report: _Report, sign: float) -> Answer:
        milp, status = self.milp, report.status
        nodes = _NODES.search(report.log)
        count = int(nodes.group(1)) if nodes else None
        x = None
        if (
            report.columns
            and status is not Status.INFEASIBLE
            and "(" not in report.words.removeprefix("Optimal (within")
        ):
            x = np.array([report.columns[j][0] for j in range(milp.n_columns)], dtype=np.float64)
        printed = _LOWER.search(report.log)
        bound = np.nan if printed is None else float(printed.group(1))
        # CBC prints six digits, rounded either way.
        bound -= PRINTED * abs(bound)
        if status is Status.OPTIMAL and x is not None:
            value = sign * milp.value(x)
            # By its defaults it does not look for solutions that are better by less than that.
            bound = value - (self.backend.default_gap * max(1.0, abs(value)) if self.settings.defaults else 0.0)
        stop = request.dual_stop
        if stop is not None:
            # Nodes with a bound beyond the cutoff were dropped, so there is no bound on points beyond it.
            bound = min(bound, sign * stop)
            if status is Status.INFEASIBLE:
                status, bound = Status.DUAL_STOP, sign * stop
                x = self._kept_start(request.start)
            elif status is Status.OPTIMAL and x is not None and bound < sign * milp.value(x):
                status = Status.DUAL_STOP  # its point is the start, which the cutoff excludes; nothing is beyond that
        return Answer(status, report.words, x, sign * bound, count)

    def _kept_start(self, start: Array | None) -> Array | None:
        """The start, which a cutoff hides from CBC, if it is a solution."""
        if start is None or self.milp.violation(start) > self.settings.feasibility:
            return None
        return start

    def _relaxation(self, limits: Limits) -> RelaxResult:
        began = time.perf_counter()
        milp = self.milp
        sign = -1.0 if milp.maximize else 1.0
        model = replace(
            milp,
            objective=sign * milp.objective,
            constant=sign * milp.constant,
            integer=np.zeros(milp.n_columns, dtype=bool),
            sos1=(),
            indicators=None,
        )
        report = self._run(model, limits, began, [])
        seconds = time.perf_counter() - began
        if report.status is not Status.OPTIMAL:
            return RelaxResult(report.status, report.words, None, None, None, None, seconds)
        x, reduced = np.array([report.columns[j] for j in range(milp.n_columns)], dtype=np.float64).T
        duals = np.array([report.rows.get(i, (0.0, 0.0))[1] for i in range(milp.n_rows)], dtype=np.float64)
        return RelaxResult(report.status, report.words, milp.value(x), x, sign * duals, sign * reduced, seconds)

    def _write_start(self, start: Array) -> Path:
        path = Path(self._folder.name) / "start.txt"
        # CBC completes what the file leaves out, so zeros are written too.
        lines = (f"{j} c{j} {value!r} 0\n" for j, value in enumerate(start.tolist()))
        with path.open("w", encoding="ascii") as file:
            file.write("Stopped on time - objective value 0\n")
            file.writelines(lines)
        return path

    def _options(self, limits: Limits, left: float | None) -> list[str]:
        options = ["-timeMode", "elapsed", "-randomCbcSeed", str(limits.seed + 1), "-randomSeed", str(limits.seed + 1)]
        values = {**native_settings(self.settings, bounded=self._bounded), **dict(self.settings.options)}
        for name, value in values.items():
            options += [f"-{name}", str(value)]
        if limits.threads > 1:
            options += ["-threads", str(limits.threads)]
        if limits.nodes is not None:
            options += ["-maxNodes", str(limits.nodes)]
        if left is not None:
            options += ["-sec", repr(left)]
        return options

    @property
    def _bounded(self) -> bool:
        return bool(np.isfinite(self.milp.lower).all() and np.isfinite(self.milp.upper).all())

    def _run(self, model: MILP, limits: Limits, began: float, more: list[str]) -> _Report:
        """Write a minimisation, solve it, read what came of it."""
        folder = Path(self._folder.name)
        file, solution, log = folder / "model.mps", folder / "solution.txt", folder / "log.txt"
        solution.unlink(missing_ok=True)
        write_mps(replace(model, maximize=False, rows=_without_empty(model.rows)), file, numbered=True)
        left = None if limits.time is None else max(limits.time - (time.perf_counter() - began), 0.0)
        command = [self._program, str(file), *self._options(limits, left), *more]
        command += ["-printingOptions", "all", "-solve", "-solution", str(solution)]
        code = _execute(command, log, left, self._stop_asked)
        text = log.read_text(encoding="utf-8", errors="replace")
        if self.settings.log is not None:
            with self.settings.log.open("a", encoding="utf-8") as kept:
                kept.write(text)
        bad = _BAD_LOG.search(text)
        if bad:
            raise SolverError(f"CBC did not take the model or an option: {bad.group(0).strip()}")
        if code is None and not solution.exists():
            return _Report("killed after its time limit", Status.TIME, {}, {}, text)
        if code not in {0, None} or not solution.exists():
            raise SolverError(f"CBC ended with code {code}: {text.strip().splitlines()[-1:] or 'no output'}")
        return _parse(solution, text, model)


def _without_empty(rows: Rows) -> Rows:
    """The rows, with none to say about 0 where there are no coefficients: CBC crashes on a model of such rows."""
    empty = np.diff(rows.matrix.indptr) == 0
    return Rows(rows.matrix, np.where(empty, -np.inf, rows.lower), np.where(empty, np.inf, rows.upper))


def _execute(
    command: list[str], log: Path, limit: float | None, stop_asked: Callable[[], bool] | None = None
) -> int | None:
    """Run the program; its exit code, or None if it had to be killed for overrunning or because a stop was asked.

    It gets a process group of its own, so that Ctrl-C at the terminal does not reach it, except where this process
    leads a session, as the engine does: there none comes, and who kills the engine's group is to kill the program too.
    """
    leads = os.getsid(0) == os.getpid()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=not leads
        )
        try:
            if _ends(process, limit, stop_asked):
                return process.returncode
            # At this signal CBC writes what it has.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(OVERRUN)
            except subprocess.TimeoutExpired:
                return None
            return process.returncode
        finally:
            process.kill()
            process.wait()


def _ends(process: subprocess.Popen[bytes], limit: float | None, stop_asked: Callable[[], bool] | None) -> bool:
    """Wait for the program; False if it overruns its limit or is to be stopped."""
    deadline = None if limit is None else time.monotonic() + limit + OVERRUN
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        try:
            process.wait(left if stop_asked is None else POLL if left is None else min(left, POLL))
        except subprocess.TimeoutExpired:
            if (deadline is not None and time.monotonic() >= deadline) or (stop_asked is not None and stop_asked()):
                return False
        else:
            return True


def _parse(solution: Path, log: str, model: MILP) -> _Report:
    """The solution file, strictly: one line of words, then all rows and columns."""
    lines = solution.read_text(encoding="ascii", errors="replace").splitlines()
    words = lines[0].split(" - objective value")[0].strip() if lines else ""
    status = _STATUS.get(words if words in _STATUS else words.split(" (")[0])
    if words == "Status unknown" and "infeasibility proved" in log:
        # What CBC writes for an LP that its bound tightening finds infeasible.
        words, status = "Status unknown (bound tightening: infeasibility proved)", Status.INFEASIBLE
    if status is None:
        raise SolverError(f"CBC ended with status {words!r}")
    entries: dict[str, dict[int, tuple[float, float]]] = {"r": {}, "c": {}}
    for line in lines[1:]:
        found = _ENTRY.match(line)
        if found is None:
            if "indicator_" in line:
                continue
            raise SolverError(f"CBC's solution file has a line that is not understood: {line!r}")
        entries[found.group(1)][int(found.group(2))] = (float(found.group(3)), float(found.group(4)))
    if lines[1:] and len(entries["c"]) != model.n_columns:
        raise SolverError(f"CBC's solution file has {len(entries['c'])} of {model.n_columns} columns")
    return _Report(words, status, entries["c"], entries["r"], log)
