"""What the sessions of this package share: the model as it stands, and the check of every answer."""

from __future__ import annotations

import importlib
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from stablenet.backends.base import (
    Backend,
    Callbacks,
    Capability,
    Limits,
    RelaxResult,
    Session,
    Settings,
    SolveResult,
    Status,
)
from stablenet.backends.model_checks import check_bounds, check_model, check_objective, check_rows
from stablenet.backends.request import (
    Request,
    check_limits,
    check_start,
    limit_needs,
    model_needs,
    refuse_lacking,
    request_needs,
)
from stablenet.backends.thread import SolverThread, Stopped

from stablenet.core.arrays import Array
from stablenet.core.errors import NotInstalledError, SolverError, UnsupportedError
from stablenet.milp.arrays import MILP, Rows

POINT_TOLERANCE = 1e-5
"""How far a solver's point may violate the model, relative to the largest term of a row, before it is a failure."""

VALUE_TOLERANCE = 1e-6
"""How far a bound and a value that should agree may differ, relative to the largest possible sum of terms."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a solver, unchecked, in the sense of the MILP; ``dual_bound`` is NaN where it gave none."""

    status: Status
    words: str
    x: Array | None = None
    dual_bound: float = np.nan
    nodes: int | None = None
    root_bound: float | None = None


class Watch:
    """What one solve has shown so far and why it is to stop; the solver's callbacks write it."""

    def __init__(self, milp: MILP, request: Request, thread: SolverThread[Answer]) -> None:
        self.milp = milp
        self.request = request
        self.thread = thread
        self.reason: Status | None = None
        self.dual_bound = no_bound(milp)
        self.best = -no_bound(milp)
        self.root_bound: float | None = None

    def better(self, a: float, b: float) -> bool:
        """Whether objective value a is better than b."""
        return a > b if self.milp.maximize else a < b

    def saw_bound(self, bound: float) -> None:
        """A valid dual bound; keeps the tightest and stops at ``dual_stop``."""
        if not np.isnan(bound) and self.better(self.dual_bound, bound):
            self.dual_bound = float(bound)
        stop = self.request.dual_stop
        if stop is not None and not self.better(self.dual_bound, stop):
            self.stop(Status.DUAL_STOP)

    def saw_point(self, x: Array) -> None:
        """A new incumbent; tells the search and stops at ``target``."""
        value = self.milp.value(x)
        if not self.better(value, self.best):
            return
        self.best = value
        told = self.request.callbacks.on_incumbent
        if told is not None and self.ask(told, x, value):
            self.stop(Status.INTERRUPTED)
        target = self.request.target
        if target is not None and not self.better(target, value):
            self.stop(Status.TARGET)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A callback of the search's, run on the asking thread; None once it failed."""
        try:
            return self.thread.call(function, *arguments)
        except Stopped:
            self.stop(Status.INTERRUPTED)
            return None

    def stop(self, reason: Status) -> None:
        """Remember the first reason to stop."""
        self.reason = self.reason or reason


class ArraySession(Session):
    """A session that keeps the current `MILP` and checks what its solver answers against it.

    Models that `trivial_answer` decides never reach ``_answer``; ``uncrossed`` serves to load them.
    A subclass implements ``_answer``, ``_relaxation`` and the three ``_apply_`` calls, which see the new
    model as ``self.milp``. A session that failed or was interrupted refuses to go on.
    """

    def __init__(self, backend: Backend, milp: MILP, settings: Settings) -> None:
        check_model(milp)
        refuse_lacking(backend, model_needs(milp))
        self.backend = backend
        self.milp = replace(milp, rows=canonical(milp.rows))
        self.settings = settings
        self._broken: str | None = None
        self._abandoned = False

    @abstractmethod
    def _answer(self, request: Request) -> Answer:
        """Solve; what the solver said."""

    @abstractmethod
    def _relaxation(self, limits: Limits) -> RelaxResult:
        """Solve the LP relaxation."""

    @abstractmethod
    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        """Hand the changed bounds of these columns to the solver."""

    @abstractmethod
    def _apply_objective(self) -> None:
        """Hand the changed objective to the solver."""

    @abstractmethod
    def _apply_rows(self, rows: Rows) -> None:
        """Hand the rows just appended to the solver."""

    def solve(
        self,
        limits: Limits,
        *,
        target: float | None = None,
        dual_stop: float | None = None,
        start: Array | None = None,
        callbacks: Callbacks | None = None,
    ) -> SolveResult:
        """Solve the MILP; see `Session.solve`."""
        request = Request(limits, target, dual_stop, start, callbacks or Callbacks())
        self._check_usable()
        check_limits(limits)
        refuse_lacking(self.backend, request_needs(request))
        check_start(start, self.milp)
        began = time.perf_counter()
        try:
            answer = trivial_answer(self.milp) or self._answer(request)
            result = conclude(
                self.backend.title, self.milp, request, answer, time.perf_counter() - began, gap=self._gap
            )
        except UnsupportedError:
            raise
        except BaseException as error:
            self._broken = f"{type(error).__name__}: {error}"
            raise
        return result

    @property
    def _gap(self) -> float:
        """How far the bound of an optimum may be from its value, relative above 1."""
        return self.backend.default_gap if self.settings.defaults else 0.0

    def relax(self, limits: Limits) -> RelaxResult:
        """Solve the LP relaxation; see `Session.relax`."""
        self._check_usable()
        check_limits(limits)
        refuse_lacking(self.backend, {Capability.DUALS} | limit_needs(limits) - {Capability.NODE_LIMIT})
        began = time.perf_counter()
        try:
            known = trivial_answer(self.milp)
            if known is not None and known.status is not Status.OPTIMAL:
                return RelaxResult(known.status, known.words, None, None, None, None, time.perf_counter() - began)
            return self._relaxation(limits)
        except BaseException as error:
            self._broken = f"{type(error).__name__}: {error}"
            raise

    def change_bounds(self, columns: npt.NDArray[np.intp], lower: Array, upper: Array) -> None:
        """Replace the bounds of some columns; see `Session.change_bounds`."""
        self._check_usable()
        columns = np.asarray(columns, dtype=np.intp)
        new_lower, new_upper = self.milp.lower.copy(), self.milp.upper.copy()
        new_lower[columns], new_upper[columns] = lower, upper
        check_bounds("column", new_lower, new_upper)
        self.milp = replace(self.milp, lower=new_lower, upper=new_upper)
        self._apply_bounds(columns)

    def change_objective(self, objective: Array, constant: float = 0.0, *, maximize: bool | None = None) -> None:
        """Replace the objective; see `Session.change_objective`."""
        self._check_usable()
        sense = self.milp.maximize if maximize is None else maximize
        objective = np.array(objective, dtype=np.float64)
        check_objective(objective, constant, self.milp.n_columns)
        self.milp = replace(self.milp, objective=objective, constant=float(constant), maximize=sense)
        self._apply_objective()

    def add_rows(self, rows: Rows) -> None:
        """Append linear rows; see `Session.add_rows`."""
        self._check_usable()
        check_rows("added row", rows, self.milp.n_columns)
        rows = canonical(rows)
        self.milp = replace(self.milp, rows=stack_rows(self.milp.rows, rows), row_names=())
        self._apply_rows(rows)

    def _watched(self, request: Request, work: Callable[[Watch], Answer], stop: Callable[[], None]) -> Answer:
        """Run ``work`` on a solver thread; its answer, with what the watch saw on the way.

        ``work`` reports a stop that ``stop`` or the watch asked for as `Status.INTERRUPTED`.
        """
        thread: SolverThread[Answer] = SolverThread(stop)
        watch = Watch(self.milp, request, thread)
        try:
            answer = thread.run(lambda: work(watch), request.limits.time, request.callbacks.stop)
        finally:
            self._abandoned = thread.abandoned
        if answer.status is Status.INTERRUPTED:
            reason = watch.reason or (Status.TIME if thread.overran else Status.INTERRUPTED)
            answer = replace(answer, status=reason)
        if np.isnan(answer.dual_bound) or watch.better(answer.dual_bound, watch.dual_bound):
            answer = replace(answer, dual_bound=watch.dual_bound)
        told = request.callbacks.on_incumbent
        if told is not None and answer.x is not None and watch.better(self.milp.value(answer.x), watch.best):
            told(answer.x, self.milp.value(answer.x))
        return answer

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise SolverError(
                f"{self.backend.title}: this session ended with an error ({self._broken}); open a new one"
            )


class ResendingSession(ArraySession):
    """A session whose solver is given the whole model at every solve: changes need no call of their own."""

    def _apply_bounds(self, columns: npt.NDArray[np.intp]) -> None:
        del columns

    def _apply_objective(self) -> None:
        pass

    def _apply_rows(self, rows: Rows) -> None:
        del rows


def solver_module(module: str, backend: Backend) -> Any:
    """The solver's Python package, imported now; raises `NotInstalledError` saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(f"{backend.title} is not installed: {backend.available().install}") from error


def trivial_answer(milp: MILP) -> Answer | None:
    """The answer to models on which solvers differ or fail: crossed bounds, empty rows, no columns."""
    rows = milp.rows
    empty = np.diff(rows.matrix.indptr) == 0
    for what, bad in (
        ("column whose lower bound is above its upper", milp.lower > milp.upper),
        ("row whose lower side is above its upper", rows.lower > rows.upper),
        ("row without coefficients that 0 violates", empty & ((rows.lower > 0) | (rows.upper < 0))),
    ):
        if bad.any():
            return Answer(Status.INFEASIBLE, f"not given to the solver: a {what} ({int(np.argmax(bad))})")
    if milp.n_columns == 0:
        return Answer(Status.OPTIMAL, "not given to the solver: no columns", np.zeros(0), milp.constant, 0)
    return None


def uncrossed(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds that a solver accepts: where they cross, an arbitrary fixed value in their place."""
    return lower, np.maximum(lower, upper)


def stack_rows(first: Rows, second: Rows) -> Rows:
    """The rows of both, one above the other."""
    return Rows(
        sparse.csr_array(sparse.vstack([first.matrix, second.matrix], format="csr")),
        np.concatenate([first.lower, second.lower]),
        np.concatenate([first.upper, second.upper]),
    )


def no_bound(milp: MILP) -> float:
    """The infinite dual bound, which proves nothing."""
    return np.inf if milp.maximize else -np.inf


def canonical(rows: Rows) -> Rows:
    """The same rows without duplicate or explicit zero entries; the matrix is copied only if it has some."""
    matrix = rows.matrix
    if matrix.has_canonical_format and matrix.data.all():
        return rows
    matrix = matrix.copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return Rows(matrix, rows.lower, rows.upper)


def conclude(
    title: str, milp: MILP, request: Request, answer: Answer, seconds: float, *, gap: float = 0.0
) -> SolveResult:
    """The result that the answer supports; raises `SolverError` where it contradicts itself or the model.

    ``gap`` is how far an optimum's bound may be from its value, relative to the value where that is above 1.
    """
    if answer.status in {Status.INFEASIBLE, Status.UNBOUNDED}:
        answer = replace(answer, x=None, dual_bound=np.nan)
    if answer.x is None and answer.status in {Status.OPTIMAL, Status.TARGET}:
        raise SolverError(f"{title} reports {answer.words!r} but gives no solution")
    bound = no_bound(milp) if np.isnan(answer.dual_bound) else float(answer.dual_bound)
    objective = None
    if answer.x is not None:
        check_point(title, milp, answer.x)
        objective = milp.value(answer.x)
        bound = _agreed_bound(title, milp, request, answer, gap)
    stop = request.dual_stop
    if answer.status is Status.DUAL_STOP and stop is not None and (bound > stop if milp.maximize else bound < stop):
        raise SolverError(f"{title} stopped at dual bound {bound:.9g}, short of {stop:.9g}")
    root = None if answer.root_bound is None or not np.isfinite(answer.root_bound) else answer.root_bound
    return SolveResult(answer.status, answer.words, objective, answer.x, bound, seconds, answer.nodes, root)


def check_point(title: str, milp: MILP, x: Array) -> None:
    """Raise `SolverError` for a point that is not a solution of the model, by more than any tolerance explains."""
    if x.shape != (milp.n_columns,) or not np.isfinite(x).all():
        raise SolverError(f"{title} returned a point that is not {milp.n_columns} finite numbers")
    violation = milp.violation(x)
    if violation <= POINT_TOLERANCE:
        return
    # Tolerances of some solvers are relative to the row's terms.
    largest = max(1.0, float(abs(milp.rows.matrix).multiply(np.abs(x)).max()) if milp.n_nonzeros else 1.0)
    fraction = float(np.abs(x - np.round(x))[milp.integer].max(initial=0.0))
    if violation > POINT_TOLERANCE * largest or fraction > POINT_TOLERANCE:
        raise SolverError(f"{title} returned a point that violates the model by {violation:.3g}")


def _agreed_bound(title: str, milp: MILP, request: Request, answer: Answer, gap: float) -> float:
    """The dual bound, checked against the point and the status."""
    x = answer.x
    if x is None:
        raise ValueError("an answer with a point is expected")
    value, sign = milp.value(x), 1.0 if milp.maximize else -1.0
    bound = no_bound(milp) if np.isnan(answer.dual_bound) else float(answer.dual_bound)
    slack = VALUE_TOLERANCE * max(1.0, abs(milp.constant) + float(np.abs(milp.objective) @ np.abs(x)))
    if sign * (bound - value) < -slack:
        raise SolverError(f"{title}: its dual bound {bound:.9g} excludes its own solution of value {value:.9g}")
    if answer.status is Status.OPTIMAL and sign * (bound - value) > slack + 2.0 * gap * max(1.0, abs(value)):
        raise SolverError(f"{title} reports {answer.words!r} with value {value:.9g} and dual bound {bound:.9g}")
    target = request.target
    if answer.status is Status.TARGET and target is not None and sign * (target - value) > slack:
        raise SolverError(f"{title} reports the target {target:.9g} reached with value {value:.9g}")
    # The point is feasible, so no valid bound lies beyond it: what is left is rounding.
    return max(bound * sign, value * sign) * sign
