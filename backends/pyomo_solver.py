"""Any solver that Pyomo knows, by its name there: ``pyomo:appsi_highs``, ``pyomo:glpk``.

The arrays are rebuilt as a small Pyomo model, so this is the slow road, for solvers that have no backend of
their own. Pyomo has no common way to set a gap or tolerances: they are set for the families of solvers listed here.
From another solver ``optimal`` is believed only with the bounds to show for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from stablenet.backends.base import Availability, Backend, Capability, Limits, RelaxResult, Settings, Status
from stablenet.backends.session import Answer, ArraySession, Request
from stablenet.backends.thread import SolverThread

from stablenet.errors import InputError, NotInstalledError, SolverError, UnknownNameError
from stablenet.milp import MILP, Rows

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Family:
    """Options of a solver, by its own names; tolerances get the value of `Settings`."""

    fixed: dict[str, object]
    feasibility: tuple[str, ...] = ()
    integrality: tuple[str, ...] = ()
    seed: str | None = None
    threads: str | None = None
    nodes: str | None = None
    time: str | None = None
    """Needed where Pyomo's own ``timelimit`` is silently ignored."""


_HIGHS = _Family(
    {"mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "small_matrix_value": 1e-12},
    ("primal_feasibility_tolerance", "dual_feasibility_tolerance"),
    ("mip_feasibility_tolerance",),
    seed="random_seed",
    threads="threads",
    nodes="mip_max_nodes",
)
_SCIP = _Family(
    {"limits/gap": 0.0, "limits/absgap": 0.0},
    ("numerics/feastol", "numerics/dualfeastol"),
    seed="randomization/randomseedshift",
    nodes="limits/totalnodes",
)
_GUROBI = _Family(
    {"MIPGap": 0.0, "MIPGapAbs": 0.0},
    ("FeasibilityTol", "OptimalityTol"),
    ("IntFeasTol",),
    seed="Seed",
    threads="Threads",
    nodes="NodeLimit",
    time="TimeLimit",
)
_CBC = _Family(
    {"ratioGap": 0.0, "allowableGap": 0.0, "increment": 0.0},
    ("primalTolerance", "dualTolerance"),
    ("integerTolerance",),
    nodes="maxNodes",
)
_GLPK = _Family({"mipgap": 0.0})

_FAMILIES = {
    "highs": _HIGHS,
    "appsi_highs": _HIGHS,
    "scip_direct": _SCIP,
    "scip_persistent": _SCIP,
    "gurobi": _GUROBI,
    "gurobi_direct": _GUROBI,
    "gurobi_persistent": _GUROBI,
    "appsi_gurobi": _GUROBI,
    "cbc": _CBC,
    "glpk": _GLPK,
}

_TAKES_SOS = frozenset({"scip_direct", "scip_persistent", "gurobi", "gurobi_direct", "gurobi_persistent"})

_STATUS = {
    "optimal": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "infeasibleOrUnbounded": Status.UNBOUNDED,
    "maxTimeLimit": Status.TIME,
    "maxEvaluations": Status.NODES,
    "maxIterations": Status.NODES,
}


class PyomoSolver(Backend):
    """A solver by its name in Pyomo."""

    name = "pyomo"
    title = "Pyomo"

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.title = f"{solver} through Pyomo"
        family = _FAMILIES.get(solver)
        can = set()
        if family is not None:
            can = {
                capability
                for capability, option in (
                    (Capability.SEED, family.seed),
                    (Capability.THREADS, family.threads),
                    (Capability.NODE_LIMIT, family.nodes),
                )
                if option is not None
            }
        if solver in _TAKES_SOS:
            can.add(Capability.SOS1)
        self.capabilities = frozenset(can)

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The backend for ``pyomo:SOLVER``."""
        if not argument:
            raise InputError("solver 'pyomo' needs the name of a solver in Pyomo, such as pyomo:appsi_highs")
        return cls(argument)

    def available(self) -> Availability:
        """Whether Pyomo finds the solver; its licence, if it needs one, is its own affair."""
        try:
            version = metadata.version("pyomo")
        except metadata.PackageNotFoundError:
            return Availability(False, None, "pip install pyomo")
        install = f"what Pyomo's solver {self.solver!r} needs"
        return Availability(self._found(), f"pyomo {version}", install)

    def _found(self) -> bool:
        with _quiet():
            try:
                return bool(_factory()(self.solver).available(exception_flag=False))
            except Exception:
                # Some of Pyomo's plugins raise whatever their solver raises.
                return False

    def open(self, milp: MILP, settings: Settings = Settings()) -> PyomoSession:
        """Take the model; see `Backend.open`."""
        known = [name for name in _factory() if not name.startswith("_")]
        if self.solver not in known:
            raise UnknownNameError("solver of Pyomo", self.solver, known)
        if not self._found():
            raise NotInstalledError(f"Pyomo does not find its solver {self.solver!r}")
        return PyomoSession(self, milp, settings)


def _factory() -> Any:
    import pyomo.environ  # noqa: F401 - registers Pyomo's solvers
    from pyomo.opt import SolverFactory

    return SolverFactory


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pyomo's log messages, whose substance comes back as an error or a status."""
    logger = logging.getLogger("pyomo")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class PyomoSession(ArraySession):
    """One model, rebuilt in Pyomo for each solve."""

    def __init__(self, backend: PyomoSolver, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        self._solver = backend.solver
        self._family = _FAMILIES.get(backend.solver)

    # A changed model is rebuilt by the next solve.
    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        del columns

    def _apply_objective(self) -> None:
        pass

    def _apply_rows(self, rows: Rows) -> None:
        del rows

    def _answer(self, request: Request) -> Answer:
        began = time.perf_counter()
        words, status, x, bound = self._run(self.milp, request.limits, began)
        if status is Status.UNBOUNDED:
            flat = replace(self.milp, objective=np.zeros(self.milp.n_columns), constant=0.0)
            more, status, _, _ = self._run(flat, request.limits, began)
            status = Status.UNBOUNDED if status is Status.OPTIMAL else status
            return Answer(status, f"{words}; without objective: {more}")
        if status is Status.OPTIMAL and x is not None and np.isnan(bound):
            if self._family is None:
                raise SolverError(f"{self.backend.title} reports {words!r}, within a gap that it does not state")
            bound = self.milp.value(x)
        return Answer(status, words, x, bound)

    def _run(self, milp: MILP, limits: Limits, began: float) -> tuple[str, Status, Array | None, float]:
        """Build and solve: the solver's words, what they mean, its point and its dual bound (NaN without)."""
        model = build(milp)
        arguments: dict[str, object] = {"load_solutions": False, "tee": False}
        left = None if limits.time is None else max(limits.time - (time.perf_counter() - began), 1e-3)
        solver = self._configured(limits, left)
        if left is not None:
            arguments["timelimit"] = left
        if self.settings.log is not None:
            arguments["logfile" if hasattr(solver, "log_file") else "tee"] = True
        thread: SolverThread[Any] = SolverThread(self._cannot_stop)
        try:
            with _quiet():
                results = thread.run(lambda: _solve(self.backend.title, solver, model, arguments), limits.time)
        finally:
            self._abandoned = thread.abandoned
        words = str(results.solver.termination_condition)
        if words not in _STATUS:
            raise SolverError(f"{self.backend.title} ended with {words!r}")
        status, x = _STATUS[words], None
        if status not in {Status.INFEASIBLE, Status.UNBOUNDED} and len(results.solution):
            with _quiet():
                model.solutions.load_from(results)
            values = [model.x[j].value for j in range(milp.n_columns)]
            x = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
            # What is in no row and without cost never reached the solver.
            unseen = np.isnan(x) & (np.diff(milp.rows.matrix.tocsc().indptr) == 0) & (milp.objective == 0)
            x[unseen] = np.clip(0.0, milp.lower[unseen], milp.upper[unseen])
            x = None if np.isnan(x).any() else x
        bound = results.problem.upper_bound if milp.maximize else results.problem.lower_bound
        return words, status, x, _number(bound)

    def _configured(self, limits: Limits, left: float | None) -> Any:
        solver, family, settings = _factory()(self._solver), self._family, self.settings
        if family is None:
            return solver
        options = dict(family.fixed)
        options |= dict.fromkeys(family.feasibility, settings.feasibility)
        options |= dict.fromkeys(family.integrality, settings.integrality)
        limited: tuple[tuple[str | None, float | None], ...] = (
            (family.seed, limits.seed),
            (family.threads, limits.threads),
            (family.nodes, limits.nodes),
            (family.time, left),
        )
        options |= {name: value for name, value in limited if name is not None and value is not None}
        for name, value in options.items():
            solver.options[name] = value
        return solver

    def _cannot_stop(self) -> None:
        """Pyomo has no way to stop a solver; one that goes on after its time limit or Ctrl-C is abandoned."""
        raise SolverError(f"{self.backend.title} does not keep its time limit")

    def _relaxation(self, limits: Limits) -> RelaxResult:
        raise SolverError(f"{self.backend.title} gives no LP duals ({limits})")


def _solve(title: str, solver: Any, model: Any, arguments: dict[str, object]) -> Any:
    try:
        return solver.solve(model, **arguments)
    except Exception as error:
        # Anything may come out of a plugin.
        raise SolverError(
            f"{title} failed: {str(error).strip().splitlines()[-1] if str(error) else error!r}"
        ) from error


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
    return number if np.isfinite(number) and abs(number) < 1e20 else float("nan")


def build(milp: MILP) -> Any:
    """The arrays as a Pyomo model with variables ``x[j]`` and constraints ``row[i]``."""
    import pyomo.environ as pyo
    from pyomo.common.gc_manager import PauseGC
    from pyomo.core.expr import LinearExpression

    with PauseGC():
        model = pyo.ConcreteModel()
        kinds = [pyo.Integers if integer else pyo.Reals for integer in milp.integer.tolist()]
        bounds = [(_side(low), _side(high)) for low, high in zip(milp.lower.tolist(), milp.upper.tolist(), strict=True)]
        model.x = pyo.Var(range(milp.n_columns), domain=lambda _, j: kinds[j], bounds=lambda _, j: bounds[j])
        columns = [model.x[j] for j in range(milp.n_columns)]
        matrix = milp.rows.matrix
        begin, indices, data = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
        low, high = milp.rows.lower.tolist(), milp.rows.upper.tolist()

        def row(_model: Any, i: int) -> Any:
            part = slice(begin[i], begin[i + 1])
            if begin[i] == begin[i + 1] or (low[i] == -np.inf and high[i] == np.inf):
                return pyo.Constraint.Skip
            body = LinearExpression(linear_coefs=data[part], linear_vars=[columns[j] for j in indices[part]])
            return (_side(low[i]), body, _side(high[i])) if low[i] != high[i] else (body, low[i])

        model.row = pyo.Constraint(range(milp.n_rows), rule=row)
        used = np.flatnonzero(milp.objective).tolist()
        cost = LinearExpression(
            constant=milp.constant,
            linear_coefs=milp.objective[used].tolist(),
            linear_vars=[columns[j] for j in used],
        )
        model.cost = pyo.Objective(expr=cost, sense=pyo.maximize if milp.maximize else pyo.minimize)
        for k, members in enumerate(milp.sos1):
            weights = list(range(1, len(members) + 1))
            one = pyo.SOSConstraint(var=[columns[j] for j in members.tolist()], sos=1, weights=weights)
            model.add_component(f"sos{k}", one)
    return model


def _side(value: float) -> float | None:
    return value if np.isfinite(value) else None
