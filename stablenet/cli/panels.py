"""Help that shows options in groups, the most important first, and names that a shell can complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

COMPLETION = "_STABLENET_COMPLETE"
"""The variable by which a shell asks for completions, once ``--install-completion`` was called."""

MAIN = "Main options"

PANELS: dict[str, dict[str, tuple[str, ...]]] = {
    "find": {
        MAIN: ("domain", "search", "bounds", "solver", "time_limit", "output"),
        "Other files": ("page", "resume", "samples", "proof", "solver_log"),
        "The MILP": ("formulation", "inject", "removal", "margin", "check_with", "certify", "permute"),
        "What verdicts speak of": ("arithmetic",),
        "The solver": ("solver_option", "solver_defaults", "early_stop"),
        "Steps that can be left out": ("decide_by_bounds", "falsify", "start", "tighten"),
        "Resources": ("memory_limit", "threads", "workers", "scheduler", "seed"),
    },
    "compress": {
        MAIN: ("report", "domain", "output", "tolerance", "merge", "dtype"),
        "The result and its check": ("dense", "arithmetic", "samples", "check", "as_json"),
        "Without a report: the search for stable neurons": (
            "search",
            "bounds",
            "solver",
            "formulation",
            "time_limit",
        ),
        "Resources": ("memory_limit", "threads", "seed"),
    },
    "verify": {
        MAIN: ("domain", "tolerance", "time_limit", "report", "output", "as_json"),
        "What is asked": ("wanted", "norm", "bound", "reading", "arithmetic", "proof"),
        "How": ("steps", "solver", "formulation"),
        "Resources": ("memory_limit", "threads", "seed"),
    },
}
"""For each command, its options by group, in the order in which help shows them. A test compares with the commands."""


class Grouped(TyperCommand):
    """A command whose help shows options in the groups of `PANELS`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each group, then options without a group, such as ``--help``."""
        records: dict[str, Any] = {}
        arguments = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
            else:
                records[str(parameter.name)] = record
        groups = {"Arguments": arguments}
        for title, names in PANELS[str(self.name)].items():
            groups[title] = [records.pop(name) for name in names if name in records]
        groups["Other options"] = list(records.values())
        for title, rows in groups.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def names_of(kind: str) -> Callable[[str], list[str]]:
    """A function that lists the names of a registry that begin with what was typed, for completion by a shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in _names(kind) if name.startswith(incomplete)]

    return complete


def _names(kind: str) -> tuple[str, ...]:
    if kind == "bounds":
        from stablenet.bounds import registry

        return registry.names()
    if kind == "formulation":
        from stablenet.formulations.base import registry as formulations

        return formulations.names()
    if kind == "search":
        from stablenet.search.base import registry as searches

        return searches.names()
    from stablenet.backends.base import registry as backends

    return backends.names()
