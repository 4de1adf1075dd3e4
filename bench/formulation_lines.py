"""The lines of the table of formulations, from the rows of a sweep and the figures of its models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

HEADS = (
    "formulation", "solver", "binaries", "rows", "columns", "nonzeros", "LP bound", "root bound", "tighten s",
    "build s", "load s", "cuts s", "solver s", "CPU s", "nodes", "active", "inactive", "unstable", "unknown", "ended",
)  # fmt: skip


def table(rows: list[Row], facts: dict[str, Row], wrong: list[Row], *, command: str) -> Iterator[str]:
    """Markdown: how it was made, contradictions, then for each instance and bounds one table."""
    machine = next((json.loads(row["machine"]) for row in rows), {})
    loads = [row["load"] for row in rows if row["load"] is not None]
    limit = max((row["time_limit"] for row in rows), default=0)
    yield f"`{command}`: {len(rows)} runs of at most {limit:g} s, one core each; {machine.get('cpu')},"
    yield f"load at the start of a run {min(loads, default=0):.1f} to {max(loads, default=0):.1f}.\n"
    if wrong:
        yield f"**{len(wrong)} contradictions:**\n"
        yield from (f"- {item['text']}" for item in wrong)
    else:
        yield "No two runs contradict each other."
    groups = dict.fromkeys((row["instance"], row["bounds"]) for row in sorted(rows, key=_place))
    for instance, bounds in groups:
        chosen = [row for row in sorted(rows, key=_place) if (row["instance"], row["bounds"]) == (instance, bounds)]
        known = [facts.get(f"{instance}|{row['formulation']}|{bounds}", {}) for row in chosen]
        asked = {fact["questions"] for fact in known if "questions" in fact}
        yield f"\n## {instance}, bounds {bounds}\n"
        yield f"Questions asked: {', '.join(map(str, sorted(asked))) or 'not known'}.\n"
        yield f"| {' | '.join(HEADS)} |"
        yield "|---" * 2 + "|---:" * (len(HEADS) - 3) + "|---|"
        yield from (line(row, fact) for row, fact in zip(chosen, known, strict=True))


def _place(row: Row) -> tuple[Any, ...]:
    order = ("interval", "crown", "lp")
    place = order.index(row["bounds"]) if row["bounds"] in order else len(order)
    return row["instance"], place, row["solver"], row["search"], row["formulation"]


def line(row: Row, fact: Row) -> str:
    """One run. Sizes and the LP bound are the model's, all else is what the run itself says."""
    cells = [row["formulation"], row["solver"]]
    cells += [number(fact.get(name)) for name in ("binaries", "rows", "columns", "nonzeros")]
    cells += [decimal(value, 2) for value in (fact.get("lp_bound"), row["root_bound"])]
    cells += [decimal(row[name], 2) for name in ("bounds_s", "build_s", "translate_s", "cuts_s", "solver_s", "cpu_s")]
    cells.append(number(row["nodes"]))
    cells += [number(row[name]) for name in ("stably_active", "stably_inactive", "unstable", "unknown")]
    ended = (
        row["outcome"] if row["outcome"] in {"solved", "time"} else f"{row['outcome']}: {row['reason']}".rstrip(": ")
    )
    return f"| {' | '.join([*cells, ended])} |"


def number(value: float | None) -> str:
    """A whole number, or nothing."""
    return "" if value is None else f"{value:,.0f}".replace(",", " ")


def decimal(value: float | None, digits: int) -> str:
    """A number with decimals, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"
