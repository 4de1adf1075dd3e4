"""Any solver that Pyomo knows, by its name there: ``pyomo:appsi_highs``, ``pyomo:glpk``.

The arrays are rebuilt as a Pyomo model in a process of its own, so this is slow, and meant for solvers that have no
backend of their own: in process, many plugins cannot be interrupted, hold the interpreter, or print. Pyomo has no
common way to set a gap or tolerances: they are set for the families of solvers listed here. From another solver
``optimal`` is used only if it reports bounds that prove it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from stablenet.backends.base import Availability, Backend, Capability, Limits, RelaxResult, Settings, Status
from stablenet.backends.pyomo_child import save
from stablenet.backends.request import Request
from stablenet.backends.session import Answer, ResendingSession

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, NotInstalledError, SolverError, UnknownNameError
from stablenet.milp.arrays import MILP

START_UP = 5.0
"""Seconds past its time limit, start of the process included, after which a solver is killed."""


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

    @property
    def spec(self) -> str:
        """``pyomo:SOLVER``."""
        return f"{self.name}:{self.solver}"

    @classmethod
    def listed(cls) -> tuple[Self, ...]:
        """The solvers whose gap and tolerances this backend sets."""
        return tuple(cls(solver) for solver in _FAMILIES)

    def available(self) -> Availability:
        """Whether Pyomo finds the solver; a licence is not checked."""
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


class _Child:
    """A process that solves through Pyomo; one that is idle is kept for the next session."""

    _idle: ClassVar[list[_Child]] = []

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stablenet.backends.pyomo_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        atexit.register(self.kill)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @classmethod
    def take(cls) -> _Child:
        """An idle one, or a new one."""
        while cls._idle:
            child = cls._idle.pop()
            if child.alive:
                return child
        return cls()

    def give_back(self) -> None:
        """Leave it to the next session; more than one are not kept."""
        if self._idle:
            self.kill()
        else:
            self._idle.append(self)

    def kill(self) -> None:
        """End it and whatever solver program it runs."""
        atexit.unregister(self.kill)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ask(self, request: dict[str, object], limit: float | None) -> dict[str, Any] | None:
        """The answer; None if it takes longer than ``limit`` seconds. A child that does not answer is killed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise SolverError("the process that runs Pyomo has no pipes")
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            ready, _, _ = select.select([stdout], [], [], limit)
            line = stdout.readline() if ready else ""
        except BrokenPipeError:
            ready, line = [stdout], ""
        except BaseException:
            self.kill()
            raise
        if not line:
            self.kill()
            if not ready:
                return None
            raise SolverError(f"the process that runs Pyomo ended with code {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class PyomoSession(ResendingSession):
    """One model, sent to the process for each solve."""

    def __init__(self, backend: PyomoSolver, milp: MILP, settings: Settings) -> None:
        super().__init__(backend, milp, settings)
        self._solver = backend.solver
        self._family = _FAMILIES.get(backend.solver)
        self._folder = tempfile.TemporaryDirectory(prefix="stablenet-pyomo-")
        self._child: _Child | None = None

    def close(self) -> None:
        """Remove the temporary folder and leave the process to the next session."""
        self._folder.cleanup()
        if self._child is not None:
            self._child.give_back()
            self._child = None

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
        """Solve: the solver's words, what they mean, its point and its dual bound (NaN without)."""
        path = Path(self._folder.name) / "model.npz"
        save(milp, path)
        if self._child is None:
            self._child = _Child.take()
        left = None if limits.time is None else max(limits.time - (time.perf_counter() - began), 1e-3)
        request: dict[str, object] = {
            "model": str(path),
            "solver": self._solver,
            "options": self._options(limits, left),
            "time": left,
            "log": None if self.settings.log is None else str(self.settings.log.absolute()),
        }
        child, self._child = self._child, None
        answer = child.ask(request, None if left is None else left + START_UP)
        if answer is None:
            return "killed after its time limit", Status.TIME, None, float("nan")
        self._child = child
        if "error" in answer:
            raise SolverError(f"{self.backend.title} failed: {answer['error']}")
        words = str(answer["words"])
        if words not in _STATUS:
            raise SolverError(f"{self.backend.title} ended with {words!r}")
        status = _STATUS[words]
        x = None if answer["x"] is None else np.array(answer["x"], dtype=np.float64)
        return words, status, x, float("nan") if answer["bound"] is None else float(answer["bound"])

    def _options(self, limits: Limits, left: float | None) -> dict[str, object]:
        family, settings = self._family, self.settings
        if family is None:
            return {}
        options = dict(family.fixed)
        options |= dict.fromkeys(family.feasibility, settings.feasibility)
        options |= dict.fromkeys(family.integrality, settings.integrality)
        limited: tuple[tuple[str | None, float | None], ...] = (
            (family.seed, limits.seed),
            (family.threads, limits.threads),
            (family.nodes, limits.nodes),
            (family.time, left),
        )
        return options | {name: value for name, value in limited if name is not None and value is not None}

    def _relaxation(self, limits: Limits) -> RelaxResult:
        raise SolverError(f"{self.backend.title} gives no LP duals ({limits})")
