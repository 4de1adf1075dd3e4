"""The solvers as data and as a table (`stablenet solvers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stablenet.backends.base import Backend, Capability, registry

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
    backends = [backend for cls in registry.classes.values() for backend in cls.listed()]
    return {
        "capabilities": {capability.name.lower(): capability.value for capability in Capability},
        "solvers": [_entry(backend) for backend in backends],
    }


def _entry(backend: Backend) -> dict[str, Any]:
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
        "capabilities": {c.name.lower(): backend.supports(c) for c in Capability},
    }


def render(data: dict[str, Any], console: Console) -> None:
    """Print the table of what is installed and that of what it can do."""
    from rich.table import Table

    own = [one for one in data["solvers"] if ":" not in one["solver"]]
    others = [one for one in data["solvers"] if ":" in one["solver"] and one["installed"]]
    about = Table(box=None, pad_edge=False)
    for heading in ("solver", "state", "version", "note"):
        about.add_column(heading, overflow="fold")
    for one in own:
        state = "installed" if one["installed"] else "missing"
        about.add_row(one["solver"], state, one["version"] or "", _note(one))
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


def _note(one: dict[str, Any]) -> str:
    return str((one["licence"] or "") if one["installed"] else one["install"])
