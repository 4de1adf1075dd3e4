"""The solvers and the formulations as data and as tables (`stablenet solvers`, `stablenet formulations`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stablenet.backends.base import Backend, Capability
from stablenet.backends.base import registry as backend_registry
from stablenet.core.registry import listed
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
    ``broken`` are entries that cannot be used, by distribution and entry point, with the cause.
    """
    rows, broken = listed(backend_registry, lambda cls: [_solver_entry(backend) for backend in cls.listed()])
    return {
        "capabilities": {capability.name.lower(): capability.value for capability in Capability},
        "solvers": [entry for entries in rows for entry in entries],
        "broken": [entry.to_json() for entry in broken],
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
    from rich.text import Text

    own = [one for one in data["solvers"] if ":" not in one["solver"]]
    others = [one for one in data["solvers"] if ":" in one["solver"] and one["installed"]]
    about = Table(box=None, pad_edge=False)
    for heading in ("solver", "state", "version", "tolerance", "margin", "note"):
        about.add_column(heading, overflow="fold")
    for one in own:
        state = "installed" if one["installed"] else "missing"
        note = "" if one["licence"] is None or not one["installed"] else one["licence"]
        about.add_row(*map(Text, (one["solver"], state, one["version"] or "", *_tolerance(one), note)))
    console.print(about)
    for one in own:
        if not one["installed"]:
            # On a line of its own, unfolded and without markup: as it must be typed.
            console.print(Text(f"to install {one['solver']}: {one['install']}"), soft_wrap=True)
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


def formulations_data() -> list[dict[str, Any]]:
    """All formulations as JSON-ready data, one entry per class, its variants by specification; then broken ones."""
    rows, broken = listed(formulation_registry, _formulation_entry)
    return rows + [entry.to_json() for entry in broken]


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
    for entry in (entry for entry in data if "broken" not in entry):
        told = (entry["title"], entry["paper"])
        for variant in entry["variants"]:
            table.add_row(variant["spec"], told[0], ", ".join(variant["requires"]) or "-", told[1])
            told = ("", "")
    console.print(table)


def render_rows(data: list[dict[str, Any]], console: Console) -> None:
    """Print entries with the same keys as a table, without those that are broken."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in data[0]:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in data:
        if "broken" not in row:
            table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value or "-")
