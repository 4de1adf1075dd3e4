"""The solvers and the formulations as data and as tables (`stablenet solvers`, `stablenet formulations`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stablenet.backends.base import Backend, Capability
from stablenet.backends.base import registry as backend_registry
from stablenet.formulations.base import Formulation
from stablenet.formulations.base import registry as formulation_registry

if TYPE_CHECKING:
    from rich.console import Console

_SHORT = {
    Capability.SOS1: "SOS1",
    Capability.INDICATOR: "indicators",
    Capability.START: "start",
    Capability.TARGET: "target",
    Capability.DUAL_STOP: "dual stop",
    Capability.INCUMBENT: "incumbents",
    Capability.PROPOSE: "injection",
    Capability.LP_POINT: "LP point",
    Capability.LAZY: "lazy rows",
    Capability.CUTS: "cuts",
    Capability.DUALS: "duals",
    Capability.RESOLVE: "re-solve",
    Capability.NODE_LIMIT: "nodes",
    Capability.MEMORY_LIMIT: "memory",
    Capability.THREADS: "threads",
    Capability.SEED: "seed",
    Capability.ROOT_BOUND: "root bound",
}


def solvers_data() -> dict[str, Any]:
    """Every solver of the registry as JSON-ready data; no licence is asked for.

    ``installed`` says whether it can be used, else ``install`` how to get it. ``licence`` is a sentence or null,
    the limits are those of a size-limited licence or null. ``capabilities`` has all of `Capability` by name.
    """
    backends = [backend for cls in backend_registry.classes.values() for backend in cls.listed()]
    return {
        "capabilities": {capability.name.lower(): capability.value for capability in Capability},
        "solvers": [_solver_entry(backend) for backend in backends],
    }


def _solver_entry(backend: Backend) -> dict[str, Any]:
    state = backend.available()
    return {
        "solver": backend.spec,
        "title": backend.title,
        "installed": state.installed,
        "version": state.version,
        "install": state.install,
        "licence": state.licence,
        "max_columns": state.max_columns,
        "max_rows": state.max_rows,
        "tolerance": {**vars(backend.tolerance), "slack": backend.tolerance.slack},
        "capabilities": {c.name.lower(): backend.supports(c) for c in Capability},
    }


def render_solvers(data: dict[str, Any], console: Console) -> None:
    """Print the table of what is installed and that of what it can do."""
    from rich.table import Table

    own = [one for one in data["solvers"] if ":" not in one["solver"]]
    others = [one for one in data["solvers"] if ":" in one["solver"] and one["installed"]]
    about = Table(box=None, pad_edge=False)
    for heading in ("solver", "state", "version", "tolerance", "margin", "note"):
        about.add_column(heading, overflow="fold")
    for one in own:
        state = "installed" if one["installed"] else "missing"
        about.add_row(one["solver"], state, one["version"] or "", *_tolerance(one), _note(one))
    console.print(about)
    console.print()
    can = Table(box=None, pad_edge=False)
    can.add_column("capability")
    for one in own:
        can.add_column(one["solver"], justify="center")
    for capability in Capability:
        marks = ["yes" if one["capabilities"][capability.name.lower()] else "-" for one in own]
        can.add_row(capability.value, *marks)
    console.print(can)
    if others:
        console.print("\nThrough other packages, slower:")
    for one in others:
        words = [_SHORT[c] for c in Capability if one["capabilities"][c.name.lower()]]
        console.print(f"  {one['solver']}  ({', '.join(words) or 'plain solves only'})", highlight=False)
    console.print("\nWhat a solver lacks is worked around or refused before anything is built: docs/solvers.md.")


def _tolerance(one: dict[str, Any]) -> tuple[str, str]:
    """Feasibility and integrality tolerance, one number where they are equal, and the margin of a search."""
    found = one["tolerance"]
    numbers = dict.fromkeys((f"{found['feasibility']:g}", f"{found['integrality']:g}"))
    return " / ".join(numbers), f"{found['margin']:g}"


def _note(one: dict[str, Any]) -> str:
    return str((one["licence"] or "") if one["installed"] else one["install"])


def formulations_data() -> list[dict[str, Any]]:
    """All formulations as JSON-ready data, one entry per class, its variants by specification."""
    return [_formulation_entry(cls) for cls in formulation_registry.classes.values()]


def _formulation_entry(cls: type[Formulation]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "title": cls.title,
        "paper": cls.paper,
        "equations": cls.equations,
        "exact": cls.exact,
        "module": cls.__module__,
        "variants": [_formulation_variant(formulation_registry.get(spec)) for spec in cls.variants or (cls.name,)],
    }


def _formulation_variant(formulation: Formulation) -> dict[str, Any]:
    return {
        "spec": formulation.spec,
        "requires": sorted(capability.value for capability in formulation.requires),
        "cuts": formulation.cuts,
    }


def render_formulations(data: list[dict[str, Any]], console: Console) -> None:
    """Print the table, one row per variant."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("formulation", no_wrap=True)
    for heading in ("what it is", "needs", "paper"):
        table.add_column(heading, overflow="fold")
    for entry in data:
        told = (entry["title"], entry["paper"])
        for variant in entry["variants"]:
            table.add_row(variant["spec"], told[0], ", ".join(variant["requires"]) or "-", told[1])
            told = ("", "")
    console.print(table)
