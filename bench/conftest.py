"""Benchmarks' records hold what a reader needs of the machine, and nothing that tells whose it was."""

from __future__ import annotations

from typing import Any

from stablenet.compare.run.machine import describe_machine


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Processor, cores, system and Python, without the host's name."""
    known = describe_machine()
    machine_info.clear()
    machine_info.update({name: known[name] for name in ("cpu", "cores", "system", "python")})


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """The commit alone."""
    kept = {name: commit_info.get(name) for name in ("id", "dirty")}
    commit_info.clear()
    commit_info.update(kept)


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Without the single rounds, and without when it was: a new baseline differs only in what was measured."""
    output_json.pop("datetime", None)
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
