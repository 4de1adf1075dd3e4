"""Tables and figures of a sweep as files: CSV, Parquet, LaTeX, SVG."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stablenet.compare.contradictions import find_contradictions, wrong_keys
from stablenet.compare.publish import figures
from stablenet.compare.rows import options_told
from stablenet.compare.statistics import METRICS, View, axes_that_vary, make_view, pairs, summary
from stablenet.compare.store import COLUMNS, Store
from stablenet.core.errors import NotInstalledError
from stablenet.core.files import atomic_path, make_folder, unique_name, write_text

METRIC = "work_s"
"""The time that files for a paper use; the page has them all."""

SUMMARY = {
    "member": "", "cells": "problems", "runs": "runs", "solved": "solved", "outcomes": "not solved",
    "sgm10": "SGM 10 s", "sgm1": "SGM 1 s", "par2": "PAR2", "par10": "PAR10", "share": "best on",
    "tightening": "bounds s", "build": "build s", "translate": "translate s", "cuts": "cuts s",
    "solver": "solver s", "cpu": "CPU s", "nodes": "nodes", "bound": "bound at timeout",
    "rows": "rows", "binaries": "binaries",
    "peak_mb": "peak MB", "closed": "closed",
}  # fmt: skip
"""Columns of a summary table with their heads."""

PAIRS = {
    "a": "a", "b": "b", "instances": "instances", "bound": "bound", "ratio": "time a / b", "low": "low", "high": "high",
    "a_faster": "a faster", "b_faster": "b faster", "p": "p", "p_holm": "p (Holm)",
}  # fmt: skip
"""Columns of a table of pairs with their heads."""


def write_all(store: Store, folder: Path) -> Iterator[str]:
    """Write rows, tables and figures under a folder; yields each path, or why a file could not be made."""
    rows = store.rows()
    wrong = frozenset(wrong_keys(find_contradictions(store)))
    yield str(write_csv(rows, folder / "runs.csv"))
    if find_spec("pyarrow") is None:
        yield "runs.parquet is left out: pyarrow is not installed; pip install 'stablenet[compare]'"
    else:
        yield str(write_parquet(rows, folder / "runs.parquet"))
    for name in ("tables", "figures"):
        make_folder(folder / name)
    for axis in axes_that_vary(rows):
        view = make_view(rows, axis, metric=METRIC, wrong=wrong)
        if not view.cells:
            yield f"no tables by {axis}: there is no problem on which all {len(view.members)} were run"
            continue
        yield from _write_view(view, folder)
    told = options_told(rows)
    if told:
        heads = {name: name for name in told[0]}
        for suffix, text in (("csv", as_csv(heads, told)), ("tex", as_latex(heads, told))):
            path = folder / "tables" / f"solver-options.{suffix}"
            write_text(path, text)
            yield str(path)
    taken: set[str] = set()
    for instance in dict.fromkeys(row["instance"] for row in rows):
        best = best_run(rows, instance, wrong)
        report = None if best is None else store.report(best["key"])
        if report is not None:
            name = unique_name(slug(instance), taken)
            taken.add(name)
            path = folder / "figures" / f"neurons-{name}.svg"
            write_text(path, figures.neuron_map(f"{instance}: neurons by verdict", report))
            yield str(path)


def _write_view(view: View, folder: Path) -> Iterator[str]:
    for name, columns, table in (
        (f"{view.axis}-summary", SUMMARY, summary(view)),
        (f"{view.axis}-pairs", PAIRS, pairs(view)),
    ):
        for suffix, text in (("csv", as_csv(columns, table)), ("tex", as_latex(columns, table))):
            path = folder / "tables" / f"{name}.{suffix}"
            write_text(path, text)
            yield str(path)
    for name, svg in figures.view_figures(view, METRICS[view.metric]):
        path = folder / "figures" / f"{name}.svg"
        write_text(path, svg)
        yield str(path)


def best_run(rows: Sequence[Mapping[str, Any]], instance: str, wrong: frozenset[str]) -> Mapping[str, Any] | None:
    """The run of an instance that left fewest neurons unknown, the fastest among those."""
    mine = [
        row for row in rows if row["instance"] == instance and row["unknown"] is not None and row["key"] not in wrong
    ]
    return min(mine, key=lambda row: (row["unknown"], row["work_s"]), default=None)


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """All columns of all rows."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())
    return path


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """All columns of all rows, typed. Raises `NotInstalledError` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise NotInstalledError("pyarrow is not installed; pip install 'stablenet[compare]'") from None
    kinds = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    schema = pa.schema([(name, kinds[kind.split()[0]]) for name, kind in COLUMNS.items()])
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), temporary)
    return path


def as_csv(columns: Mapping[str, str], table: Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV, numbers in full."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(row.get(name)) for name in columns] for row in table)
    return stream.getvalue()


def as_latex(columns: Mapping[str, str], table: Sequence[Mapping[str, Any]]) -> str:
    """A table as a LaTeX ``tabular`` with booktabs rules, numbers rounded; columns without values are left out."""
    used = [name for name in columns if any(row.get(name) not in {None, ""} for row in _hashable(table))]
    lines = [
        "\\begin{tabular}{" + "".join("l" if name in {"member", "a", "b", "outcomes"} else "r" for name in used) + "}",
        "\\toprule",
        " & ".join(_tex(columns[name]) for name in used) + " \\\\",
        "\\midrule",
        *(" & ".join(_tex(shown(row.get(name))) for name in used) + " \\\\" for row in table),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _hashable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: _plain(value) for name, value in row.items()} for row in table]


def _plain(value: Any) -> Any:
    """A value in one cell: counts by outcome as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items() if name != "solved")
    return value


def shown(value: Any) -> str:
    """A value with three significant digits."""
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


_TEX = {
    ">=": r"$\geq$", "<=": r"$\leq$", "~": r"$\sim$", "\\": r"\textbackslash{}", "^": r"\^{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def _tex(text: str) -> str:
    return re.sub(r">=|<=|[\\&%$#_{}~^]", lambda match: _TEX[match[0]], text)
