"""The parts of a run that are chosen by name: looked up, and checked for working together before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stablenet.backends.base import Backend
from stablenet.backends.base import registry as backends
from stablenet.backends.native_options import parse_options
from stablenet.bounds import registry as bound_methods
from stablenet.core.errors import NotInstalledError
from stablenet.core.options import Options
from stablenet.formulations.base import Formulation
from stablenet.formulations.base import registry as formulations
from stablenet.search.base import check_combination, tolerances_used
from stablenet.search.base import registry as searches

LOOK_UP: Mapping[str, Callable[[str], Any]] = {
    "formulation": formulations.get,
    "bounds": bound_methods.get,
    "search": searches.get,
    "solver": backends.get,
}
"""The part that a text ``name[:argument]`` stands for, by kind; raises `UnknownNameError`."""


def solvers_of(options: Options) -> list[Backend]:
    """The solver of a run, and the one that repeats its refutations, if there is one."""
    return [backends.get(name) for name in (options.solver, options.check_with) if name is not None]


def check_installed(solver: Backend) -> None:
    """Raise `NotInstalledError`, which says how to install it, if a solver is missing."""
    available = solver.available()
    if not available.installed:
        raise NotInstalledError(f"solver {solver.name!r} is not installed; {available.install}")


def check_together(formulation: Formulation, options: Options) -> None:
    """Raise `UnsupportedError` where a solver lacks what a formulation or an option needs."""
    solver, *others = solvers_of(options)
    check_combination(formulation, solver, options)
    for other in others:
        check_combination(formulation, other)


def check_solver_options(solver: str, texts: tuple[str, ...]) -> None:
    """Raise `InputError` for texts ``NAME=VALUE`` that are no options of a solver."""
    parse_options(backends.get(solver), texts)


def margin_of(options: Options) -> float:
    """Relaxation of each row of a run's scaled models: the largest that one of its solvers needs."""
    return max(float(row["margin"]) for row in tolerances_used(options))
