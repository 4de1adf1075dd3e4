"""The frame of the backend suite: a case, what it needs, how it fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stablenet.backends.base import Backend, Capability, Limits, SolveResult, Status
from stablenet.core.errors import StablenetError
from stablenet.milp.arrays import MILP
from stablenet.testing.models import Known

VALUE = 1e-6
"""How far a value may be off, relative to itself where it is above 1."""

POINT = 1e-6
"""How far a returned point may violate the model."""

PLENTY = Limits(time=30.0)
"""For models that take milliseconds: a solver that needs more hangs."""


class ConformanceError(StablenetError, AssertionError):
    """A part that does not keep its contract."""


@dataclass(frozen=True)
class Case:
    """One demand on a backend: ``check(backend)`` raises `ConformanceError`, or whatever the backend raises."""

    name: str
    check: Callable[[Backend], None]
    needs: frozenset[Capability] = frozenset()

    def lacking(self, backend: Backend) -> list[str]:
        """The capabilities that the case needs and the backend does not declare."""
        return sorted(capability.value for capability in self.needs - backend.capabilities)


@dataclass
class ConformanceResult:
    """The cases that passed, those that failed and why, and those that do not apply and what they need."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, list[str]] = field(default_factory=dict)


def slowness() -> float:
    """How many times longer than on an idle machine things may take now: tasks that want to run, per core; at least 1.

    From the kernel's load average and its count of running tasks, 1 where there is neither. Seconds that a case allows
    are multiplied by it, so that other work on the machine makes no case fail.
    """
    try:
        words = Path("/proc/loadavg").read_text(encoding="ascii").split()
        waiting = max(float(words[0]), float(words[3].partition("/")[0]))
    except (OSError, ValueError, IndexError):
        waiting = os.getloadavg()[0] if hasattr(os, "getloadavg") else 1.0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1.0, waiting / cores)


def demand(condition: object, complaint: str) -> None:
    """Raise `ConformanceError` unless the condition holds."""
    if not condition:
        raise ConformanceError(complaint)


def close(a: float | None, b: float) -> bool:
    """Whether two values agree within `VALUE`."""
    return a is not None and abs(a - b) <= VALUE * max(1.0, abs(b))


def check_answer(what: str, known: Known, result: SolveResult) -> None:
    """The status, and for an optimum its value, point and bound."""
    demand(
        result.status is known.status,
        f"{what}: {known.status.value} is right, the answer is {result.status.value} ({result.solver_status})",
    )
    if known.status is not Status.OPTIMAL:
        demand(result.x is None and result.objective is None, f"{what}: {result.status.value}, and yet a solution")
        demand(not np.isfinite(result.dual_bound), f"{what}: {result.status.value}, and yet a bound")
        return
    demand(close(result.objective, known.optimum), f"{what}: optimum {known.optimum}, not {result.objective}")
    demand(close(result.dual_bound, known.optimum), f"{what}: optimal with a dual bound of {result.dual_bound}")
    check_point(what, known.milp, result)


def check_point(what: str, milp: MILP, result: SolveResult) -> None:
    """A returned point is a solution with the value that is claimed for it."""
    demand(result.x is not None, f"{what}: no point")
    if result.x is None:
        return
    demand(result.x.shape == (milp.n_columns,), f"{what}: a point of shape {result.x.shape}")
    scale = max(1.0, float(np.abs(milp.rows.matrix.data).max(initial=0.0)))
    violation = milp.violation(result.x)
    demand(violation <= POINT * scale, f"{what}: the point violates the model by {violation}")
    demand(close(result.objective, milp.value(result.x)), f"{what}: the point has not the value {result.objective}")


def check_stop(what: str, milp: MILP, known_value: float, result: SolveResult) -> None:
    """The answer of a stopped solve is true: ``known_value`` is that of some solution."""
    sign = 1.0 if milp.maximize else -1.0
    slack = VALUE * max(1.0, abs(known_value))
    demand(
        sign * (result.dual_bound - known_value) >= -slack,
        f"{what}: dual bound {result.dual_bound}, but there is a solution of value {known_value}",
    )
    if result.x is not None:
        check_point(what, milp, result)
        demand(
            result.objective is not None and sign * (result.dual_bound - result.objective) >= -slack,
            f"{what}: dual bound {result.dual_bound} beyond the returned solution of value {result.objective}",
        )
    if result.status is Status.OPTIMAL:
        demand(
            result.objective is not None and sign * (result.objective - known_value) >= -slack,
            f"{what}: 'optimal' at {result.objective}, but there is a solution of value {known_value}",
        )
        demand(close(result.objective, result.dual_bound), f"{what}: 'optimal' with a gap")
