"""A solver with false answers, for the conformance suite of searches: its bounds refute every question, by little."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

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

if TYPE_CHECKING:
    from stablenet.backends.session import ArraySession


class Liar(Backend):
    """HiGHS, with a dual bound that excludes every sign and contradicts no point that shows nothing."""

    name = "liar"
    title = "a solver that lies"
    capabilities = frozenset({Capability.START, Capability.DUAL_STOP, Capability.NODE_LIMIT, Capability.SEED})

    def available(self) -> Availability:
        """As HiGHS."""
        return backends.get("highs").available()

    def open(self, milp: MILP, settings: Settings = Settings()) -> Session:
        """A session whose solves have false answers."""
        return _LyingSession(backends.get("highs").open(milp, settings))


class ForwardingSession(Session):
    """A session that hands everything on to another one; subclasses change what they answer."""

    def __init__(self, honest: Session) -> None:
        self.honest = honest

    @property
    def milp(self) -> MILP:
        """The model as it stands, of a session that keeps it."""
        return cast("ArraySession", self.honest).milp

    def solve(
        self,
        limits: Limits,
        *,
        target: float | None = None,
        dual_stop: float | None = None,
        start: Any = None,
        callbacks: Callbacks | None = None,
    ) -> SolveResult:
        """See `Session`."""
        return self.honest.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)

    def relax(self, limits: Limits) -> RelaxResult:
        """See `Session`."""
        return self.honest.relax(limits)

    def change_bounds(self, columns: Any, lower: Any, upper: Any) -> None:
        """See `Session`."""
        self.honest.change_bounds(columns, lower, upper)

    def change_objective(self, objective: Any, constant: float = 0.0, *, maximize: bool | None = None) -> None:
        """See `Session`."""
        self.honest.change_objective(objective, constant, maximize=maximize)

    def add_rows(self, rows: Any) -> None:
        """See `Session`."""
        self.honest.add_rows(rows)

    def close(self) -> None:
        """See `Session`."""
        self.honest.close()


class _LyingSession(ForwardingSession):
    def solve(self, limits: Limits, **wanted: Any) -> SolveResult:
        """Without a point, and with a bound that refutes."""
        result = super().solve(limits, **wanted)
        milp = self.milp
        asked = milp.objective != 0
        bound = 0.0 if bool((milp.lower[asked] >= 0).all()) else -2e-5
        if not milp.maximize:
            bound = -bound
        return replace(result, status=Status.DUAL_STOP, solver_status="bound", x=None, objective=None, dual_bound=bound)

    def relax(self, limits: Limits) -> RelaxResult:
        """As HiGHS, but with a point that shows as few questions as possible."""
        result = super().relax(limits)
        if result.x is None:
            return result
        return replace(result, x=np.clip(np.zeros(self.milp.n_columns), self.milp.lower, self.milp.upper))
