"""A report on the terminal: neurons by verdict, what closed their questions, solves, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stablenet.core.terminal import plain
from stablenet.report.words import arithmetic_of, float32_words, folded_words

SIDES = ("positive", "negative")
VERDICTS = {
    "stably_active": "green",
    "stably_inactive": "blue",
    "unstable": "yellow",
    "unknown": "red",
}
STOPPED = {
    "time": "`--resume` this report with a longer `--time-limit`",
    "memory": "`--resume` this report with a higher `--memory-limit`",
    "interrupt": "`--resume` this report to go on",
    "solver": "`--resume` this report with another `--solver`",
    "search": "`--resume` this report with a `--search` that goes further",
    "borderline": "what is unknown comes so close to 0 that neither sign could be confirmed",
}
"""What can be done about each reason for which a search stopped."""

UNNAMED = 5e-4
"""Seconds from which on time that no step accounts for is shown."""

SHOWN_FAILURES = 3
"""Solver failures that are printed in full; the report has all."""


def render_summary(report: Mapping[str, Any], console: Console) -> None:
    """Print a report of schema ``stablenet.report/1`` (its JSON object) as tables."""
    for line in _head(report):
        console.print(line, soft_wrap=True)
    console.print(_verdicts(report))
    console.print(_closed(report))
    if report.get("solves"):
        console.print(_solves(report["solves"]))
    console.print(_seconds(report["seconds"]))
    for line in _foot(report):
        console.print(line, soft_wrap=True)


def describe_domain(domain: Mapping[str, Any]) -> str:
    """A domain's JSON in a few words, such as ``box [0, 1]^784``."""
    kind = domain["kind"]
    if kind == "union":
        return f"union of {len(domain['parts'])} parts: {describe_domain(domain['parts'][0])}, ..."
    lower, upper = domain["lower"], domain["upper"]
    n = len(lower)
    if len(set(lower)) == 1 and len(set(upper)) == 1:
        text = f"box [{lower[0]:g}, {upper[0]:g}]^{n}"
    else:
        widths = [high - low for low, high in zip(lower, upper, strict=True)]
        text = f"box in dimension {n}, widths from {min(widths):g} to {max(widths):g}"
    return text if kind == "box" else f"{text} with {len(domain['b'])} linear constraints"


def _head(report: Mapping[str, Any]) -> Iterable[Text]:
    network, counts = report["network"], report["counts"]
    n = sum(layer["size"] for layer in network["layers"])
    stable = counts["stably_active"] + counts["stably_inactive"]
    yield Text.assemble(
        (plain(network["file"] or "network"), "bold"),
        f": {network['n_inputs']} inputs, {n} neurons in {len(network['layers'])} layers; "
        f"domain {describe_domain(report['domain'])}",
    )
    yield Text.assemble(
        (f"{stable} of {n} neurons are stable", "bold"),
        f" ({stable / max(n, 1):.1%}), {counts['unstable']} unstable, {counts['unknown']} unknown; "
        f"evidence of {counts['rigorous']} verdicts is rigorous",
    )
    if network.get("function") == "folded":
        yield Text(folded_words(network), style="yellow")
    if arithmetic_of(report) == "float32":
        yield Text(float32_words())


def _table(title: str, *columns: str, words: tuple[str, ...] = ()) -> Table:
    """A table whose first column, and those in ``words``, are text; the others are numbers."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in words else "right", no_wrap=i > 0)
    return table


def _verdicts(report: Mapping[str, Any]) -> Table:
    layers = report["network"]["layers"]
    table = _table("Neurons by verdict", "layer", "neurons", *(verdict.replace("_", " ") for verdict in VERDICTS))
    tally = Counter((neuron["layer"], neuron["verdict"]) for neuron in report["neurons"])
    for layer in layers:
        cells = [_cell(tally[layer["layer"], verdict], style) for verdict, style in VERDICTS.items()]
        table.add_row(f"{layer['layer']} {plain(layer['name'])}", str(layer["size"]), *cells)
    if len(layers) > 1:
        table.add_section()
        totals = [_cell(report["counts"][verdict], style) for verdict, style in VERDICTS.items()]
        table.add_row("all", str(sum(layer["size"] for layer in layers)), *totals)
    return table


def _cell(count: int, style: str) -> Text:
    return Text(str(count), style=style if count else "dim")


def _closed(report: Mapping[str, Any]) -> Table:
    """Questions by source. An open one counts as not needed where its neuron has a verdict without it."""
    table = _table("What closed the questions", "by", "refuted", "witnessed", "evidence", words=("evidence",))
    solving = {row["by"] for row in report.get("solves", ())}
    refuted: Counter[str] = Counter()
    certified: Counter[str] = Counter()
    rigorous: Counter[str] = Counter()
    witnessed: Counter[str] = Counter()
    needless = pending = 0
    for neuron in report["neurons"]:
        for question in (neuron[side] for side in SIDES):
            if question["state"] == "refuted":
                refuted[question["by"]] += 1
                rigorous[question["by"]] += bool(question["rigorous"])
                certified[question["by"]] += "certified" in question
            elif question["state"] == "witnessed":
                witnessed[question["by"]] += 1
            elif neuron["verdict"] == "unknown":
                pending += 1
            else:
                needless += 1
    for by in dict.fromkeys([*refuted, *witnessed]):
        label = f"{by} (MILP)" if by in solving else by
        counts = [_cell(counter[by], "") for counter in (refuted, witnessed)]
        table.add_row(label, *counts, _evidence(refuted[by], rigorous[by], certified[by], witnessed[by]))
    table.add_section()
    table.add_row("open, not needed", str(needless))
    table.add_row("open, pending", _cell(pending, "red"))
    return table


def _evidence(refuted: int, rigorous: int, certified: int, witnessed: int) -> str:
    words = []
    if rigorous > certified:
        words.append("rigorous")
    if certified:
        words.append(f"rigorous ({certified} certified)")
    if refuted > rigorous:
        words.append("within solver tolerance")
    if witnessed:
        words.append("replayed inputs")
    return ", ".join(words)


def _solves(solves: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Solves", "by", "solves", "rows", "binaries", "nodes", "build s", "translate s", "solver s")
    for by in dict.fromkeys(row["by"] for row in solves):
        mine = [row for row in solves if row["by"] == by]
        largest = [str(max(row.get(key) or 0 for row in mine)) for key in ("rows", "binaries")]
        nodes = str(sum(row.get("nodes") or 0 for row in mine))
        times = [f"{sum(row.get(key) or 0.0 for row in mine):.2f}" for key in ("build_s", "translate_s", "solver_s")]
        table.add_row(by, str(len(mine)), *largest, nodes, *times)
    return table


def _seconds(seconds: Mapping[str, float]) -> Table:
    """The steps, from starting processes to making the report; reports of older versions have a rest without a name."""
    steps = {what: value for what, value in seconds.items() if what != "total"}
    rest = seconds["total"] - sum(steps.values())
    if rest > UNNAMED:
        steps["rest"] = rest
    table = _table("Time", "", *steps, "total")
    table.add_row("seconds", *(f"{value:.3f}" for value in (*steps.values(), seconds["total"])))
    return table


def _foot(report: Mapping[str, Any]) -> Iterable[Text]:
    for found in report.get("contradictions", ()):
        yield Text(
            f"\ncontradiction: {found['source']} refuted that neuron {found['neuron']} of layer {found['layer']} "
            f"can be {found['side']}, and witness {found['witness']} shows it; its refutations were revoked",
            style="bold red",
        )
    failures = report.get("solver_failures", ())
    for row in failures[:SHOWN_FAILURES]:
        yield Text(f"\nsolver failure in {row['by']}: {row['sentence']}", style="red")
    if len(failures) > SHOWN_FAILURES:
        yield Text(f"and {len(failures) - SHOWN_FAILURES} solver failures more: see the report", style="red")
    if report["status"] != "complete":
        reason = report["stopped_by"]
        yield Text(f"\nstopped by {reason}: {STOPPED.get(reason, 'see the messages above')}", style="red")
