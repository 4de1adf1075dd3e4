"""A solver that lies, for the conformance suite of searches: its bounds refute everything, by little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from stablenet.backends.base import (
    Availability,
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
from stablenet.backends.base import registry as backends
from stablenet.milp.arrays import MILP


class Liar(Backend):
    """HiGHS, with a dual bound that excludes every sign and contradicts no point that shows nothing."""

    name = "liar"
    title = "a solver that lies"
    capabilities = frozenset({Capability.START, Capability.DUAL_STOP, Capability.NODE_LIMIT, Capability.SEED})

    def available(self) -> Availability:
        """As HiGHS."""
        return backends.get("highs").available()

    def open(self, milp: MILP, settings: Settings = Settings()) -> Session:
        """A session whose solves lie."""
        return _LyingSession(backends.get("highs").open(milp, settings), milp)


class _LyingSession(Session):
    def __init__(self, honest: Session, milp: MILP) -> None:
        self.honest = honest
        self.milp = milp

    def solve(
        self,
        limits: Limits,
        *,
        target: float | None = None,
        dual_stop: float | None = None,
        start: Any = None,
        callbacks: Callbacks | None = None,
    ) -> SolveResult:
        """Without a point, and with a bound that refutes."""
        result = self.honest.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)
        milp = self.milp
        asked = milp.objective != 0
        bound = 0.0 if bool((milp.lower[asked] >= 0).all()) else -2e-5
        if not milp.maximize:
            bound = -bound
        return replace(result, status=Status.DUAL_STOP, solver_status="bound", x=None, objective=None, dual_bound=bound)

    def relax(self, limits: Limits) -> RelaxResult:
        """As HiGHS, but for the point, which shows as little as it can."""
        result = self.honest.relax(limits)
        if result.x is None:
            return result
        return replace(result, x=np.clip(np.zeros(self.milp.n_columns), self.milp.lower, self.milp.upper))

    def change_bounds(self, columns: Any, lower: Any, upper: Any) -> None:
        """As HiGHS."""
        low, high = self.milp.lower.copy(), self.milp.upper.copy()
        low[columns], high[columns] = lower, upper
        self.milp = replace(self.milp, lower=low, upper=high)
        self.honest.change_bounds(columns, lower, upper)

    def change_objective(self, objective: Any, constant: float = 0.0, *, maximize: bool | None = None) -> None:
        """As HiGHS."""
        sense = self.milp.maximize if maximize is None else maximize
        self.milp = replace(self.milp, objective=objective, constant=constant, maximize=sense)
        self.honest.change_objective(objective, constant, maximize=maximize)

    def add_rows(self, rows: Any) -> None:
        """As HiGHS."""
        self.honest.add_rows(rows)

    def close(self) -> None:
        """As HiGHS."""
        self.honest.close()
