"""The product as a user meets it: the Python functions, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from oracle.plain import Region

from hunt.campaign import Outcome

GUARD_SECONDS = 120.0
"""Wall time after which a command counts as hung."""

MOST_MEMORY = 1.2e9
"""Bytes that a command may hold at its peak on the small inputs of a hunt."""

MOST_PROCESSOR = 40.0
"""Seconds of processor time that a command may use on the small inputs of a hunt: load hardly touches it."""

FOREIGN = {".ses"}
"""Files in the folder for temporary ones that are not the product's: onnxruntime keeps its session number there."""

COMMAND = [sys.executable, "-P", "-m", "stablenet.cli.main"]


@dataclass(frozen=True)
class Run:
    """A command that has ended; ``code`` is None where it was ended by the guard, negative for a signal."""

    arguments: list[str]
    code: int | None
    output: str
    errors: str
    processor: float
    memory: float


def run(arguments: Sequence[object], folder: Path, **environment: str) -> Run:
    """Run a command in a folder, its temporary files in ``folder/tmp``."""
    words = [str(word) for word in arguments]
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    env = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), **environment}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*COMMAND, *words], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, preexec_fn=_guard,  # noqa: PLW1509 - the worker runs no other thread
        )  # fmt: skip
        status, usage = _wait(process.pid)
        process.returncode = 0  # reaped
        out.seek(0), err.seek(0)
        text = [stream.read().decode(errors="replace") for stream in (out, err)]
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return Run(words, code, *text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0)


def _guard() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(pid: int) -> tuple[int | None, Any]:
    """Status and resource usage; a process that outstays the guard is killed with its group, its status is None."""
    end = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < end:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    _, _, usage = os.wait4(pid, 0)
    return None, usage


def judge_run(run: Run, outcome: Outcome, codes: Sequence[int] = (0, 2, 3, 4)) -> None:
    """What no command may do, whatever it is given."""
    where = f"stablenet {shlex.join(run.arguments)}"
    tail = run.errors.strip()[-1500:]
    if run.code is None:
        outcome.add("HANG", f"{where}: still running after {GUARD_SECONDS:.0f} s")
    elif run.code not in codes:
        outcome.add("CRASH" if run.code < 0 else "TRACEBACK", f"{where}: exit code {run.code}\n{tail}")
    elif "Traceback (most recent call last)" in run.errors + run.output:
        outcome.add("TRACEBACK", f"{where}: exit code {run.code}\n{tail}")
    if run.memory > MOST_MEMORY:
        outcome.add("MEMORY", f"{where}: {run.memory / 1e9:.1f} GB")
    if run.processor > MOST_PROCESSOR:
        outcome.add("HANG", f"{where}: {run.processor:.0f} s of processor time")
    bad = {c for c in run.errors + run.output if (ord(c) < 32 and c not in "\n\t\r") or 127 <= ord(c) < 160}
    if bad:
        outcome.add("CONTRACT", f"{where}: control characters {sorted(bad)!r} on the terminal")
    if run.code == 2 and len(run.errors.strip().splitlines()) != 1:
        outcome.add("CONTRACT", f"{where}: a refusal of {len(run.errors.strip().splitlines())} lines\n{tail}")


def leftovers(scratch: Path) -> list[Path]:
    """What lies in a folder for temporary files, where nothing may."""
    return sorted(p for p in scratch.iterdir() if p.name not in FOREIGN) if scratch.exists() else []


def judge_scratch(folder: Path, outcome: Outcome) -> None:
    """Temporary files of commands that outlived their run."""
    left = leftovers(folder / "tmp")
    if left:
        outcome.add("LEAK", f"temporary files are left: {[path.name for path in left[:5]]}")


@cache
def parts(kind: str) -> tuple[str, ...]:
    """Names that the command line lists: ``formulations`` (with their arguments), ``bounds``, ``searches``,
    ``solvers`` (those that are installed)."""
    listed = subprocess.run([*COMMAND, kind, "--json"], capture_output=True, check=True, text=True)
    data = json.loads(listed.stdout)
    if kind == "formulations":
        return tuple(variant["spec"] for entry in data for variant in entry["variants"])
    if kind == "solvers":
        return tuple(entry["solver"] for entry in data["solvers"] if entry["installed"])
    return tuple(entry["name"] for entry in data)


@dataclass
class Found:
    """What a search came to: its report, or why there is none."""

    report: dict[str, Any] | None = None
    refused: str | None = None
    contradiction: str | None = None
    failures: list[str] = field(default_factory=list)


def find(network: str | Path, regions: Sequence[Region], options: dict[str, Any]) -> Found:
    """Search in this process."""
    from stablenet import find_stable
    from stablenet.core.errors import ContradictionError, StablenetError

    found = Found()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found.report = find_stable(network, domain_of(regions), **options).to_json()
        except ContradictionError as error:
            found.contradiction = str(error)
            found.report = None if error.report is None else error.report.to_json()
        except StablenetError as error:
            if error.exit_code == 2:
                found.refused = str(error)
            else:
                found.failures.append(f"{type(error).__name__}: {error}")
    found.failures += [str(w.message) for w in told if w.category is UserWarning]
    return found


def domain_of(regions: Sequence[Region]) -> Any:
    """The regions as the package's domain."""
    from stablenet import Box, Polytope, Union

    members = [Polytope(r.lower, r.upper, r.a, r.b) if r.a else Box(r.lower, r.upper) for r in regions]
    return members[0] if len(members) == 1 else Union(members)


def write_vnnlib(path: Path, regions: Sequence[Region]) -> None:
    """The regions as a VNN-LIB file; its decimals are the shortest that read back as the same floats."""
    n = len(regions[0].lower)
    lines = [f"(declare-const X_{j} Real)" for j in range(n)] + ["(declare-const Y_0 Real)"]
    sets = [_conjunction(region) for region in regions]
    if len(sets) == 1:
        lines += [f"(assert {one})" for one in sets[0]]
    else:
        lines.append(f"(assert (or {' '.join('(and ' + ' '.join(some) + ')' for some in sets)}))")
    path.write_text("\n".join(lines) + "\n")


def _conjunction(region: Region) -> list[str]:
    found = []
    for j, (low, high) in enumerate(zip(region.lower, region.upper, strict=True)):
        found += [f"(>= X_{j} {float(low)!r})", f"(<= X_{j} {float(high)!r})"]
    for row, rhs in zip(region.a, region.b, strict=True):
        terms = " ".join(f"(* {float(w)!r} X_{j})" for j, w in enumerate(row))
        found.append(f"(<= (+ {terms} 0.0) {float(rhs)!r})")
    return found


SWITCHES = {"decide_by_bounds", "falsify", "start", "tighten"}


def flags(options: dict[str, Any]) -> list[str]:
    """Options of a search as the command line takes them."""
    words: list[str] = []
    for key, value in options.items():
        name = key.replace("_", "-")
        if key in SWITCHES:
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words
