"""SCIP, in process through PySCIPOpt.

It is loaded coefficient by coefficient, which is the fastest route that PySCIPOpt offers (FACTS of this
project: 0.3 microseconds each; its matrix API and expressions are three and six times slower).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from stablenet.backends import scip_plugins
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
from stablenet.backends.request import Request
from stablenet.backends.scip_options import RESERVED, native_options, native_settings
from stablenet.backends.session import Answer, ArraySession, Watch, solver_module, uncrossed
from stablenet.backends.thread import SolverThread

from stablenet.core.arrays import Array
from stablenet.core.errors import SolverError
from stablenet.milp.arrays import MILP, Rows

_STATUS = {
    "optimal": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "inforunbd": Status.UNBOUNDED,
    "timelimit": Status.TIME,
    "nodelimit": Status.NODES,
    "totalnodelimit": Status.NODES,
    "memlimit": Status.MEMORY,
    "userinterrupt": Status.INTERRUPTED,
    "primallimit": Status.TARGET,
    "duallimit": Status.DUAL_STOP,
}


class Scip(Backend):
    """SCIP: constraint integer programming, open source, part of the core installation."""

    name = "scip"
    title = "SCIP"
    tolerance = Tolerance(1e-7, 1e-7, 1e-6)
    reserved = RESERVED
    capabilities = frozenset(Capability) - {Capability.THREADS}

    def available(self) -> Availability:
        """Whether PySCIPOpt is installed; it needs no licence."""
        try:
            version = metadata.version("pyscipopt")
        except metadata.PackageNotFoundError:
            return Availability(False, None, "pip install pyscipopt")
        return Availability(True, version, "pip install pyscipopt")

    def native_options(self) -> Mapping[str, NativeOption]:
        """See `Backend.native_options`."""
        solver_module("pyscipopt", self)
        return native_options()

    def native_settings(self, settings: Settings) -> Mapping[str, Value]:
        """See `Backend.native_settings`."""
        return native_settings(settings)

    def open(self, milp: MILP, settings: Settings = Settings()) -> ScipSession:
        """Load the model; see `Backend.open`."""
        return ScipSession(self, milp, settings)


class _Loaded:
    """One PySCIPOpt model with its columns and rows."""

    def __init__(self, api: Any, milp: MILP, settings: Settings, *, relaxed: bool) -> None:
        self._api = api
        self._relaxed = relaxed
        self.model = api.Model()
        self._setup(settings)
        if milp.maximize:
            self.model.setMaximize()
        lower, upper = uncrossed(milp.lower, milp.upper)
        kinds = np.where(milp.integer & (not relaxed), np.where((lower >= 0) & (upper <= 1), "B", "I"), "C")
        self.kinds = kinds
        self.columns = [
            self.model.addVar("", kind, _finite(low), _finite(high), cost)
            for kind, low, high, cost in zip(
                kinds.tolist(), lower.tolist(), upper.tolist(), milp.objective.tolist(), strict=True
            )
        ]
        self.model.addObjoffset(milp.constant)
        self._constant = milp.constant
        self.rows: list[Any] = []
        self.add_rows(milp.rows)
        if not relaxed:
            self._add_special(milp)

    def _setup(self, settings: Settings) -> None:
        model = self.model
        model.hideOutput()
        if settings.log is not None:
            model.setLogfile(str(settings.log))
        parameters = {**native_settings(settings), **dict(settings.options)}
        try:
            model.setParams({**parameters, "misc/catchctrlc": False, "timing/clocktype": 2})
        except (ValueError, KeyError) as error:
            raise SolverError(f"SCIP refuses one of {parameters}: {error}") from error
        if (not settings.presolve and not settings.defaults) or self._relaxed:
            model.setPresolve(self._api.SCIP_PARAMSETTING.OFF)

    def add_rows(self, rows: Rows) -> None:
        """Append rows; those without coefficients (see `trivial_answer`) or without sides are not handed to SCIP."""
        model, columns, add = self.model, self.columns, self.model.addCoefLinear
        low, high = (side.tolist() for side in uncrossed(rows.lower, rows.upper))
        indptr, indices, data = rows.matrix.indptr.tolist(), rows.matrix.indices.tolist(), rows.matrix.data.tolist()
        loaded = expected = 0
        for i in range(len(low)):
            begin, end = indptr[i], indptr[i + 1]
            if begin == end or not (np.isfinite(low[i]) or np.isfinite(high[i])):
                # pyscipopt asserts that a constraint has a side.
                self.rows.append(None)
                continue
            expected += end - begin
            first = data[begin] * columns[indices[begin]]
            row = model.addCons(self._api.scip.ExprCons(first, _finite(low[i]), _finite(high[i])))
            for k in range(begin + 1, end):
                add(row, columns[indices[k]], data[k])
            loaded += model.getConsNVars(row)
            self.rows.append(row)
        if loaded != expected:
            raise SolverError(
                f"SCIP holds {loaded} of {expected} coefficients: it drops those below 1e-9 in magnitude, "
                "which must be dropped with their rows relaxed before loading"
            )

    def _add_special(self, milp: MILP) -> None:
        for columns in milp.sos1:
            self.model.addConsSOS1([self.columns[j] for j in columns.tolist()], list(range(1, len(columns) + 1)))
        if milp.indicators is None:
            return
        rows = milp.indicators.rows
        matrix = rows.matrix
        for i, (binary, value) in enumerate(zip(milp.indicators.binary, milp.indicators.value, strict=True)):
            part = slice(matrix.indptr[i], matrix.indptr[i + 1])
            entries = zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True)
            terms = self._api.quicksum(v * self.columns[j] for j, v in entries)
            # SCIP's indicators are one-sided.
            for low, high in ((_finite(rows.lower[i]), None), (None, _finite(rows.upper[i]))):
                if low is not None or high is not None:
                    one_sided = self._api.scip.ExprCons(terms, low, high)
                    self.model.addConsIndicator(one_sided, self.columns[binary], activeone=bool(value))

    def set_bounds(self, milp: MILP, columns: npt.NDArray[np.intp]) -> None:
        """Hand over the bounds of some columns, as they stand in the MILP."""
        self.model.freeTransform()
        lower, upper = uncrossed(milp.lower, milp.upper)
        for j in columns.tolist():
            if self.kinds[j] == "B" and not (lower[j] >= 0 and upper[j] <= 1):
                self.model.chgVarType(self.columns[j], "I")
                self.kinds[j] = "I"
            self.model.chgVarLb(self.columns[j], _finite(lower[j]))
            self.model.chgVarUb(self.columns[j], _finite(upper[j]))

    def set_objective(self, milp: MILP, objective: Array) -> None:
        """Hand over an objective with the sense and constant of the MILP."""
        self.model.freeTransform()
        terms = self._api.quicksum(float(objective[j]) * self.columns[j] for j in np.flatnonzero(objective).tolist())
        self.model.setObjective(terms, "maximize" if milp.maximize else "minimize")
        self.model.addObjoffset(milp.constant - self.model.getObjoffset())


class ScipSession(ArraySession):
    """One model in one ``pyscipopt.Model``; LP relaxations are solved in a second one, made when asked for."""

    def __init__(self, backend: Backend, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        self._api = solver_module("pyscipopt", backend)
        self._main = _Loaded(self._api, self.milp, settings, relaxed=False)
        self._lp: _Loaded | None = None
        self._link = scip_plugins.Link(self._api, self._main.model, self._main.columns)
        scip_plugins.include_events(self._api, self._link)

    @property
    def _models(self) -> list[_Loaded]:
        return [self._main] if self._lp is None else [self._main, self._lp]

    def close(self) -> None:
        """Free the models, unless a solve that did not react to Ctrl-C still runs on one."""
        if not self._abandoned:
            for loaded in self._models:
                loaded.model.freeProb()

    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        for loaded in self._models:
            loaded.set_bounds(self.milp, columns)

    def _apply_objective(self) -> None:
        for loaded in self._models:
            loaded.set_objective(self.milp, self.milp.objective)

    def _apply_rows(self, rows: Rows) -> None:
        for loaded in self._models:
            loaded.model.freeTransform()
            loaded.add_rows(rows)

    def _answer(self, request: Request) -> Answer:
        model = self._main.model
        model.freeTransform()
        callbacks = request.callbacks
        for name, wanted, include in (
            ("proposals", callbacks.propose, scip_plugins.include_proposals),
            ("cuts", callbacks.separate, scip_plugins.include_cuts),
            ("lazy", callbacks.lazy, scip_plugins.include_lazy),
        ):
            if wanted is not None and name not in self._link.included:
                include(self._api, self._link)
                self._link.included.add(name)
        _expect_more_rows(model, more=callbacks.lazy is not None)
        try:
            return self._watched(request, lambda watch: self._work(request, watch), model.interruptSolve)
        finally:
            self._link.watch = None
            self._link.pending = []

    def _work(self, request: Request, watch: Watch) -> Answer:
        began = time.perf_counter()
        model = self._main.model
        _limit(model, request.limits, began)
        infinity = model.infinity()
        sign = 1.0 if self.milp.maximize else -1.0
        model.setParam("limits/primal", sign * infinity if request.target is None else request.target)
        model.setParam("limits/dual", -sign * infinity if request.dual_stop is None else request.dual_stop)
        if request.start is not None:
            solution = model.createOrigSol()
            for j in np.flatnonzero(request.start).tolist():
                model.setSolVal(solution, self._main.columns[j], float(request.start[j]))
            model.addSol(solution)
        self._link.watch = watch
        words = _optimize(model)
        status = _STATUS[words]
        if status is Status.UNBOUNDED:
            words, status = self._feasible_or_not(words, request.limits, began)
        if status in {Status.UNBOUNDED, Status.INFEASIBLE}:
            return Answer(status, words)
        x = self._link.point(model.getBestSol()) if model.getNSols() else None
        bound, root = (scip_plugins.bound(model, value) for value in (model.getDualbound(), model.getDualboundRoot()))
        return Answer(status, words, x, bound, int(model.getNTotalNodes()), None if np.isnan(root) else root)

    def _feasible_or_not(self, words: str, limits: Limits, began: float) -> tuple[str, Status]:
        """Unbounded or infeasible: with a zero objective only an infeasible model has no optimum."""
        model = self._main.model
        self._link.watch = None
        self._main.set_objective(self.milp, np.zeros(self.milp.n_columns))
        sign = 1.0 if self.milp.maximize else -1.0
        model.setParam("limits/primal", sign * model.infinity())
        model.setParam("limits/dual", -sign * model.infinity())
        _limit(model, limits, began)
        more = _optimize(model)
        self._main.set_objective(self.milp, self.milp.objective)
        status = _STATUS[more]
        return f"{words}; without objective: {more}", Status.UNBOUNDED if status is Status.OPTIMAL else status

    def _relaxation(self, limits: Limits) -> RelaxResult:
        began = time.perf_counter()
        if self._lp is None:
            self._lp = _Loaded(self._api, self.milp, self.settings, relaxed=True)
            _plain_lp(self._api, self._lp.model)
        lp = self._lp
        lp.model.freeTransform()

        def work() -> str:
            _limit(lp.model, limits, began)
            return _optimize(lp.model)

        thread: SolverThread[str] = SolverThread(lp.model.interruptSolve)
        try:
            words = thread.run(work, limits.time)
        finally:
            self._abandoned = thread.abandoned
        status = _STATUS[words]
        seconds = time.perf_counter() - began
        if words == "inforunbd":
            raise SolverError("SCIP cannot tell whether the LP relaxation is unbounded or infeasible")
        if status is not Status.OPTIMAL:
            return RelaxResult(status, words, None, None, None, None, seconds)
        best = lp.model.getBestSol()
        x = np.array([lp.model.getSolVal(best, column) for column in lp.columns], dtype=np.float64)
        duals = np.array([0.0 if row is None else lp.model.getDualsolLinear(row) for row in lp.rows], dtype=np.float64)
        # PySCIPOpt gives the duals of the minimisation that SCIP turns every model into.
        duals = -duals if self.milp.maximize else duals
        reduced = self.milp.objective - self.milp.rows.matrix.T @ duals
        return RelaxResult(status, words, self.milp.value(x), x, duals, reduced, seconds)


def _expect_more_rows(model: Any, *, more: bool) -> None:
    """Switch off what is only valid for a model that is whole: reductions by dual arguments, symmetry, components."""
    model.setParam("misc/allowstrongdualreds", not more)
    model.setParam("misc/allowweakdualreds", not more)
    for name in ("misc/usesymmetry", "constraints/components/maxprerounds", "constraints/components/propfreq"):
        if more:
            model.setParam(name, -1 if name.endswith("freq") else 0)
        else:
            model.resetParam(name)


def _plain_lp(api: Any, model: Any) -> None:
    """Leave nothing between the model and its LP, so that the LP's duals are the model's."""
    model.setHeuristics(api.SCIP_PARAMSETTING.OFF)
    model.setSeparating(api.SCIP_PARAMSETTING.OFF)
    model.disablePropagation()


def _limit(model: Any, limits: Limits, since: float) -> None:
    infinity = model.infinity()
    left = infinity if limits.time is None else max(limits.time - (time.perf_counter() - since), 0.0)
    model.setParam("limits/time", left)
    model.setParam("limits/totalnodes", -1 if limits.nodes is None else limits.nodes)
    model.setParam("limits/memory", 8796093022207.0 if limits.memory is None else float(limits.memory))
    model.setParam("randomization/randomseedshift", limits.seed)


def _optimize(model: Any) -> str:
    """Solve without the interpreter lock; SCIP's own word for the outcome."""
    try:
        model.optimizeNogil()
    except Exception as error:
        raise SolverError(f"SCIP failed: {error}") from error
    words = str(model.getStatus())
    if words not in _STATUS:
        raise SolverError(f"SCIP ended with status {words!r}")
    return words


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
