"""Solvers' answers held against feasible points of our own: what a point disproves is recorded and never used.

Every solve has such points in hand: forward passes are feasible by construction. An "infeasible", an optimum or a dual
bound that one of them beats is wrong, whatever proved it. `disproof` decides; `CheckedSession` puts every solve of a
session through it, and asks once more with safer settings before it gives up an answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from stablenet.backends.base import Backend, Callbacks, Limits, RelaxResult, Session, Settings, SolveResult, Status
from stablenet.backends.session import check_point, stack_rows

from stablenet.core.arrays import Array
from stablenet.core.errors import SolverError
from stablenet.milp.arrays import MILP, Rows

FEASIBLE = 1e-9
"""Largest violation at which a point of ours counts as a solution: rounding, and far below solvers' tolerances."""

SAFER = 1e-6
"""Tolerance of the second attempt after a failure, which also goes without presolve."""

MOST_FAILURES = 25
"""Questions in a row, each asked twice, on which a solver may fail before a run gives it up."""

SOLVES, RELAXATIONS = "solves", "relaxations"

CHECKED = 16
"""How many points, best values first, are checked against the rows for one answer."""


LARGEST = 1e5
"""Row coefficients up to which a bound is believed. Rows are scaled so that those of trained networks stay below 100;
where terms cancel they reach 1e11, and a solver's rounding of them exceeds any margin (HiGHS refutes falsely there)."""


@dataclass(frozen=True)
class SolverFailure:
    """An answer that is not used. Values are in the sense and units of the objective that the solver was given.

    ``claimed`` is the bound or value that the solver stated, ``ours`` the value of the point that disproves it
    (either is None where the failure is of another kind), ``status`` the solver's own words, ``sentence`` says
    it all in one sentence. ``left`` counts the questions that stay without an answer for it.
    """

    solver: str
    status: str
    claimed: float | None
    ours: float | None
    sentence: str
    left: int = 0

    def to_json(self, by: str) -> dict[str, Any]:
        """Plain values for a report; ``by`` is the search or bound method that asked."""
        return {"by": by, **asdict(self)}


class SolverFailedError(SolverError):
    """A solver's answer was disproved, or none came, twice; ``failure`` says how.

    ``told`` is set where the report has said before that the solver is given up: this question was not even asked.
    """

    def __init__(self, failure: SolverFailure, *, told: bool = False) -> None:
        self.failure = failure
        self.told = told
        super().__init__(failure.sentence)


@dataclass
class FailuresInRow:
    """How often the solvers of a run have failed without an answer in between; shared by all sessions of the run.

    Solves and relaxations (``what``) count apart. After ``most`` failures a solver is given up: a search whose every
    question fails would otherwise go on until its time is over.
    """

    most: int = MOST_FAILURES
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def given_up(self, solver: str, what: str = SOLVES) -> bool:
        """Whether a solver is asked no more."""
        return self.counts[solver, what] >= self.most

    def answered(self, solver: str, what: str = SOLVES) -> None:
        """Begin to count anew: an answer came that can be used."""
        self.counts[solver, what] = 0

    def add(self, solver: str, what: str = SOLVES) -> SolverFailure | None:
        """Count a failure; with the last one, what the report is to say of it."""
        self.counts[solver, what] += 1
        return self.notice(solver, what) if self.counts[solver, what] == self.most else None

    def notice(self, solver: str, what: str) -> SolverFailure:
        """That a solver is given up."""
        words = f"{solver} failed in {self.most} {what} in a row; it is asked for no more of them in this run"
        return SolverFailure(solver, "given up", None, None, words)


def best_value(milp: MILP, points: Array, *, feasible: float = FEASIBLE) -> float | None:
    """The best objective value among those points, (b, n_columns), that are solutions; None if none is.

    Points are first clipped to the columns' bounds (columns may have been fixed since they were made); those of best
    value are then checked against rows, integrality, SOS1 sets and indicators.
    """
    if not len(points):
        return None
    inside = np.clip(points, milp.lower, milp.upper)
    values = inside @ milp.objective + milp.constant
    order = np.argsort(-values if milp.maximize else values, kind="stable")[:CHECKED]
    good = order[milp.violations(inside[order]) <= feasible]
    return float(values[good[0]]) if len(good) else None


def disproof(
    solver: str,
    milp: MILP,
    result: SolveResult,
    ours: float | None,
    *,
    slack: float,
    cutoff: float | None = None,
) -> SolverFailure | None:
    """What is wrong with an answer, or None.

    ``ours`` is the value of the best feasible point at hand (None: there is none), ``slack`` how far, in units of the
    objective, a stated bound may fall short of it. Where "infeasible" only means that nothing is beyond a cutoff, that
    is ``cutoff``. The solver's own point must be a solution and have the value that is stated for it, and its bound
    must not exclude it.
    """

    def failure(claimed: float | None, value: float | None, what: str) -> SolverFailure:
        finite = claimed if claimed is not None and np.isfinite(claimed) else None
        return SolverFailure(solver, result.solver_status, finite, value, f"{solver}: {what}; the answer is not used")

    def beaten(bound: float, value: float) -> bool:
        return value > bound + slack if milp.maximize else value < bound - slack

    words = repr(result.solver_status)
    if result.status is Status.INFEASIBLE:
        if ours is not None and (cutoff is None or beaten(cutoff, ours)):
            return failure(cutoff, ours, f"says {words}, and a point of value {ours:.9g} is a solution")
        return None
    if result.status is Status.UNBOUNDED:
        if np.isfinite(_reach(milp)):
            return failure(None, ours, f"says {words} of a model whose columns are bounded")
        return None
    if np.isnan(result.dual_bound):
        return failure(None, ours, f"says {words} with a bound that is not a number")
    if ours is not None and beaten(result.dual_bound, ours):
        return failure(
            result.dual_bound,
            ours,
            f"says {words} with bound {result.dual_bound:.9g}, and a feasible point has value {ours:.9g}",
        )
    if result.x is None:
        return None
    try:
        check_point(solver, milp, result.x)
    except SolverError as error:
        return failure(result.objective, ours, f"says {words}: {error}")
    value = milp.value(result.x)
    size = 1e-6 * (1.0 + float(np.abs(milp.objective) @ np.abs(result.x)) + abs(milp.constant))
    if result.objective is not None and not abs(value - result.objective) <= max(slack, size):
        return failure(
            result.objective, value, f"states the value {result.objective:.9g} for a point of value {value:.9g}"
        )
    short = value - result.dual_bound if milp.maximize else result.dual_bound - value
    if short > max(slack, size):
        return failure(
            result.dual_bound, value, f"states bound {result.dual_bound:.9g} beside its own point of value {value:.9g}"
        )
    return None


def _reach(milp: MILP) -> float:
    """The best objective value that the columns' bounds allow, infinite if they allow any."""
    cost = milp.objective if milp.maximize else -milp.objective
    with np.errstate(invalid="ignore"):
        terms = np.where(cost > 0, cost * milp.upper, np.where(cost < 0, cost * milp.lower, 0.0))
    return float(terms.sum())


def safer(settings: Settings) -> Settings:
    """Settings for a second attempt: looser tolerances, no presolve."""
    return replace(
        settings,
        feasibility=max(settings.feasibility, SAFER),
        integrality=max(settings.integrality, SAFER),
        presolve=False,
    )


class CheckedSession(Session):
    """A session whose answers are held against points of ours.

    ``own(milp)`` gives the value of the best feasible point at hand for the model as it then stands (None: none; see
    `best_value`), ``failed(failure)`` hears of every failure. After a failure the model is loaded anew and asked once
    more with `safer` settings (not where ``retry`` is False); if that fails too, `SolverFailedError` is raised and the
    session can still be used. ``slack`` is that of `disproof`. ``failures`` are those of the run, see `FailuresInRow`:
    of a solver that is given up every question fails at once.
    """

    def __init__(
        self,
        backend: Backend,
        milp: MILP,
        settings: Settings,
        *,
        own: Callable[[MILP], float | None],
        failed: Callable[[SolverFailure], None],
        slack: float | None = None,
        retry: bool = True,
        failures: FailuresInRow | None = None,
    ) -> None:
        self.backend = backend
        self.milp = milp
        self.settings = settings
        self.own = own
        self.failed = failed
        self.slack = 10.0 * max(settings.feasibility, settings.integrality) if slack is None else slack
        self.retry = retry
        self.failures = FailuresInRow() if failures is None else failures
        self._largest = float(np.abs(milp.rows.matrix.data).max(initial=0.0))
        self._session: Session | None = backend.open(milp, settings)

    def solve(
        self,
        limits: Limits,
        *,
        target: float | None = None,
        dual_stop: float | None = None,
        start: Array | None = None,
        callbacks: Callbacks | None = None,
    ) -> SolveResult:
        """See `Session.solve`. Raises `SolverFailedError` instead of giving an answer that is disproved."""
        began = time.monotonic()
        self._refuse_given_up(SOLVES)
        attempts = [self.settings, safer(self.settings)] if self.retry else [self.settings]
        for number, settings in enumerate(attempts):
            session = self._opened(settings)
            left = None if limits.time is None else max(0.0, limits.time - (time.monotonic() - began))
            failure: SolverFailure | None
            try:
                result = session.solve(
                    replace(limits, time=left), target=target, dual_stop=dual_stop, start=start, callbacks=callbacks
                )
                failure = disproof(self.backend.title, self.milp, result, self.own(self.milp), slack=self.slack)
            except SolverError as error:
                failure = SolverFailure(self.backend.title, type(error).__name__, None, None, str(error))
            except BaseException:
                self._drop()
                raise
            if failure is None:
                self.failures.answered(self.backend.title)
                if number:
                    self._drop()  # back to the settings asked for
                return self._proving_no_more_than_it_can(result)
            self._drop()
            if number + 1 == len(attempts):
                self._count(SOLVES)
                raise SolverFailedError(failure)
            self.failed(failure)
        raise AssertionError("there is a last attempt")

    def _proving_no_more_than_it_can(self, result: SolveResult) -> SolveResult:
        """The answer; without its bound where the coefficients are so large that rounding may have made it.

        Raises `SolverFailedError` where nothing remains: the point is not better than our own.
        """
        if self._largest <= LARGEST or result.status not in {Status.OPTIMAL, Status.DUAL_STOP}:
            return result
        sign = 1.0 if self.milp.maximize else -1.0
        own = self.own(self.milp)
        sentence = (
            f"{self.backend.title} says {result.solver_status!r} of a model with coefficients up to "
            f"{self._largest:.1e}; above {LARGEST:.0e} no margin covers its rounding: it proves nothing"
        )
        bound = float(result.dual_bound)
        failure = SolverFailure(self.backend.title, result.solver_status, bound, own, sentence)
        if result.objective is None or sign * result.objective <= (-np.inf if own is None else sign * own) + self.slack:
            raise SolverFailedError(failure)
        self.failed(failure)
        return replace(result, dual_bound=sign * np.inf)

    def _opened(self, settings: Settings) -> Session:
        if self._session is None:
            self._session = self.backend.open(self.milp, settings)
        return self._session

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def relax(self, limits: Limits) -> RelaxResult:
        """See `Session.relax`. Raises `SolverFailedError` where the solver fails."""
        self._refuse_given_up(RELAXATIONS)
        try:
            result = self._opened(self.settings).relax(limits)
        except SolverError as error:
            self._drop()
            self._count(RELAXATIONS)
            sentence = f"{error} (a linear relaxation)"
            raise SolverFailedError(
                SolverFailure(self.backend.title, type(error).__name__, None, None, sentence)
            ) from error
        except BaseException:
            self._drop()
            raise
        self.failures.answered(self.backend.title, RELAXATIONS)
        return result

    def _refuse_given_up(self, what: str) -> None:
        if self.failures.given_up(self.backend.title, what):
            raise SolverFailedError(self.failures.notice(self.backend.title, what), told=True)

    def _count(self, what: str) -> None:
        last = self.failures.add(self.backend.title, what)
        if last is not None:
            self.failed(last)

    def change_bounds(self, columns: npt.NDArray[np.intp], lower: Array, upper: Array) -> None:
        """See `Session.change_bounds`."""
        new_lower, new_upper = self.milp.lower.copy(), self.milp.upper.copy()
        new_lower[columns], new_upper[columns] = lower, upper
        if self._session is not None:
            self._session.change_bounds(columns, lower, upper)
        self.milp = replace(self.milp, lower=new_lower, upper=new_upper)

    def change_objective(self, objective: Array, constant: float = 0.0, *, maximize: bool | None = None) -> None:
        """See `Session.change_objective`."""
        if self._session is not None:
            self._session.change_objective(objective, constant, maximize=maximize)
        sense = self.milp.maximize if maximize is None else maximize
        self.milp = replace(self.milp, objective=np.array(objective, float), constant=float(constant), maximize=sense)

    def add_rows(self, rows: Rows) -> None:
        """See `Session.add_rows`."""
        if self._session is not None:
            self._session.add_rows(rows)
        self.milp = replace(self.milp, rows=stack_rows(self.milp.rows, rows), row_names=())

    def close(self) -> None:
        """See `Session.close`."""
        self._drop()
