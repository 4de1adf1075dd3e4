"""The schema ``stablenet.report/1``, written out a second time from its description."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

SIDES = ("positive", "negative")
VERDICTS = ("stably_active", "stably_inactive", "unstable", "unknown")
REASONS = ("time", "memory", "interrupt", "solver", "borderline", "search")

Check = Callable[[Any], bool]


def number(value: Any) -> bool:
    """A finite JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(value: Any) -> bool:
    """A JSON integer, not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text(value: Any) -> bool:
    """A string with something in it."""
    return isinstance(value, str) and bool(value)


def maybe(check: Check) -> Check:
    """Or null."""
    return lambda value: value is None or check(value)


def each(check: Check) -> Check:
    """A list of such."""
    return lambda value: isinstance(value, list) and all(check(v) for v in value)


def time(value: Any) -> bool:
    """A date with time, ISO 8601."""
    try:
        return datetime.fromisoformat(value) is not None
    except (TypeError, ValueError):
        return False


def amount(value: Any) -> bool:
    """A number, not negative."""
    return number(value) and value >= 0


REPORT: dict[str, Check] = {
    "schema": lambda v: v == "stablenet.report/1",
    "status": lambda v: v in ("complete", "stopped"),
    "stopped_by": lambda v: v is None or v in REASONS,
    "created": time,
    "versions": lambda v: isinstance(v, dict) and "stablenet" in v and all(text(x) for x in v.values()),
    "network": lambda v: isinstance(v, dict),
    "domain": lambda v: isinstance(v, dict),
    "config": lambda v: isinstance(v, dict) and bool(v),
    "seconds": lambda v: isinstance(v, dict),
    "solves": lambda v: isinstance(v, list),
    "counts": lambda v: isinstance(v, dict),
    "neurons": lambda v: isinstance(v, list),
    "witnesses": each(each(number)),
    "curve": each(lambda v: isinstance(v, list) and len(v) == 2 and amount(v[0]) and whole(v[1])),
}
OPTIONAL: dict[str, Check] = dict.fromkeys(
    ("contradictions", "tightening", "tasks", "tolerances", "solver_options", "solver_failures"),
    lambda v: isinstance(v, list) and bool(v),
)
NETWORK: dict[str, Check] = {
    "file": text,
    "sha256": lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None,
    "n_inputs": whole,
    "n_outputs": whole,
    "exact_import": lambda v: isinstance(v, bool),
    "layers": lambda v: isinstance(v, list),
}
FOLDED: dict[str, Check] = {
    "function": lambda v: v == "folded",
    "import_error": maybe(amount),
    "import_difference": each(maybe(amount)),
}
LAYER: dict[str, Check] = {"layer": whole, "name": text, "size": whole, "shape": each(whole), "origin": text}
BOX: dict[str, Check] = {"kind": text, "lower": each(number), "upper": each(number)}
POLYTOPE: dict[str, Check] = {**BOX, "a": each(each(number)), "b": each(number)}
UNION: dict[str, Check] = {"kind": text, "parts": lambda v: isinstance(v, list) and len(v) > 1}
SECONDS: dict[str, Check] = dict.fromkeys(("start", "load", "bounds", "falsify", "search", "report", "total"), amount)
CERTIFY: dict[str, Check] = {"certify": amount}
SOLVE: dict[str, Check] = {
    "by": text,
    "rows": whole,
    "binaries": whole,
    "nodes": maybe(whole),
    "root_bound": maybe(number),
    "dual_bound": maybe(number),
    "objective": maybe(number),
    "ended": text,
    "build_s": amount,
    "translate_s": amount,
    "cuts_s": amount,
    "solver_s": amount,
    "status": text,
}
COUNTS: dict[str, Check] = dict.fromkeys((*VERDICTS, "rigorous"), whole)
NEURON: dict[str, Check] = {
    "layer": whole,
    "neuron": whole,
    "verdict": lambda v: v in VERDICTS,
    "lower": maybe(number),
    "upper": maybe(number),
    "positive": lambda v: isinstance(v, dict),
    "negative": lambda v: isinstance(v, dict),
}
QUESTION: dict[str, dict[str, Check]] = {
    "open": {"state": text},
    "witnessed": {"state": text, "witness": whole, "by": text},
    "refuted": {"state": text, "by": text, "rigorous": lambda v: isinstance(v, bool)},
}


def certificate(value: Any) -> bool:
    """Leaves and seconds of a proof that did not need the solver."""
    known = isinstance(value, dict) and value.keys() == {"leaves", "seconds"}
    return known and whole(value["leaves"]) and value["leaves"] > 0 and amount(value["seconds"])


def check_schema(report: Any) -> Iterator[str]:
    """What is missing, too much, or of the wrong kind."""
    if not isinstance(report, dict):
        yield "the report is no JSON object"
        return
    try:
        if json.loads(json.dumps(report, allow_nan=False)) != report:
            yield "the report does not survive a round trip through JSON"
    except (TypeError, ValueError) as error:
        yield f"the report is no JSON: {error}"
        return
    found = list(_keys(report, REPORT, "report", OPTIONAL))
    yield from found
    if found:
        return
    if (report["status"] == "complete") != (report["stopped_by"] is None):
        yield f"status {report['status']} with stopped_by {report['stopped_by']}"
    # What was folded with rounding says so, and by how much it may be off.
    folded = FOLDED if report["network"].get("exact_import") is False else {}
    yield from _keys(report["network"], {**NETWORK, **folded}, "network")
    if folded and len(report["network"].get("import_difference", [])) != len(report["network"].get("layers", [])):
        yield "network.import_difference has not one number for each layer"
    for k, layer in enumerate(report["network"].get("layers", [])):
        yield from _keys(layer, LAYER, f"network.layers[{k}]")
    yield from _domain(report["domain"], "domain")
    found = list(_keys(report["seconds"], SECONDS, "seconds", CERTIFY))
    yield from found
    spent = dict(report["seconds"])
    total = spent.pop("total", 0.0)
    if not found and abs(total - sum(spent.values())) > 1e-3 * (1.0 + total):
        yield f"seconds of {total} in all are accounted for as {spent}"
    for k, solve in enumerate(report["solves"]):
        yield from _keys(solve, SOLVE, f"solves[{k}]")
    yield from _keys(report["counts"], COUNTS, "counts")
    for k, neuron in enumerate(report["neurons"]):
        yield from _neuron(neuron, f"neurons[{k}]")


def _keys(value: Any, checks: dict[str, Check], where: str, optional: dict[str, Check] | None = None) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    allowed = {**checks, **(optional or {})}
    for key in checks.keys() - value.keys():
        yield f"{where}: key {key!r} is missing"
    for key in value.keys() - allowed.keys():
        yield f"{where}: key {key!r} is not in the schema"
    for key in value.keys() & allowed.keys():
        if not allowed[key](value[key]):
            yield f"{where}.{key} is {str(value[key])[:60]!r}"


def _domain(value: Any, where: str) -> Iterator[str]:
    kind = value.get("kind") if isinstance(value, dict) else None
    checks = {"box": BOX, "polytope": POLYTOPE, "union": UNION}.get(str(kind))
    if checks is None:
        yield f"{where}.kind is {kind!r}"
        return
    found = list(_keys(value, checks, where))
    yield from found
    if kind == "union" and not found:
        for k, part in enumerate(value["parts"]):
            yield from _domain(part, f"{where}.parts[{k}]")
    if kind == "polytope" and not found and not _fits(value):
        yield f"{where}: a and b do not fit"


def _fits(polytope: dict[str, Any]) -> bool:
    rows, n = polytope["a"], len(polytope["lower"])
    return len(rows) == len(polytope["b"]) and all(len(row) == n for row in rows)


def _neuron(value: Any, where: str) -> Iterator[str]:
    found = list(_keys(value, NEURON, where))
    yield from found
    if found:
        return
    for side in SIDES:
        state = value[side].get("state")
        if state not in QUESTION:
            yield f"{where}.{side}.state is {state!r}"
        else:
            certified = "certified" in value[side] and value[side].get("rigorous") is True
            checks = QUESTION[state] | ({"certified": certificate} if certified else {})
            yield from _keys(value[side], checks, f"{where}.{side}")
