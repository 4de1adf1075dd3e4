"""The schema ``stablenet.report/1``: a report that is read is checked completely here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from stablenet.core.errors import DomainError, ReportError
from stablenet.core.inputs import read_input
from stablenet.domain.regions import Domain, domain_from_json

SCHEMA = "stablenet.report/1"
STOP_REASONS = ("time", "memory", "interrupt", "solver", "borderline", "search")
VERDICTS = ("stably_active", "stably_inactive", "unstable", "unknown")
STATES = ("open", "witnessed", "refuted")

MOST_BYTES = 2**29
"""Longest report that is read."""

MOST_MEMORY = 450 * 2**20
"""Most bytes that the values of a report may take in memory."""

_SIDES = ("positive", "negative")

Check = Callable[[Any], bool]


def read_report(path: str | Path) -> dict[str, Any]:
    """The JSON object of a report file, checked; raises `ReportError` with one line for anything else."""
    raw = read_input(path, ReportError, MOST_BYTES)
    # What the parser makes of brackets, braces and commas; a file of brackets alone takes twenty times its length.
    memory = 64 * raw.count(b"[") + 232 * raw.count(b"{") + 48 * raw.count(b",") + len(raw)
    if memory > MOST_MEMORY:
        raise ReportError(
            f"{path}: takes about {memory >> 20:,} MB to read; at most {MOST_MEMORY >> 20:,} are supported"
        )
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ReportError(f"{path}: not a JSON file (it is nested too deeply)") from None
    except MemoryError:
        raise ReportError(f"{path}: needs more memory than there is (see --memory-limit)") from None
    except ValueError as error:
        raise ReportError(f"{path}: not a JSON file ({str(error)[:300]})") from None
    try:
        check_report(data)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from None
    except RecursionError:
        raise ReportError(f"{path}: it is nested too deeply") from None
    return dict(data)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023


def whole(value: Any) -> bool:
    """Whether it is an integer from 0 up to 2^53."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _amount(value: Any) -> bool:
    return number(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


_REPORT: dict[str, Check] = {
    "status": lambda value: value in ("complete", "stopped"),
    "stopped_by": _maybe(lambda value: value in STOP_REASONS),
    "created": _text,
    "versions": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    "network": _object,
    "domain": _object,
    "config": _object,
    "seconds": lambda value: isinstance(value, dict) and all(map(_amount, value.values())) and "total" in value,
    "solves": _each(_object),
    "counts": lambda value: isinstance(value, dict) and all(whole(value.get(k)) for k in (*VERDICTS, "rigorous")),
    "neurons": _each(_object),
    "witnesses": _each(_list),
    "curve": _each(lambda pair: isinstance(pair, list) and len(pair) == 2 and _amount(pair[0]) and whole(pair[1])),
}
_NETWORK: dict[str, Check] = {
    "file": _text,
    "sha256": _text,
    "n_inputs": lambda value: whole(value) and value > 0,
    "n_outputs": whole,
    "exact_import": lambda value: isinstance(value, bool),
    "layers": _each(_object),
}
_LAYER: dict[str, Check] = {
    "layer": whole,
    "name": _text,
    "size": lambda value: whole(value) and value > 0,
    "shape": _each(whole),
    "origin": _text,
}
_NEURON: dict[str, Check] = {
    "layer": whole,
    "neuron": whole,
    "verdict": lambda value: value in VERDICTS,
    "lower": _maybe(number),
    "upper": _maybe(number),
    "positive": _object,
    "negative": _object,
}
_QUESTION: dict[str, dict[str, Check]] = {
    "open": {},
    "witnessed": {"witness": whole, "by": _text},
    "refuted": {"by": _text, "rigorous": lambda value: isinstance(value, bool)},
}
_CERTIFIED: dict[str, Check] = {"leaves": whole, "seconds": _amount}
_SOLVE: dict[str, Check] = {
    "by": _text,
    **dict.fromkeys(("rows", "binaries", "nodes"), _maybe(whole)),
    **dict.fromkeys(("build_s", "translate_s", "cuts_s", "solver_s"), _maybe(_amount)),
}
_CONTRADICTION: dict[str, Check] = {
    "source": _text,
    "layer": whole,
    "neuron": whole,
    "side": lambda value: value in _SIDES,
    "witness": whole,
}


def check_report(data: Any) -> None:
    """Raise `ReportError`, naming the first mistake, unless ``data`` is the JSON object of a report.

    Beside the form this is: as many neurons, in order, as the layers have; a domain and witnesses of as many numbers
    as the network has inputs; witnesses that are there. Verdicts and counts follow from the questions; readers use
    only the questions.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise ReportError(f"schema {str(found)[:80]!r}; {SCHEMA!r} is expected")
    _keys(data, _REPORT, "the report")
    if (data["status"] == "complete") != (data["stopped_by"] is None):
        raise ReportError(f"status {data['status']!r} does not go with stopped_by {data['stopped_by']!r}")
    network = data["network"]
    _keys(network, _NETWORK, "network")
    for k, layer in enumerate(network["layers"]):
        _keys(layer, _LAYER, f"network.layers[{k}]")
        if layer["layer"] != k:
            raise ReportError(f"network.layers[{k}]: its number is {layer['layer']}")
    if domain_of_report(data).n_inputs != network["n_inputs"]:
        raise ReportError(f"the domain is not one of {network['n_inputs']} inputs, as the network has")
    for k, point in enumerate(data["witnesses"]):
        if len(point) != network["n_inputs"] or not all(map(number, point)):
            raise ReportError(f"witnesses[{k}]: {network['n_inputs']} finite numbers are expected, one per input")
    for k, solve in enumerate(data["solves"]):
        _keys(solve, {key: check for key, check in _SOLVE.items() if key == "by" or key in solve}, f"solves[{k}]")
    _check_neurons(data, [layer["size"] for layer in network["layers"]])
    given = data.get("contradictions", [])
    for k, entry in enumerate(given if isinstance(given, list) else [given]):
        _keys(entry, _CONTRADICTION, f"contradictions[{k}]")


def domain_of_report(data: Mapping[str, Any]) -> Domain:
    """The domain of a report's JSON object; raises `ReportError` where it is none."""
    try:
        return domain_from_json(data["domain"])
    except DomainError as error:
        raise ReportError(f"domain of the report: {error}") from None


def _keys(value: Any, checks: Mapping[str, Check], where: str) -> None:
    if not isinstance(value, dict):
        raise ReportError(f"{where}: an object is expected")
    for key, check in checks.items():
        if key not in value:
            raise ReportError(f"{where}: key {key!r} is missing")
        if not check(value[key]):
            shown = repr(value[key])[:60] if isinstance(value[key], str | int | float) else type(value[key]).__name__
            raise ReportError(f"{where}: {key!r} is of the wrong type or value ({shown})")


def _check_neurons(data: Mapping[str, Any], sizes: list[int]) -> None:
    neurons = data["neurons"]
    if len(neurons) != sum(sizes):
        raise ReportError(f"{len(neurons)} neurons, but the layers have {sum(sizes)}")
    expected = ((layer, neuron) for layer, size in enumerate(sizes) for neuron in range(size))
    for entry, (layer, neuron) in zip(neurons, expected, strict=True):
        where = f"neuron {neuron} of layer {layer}"
        _keys(entry, _NEURON, where)
        if (entry["layer"], entry["neuron"]) != (layer, neuron):
            raise ReportError(f"{where} is missing; neuron {entry['neuron']} of layer {entry['layer']} is in its place")
        for side in _SIDES:
            _check_question(entry[side], f"{where}, {side}", len(data["witnesses"]))


def _check_question(question: Any, where: str, n_witnesses: int) -> None:
    state = question.get("state")
    if state not in STATES:
        raise ReportError(f"{where}: state {str(state)[:60]!r}; {', '.join(STATES)} exist")
    _keys(question, _QUESTION[state], where)
    if "certified" in question and state == "refuted":
        _keys(question["certified"], _CERTIFIED, f"{where}, certified")
    if state == "witnessed" and question["witness"] >= n_witnesses:
        raise ReportError(f"{where}: witness {question['witness']} of {n_witnesses}")
