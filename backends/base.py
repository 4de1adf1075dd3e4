"""The interface of a solver backend: it takes arrays, opens a session, and its answers claim no more than was
proven.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.registry import Registry, refuse_argument, set_check
from stablenet.milp.arrays import MILP, Rows

PLAIN_MARGIN = 1e-4
"""Relaxation of the rows of models for solvers at their own defaults: ten times the largest of their tolerances
(Gurobi's for integrality). It is the same for all, so that all are given the same model."""


class Capability(enum.Enum):
    """What a solver can do; the value says it in words."""

    SOS1 = "SOS1 sets"
    INDICATOR = "indicator constraints"
    START = "start solution"
    TARGET = "stop at an objective value"
    DUAL_STOP = "stop at a dual bound"
    INCUMBENT = "incumbents reported while running"
    PROPOSE = "solutions injected while running"
    LP_POINT = "LP point of a node given to the injection"
    LAZY = "lazy constraints"
    CUTS = "user cuts during the search"
    DUALS = "LP duals"
    RESOLVE = "changes between solves without reloading"
    NODE_LIMIT = "node limit"
    MEMORY_LIMIT = "memory limit"
    THREADS = "several threads"
    SEED = "random seed"
    ROOT_BOUND = "root bound reported"
    OPTIONS = "options by native name"


class Status(enum.Enum):
    """Why a solve ended. Only ``OPTIMAL`` and a dual bound prove anything."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    TARGET = "target reached"
    DUAL_STOP = "dual bound reached"
    TIME = "time limit"
    NODES = "node limit"
    MEMORY = "memory limit"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Limits:
    """Limits of one solve: seconds, branch-and-bound nodes, megabytes, threads, seed. None: no limit."""

    time: float | None = None
    nodes: int | None = None
    memory: float | None = None
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Tolerance:
    """Tolerances under which a solver was measured to prove nothing false, and the margin that they need.

    ``feasibility`` and ``integrality`` are absolute, of a model whose rows and columns are scaled to a size near 1;
    ``margin`` is how far a search relaxes each of its rows, at least ten times either. The defaults are for solvers
    that were not measured. Smaller is not safer: some solvers prove what is false under 1e-9 (docs/solvers.md).
    """

    feasibility: float = 1e-6
    integrality: float = 1e-6
    margin: float = 1e-5

    @property
    def slack(self) -> float:
        """Ten tolerances: how far a cutoff, dual stop or bound has to be from what it is to prove."""
        return 10.0 * max(self.feasibility, self.integrality)


Value = bool | int | float | str
"""A value of a solver's option."""


@dataclass(frozen=True)
class NativeOption:
    """An option as the solver has it: its default, whose type is the option's, and the words it takes, if it is one."""

    default: Value
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What is set alike for every solver: tolerances (absolute), presolve, gap 0, and where its log goes.

    ``submips`` False requests no MILPs inside the MILP to find better solutions, since searches find those by other
    means. It is applied where it was measured to save time (HiGHS). With ``defaults`` none of these is set: the solver
    keeps its own, and ``feasibility`` and ``integrality`` only say what those are. ``options`` are further options by
    native name, checked by `stablenet.backends.native_options.parse_options`.
    """

    feasibility: float = 1e-6
    integrality: float = 1e-6
    presolve: bool = True
    submips: bool = True
    log: Path | None = None
    defaults: bool = False
    options: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True, eq=False)
class SolveResult:
    """The answer of a MILP solve, in the sense and with the constant of the `MILP`.

    ``x`` and ``objective`` are the best point found (None if there is none). ``dual_bound`` is a bound
    that no feasible point can beat: at least the optimum when maximising, at most when minimising, and
    infinite where the solver proved none. ``solver_status`` are the solver's own words.
    """

    status: Status
    solver_status: str
    objective: float | None
    x: Array | None
    dual_bound: float
    seconds: float
    nodes: int | None = None
    root_bound: float | None = None


@dataclass(frozen=True, eq=False)
class RelaxResult:
    """The answer of the LP relaxation (integrality, SOS1 and indicators dropped).

    ``row_duals`` (m,) and ``reduced_costs`` (n,) have the sign of d objective / d right-hand side in the
    MILP's own sense; None where the solver gives none or the status is not ``OPTIMAL``.
    """

    status: Status
    solver_status: str
    objective: float | None
    x: Array | None
    row_duals: Array | None
    reduced_costs: Array | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Callbacks:
    """Functions of a search that are called while the solver runs; a backend calls all those that it declares.

    ``on_incumbent(x, objective)``: a new incumbent; True asks the solver to stop (`Status.INTERRUPTED`).
    ``propose(point)``: a full column vector to try as a solution, or None; ``point`` is the LP point of a
    node (None without `Capability.LP_POINT`). ``separate(point)``: valid rows cut off by the LP point, or
    None. ``lazy(x)``: rows that every solution from now on must satisfy, or None; asked for each candidate.
    ``stop()``: asked a few times a second by solvers that can be stopped; True stops them (`Status.INTERRUPTED`). All
    are run on the thread that called `Session.solve`, whatever threads the solver has. An exception raised in any of
    them stops the solve and is raised again by it.
    """

    on_incumbent: Callable[[Array, float], bool] | None = None
    propose: Callable[[Array | None], Array | None] | None = None
    separate: Callable[[Array], Rows | None] | None = None
    lazy: Callable[[Array], Rows | None] | None = None
    stop: Callable[[], bool] | None = None


class Session(ABC):
    """One model loaded in one solver. Use as a context manager; after an error it is not to be used again."""

    @abstractmethod
    def solve(
        self,
        limits: Limits,
        *,
        target: float | None = None,
        dual_stop: float | None = None,
        start: Array | None = None,
        callbacks: Callbacks | None = None,
    ) -> SolveResult:
        """Solve the MILP.

        Stops as soon as an incumbent is at least as good as ``target`` (`Status.TARGET`), or the dual
        bound is at least as tight as ``dual_stop`` (`Status.DUAL_STOP`). ``start`` is a full column
        vector that may be infeasible. Raises `UnsupportedError` for limits and arguments that the solver
        does not declare, `InputError` for those that make no sense, `LicenseError`, and `SolverError` where the
        solver fails, contradicts itself, or answers with a status that is not known. After Ctrl-C `KeyboardInterrupt`
        is raised within a second, even if the solver does not react.
        """

    @abstractmethod
    def relax(self, limits: Limits) -> RelaxResult:
        """Solve the LP relaxation; the loaded MILP stays as it is."""

    @abstractmethod
    def change_bounds(self, columns: npt.NDArray[np.intp], lower: Array, upper: Array) -> None:
        """Replace the bounds of some columns."""

    @abstractmethod
    def change_objective(self, objective: Array, constant: float = 0.0, *, maximize: bool | None = None) -> None:
        """Replace the whole objective (n,), and its sense if given."""

    @abstractmethod
    def add_rows(self, rows: Rows) -> None:
        """Append linear rows."""

    def close(self) -> None:  # noqa: B027 - a session with nothing to free need not say so
        """Free what the solver holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Availability:
    """Whether a solver is installed, licensed and limited in size.

    ``install`` says how to get it, ``licence`` is a sentence or None where none is needed, the limits are
    those of a size-limited licence.
    """

    installed: bool
    version: str | None
    install: str
    licence: str | None = None
    max_columns: int | None = None
    max_rows: int | None = None


class Backend(ABC):
    """A solver. Creating an instance imports none of the solver's modules; `open` does."""

    name: ClassVar[str]
    title: str
    capabilities: frozenset[Capability] = frozenset()
    """Its capabilities. Where title or capabilities depend on the argument, the instance has its own."""
    tolerance: Tolerance = Tolerance()
    """The tolerances that it is given unless `Options.margin` is set. Choose by measurement (``bench/planted.py``)."""
    default_tolerance: Tolerance = Tolerance(1e-6, 1e-6, PLAIN_MARGIN)
    """Its own default tolerances, with `PLAIN_MARGIN`; for solvers with `Capability.OPTIONS`."""
    default_gap: float = 0.0
    """How far its bound may be from the value of what it calls optimal, by its defaults, relative above 1."""
    reserved: Mapping[str, str] = MappingProxyType({})
    """Native options (or beginnings of their names that end in ``/``) that are refused, and what to use instead."""

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The backend for ``name[:argument]``."""
        refuse_argument("solver", cls.name, argument)
        return cls()

    @property
    def spec(self) -> str:
        """What `Registry.get` takes for this instance."""
        return self.name

    @classmethod
    def listed(cls) -> tuple[Self, ...]:
        """The instances that a list of solvers shows: one, or some where the name takes an argument."""
        return (cls.from_argument(None),)

    @abstractmethod
    def available(self) -> Availability:
        """Whether it is installed. Must not take a licence of a limited number."""

    def native_options(self) -> Mapping[str, NativeOption]:
        """All options by native name, of a solver with `Capability.OPTIONS`. Needs the solver to be installed."""
        return {}

    def native_settings(self, settings: Settings) -> Mapping[str, Value]:
        """The native options that these settings come to, without `Settings.options`, threads, limits, seed and log."""
        del settings
        return {}

    def supports(self, *capabilities: Capability) -> bool:
        """Whether it declares all of them."""
        return self.capabilities.issuperset(capabilities)

    @abstractmethod
    def open(self, milp: MILP, settings: Settings = Settings()) -> Session:
        """Load the model. Raises `NotInstalledError`, `LicenseError`, `UnsupportedError` or `SolverError`."""


registry: Registry[Backend] = Registry(
    "solver",
    Backend,  # type: ignore[type-abstract]
    "stablenet.backends",
    "stablenet.backends",
    set_check("capabilities", "capabilities", Capability),
)

__all__ = [
    "Availability",
    "Backend",
    "Callbacks",
    "Capability",
    "Limits",
    "NativeOption",
    "RelaxResult",
    "Session",
    "Settings",
    "SolveResult",
    "Status",
    "Tolerance",
    "Value",
    "registry",
]
