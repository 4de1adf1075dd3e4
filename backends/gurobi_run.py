"""One run of Gurobi: the meaning of its statuses, its bounds, and Ctrl-C while it runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from stablenet.backends.base import Status
from stablenet.backends.gurobi_licence import NO_LICENCE, TOO_LARGE

from stablenet.core.errors import LicenseError, SolverError

STATUS = {
    "OPTIMAL": Status.OPTIMAL,
    "INFEASIBLE": Status.INFEASIBLE,
    "INF_OR_UNBD": Status.UNBOUNDED,
    "UNBOUNDED": Status.UNBOUNDED,
    "NODE_LIMIT": Status.NODES,
    "TIME_LIMIT": Status.TIME,
    "MEM_LIMIT": Status.MEMORY,
    "INTERRUPTED": Status.INTERRUPTED,
    "USER_OBJ_LIMIT": Status.TARGET,
}


def take_back_interrupts() -> None:
    """Gurobi puts a handler of its own on Ctrl-C when it starts, which prints and swallows it; put Python's back."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def first_time(do: Callable[[], object]) -> Callable[[Any, int], None]:
    """A Gurobi callback that does something the first time only."""
    pending = [do]

    def heard(_model: Any, _where: int) -> None:
        if pending:
            pending.pop()()

    return heard


def known_bound(api: Any, value: float) -> float:
    """A bound of Gurobi's; NaN where it is infinite."""
    return float("nan") if abs(value) >= api.GRB.INFINITY else float(value)


def optimize(api: Any, model: Any, listener: Callable[[Any, int], None] | None) -> str:
    """Solve; Gurobi's own word for the outcome."""
    try:
        model.optimize(listener)
    except api.GurobiError as error:
        kind = LicenseError if error.errno in {TOO_LARGE, NO_LICENCE} else SolverError
        raise kind(f"Gurobi failed: {error}") from error
    names = {getattr(api.GRB, name): name for name in (*STATUS, "NUMERIC", "SUBOPTIMAL", "CUTOFF")}
    words = names.get(model.Status, f"status {model.Status}")
    if words not in STATUS:
        raise SolverError(f"Gurobi ended with {words}")
    return words
