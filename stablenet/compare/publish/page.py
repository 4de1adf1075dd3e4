"""The page: one self-contained HTML file for a sweep, or for a single report.

The page holds its data as JSON, and scripts and styles of its own; it loads nothing. What it shows of statistics was
computed by `stablenet.compare.statistics`; only what depends on the reader's choices (profiles and curves of chosen
members and instances) is computed in the page, from the same cells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.compare.contradictions import find_contradictions, wrong_keys
from stablenet.compare.publish.tables import PAIRS, SUMMARY, as_latex
from stablenet.compare.rows import METHOD, OUTCOMES, SIDES, STATE_CODES, options_told, plain_settings
from stablenet.compare.statistics import METRICS, View, axes_that_vary, curve_table, make_view, pairs, summary
from stablenet.compare.store import COLUMNS, Store
from stablenet.core.errors import StablenetError
from stablenet.core.files import write_text
from stablenet.core.terminal import encodable, plain
from stablenet.report.files import beside_report
from stablenet.report.report import Report
from stablenet.report.words import arithmetic_of, float32_words, folded_words

HIDDEN = ("curve", "versions", "machine")
"""Columns of rows that the page does not list."""

MAP_BUDGET = 6_000_000
"""Characters of neuron maps in a page; beyond it runs of further seeds are left out, then all but the first run of each
solver."""

MAX_WITNESSES = 48
"""Witnesses shown in the page of a single run."""

VERDICT_LETTERS = {"stably_active": "a", "stably_inactive": "i", "unstable": "u", "unknown": "k"}


def sweep_page(store: Store) -> str:
    """The HTML of a sweep's page."""
    return _html(sweep_data(store), store.meta("name") or "sweep", "sweep.js")


def report_page(report: Mapping[str, Any]) -> str:
    """The HTML of a single report's page (its JSON object)."""
    name = Path(report["network"]["file"] or "network").name
    return _html(report_data(report), name, "report.js")


def write_report_page(report: Report | Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a single report, one HTML file that loads nothing, atomically.

    Args:
        report: the report, or its JSON object.
        path: the file to write.

    Returns:
        None.

    Raises:
        InputError: the file cannot be written, or is another one of the run.
    """
    data = report.data if isinstance(report, Report) else report
    with beside_report(data, path, "the page"):
        write_text(Path(path), report_page(data))


def _html(data: Mapping[str, Any], title: str, script: str) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "TITLE": escape(plain(title)),
        "STYLE": _asset("page.css"),
        # A script element ends at the first "</script", wherever it stands.
        "DATA": text.replace("<", "\\u003c"),
        "SCRIPT": _asset("common.js") + _asset(script),
    }
    # In one pass, since an inserted text, such as the name of a file, may look like a mark itself.
    return encodable(re.sub(r"\{\{([A-Z]+)\}\}", lambda mark: parts[mark[1]], _asset("page.html")), "utf-8")


def _asset(name: str) -> str:
    return (resources.files("stablenet.compare.publish") / "assets" / name).read_text(encoding="utf-8")


# A sweep


def sweep_data(store: Store) -> dict[str, Any]:
    """The JSON of a sweep's page."""
    rows = sorted(store.rows(), key=lambda row: (row["instance"], *_method(row), row["seed"]))
    contradictions = find_contradictions(store)
    reasons = wrong_keys(contradictions)
    columns = [name for name in COLUMNS if name not in HIDDEN]
    instances = json.loads(store.meta("instances") or "[]")
    for row in rows:
        if row["key"] in reasons:
            row["outcome"], row["reason"] = "wrong", reasons[row["key"]]
    return {
        "name": store.meta("name"),
        "updated": store.meta("updated"),
        "planned": len(store.planned()),
        "versions": json.loads(store.meta("versions") or "{}"),
        "machines": _distinct(row["machine"] for row in rows),
        "loads": [row["load"] for row in rows if row["load"] is not None],
        "grid": store.meta("grid"),
        "unsupported": json.loads(store.meta("unsupported") or "[]"),
        "contradictions": contradictions,
        "outcomes": OUTCOMES,
        "solver_options": options_told(rows),
        "plain": plain_settings(rows),
        "instances": [{**instance, **_frozen_counts(store, instance["frozen"])} for instance in instances],
        "columns": columns,
        "rows": [[row[name] for name in columns] for row in rows],
        "metrics": METRICS,
        "heads": {"summary": SUMMARY, "pairs": PAIRS},
        "views": _views(rows, frozenset(reasons)),
        "maps": _maps(store, rows),
    }


def _distinct(texts: Any) -> list[Any]:
    return [json.loads(text) for text in dict.fromkeys(text for text in texts if text)]


def _frozen_counts(store: Store, key: str) -> dict[str, Any]:
    reason = store.frozen().get(key)
    if reason is None:
        return {"frozen_reason": "not used"}
    if reason:
        return {"frozen_reason": reason}
    report = store.frozen_report(key)
    pending = sum(n[side]["state"] == "open" for n in report["neurons"] if n["verdict"] == "unknown" for side in SIDES)
    return {"counts": report["counts"], "pending": pending, "frozen_seconds": report["seconds"]["total"]}


def _views(rows: Sequence[dict[str, Any]], wrong: frozenset[str]) -> list[dict[str, Any]]:
    """The views of all axes that vary, without those that have no cells."""
    every = (view_data(rows, axis, wrong) for axis in axes_that_vary(rows)) if rows else ()
    return [view for view in every if view["cells"]]


def view_data(rows: Sequence[dict[str, Any]], axis: str, wrong: frozenset[str]) -> dict[str, Any]:
    """The JSON of a view, for each metric."""
    views = {metric: make_view(rows, axis, metric=metric, wrong=wrong) for metric in METRICS}
    view = next(iter(views.values()))
    grid, curves = curve_table(view)
    return {
        "axis": axis,
        "members": view.members,
        "cells": view.cells,
        "instances": view.instances,
        "unit": view.unit.tolist(),
        "limit": view.limit.tolist(),
        "dropped": view.dropped,
        "times": {metric: _times(v) for metric, v in views.items()},
        "summary": {metric: _numbers(summary(v)) for metric, v in views.items()},
        "pairs": {metric: _numbers(pairs(v)) for metric, v in views.items()},
        "latex": {m: {"summary": as_latex(SUMMARY, summary(v)), "pairs": as_latex(PAIRS, pairs(v))}
                  for m, v in views.items()},
        "grid": [round(float(t), 6) for t in grid],
        "curves": np.round(curves, 4).tolist(),
    }  # fmt: skip


def _times(view: View) -> list[list[float | None]]:
    return [[float(t) if np.isfinite(t) else None for t in row] for row in view.time]


def _numbers(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace NaN, which JSON lacks, by null."""
    return [
        {k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in entry.items()} for entry in table
    ]


def _maps(store: Store, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Neuron maps of each instance: of its runs, as many as fit."""
    chosen = _fitting(rows)
    maps: dict[str, Any] = {}
    for row in chosen:
        report = store.report(row["key"])
        if report is None:
            continue
        entry = maps.setdefault(row["instance"], {"layers": report["network"]["layers"], "sources": [], "runs": []})
        run = encode_neurons(report["neurons"], entry["sources"])
        entry["runs"].append({**run, "key": row["key"]})
    return maps


def _fitting(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a report whose maps fit in the page's budget."""
    reported = [row for row in rows if row["report_sha256"] is not None]
    first_seed = {(*method, row["instance"]): row for row in reversed(reported) if (method := _method(row))}
    per_solver = {(row["instance"], row["solver"]): row for row in reversed(reported)}
    for candidates in (reported, list(first_seed.values())):
        if sum(3 * _size(row) for row in candidates) <= MAP_BUDGET:
            return candidates
    return list(per_solver.values())


def _method(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in METHOD)


def _size(row: Mapping[str, Any]) -> int:
    return int(sum(row[name] or 0 for name in VERDICT_LETTERS))


def encode_neurons(neurons: Sequence[Mapping[str, Any]], sources: list[str]) -> dict[str, str]:
    """Verdicts and questions of neurons, a character each; ``sources`` is extended by those that are new.

    A question is ``0`` if open, else the character ``48 + 1 + 2 * source``, one more if refuted.
    """
    coded: dict[str, str] = {"verdict": "".join(VERDICT_LETTERS[neuron["verdict"]] for neuron in neurons)}
    for side in SIDES:
        letters = []
        for neuron in neurons:
            question = neuron[side]
            state = STATE_CODES[question["state"]]
            if state == 0:
                letters.append("0")
                continue
            if question["by"] not in sources:
                sources.append(question["by"])
            letters.append(chr(48 + 1 + 2 * sources.index(question["by"]) + state - 1))
        coded[side] = "".join(letters)
    return coded


# A single report


def report_data(report: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a single report's page."""
    sources: list[str] = []
    kept = ("status", "stopped_by", "created", "versions", "network", "config", "seconds", "solves", "counts", "curve")
    domain = report["domain"]
    shape = input_shape(report)
    witnesses = report["witnesses"][:MAX_WITNESSES]
    return {
        **{name: report[name] for name in kept},
        "contradictions": report.get("contradictions", []),
        "folded": folded_words(report["network"]) if report["network"].get("function") == "folded" else None,
        "arithmetic": float32_words() if arithmetic_of(report) == "float32" else None,
        "domain": {"kind": domain["kind"], "parts": len(domain.get("parts", [1]))},
        "map": {**encode_neurons(report["neurons"], sources), "sources": sources},
        "lower": [neuron["lower"] for neuron in report["neurons"]],
        "upper": [neuron["upper"] for neuron in report["neurons"]],
        "rigorous": [all(neuron[side].get("rigorous", True) for side in SIDES) for neuron in report["neurons"]],
        "shape": shape,
        "witnesses": [[float(f"{value:.4g}") for value in point] for point in witnesses],
        "n_witnesses": len(report["witnesses"]),
        "closes": _closes(report, len(witnesses)),
    }


def _closes(report: Mapping[str, Any], count: int) -> list[int]:
    """How many questions each witness closes."""
    closes = [0] * count
    for neuron in report["neurons"]:
        for side in SIDES:
            number = neuron[side].get("witness", count)
            if number < count:
                closes[number] += 1
    return closes


def input_shape(report: Mapping[str, Any]) -> list[int]:
    """Shape of the input as an image, (channels, height, width), or empty where it is none.

    From the network's file if it is there; a flat input whose size is one or three squares is taken for an image.
    """
    from stablenet.find.prepare import read_network

    n = int(report["network"]["n_inputs"])
    shape: tuple[int, ...] = ()
    try:
        shape = read_network(report["network"]["file"]).input_shape
    except (StablenetError, OSError):
        shape = ()
    sizes = [size for size in shape if size > 1]
    if len(sizes) in {2, 3} and min(sizes[-2:]) >= 4 and (len(sizes) == 2 or sizes[0] in {1, 3}):
        return [1, *sizes] if len(sizes) == 2 else sizes
    for channels in (1, 3):
        side = round((n / channels) ** 0.5)
        if n == channels * side * side and side >= 5:
            return [channels, side, side]
    return []
