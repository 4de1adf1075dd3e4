"""What formulations there are, as data and as text (`stablenet formulations`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stablenet.core.registry import listed
from stablenet.formulations.base import Formulation, registry

if TYPE_CHECKING:
    from rich.console import Console


def formulations_data() -> list[dict[str, Any]]:
    """All formulations as JSON-ready data, one entry per class, its variants by specification; then broken ones."""
    rows, broken = listed(registry, _entry)
    return rows + [entry.to_json() for entry in broken]


def _entry(cls: type[Formulation]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "title": cls.title,
        "paper": cls.paper,
        "equations": cls.equations,
        "exact": cls.exact,
        "module": cls.__module__,
        "variants": [_variant(registry.get(spec)) for spec in cls.variants or (cls.name,)],
    }


def _variant(formulation: Formulation) -> dict[str, Any]:
    return {
        "spec": formulation.spec,
        "requires": sorted(capability.value for capability in formulation.requires),
        "cuts": formulation.cuts,
    }


def render(data: list[dict[str, Any]], console: Console) -> None:
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
