"""Gurobi, in process through ``gurobipy``, loaded from arrays.

Its pip package carries a licence for models of up to 2000 columns and 2000 constraints. A row with two sides is
loaded as an equation with a column of its own for its value, as Gurobi's own range constraints are: one row
and one column, where two rows would use up the limit twice as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from stablenet.backends.base import (
    PLAIN_MARGIN,
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
from stablenet.backends.gurobi_licence import MAX_COLUMNS, MAX_ROWS, check_size, environment, licence_file, two_sided
from stablenet.backends.gurobi_options import RESERVED, native_options, native_settings
from stablenet.backends.gurobi_run import STATUS, first_time, known_bound, optimize, take_back_interrupts
from stablenet.backends.model_checks import check_model
from stablenet.backends.request import Request
from stablenet.backends.session import Answer, ArraySession, Watch, solver_module, uncrossed
from stablenet.backends.thread import SolverThread

from stablenet.core.arrays import Array
from stablenet.core.errors import SolverError
from stablenet.milp.arrays import MILP, Rows


class Gurobi(Backend):
    """Gurobi: commercial branch and cut; the pip package is limited in size."""

    name = "gurobi"
    title = "Gurobi"
    tolerance = Tolerance(1e-7, 1e-7, 1e-6)
    default_tolerance = Tolerance(1e-6, 1e-5, PLAIN_MARGIN)
    default_gap = 1e-4
    reserved = RESERVED
    capabilities = frozenset(Capability)

    def available(self) -> Availability:
        """Whether gurobipy is installed. A licence file is looked for, but no licence is taken."""
        install = "pip install 'stablenet[gurobi]'"
        try:
            version = metadata.version("gurobipy")
        except metadata.PackageNotFoundError:
            return Availability(False, None, install)
        file = licence_file()
        if file is None:
            words = f"size-limited licence of the pip package: {MAX_COLUMNS} columns, {MAX_ROWS} constraints"
            return Availability(True, version, install, words, MAX_COLUMNS, MAX_ROWS)
        return Availability(True, version, install, f"licence {file}, checked when a model is too large without it")

    def native_options(self) -> Mapping[str, NativeOption]:
        """See `Backend.native_options`."""
        return native_options(solver_module("gurobipy", self))

    def native_settings(self, settings: Settings) -> Mapping[str, Value]:
        """See `Backend.native_settings`."""
        return native_settings(settings)

    def open(self, milp: MILP, settings: Settings = Settings()) -> GurobiSession:
        """Load the model; a model that the licence does not allow is refused before. See `Backend.open`."""
        check_model(milp)
        check_size(solver_module("gurobipy", self), milp)
        return GurobiSession(self, milp, settings)


class GurobiSession(ArraySession):
    """One model in one ``gurobipy.Model``; loading it asks for no particular size of licence."""

    def __init__(self, backend: Backend, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        self._api = solver_module("gurobipy", backend)
        self._env = environment(self._api)
        self._model = self._api.Model(env=self._env)
        self._told = False
        self._last: Array | None = None
        self._setup()
        self._load()

    def close(self) -> None:
        """Free model and environment, unless a solve that did not react to Ctrl-C still runs on them."""
        if not self._abandoned:
            self._model.dispose()
            self._env.dispose()

    def _setup(self) -> None:
        s = self.settings
        parameters: dict[str, object] = {**self.backend.native_settings(s), **dict(s.options)}
        if s.log is not None:
            # In this order nothing of it is printed.
            parameters |= {"LogToConsole": 0, "LogFile": str(s.log), "OutputFlag": 1}
        for name, value in parameters.items():
            self._set(self._model, name, value)

    def _set(self, model: Any, name: str, value: object) -> None:
        try:
            model.setParam(name, value)
        except self._api.GurobiError as error:
            raise SolverError(f"Gurobi refuses the value {value!r} for its parameter {name}") from error

    def _load(self) -> None:
        milp, model = self.milp, self._model
        lower, upper = uncrossed(milp.lower, milp.upper)
        kinds = np.where(milp.integer, np.where((lower >= 0) & (upper <= 1), "B", "I"), "C")
        self._x = model.addMVar(milp.n_columns, lb=lower, ub=upper, obj=milp.objective, vtype=kinds)
        # A binary column's bounds would come back as 0 and 1.
        self._x.LB, self._x.UB = lower, upper
        model.ModelSense = self._sense
        model.ObjCon = milp.constant
        self._rows: list[Any] = []
        self._nonzeros = 0
        self._add(milp.rows)
        model.update()
        self._columns = self._x.tolist()
        self._add_special()
        self._check_nonzeros()

    @property
    def _sense(self) -> int:
        return int(self._api.GRB.MAXIMIZE if self.milp.maximize else self._api.GRB.MINIMIZE)

    def _add(self, rows: Rows) -> None:
        low, high = uncrossed(rows.lower, rows.upper)
        sense = np.where(low == high, "=", np.where(np.isfinite(high), "<", ">"))
        side = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low, -self._api.GRB.INFINITY))
        ranged = two_sided(rows)
        matrix, columns = rows.matrix, self._x
        if len(ranged):
            values = self._model.addMVar(len(ranged), lb=low[ranged], ub=high[ranged])
            sense[ranged], side[ranged] = "=", 0.0
            ones = (-np.ones(len(ranged)), (ranged, np.arange(len(ranged))))
            matrix = sparse.csr_array(
                sparse.hstack([matrix, sparse.csr_array(ones, shape=(len(low), len(ranged)))], format="csr")
            )
            columns = self._api.concatenate([columns, values])
        if len(low):
            self._rows.append(self._model.addMConstr(matrix, columns, sense, side))
        self._nonzeros += matrix.nnz

    def _check_nonzeros(self) -> None:
        self._model.update()
        if self._model.NumNZs != self._nonzeros:
            raise SolverError(
                f"Gurobi holds {self._model.NumNZs} of {self._nonzeros} coefficients: it ignores those below 1e-13, "
                "which must be dropped with their rows relaxed before loading"
            )

    def _add_special(self) -> None:
        milp, model, columns = self.milp, self._model, self._columns
        for members in milp.sos1:
            model.addSOS(self._api.GRB.SOS_TYPE1, [columns[j] for j in members.tolist()])
        if milp.indicators is None:
            return
        for i, (binary, value) in enumerate(zip(milp.indicators.binary, milp.indicators.value, strict=True)):
            for terms, sense, side in self._sides(milp.indicators.rows, i):
                model.addGenConstrIndicator(columns[binary], bool(value), terms, sense, side)

    def _sides(self, rows: Rows, i: int) -> list[tuple[Any, str, float]]:
        """Row i as one or two of Gurobi's constraints, each with a sense."""
        matrix = rows.matrix
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        members = [self._columns[j] for j in matrix.indices[part].tolist()]
        terms = self._api.LinExpr(matrix.data[part].tolist(), members)
        low, high = float(rows.lower[i]), float(rows.upper[i])
        if low == high:
            return [(terms, "=", low)]
        both = [(terms, ">", low), (terms, "<", high)]
        return [one for one in both if np.isfinite(one[2])]

    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        lower, upper = uncrossed(self.milp.lower, self.milp.upper)
        loose = columns[self.milp.integer[columns] & ((lower[columns] < 0) | (upper[columns] > 1))]
        for j in loose.tolist():
            self._columns[j].VType = "I"
        self._x[columns].LB, self._x[columns].UB = lower[columns], upper[columns]

    def _apply_objective(self) -> None:
        self._pass_objective(self.milp.objective)
        self._model.ObjCon = self.milp.constant
        self._model.ModelSense = self._sense

    def _pass_objective(self, objective: Array) -> None:
        self._x.Obj = objective

    def _apply_rows(self, rows: Rows) -> None:
        self._add(rows)
        self._check_nonzeros()

    def _limit(self, model: Any, limits: Limits, since: float) -> None:
        infinity = self._api.GRB.INFINITY
        left = infinity if limits.time is None else max(limits.time - (time.perf_counter() - since), 0.0)
        self._set(model, "TimeLimit", left)
        self._set(model, "NodeLimit", infinity if limits.nodes is None else float(limits.nodes))
        self._set(model, "SoftMemLimit", infinity if limits.memory is None else limits.memory / 1000.0)
        self._set(model, "Threads", limits.threads)
        self._set(model, "Seed", limits.seed % 2_000_000_000)

    def _stops(self, target: float | None, dual_stop: float | None) -> None:
        worst = -self._api.GRB.INFINITY if not self.milp.maximize else self._api.GRB.INFINITY
        self._set(self._model, "BestObjStop", worst if target is None else target)
        self._set(self._model, "BestBdStop", -worst if dual_stop is None else dual_stop)

    def _answer(self, request: Request) -> Answer:
        check_size(self._api, self.milp)
        self._told = False
        answer = self._watched(request, lambda watch: self._work(request, watch), self._halt)
        self._last = answer.x if answer.x is not None else self._last
        return answer

    def _halt(self) -> None:
        self._told = True
        self._model.terminate()

    def _work(self, request: Request, watch: Watch) -> Answer:
        began = time.perf_counter()
        model, callbacks = self._model, request.callbacks
        self._limit(model, request.limits, began)
        self._stops(request.target, request.dual_stop)
        self._set(model, "LazyConstraints", int(callbacks.lazy is not None))
        self._set(model, "PreCrush", int(callbacks.separate is not None))
        # Without this Gurobi goes on where it stopped, lazy rows of an earlier solve included.
        model.reset()
        start = self._last if request.start is None else request.start
        if start is not None:
            self._x.Start = start
        words = optimize(self._api, model, self._listener(watch))
        status = STATUS[words]
        if status is Status.INTERRUPTED and watch.reason is None and not self._told:
            # Ctrl-C before the first callback went to Gurobi's own handler.
            raise KeyboardInterrupt
        if status is Status.UNBOUNDED:
            words, status = self._feasible_or_not(words, request.limits, began)
        if status in {Status.UNBOUNDED, Status.INFEASIBLE}:
            return Answer(status, words)
        x = np.asarray(self._x.X, dtype=np.float64) if model.SolCount else None
        if model.IsMIP:
            bound, nodes = known_bound(self._api, model.ObjBound), int(model.NodeCount)
        else:
            bound, nodes = (self.milp.value(x) if status is Status.OPTIMAL and x is not None else np.nan), 0
        if words == "USER_OBJ_LIMIT":
            reached = request.target is not None and x is not None and not watch.better(request.target, model.ObjVal)
            status = Status.TARGET if reached else Status.DUAL_STOP
        return Answer(status, words, x, bound, nodes, bound if nodes == 0 else watch.root_bound)

    def _feasible_or_not(self, words: str, limits: Limits, began: float) -> tuple[str, Status]:
        """Unbounded or infeasible: with a zero objective only an infeasible model has no optimum."""
        self._stops(None, None)
        self._limit(self._model, limits, began)
        self._pass_objective(np.zeros(self.milp.n_columns))
        try:
            more = optimize(self._api, self._model, None)
        finally:
            self._pass_objective(self.milp.objective)
        status = STATUS[more]
        return f"{words}; without objective: {more}", Status.UNBOUNDED if status is Status.OPTIMAL else status

    def _listener(self, watch: Watch) -> Callable[[Any, int], None]:
        code, callbacks = self._api.GRB.Callback, watch.request.callbacks
        wants_point = callbacks.propose is not None or callbacks.separate is not None

        first = first_time(lambda: watch.ask(take_back_interrupts))

        def heard(model: Any, where: int) -> None:
            first(model, where)
            if where == code.MIP:
                bound = known_bound(self._api, model.cbGet(code.MIP_OBJBND))
                watch.saw_bound(bound)
                if model.cbGet(code.MIP_NODCNT) == 0 and np.isfinite(bound):
                    watch.root_bound = bound
            elif where == code.MIPSOL:
                self._candidate(model, watch)
            elif where == code.MIPNODE and wants_point and model.cbGet(code.MIPNODE_STATUS) == self._api.GRB.OPTIMAL:
                self._at_node(model, watch)
            if watch.reason is not None:
                model.terminate()

        return heard

    def _candidate(self, model: Any, watch: Watch) -> None:
        x = np.asarray(model.cbGetSolution(self._x), dtype=np.float64)
        lazy = watch.request.callbacks.lazy
        rows = None if lazy is None else watch.ask(lazy, x)
        kept = True
        if rows is not None:
            self._hand_over(rows, model.cbLazy)
            values = rows.matrix @ x
            kept = bool(np.all((values >= rows.lower - 1e-9) & (values <= rows.upper + 1e-9)))
        if kept:
            watch.saw_point(x)

    def _at_node(self, model: Any, watch: Watch) -> None:
        callbacks = watch.request.callbacks
        point = np.asarray(model.cbGetNodeRel(self._x), dtype=np.float64)
        if callbacks.separate is not None:
            cuts = watch.ask(callbacks.separate, point)
            if cuts is not None:
                self._hand_over(cuts, model.cbCut)
        if callbacks.propose is not None:
            x = watch.ask(callbacks.propose, point)
            if x is not None:
                model.cbSetSolution(self._columns, np.asarray(x, dtype=np.float64).tolist())
                model.cbUseSolution()

    def _hand_over(self, rows: Rows, take: Callable[[Any, str, float], None]) -> None:
        for i in range(len(rows.lower)):
            for one in self._sides(rows, i):
                take(*one)

    def _relaxation(self, limits: Limits) -> RelaxResult:
        check_size(self._api, self.milp)
        began = time.perf_counter()
        self._model.update()
        with self._model.relax() as relaxed:
            self._limit(relaxed, limits, began)
            self._set(relaxed, "NodeLimit", self._api.GRB.INFINITY)
            # Without this setting Gurobi does not tell unbounded and infeasible apart.
            self._set(relaxed, "DualReductions", 0)
            thread: SolverThread[str] = SolverThread(relaxed.terminate)
            heard = first_time(lambda: thread.call(take_back_interrupts))
            try:
                words = thread.run(lambda: optimize(self._api, relaxed, heard), limits.time)
            finally:
                self._abandoned = thread.abandoned
            status, seconds = STATUS[words], time.perf_counter() - began
            if status is Status.INTERRUPTED and not thread.overran:
                raise KeyboardInterrupt
            if words == "INF_OR_UNBD":
                raise SolverError("Gurobi cannot tell whether the LP relaxation is unbounded or infeasible")
            if status is not Status.OPTIMAL:
                return RelaxResult(status, words, None, None, None, None, seconds)
            n, m = self.milp.n_columns, self.milp.n_rows
            x, reduced = (np.array(relaxed.getAttr(name)[:n], dtype=np.float64) for name in ("X", "RC"))
            duals = np.array(relaxed.getAttr("Pi")[:m], dtype=np.float64)
        return RelaxResult(status, words, self.milp.value(x), x, duals, reduced, seconds)
