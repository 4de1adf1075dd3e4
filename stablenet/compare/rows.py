"""The row of a run in the store, made from the watchdog's answer and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.compare.plan import Run
from stablenet.core.errors import ExitCode
from stablenet.find.ending import ENGINE_PROCESS

States = npt.NDArray[np.int8]

OUTCOMES = {
    "solved": "every neuron has a verdict",
    "borderline": "ended by itself; only questions that rounding decides are open",
    "optimal": "the search `milp` solved its model to the end; the optimum leaves questions open",
    "incomplete": "ended by itself with questions open: the method cannot close them",
    "time": "stopped at the time limit",
    "memory": "stopped at the memory limit",
    "hang": "overran its time limit and was ended from outside",
    "solver": "the solver failed or answered what proves nothing",
    "crash": "the process died",
    "refused": "the command refused the combination",
    "contradiction": "a witness disproved a refutation in the run itself",
    "wrong": "another run's witness disproves a refutation",
    "interrupted": "ended by an interrupt",
    "lost": "the run could not be carried out",
}
"""How a run ended. ``wrong`` is set when the sweep ends, by comparing the runs."""

FINISHED = ("solved", "borderline", "optimal")
"""Outcomes that count as solved."""

METHOD = ("formulation", "bounds", "search", "solver", "step", "solver_options")
"""Columns that tell methods apart."""

NO_SOLVER = "-"
"""The solver of a run that uses none."""

STATE_CODES = {"open": 0, "witnessed": 1, "refuted": 2}
SIDES = ("positive", "negative")


@dataclass(frozen=True)
class Result:
    """The result of a job: the watchdog's answer, and the report's text, None where none was written."""

    watched: dict[str, Any]
    report: str | None = None
    host: dict[str, Any] = field(default_factory=dict)


def states_of(report: dict[str, Any]) -> States:
    """States of all questions of a report, (2, neurons): 0 open, 1 witnessed, 2 refuted."""
    return np.array([[STATE_CODES[n[side]["state"]] for n in report["neurons"]] for side in SIDES], dtype=np.int8)


def pending_in(report: dict[str, Any]) -> int:
    """Open questions of neurons without a verdict."""
    return sum(
        neuron[side]["state"] == "open"
        for neuron in report["neurons"]
        if neuron["verdict"] == "unknown"
        for side in SIDES
    )


def outcome_of(exit_code: int, killed: str | None, stderr: str, report: dict[str, Any] | None) -> tuple[str, str]:
    """Outcome and reason of a run."""
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "").removeprefix("stablenet: ")
    if killed == "memory":
        return "memory", f"ended from outside at its memory limit{': ' + last if last else ''}"
    if killed == "wall":
        return "hang", "overran its time limit and was ended from outside"
    if exit_code == ExitCode.CONTRADICTION:
        return "contradiction", last
    if exit_code == ExitCode.INPUT:
        return "refused", last
    if report is None or exit_code not in {ExitCode.DONE, ExitCode.STOPPED}:
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return "crash", f"{how}{': ' + last if last else ''}"
    if report["status"] == "complete":
        return "solved", ""
    stopped = report["stopped_by"]
    if report.get("config", {}).get("search") == "milp" and stopped in {"search", "borderline"}:
        return "optimal", ""
    if stopped == "solver":
        return ("crash" if last.startswith(ENGINE_PROCESS) else "solver"), last
    by_reason = {"search": "incomplete", "interrupt": "interrupted"}
    return by_reason.get(stopped, stopped), last


def options_told(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every option of a solver that differed from its default in some of the rows, once for each setting.

    ``value`` and ``default`` stand by ``solver``, ``step``, ``solver_options`` (the set of options) and ``option``.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        for entry in json.loads(row.get("changed_options") or "[]"):
            line = {
                "solver": entry["solver"], "step": row["step"], "solver_options": row["solver_options"],
                "option": entry["option"], "value": str(entry["value"]), "default": str(entry["default"]),
            }  # fmt: skip
            found.setdefault(tuple(line.values()), line)
    return [found[key] for key in sorted(found)]


def plain_settings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Solvers and steps of rows in which no option differed from the solver's default, as ``solver in step``."""
    told = {(line["solver"], line["step"], line["solver_options"]) for line in options_told(rows)}
    known = {
        (row["solver"], row["step"], row["solver_options"]) for row in rows if row.get("changed_options") is not None
    }
    return [f"{solver} in {step}" for solver, step, _ in sorted(known - told) if solver != NO_SOLVER]


def make_row(
    run: Run, result: Result, *, command: str, frozen: dict[str, Any] | None, machine: dict[str, Any]
) -> dict[str, Any]:
    """The row of a finished run; ``frozen`` is the report that it started from."""
    watched = result.watched
    report = None if result.report is None else json.loads(result.report)
    outcome, reason = outcome_of(watched["exit_code"], watched["killed"], watched["stderr"], report)
    row: dict[str, Any] = {
        **base_row(run, command=command, machine=machine),
        "outcome": outcome,
        "reason": reason[:500],
        "exit_code": watched["exit_code"],
        "wall_s": watched["wall_s"],
        "cpu_s": watched["cpu_s"],
        "peak_mb": watched["peak_mb"],
        "load": watched["load"],
    }
    if frozen is not None:
        row["pending_start"] = pending_in(frozen)
        row["frozen_s"] = _work(frozen)
    if report is not None:
        row |= _from_report(report)
        row["report_sha256"] = hashlib.sha256(str(result.report).encode()).hexdigest()
        if frozen is None:
            row["pending_start"] = 2 * len(report["neurons"])
    return row


def base_row(run: Run, *, command: str, machine: dict[str, Any]) -> dict[str, Any]:
    """What is known of a row before it is run."""
    return {
        "key": run.key,
        "instance": run.instance.name,
        **run.axes,
        "seed": run.seed,
        "permute": run.options.permute,
        "time_limit": run.options.time_limit,
        "memory_limit": run.memory_limit,
        "threads": run.options.threads,
        "command": command,
        "machine": json.dumps(machine, sort_keys=True),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def lost_row(run: Run, reason: str, *, command: str, machine: dict[str, Any]) -> dict[str, Any]:
    """The row of a run that could not be carried out."""
    return {**base_row(run, command=command, machine=machine), "outcome": "lost", "reason": reason[:500]}


def _work(report: dict[str, Any]) -> float:
    """Seconds from the network in memory to the last verdict: all but loading and starting processes."""
    seconds = report["seconds"]
    return float(seconds["bounds"] + seconds["falsify"] + seconds["search"])


def _from_report(report: dict[str, Any]) -> dict[str, Any]:
    solves, counts = report["solves"], report["counts"]
    nodes = [solve.get("nodes") for solve in solves]
    return {
        "status": report["status"],
        "stopped_by": report["stopped_by"],
        **{name: counts[name] for name in ("stably_active", "stably_inactive", "unstable", "unknown", "rigorous")},
        "pending_end": pending_in(report),
        **{f"{what}_s": report["seconds"][what] for what in ("load", "bounds", "falsify", "search", "total")},
        "work_s": _work(report),
        "build_s": _sum(solves, "build_s"),
        "translate_s": _sum(solves, "translate_s"),
        "cuts_s": _sum(solves, "cuts_s"),
        "solver_s": _sum(solves, "solver_s"),
        "solves": len(solves),
        "nodes": None if None in nodes else sum(nodes),
        "rows": max((solve["rows"] or 0 for solve in solves), default=None),
        "binaries": max((solve["binaries"] or 0 for solve in solves), default=None),
        "root_bound": solves[0]["root_bound"] if solves else None,
        "final_bound": solves[-1]["dual_bound"] if solves else None,
        "objective": solves[-1].get("objective") if solves else None,
        "changed_options": json.dumps(report.get("solver_options", [])),
        "curve": json.dumps(report["curve"]),
        "versions": json.dumps(report["versions"]),
    }


def _sum(solves: list[dict[str, Any]], key: str) -> float | None:
    values = [solve[key] for solve in solves if solve.get(key) is not None]
    return sum(values) if values else None
