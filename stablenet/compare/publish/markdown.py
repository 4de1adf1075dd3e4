"""The result of a sweep as one Markdown file, to be kept beside a project: its tables, and its figures by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stablenet.compare.contradictions import find_contradictions, wrong_keys
from stablenet.compare.publish.figures import view_figures
from stablenet.compare.publish.tables import METRIC, PAIRS, SUMMARY, shown
from stablenet.compare.rows import FINISHED, METHOD, options_told, plain_settings
from stablenet.compare.statistics import METRICS, Row, View, axes_that_vary, make_view, pairs, summary
from stablenet.compare.store import Store
from stablenet.core.errors import InputError
from stablenet.core.files import make_folder, write_text

BEST_METHODS = 12
"""Whole methods that are listed."""

LEFT_OUT = ("tightening", "build", "translate", "cuts", "solver", "cpu", "peak_mb", "rows", "binaries")
"""Columns of a summary that have a table of their own."""

TIMES = {
    "tightening": "tightening", "build": "build", "translate": "translate", "cuts": "root cuts", "solver": "solver",
    "cpu": "CPU",
}  # fmt: skip


def write_results(store: Store, path: Path, text: str = "") -> list[Path]:
    """Write the result as a Markdown file, with the figures that it shows in a folder of the same name beside it.

    ``text`` is put after the title.
    """
    rows, folder = store.rows(), path.with_suffix("")
    if folder == path:
        raise InputError(f"{path}: a name with a suffix, as results.md, is expected: figures go into a folder of it")
    wrong = frozenset(wrong_keys(find_contradictions(store)))
    drawn: dict[str, str] = {}
    for axis in axes_that_vary(rows) if rows else ():
        view = make_view(rows, axis, metric=METRIC, wrong=wrong)
        if axis != "method" and view.cells:
            drawn |= {f"{name}.svg": svg for name, svg in view_figures(view, METRICS[METRIC]) if "scatter" not in name}
    if drawn:
        make_folder(folder)
    for name, svg in drawn.items():
        write_text(folder / name, svg)
    write_text(path, sweep_markdown(store, list(drawn), folder.name, text))
    return [path, *(folder / name for name in drawn)]


def sweep_markdown(store: Store, figures: Sequence[str] = (), folder: str = "figures", text: str = "") -> str:
    """The Markdown; ``figures`` are names of files in ``folder`` to be shown, those of an axis in its section."""
    rows = store.rows()
    found = find_contradictions(store)
    wrong = frozenset(wrong_keys(found))
    lines = [f"# {store.meta('name') or 'Sweep'}", "", *([text.strip(), ""] if text.strip() else [])]
    if found:
        lines += ["## Contradictions", "", *(f"- {item['text']}" for item in found), ""]
    lines += [*_circumstances(store, rows, wrong), "", *_instances(store), ""]
    lines += [*_options(rows), ""]
    if rows:
        lines += [*_glance(rows, wrong), ""]
    for axis in axes_that_vary(rows) if rows else ():
        view = make_view(rows, axis, metric=METRIC, wrong=wrong)
        if view.cells and len(view.members) > 1:
            lines += [*_section(view, [name for name in figures if name.startswith(f"{axis}-")], folder), ""]
    return "\n".join(lines)


def _table(heads: Sequence[str], body: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for cells in body:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _circumstances(store: Store, rows: Sequence[Row], wrong: frozenset[str]) -> Iterator[str]:
    outcomes: dict[str, int] = {}
    for row in rows:
        name = "wrong" if row["key"] in wrong else row["outcome"]
        outcomes[name] = outcomes.get(name, 0) + 1
    counted = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items(), key=lambda item: -item[1]))
    yield f"`stablenet compare {store.meta('grid_file') or 'GRID.toml'} --output DIR`, then `stablenet page DIR`:"
    yield f"{len(rows)} of {len(store.planned())} runs ({counted})."
    for text in dict.fromkeys(row["machine"] for row in rows if row["machine"]):
        machine = json.loads(text)
        yield f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}."
    loads = sorted(row["load"] for row in rows if row["load"] is not None)
    if loads:
        yield f"Load average when runs began: {loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}."
    shares = sorted(row["cpu_s"] / row["wall_s"] for row in rows if row["cpu_s"] and row["wall_s"])
    if shares:
        yield f"Processor time over wall time of a run: median {shares[len(shares) // 2]:.2f}; the rest is waiting."
    limits = sorted({f"{row['time_limit']:g} s" for row in rows if row["time_limit"]})
    settings = {axis: {row[axis] for row in rows} for axis in METHOD}
    fixed = [f"{axis} {next(iter(values))}" for axis, values in settings.items() if len(values) == 1]
    if limits:
        yield f"Limit for each run {', '.join(limits)}, start-up included{''.join(f'; {text}' for text in fixed)}."
    versions = json.loads(store.meta("versions") or "{}")
    yield f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}."


def _options(rows: Sequence[Row]) -> Iterator[str]:
    """Every option of a solver that differs from its default."""
    told, plain = options_told(rows), plain_settings(rows)
    if not (told or plain):
        return
    yield "Options that differ from the solver's own defaults, threads, limits and seed apart"
    yield f"({', '.join(plain)}: none):" if plain else "(there is no setting without any):"
    yield ""
    if told:
        yield from _table(list(told[0]), [[str(value) for value in line.values()] for line in told])


def _instances(store: Store) -> Iterator[str]:
    known = store.frozen()
    body = []
    for instance in json.loads(store.meta("instances") or "[]"):
        line = [instance["name"], str(instance["neurons"]), *[""] * 4]
        if known.get(instance["frozen"]) == "":
            report = store.frozen_report(instance["frozen"])
            counts = report["counts"]
            unknown = [neuron for neuron in report["neurons"] if neuron["verdict"] == "unknown"]
            pending = sum(neuron[side]["state"] == "open" for neuron in unknown for side in ("positive", "negative"))
            line[2:] = [str(counts[name]) for name in ("stably_active", "stably_inactive", "unstable")] + [str(pending)]
        body.append(line)
    yield from _table(
        ["instance", "neurons", "stably active", "stably inactive", "unstable", "questions pending"], body
    )
    yield ""
    yield "Verdicts of the frozen sets: what bounds and falsifying closed once, before all runs that start from them."


def _glance(rows: Sequence[Row], wrong: frozenset[str]) -> Iterator[str]:
    """Runs solved, of one axis against all others together."""
    axes = [axis for axis in METHOD if len({row[axis] for row in rows}) > 1]
    if len(axes) < 2:
        return
    yield "## Runs solved, and the median of their seconds"
    yield ""

    def across(row: Row) -> str:
        return " ".join(str(row[axis]) for axis in axes[1:])

    columns = sorted({across(row) for row in rows})
    body = []
    for member in sorted({str(row[axes[0]]) for row in rows}):
        mine = [row for row in rows if row[axes[0]] == member]
        body.append([member, *(_cell([row for row in mine if across(row) == column], wrong) for column in columns)])
    yield from _table([axes[0], *columns], body)
    yield ""
    yield "`>` where at most half of the runs were solved."


def _cell(rows: Sequence[Row], wrong: frozenset[str]) -> str:
    if not rows:
        return ""
    times = sorted(
        float(row[METRIC]) if row["outcome"] in FINISHED and row["key"] not in wrong else float("inf") for row in rows
    )
    solved = sum(time < float("inf") for time in times)
    middle = times[len(times) // 2]
    return f"{solved}/{len(rows)}, {'>' if middle == float('inf') else f'{middle:.2g}'}"


def _section(view: View, figures: Sequence[str], folder: str) -> Iterator[str]:
    yield f"## By {view.axis if view.axis != 'method' else 'whole method'}"
    yield ""
    told = f"{len(view.cells)} problems, times from {METRICS[view.metric]}"
    yield f"{told}{f'; {view.dropped} left out, since not all ran there' if view.dropped else ''}."
    yield ""
    entries = summary(view)
    listed = entries
    if len(entries) > BEST_METHODS + 1:
        best = sorted(entries[:-1], key=lambda entry: entry["sgm1"])[:BEST_METHODS]
        listed = [*best, entries[-1]]
        yield f"The {BEST_METHODS} of {len(view.members)} with the least mean (1 s):"
        yield ""
    yield from _columns({name: head for name, head in SUMMARY.items() if name not in LEFT_OUT}, listed, view.axis)
    yield ""
    yield "*Solved* counts runs, and for the virtual best problems (the median over seeds). SGM: shifted geometric"
    yield "mean, runs that were not solved at their limit; *best on*: share of problems on which it was the fastest."
    yield ""
    if len(entries) == len(listed):
        yield "Where a run's time goes, mean seconds (`CPU`: the whole process's), and the models' mean size:"
        yield ""
        heads = {"member": "", **TIMES, "peak_mb": "peak MB", "rows": "rows", "binaries": "binaries"}
        yield from _columns(heads, listed[: len(view.members)], view.axis)
        yield ""
    compared = pairs(view)
    if len(compared) <= 15:
        yield "Pairs, the instance as the unit:"
        yield ""
        yield from _columns(PAIRS, compared, view.axis)
    for name in figures:
        yield ""
        yield f"![{name.removesuffix('.svg').replace('-', ' ')}]({folder}/{name})"


def _columns(heads: Mapping[str, str], table: Sequence[Mapping[str, Any]], axis: str) -> Iterator[str]:
    """A table without columns that have no values."""
    used = [name for name in heads if any(shown(row.get(name)) != "" for row in table)]
    yield from _table(
        [heads[name] or axis for name in used], [[shown(row.get(name)) for name in used] for row in table]
    )
