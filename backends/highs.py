"""HiGHS, in process through ``highspy``, loaded from arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
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
from stablenet.backends.highs_banner import no_banner
from stablenet.backends.highs_options import RESERVED, SMALLEST_COEFFICIENT, native_options, native_settings
from stablenet.backends.request import Request
from stablenet.backends.session import Answer, ArraySession, Watch, solver_module
from stablenet.backends.thread import SolverThread

from stablenet.core.arrays import Array
from stablenet.core.errors import SolverError
from stablenet.milp.arrays import MILP, Rows

_STATUS = {
    "kOptimal": Status.OPTIMAL,
    "kModelEmpty": Status.OPTIMAL,
    "kInfeasible": Status.INFEASIBLE,
    "kUnbounded": Status.UNBOUNDED,
    "kUnboundedOrInfeasible": Status.UNBOUNDED,
    "kObjectiveTarget": Status.TARGET,
    "kTimeLimit": Status.TIME,
    "kSolutionLimit": Status.NODES,
    "kMemoryLimit": Status.MEMORY,
    "kInterrupt": Status.INTERRUPTED,
    "kHighsInterrupt": Status.INTERRUPTED,
}


class Highs(Backend):
    """HiGHS: simplex-based branch and cut, open source, part of the core installation."""

    name = "highs"
    title = "HiGHS"
    tolerance = Tolerance(1e-7, 1e-7, 1e-6)
    default_gap = 1e-4
    reserved = RESERVED
    capabilities = frozenset(
        {
            Capability.OPTIONS,
            Capability.START,
            Capability.TARGET,
            Capability.DUAL_STOP,
            Capability.INCUMBENT,
            Capability.PROPOSE,
            Capability.DUALS,
            Capability.RESOLVE,
            Capability.NODE_LIMIT,
            Capability.THREADS,
            Capability.SEED,
            Capability.ROOT_BOUND,
        }
    )

    def available(self) -> Availability:
        """Whether highspy is installed; it needs no licence."""
        try:
            version = metadata.version("highspy")
        except metadata.PackageNotFoundError:
            return Availability(False, None, "pip install highspy")
        return Availability(True, version, "pip install highspy")

    def native_options(self) -> Mapping[str, NativeOption]:
        """See `Backend.native_options`; of the version that is installed."""
        return native_options()

    def native_settings(self, settings: Settings) -> Mapping[str, Value]:
        """See `Backend.native_settings`."""
        return native_settings(settings)

    def open(self, milp: MILP, settings: Settings = Settings()) -> HighsSession:
        """Load the model; see `Backend.open`."""
        return HighsSession(self, milp, settings)


class HighsSession(ArraySession):
    """One model in one ``highspy.Highs``."""

    def __init__(self, backend: Backend, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        self._api = solver_module("highspy", backend)
        with no_banner():
            self._highs = self._api.Highs()
        self._stop = self._relaxed = False
        self._reached: Array | None = None
        self._setup()
        self._load()

    def close(self) -> None:
        """Free the model, unless a solve that did not react to Ctrl-C still runs on it."""
        if not self._abandoned:
            self._highs.clear()

    def _setup(self) -> None:
        s = self.settings
        self._set("output_flag", s.log is not None)
        self._set("log_to_console", False)
        if s.log is not None:
            self._set("log_file", str(s.log))
        for option, value in {**self.backend.native_settings(s), **dict(s.options)}.items():
            self._set(option, value)
        self._presolve = str(self._highs.getOptionValue("presolve")[1])

    def _set(self, option: str, value: object) -> None:
        if self._highs.setOptionValue(option, value) != self._api.HighsStatus.kOk:
            raise SolverError(f"HiGHS refuses the value {value!r} for its option {option!r}")

    def _need(self, status: Any, what: str) -> None:
        # A warning while loading means that HiGHS changed the model.
        if status != self._api.HighsStatus.kOk:
            raise SolverError(f"HiGHS {'changed the model' if status.value == 1 else 'failed'} while {what}")

    def _load(self) -> None:
        milp, matrix, kinds = self.milp, self.milp.rows.matrix, self._api.HighsVarType
        integer = np.where(milp.integer, int(kinds.kInteger), int(kinds.kContinuous)).astype(np.int32)
        status = self._highs.passModel(
            milp.n_columns,
            milp.n_rows,
            matrix.nnz,
            int(self._api.MatrixFormat.kRowwise),
            int(self._sense),
            milp.constant,
            milp.objective,
            milp.lower,
            milp.upper,
            milp.rows.lower,
            milp.rows.upper,
            matrix.indptr.astype(np.int32),
            matrix.indices.astype(np.int32),
            matrix.data,
            integer,
        )
        self._check_nonzeros()
        self._need(status, "loading the model")

    def _check_nonzeros(self) -> None:
        have, want = self._highs.getNumNz(), self.milp.n_nonzeros
        if have != want:
            raise SolverError(
                f"HiGHS holds {have} of {want} coefficients: it deletes those up to {SMALLEST_COEFFICIENT:g} "
                "in magnitude, which must be dropped with their rows relaxed before loading"
            )

    @property
    def _sense(self) -> Any:
        return self._api.ObjSense.kMaximize if self.milp.maximize else self._api.ObjSense.kMinimize

    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        status = self._highs.changeColsBounds(
            len(columns), columns.astype(np.int32), self.milp.lower[columns], self.milp.upper[columns]
        )
        self._need(status, "changing bounds")

    def _apply_objective(self) -> None:
        self._pass_objective(self.milp.objective, self.milp.constant)
        self._need(self._highs.changeObjectiveSense(self._sense), "changing the sense")

    def _pass_objective(self, objective: Array, constant: float) -> None:
        columns = np.arange(len(objective), dtype=np.int32)
        self._need(self._highs.changeColsCost(len(columns), columns, objective), "changing the objective")
        self._need(self._highs.changeObjectiveOffset(constant), "changing the objective")

    def _apply_rows(self, rows: Rows) -> None:
        matrix = rows.matrix
        status = self._highs.addRows(
            len(rows.lower),
            rows.lower,
            rows.upper,
            matrix.nnz,
            matrix.indptr[:-1].astype(np.int32),
            matrix.indices.astype(np.int32),
            matrix.data,
        )
        self._check_nonzeros()
        self._need(status, "adding rows")

    def _limit(self, limits: Limits, since: float, *, lp: bool) -> None:
        left = np.inf if limits.time is None else max(limits.time - (time.perf_counter() - since), 0.0)
        # Measured in 1.16: an LP's limit counts all earlier runs of the object, a MILP's only its own.
        self._set("time_limit", left + (self._highs.getRunTime() if lp else 0.0))
        self._set("mip_max_nodes", self._api.kHighsIInf if limits.nodes is None else limits.nodes)
        self._set("threads", limits.threads)
        self._set("random_seed", limits.seed)

    def _answer(self, request: Request) -> Answer:
        self._stop, self._reached = False, None
        return self._watched(request, lambda watch: self._work(request, watch), self._halt)

    def _halt(self) -> None:
        self._stop = True

    def _work(self, request: Request, watch: Watch) -> Answer:
        began = time.perf_counter()
        self._limit(request.limits, began, lp=not self.milp.integer.any())
        target = request.target
        if self._relaxed:
            # As a start of the MILP the relaxation's solution has made 1.16 prove bounds below points that it found.
            self._highs.clearSolver()
            self._relaxed = False
        self._set("objective_target", (np.inf if self.milp.maximize else -np.inf) if target is None else target)
        if request.start is not None:
            solution = self._api.HighsSolution()
            solution.col_value = request.start.tolist()
            self._highs.setSolution(solution)
        self._listen(watch)
        words, status = self._settle(request.limits, began, lp=not self.milp.integer.any())
        if self._returned_the_start(status):
            if watch.reason is not None:  # the start was good enough
                status = watch.reason
            else:
                self._highs.clearSolver()
                self._limit(request.limits, began, lp=False)
                words, status = self._settle(request.limits, began, lp=False)
        if status in {Status.UNBOUNDED, Status.INFEASIBLE}:
            return Answer(status, words)
        info = self._highs.getInfo()
        bound, nodes = float(info.mip_dual_bound), int(info.mip_node_count)
        x = self._point(status) if self._reached is None or status is not Status.INTERRUPTED else self._reached
        if not self.milp.integer.any():
            bound = self.milp.value(x) if status is Status.OPTIMAL and x is not None else np.nan
            nodes = 0
        root = watch.root_bound
        if nodes <= 1 and np.isfinite(bound):
            root = bound
        return Answer(status, words, x, bound, nodes, root)

    def _returned_the_start(self, status: Status) -> bool:
        """Whether the point is not the one whose value is reported.

        Where presolve solves a whole MILP, 1.16 reports the optimum and returns the start.
        """
        if not self.milp.integer.any() or status not in {Status.OPTIMAL, Status.TARGET}:
            return False
        x, reported = self._point(status), float(self._highs.getInfo().objective_function_value)
        return x is not None and abs(self.milp.value(x) - reported) > 1e-6 * max(1.0, abs(reported))

    def _run(self) -> tuple[str, Status]:
        """Run HiGHS on this thread; its own words and what they mean."""
        try:
            outcome = self._highs.run()
        finally:
            # The scheduler belongs to the thread, which ends here; the next may ask for more threads.
            self._highs.resetThreadScheduler(True)
        status = self._highs.getModelStatus()
        words = self._highs.modelStatusToString(status)
        if outcome == self._api.HighsStatus.kError or status.name not in _STATUS:
            raise SolverError(f"HiGHS ended with status {words!r}")
        return words, _STATUS[status.name]

    def _settle(self, limits: Limits, began: float, *, lp: bool) -> tuple[str, Status]:
        """Run until unbounded and infeasible are told apart and infeasible is not presolve's word alone.

        With tolerances of 1e-9, presolve reports some feasible models infeasible (1.16).
        """
        words, status = self._run_or_tell(limits, began, lp=lp)
        if status is not Status.INFEASIBLE or self._presolve == "off":
            return words, status
        self._limit(limits, began, lp=lp)
        self._set("presolve", "off")
        try:
            more, status = self._run_or_tell(limits, began, lp=lp)
        finally:
            self._set("presolve", self._presolve)
        return f"{words}; without presolve: {more}", status

    def _run_or_tell(self, limits: Limits, began: float, *, lp: bool) -> tuple[str, Status]:
        words, status = self._run()
        if status is Status.UNBOUNDED and not (lp and words == "Unbounded"):
            return self._feasible_or_not(words, limits, began, lp=lp)
        return words, status

    def _feasible_or_not(self, words: str, limits: Limits, began: float, *, lp: bool) -> tuple[str, Status]:
        """Unbounded or infeasible: with a zero objective only an infeasible model has no optimum."""
        self._limit(limits, began, lp=lp)
        self._set("objective_target", np.inf if self.milp.maximize else -np.inf)
        self._pass_objective(np.zeros(self.milp.n_columns), 0.0)
        try:
            more, status = self._run()
        finally:
            self._pass_objective(self.milp.objective, self.milp.constant)
        return f"{words}; without objective: {more}", Status.UNBOUNDED if status is Status.OPTIMAL else status

    def _point(self, status: Status) -> Array | None:
        info, solution = self._highs.getInfo(), self._highs.getSolution()
        if self.milp.n_columns == 0:
            return np.zeros(0)
        if not solution.value_valid or info.primal_solution_status == self._api.SolutionStatus.kSolutionStatusNone:
            return None
        x = np.array(solution.col_value, dtype=np.float64)
        feasible = info.primal_solution_status == self._api.SolutionStatus.kSolutionStatusFeasible
        # The point of an interrupted simplex is not a solution.
        return x if feasible or status in {Status.OPTIMAL, Status.TARGET} else None

    def _listen(self, watch: Watch) -> None:
        kinds = self._api.cb.HighsCallbackType
        propose = watch.request.callbacks.propose
        interrupts = {int(kinds.kCallbackMipInterrupt), int(kinds.kCallbackSimplexInterrupt)}
        improving, user = int(kinds.kCallbackMipImprovingSolution), int(kinds.kCallbackMipUserSolution)
        mip = int(kinds.kCallbackMipInterrupt)

        def heard(kind: int, _message: str, out: Any, inward: Any, _data: object) -> None:
            kind = int(kind)
            if kind in interrupts:
                if kind == mip:
                    watch.saw_bound(out.mip_dual_bound)
                    if out.mip_node_count == 0 and np.isfinite(out.mip_dual_bound):
                        watch.root_bound = float(out.mip_dual_bound)
                if self._stop or watch.reason is not None:
                    inward.user_interrupt = True
            elif kind == improving:
                watch.saw_point(np.array(out.mip_solution, dtype=np.float64))
            elif kind == user and propose is not None:
                point = watch.ask(propose, None)
                if point is not None and not self._is_enough(point, watch):
                    inward.setSolution(np.asarray(point, dtype=np.float64))

        self._need(self._highs.setCallback(heard, None), "setting the callback")
        wanted = {kinds.kCallbackMipInterrupt, kinds.kCallbackSimplexInterrupt, kinds.kCallbackMipImprovingSolution}
        if propose is not None:
            wanted.add(kinds.kCallbackMipUserSolution)
        for one in wanted:
            self._need(self._highs.startCallback(one), "starting the callback")

    def _is_enough(self, point: Array, watch: Watch) -> bool:
        """Whether a proposed point reaches the target: HiGHS is then stopped, since given it, it may crash (1.16)."""
        target = watch.request.target
        if target is None or watch.better(target, self.milp.value(point)):
            return False
        if not self.milp.violation(point) <= self.settings.feasibility:
            return False
        self._reached = np.array(point, dtype=np.float64)
        watch.saw_point(self._reached)
        return True

    def _relaxation(self, limits: Limits) -> RelaxResult:
        began = time.perf_counter()

        def work() -> tuple[str, Status]:
            self._limit(limits, began, lp=True)
            self._highs.setCallback(self._interrupts, None)
            self._highs.startCallback(self._api.cb.HighsCallbackType.kCallbackSimplexInterrupt)
            self._set("solve_relaxation", True)
            try:
                return self._settle(limits, began, lp=True)
            finally:
                self._set("solve_relaxation", False)

        self._stop, self._relaxed = False, True
        thread: SolverThread[tuple[str, Status]] = SolverThread(self._halt)
        try:
            words, status = thread.run(work, limits.time)
        finally:
            self._abandoned = thread.abandoned
        seconds = time.perf_counter() - began
        if status is not Status.OPTIMAL:
            return RelaxResult(status, words, None, None, None, None, seconds)
        solution = self._highs.getSolution()
        x = np.array(solution.col_value, dtype=np.float64)
        duals = np.array(solution.row_dual, dtype=np.float64) if solution.dual_valid else None
        reduced = np.array(solution.col_dual, dtype=np.float64) if solution.dual_valid else None
        return RelaxResult(status, words, self.milp.value(x), x, duals, reduced, seconds)

    def _interrupts(self, _kind: int, _message: str, _out: Any, inward: Any, _data: object) -> None:
        if self._stop:
            inward.user_interrupt = True
