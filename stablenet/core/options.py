"""The options of a search: what ``stablenet find`` and `find_stable` take, plain values that fit in JSON."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, TypedDict

from stablenet.core.errors import InputError, UnknownNameError

INJECTIONS = ("relaxation", "random", "off")
REMOVALS = ("resolve", "callback")
SMALLEST_MARGIN = 1e-8
"""Ten times the smallest tolerance that every solver accepts."""


class FindOptions(TypedDict, total=False):
    """The same options as keywords, for editors and type checkers; a test compares them with `Options`."""

    formulation: str
    bounds: str
    solver: str
    search: str
    samples: str | None
    inject: str
    removal: str
    decide_by_bounds: bool
    falsify: bool
    start: bool
    tighten: bool
    certify: bool
    margin: float | None
    resume: str | None
    proof: str | None
    arithmetic: str
    check_with: str | None
    time_limit: float | None
    memory_limit: float | None
    threads: int
    seed: int
    permute: int | None
    solver_log: str | None
    solver_defaults: bool
    solver_options: tuple[str, ...]
    early_stop: bool


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a search.

    ``formulation``, ``bounds``, ``solver`` and ``search`` follow the grammar ``name[:argument]``; ``samples`` is a
    file of points; ``inject`` says where forward passes beside the solver come from, ``removal`` how closed
    questions leave the single MILP; with ``start`` the solver is offered a feasible point, with ``tighten`` what a
    search refutes fixes phases and tightens bounds in its later models; with ``certify`` what a solver refuted is
    proven anew without it; ``proof`` is a file for certificates of refutations; ``arithmetic``
    "float32" makes verdicts hold for every evaluation in float32 too; ``margin`` is the relaxation of each
    row in the scaled model (None: what the solver was measured to need; 0: the paper's model); times are in seconds,
    memory in megabytes; ``permute`` seeds a permutation of rows and columns. With ``solver_defaults`` the solver keeps
    its own defaults, threads, limits and seed apart; ``solver_options`` are texts ``NAME=VALUE`` with the solver's own
    names; without ``early_stop`` no solve ends at the first solution that shows a question, which some solvers cannot
    do.
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
    start: bool = True
    tighten: bool = True
    certify: bool = True
    margin: float | None = None
    resume: str | None = None
    proof: str | None = None
    arithmetic: str = "real"
    check_with: str | None = None
    time_limit: float | None = None
    memory_limit: float | None = None
    threads: int = 0
    seed: int = 0
    permute: int | None = None
    solver_log: str | None = None
    solver_defaults: bool = False
    solver_options: tuple[str, ...] = ()
    early_stop: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.solver_options, list):  # from JSON, which has no tuples
            object.__setattr__(self, "solver_options", tuple(self.solver_options))
        self._check_types()
        if self.inject not in INJECTIONS:
            raise UnknownNameError("injection", self.inject, INJECTIONS)
        if self.removal not in REMOVALS:
            raise UnknownNameError("removal", self.removal, REMOVALS)
        if self.arithmetic != "real":  # known without SciPy, which reports and help do not need
            from stablenet.core.float32 import check_arithmetic

            check_arithmetic(self.arithmetic)
        if self.arithmetic == "float32" and self.proof is not None:
            raise InputError("--proof and --arithmetic float32: proofs speak of real arithmetic only; leave one out")
        if not (self.margin is None or self.margin == 0.0 or SMALLEST_MARGIN <= self.margin < 0.1):
            raise InputError(
                f"margin {self.margin}; 0, or a number from {SMALLEST_MARGIN} to 0.1, is expected "
                "(default: the solver's own)"
            )
        for what in ("time_limit", "memory_limit"):
            value = getattr(self, what)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{what.replace('_', ' ')} {value}; a finite number above 0 is expected")
        if self.threads < 0:
            raise InputError(f"threads {self.threads}; a number from 1 up is expected (0: all cores)")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed}; a number from 0 to 2147483647 is expected")
        if self.permute is not None and self.permute < 0:
            raise InputError(f"permute {self.permute}; a number from 0 up is expected")
        if self.threads == 0:
            object.__setattr__(self, "threads", usable_cores())

    def _check_types(self) -> None:
        """Raise `InputError` for a value of the wrong type."""
        for field in fields(self):
            value = getattr(self, field.name)
            kind, _, optional = str(field.type).partition(" | ")
            if value is None and optional:
                continue
            fits = {
                "str": isinstance(value, str),
                "bool": isinstance(value, bool),
                "int": isinstance(value, int) and not isinstance(value, bool),
                "float": isinstance(value, int | float) and not isinstance(value, bool),
                "tuple[str, ...]": isinstance(value, tuple) and all(isinstance(text, str) for text in value),
            }
            if not fits[kind]:
                raise InputError(f"{field.name.replace('_', ' ')} {value!r}; a value of type {kind} is expected")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "solver_options": list(self.solver_options)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse; unknown keys raise."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownNameError("option", key, known)
        return cls(**values)

    @property
    def log_path(self) -> Path | None:
        """Where the solver's log goes."""
        return None if self.solver_log is None else Path(self.solver_log)
