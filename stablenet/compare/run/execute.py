"""Carrying out one run: a watchdog process, and below it the command `find`; plain values in and out.

The same function serves the local workers and those of a cluster.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablenet.compare.plan import REPORT, fill
from stablenet.compare.rows import Result, outcome_of
from stablenet.core.errors import StablenetError
from stablenet.core.files import scratch_folder


class WatchdogError(StablenetError):
    """The watchdog of a run gave no answer: it was killed itself."""


@dataclass(frozen=True)
class Job:
    """One run to carry out.

    ``arguments`` are those of `stablenet`, with tokens for files; ``files`` says where those are. ``wall`` is in
    seconds and ``memory`` in megabytes, both enforced from outside; ``threads`` is how many cores it needs,
    ``cores`` which ones it is pinned to (empty: any).
    """

    arguments: list[str]
    files: dict[str, Path]
    wall: float
    memory: float | None = None
    threads: int = 1
    cores: tuple[int, ...] = ()


def execute(job: Job, *, started: Callable[[subprocess.Popen[bytes]], None] | None = None) -> Result:
    """Carry out a job. Raises `WatchdogError` if its watchdog was killed.

    ``started`` is given the watchdog's process; closing its standard input ends the run.
    """
    with scratch_folder() as folder:
        report = Path(folder) / "report.json"
        argv = [sys.executable, "-P", "-m", "stablenet", *fill(job.arguments, {**job.files, REPORT: report})]
        request = {"argv": argv, "wall": job.wall, "memory": job.memory, "cores": list(job.cores)}
        watchdog = subprocess.Popen(
            [sys.executable, "-P", "-m", "stablenet.compare.run.limits", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if started is not None:
            started(watchdog)
        answer = _converse(watchdog, json.dumps(request).encode() + b"\n")
        text = report.read_text(encoding="utf-8") if report.is_file() and report.stat().st_size else None
    if answer is None:
        raise WatchdogError(f"the watchdog of a run ended with exit code {watchdog.returncode} and no answer")
    return Result(answer, text)


def _converse(watchdog: subprocess.Popen[bytes], request: bytes) -> dict[str, Any] | None:
    """Send the request, wait for the answer; standard input stays open meanwhile, so that the watchdog sees that this
    process lives.
    """
    assert watchdog.stdin is not None  # noqa: S101 - for the type checker; Popen was given pipes
    assert watchdog.stdout is not None  # noqa: S101
    try:
        watchdog.stdin.write(request)
        watchdog.stdin.flush()
        line = watchdog.stdout.read()
    except (BrokenPipeError, ValueError):
        line = b""
    finally:
        for stream in (watchdog.stdin, watchdog.stdout):
            if not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        watchdog.wait()
    return json.loads(line) if line.strip() else None


def frozen_report(result: Result) -> tuple[dict[str, Any] | None, str]:
    """The report of a frozen set, or why there is none. A set cut short by its time limit would not repeat."""
    report = None if result.report is None else json.loads(result.report)
    watched = result.watched
    outcome, reason = outcome_of(watched["exit_code"], watched["killed"], watched["stderr"], report)
    if outcome in {"solved", "incomplete"}:
        return report, ""
    return None, f"{outcome}{': ' + reason if reason else ''}"
