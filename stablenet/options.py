"""The options of a search: what ``stablenet find`` and `find_stable` take, plain values that fit in JSON."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from stablenet.errors import InputError, UnknownNameError

INJECTIONS = ("relaxation", "random", "off")
REMOVALS = ("resolve", "callback")
DEFAULT_MARGIN = 1e-8


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a search.

    ``formulation``, ``bounds``, ``solver`` and ``search`` follow the grammar ``name[:argument]``; ``samples`` is a
    file of points; ``inject`` says which forward passes are offered to the solver, ``removal`` how closed
    questions leave the single MILP; ``margin`` is the relaxation of each row in the scaled model (0: the
    paper's model); times are in seconds, memory in megabytes; ``permute`` seeds a permutation of rows and columns.
    """

    formulation: str = "bigm"
    bounds: str = "crown"
    solver: str = "highs"
    search: str = "auto"
    samples: str | None = None
    inject: str = "relaxation"
    removal: str = "resolve"
    decide_by_bounds: bool = True
    falsify: bool = True
    margin: float = DEFAULT_MARGIN
    resume: str | None = None
    check_with: str | None = None
    time_limit: float | None = None
    memory_limit: float | None = None
    threads: int = 0
    seed: int = 0
    permute: int | None = None
    solver_log: str | None = None

    def __post_init__(self) -> None:
        if self.inject not in INJECTIONS:
            raise UnknownNameError("injection", self.inject, INJECTIONS)
        if self.removal not in REMOVALS:
            raise UnknownNameError("removal", self.removal, REMOVALS)
        if not 0.0 <= self.margin < 0.1:
            raise InputError(f"margin {self.margin}; a number from 0 to 0.1 is expected (default {DEFAULT_MARGIN})")
        for what in ("time_limit", "memory_limit"):
            value = getattr(self, what)
            if value is not None and not value > 0:
                raise InputError(f"{what.replace('_', ' ')} {value}; a number above 0 is expected")
        if self.threads < 0:
            raise InputError(f"threads {self.threads}; a number from 1 up is expected (0: all cores)")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed}; a number from 0 to 2147483647 is expected")
        if self.threads == 0:
            object.__setattr__(self, "threads", usable_cores())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse; unknown keys raise."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownNameError("option", key, known)
        return cls(**values)

    @property
    def tolerance(self) -> float:
        """Feasibility and integrality tolerance of solvers: at most a tenth of the margin."""
        return 1e-9 if self.margin == 0.0 else min(1e-6, max(1e-10, self.margin / 10.0))

    @property
    def log_path(self) -> Path | None:
        """Where the solver's log goes."""
        return None if self.solver_log is None else Path(self.solver_log)
