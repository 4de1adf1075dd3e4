"""Carrying out one run: a warden, a `find` below it, and what both say; plain values in and out.

The same function serves the local workers and those of a cluster.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablenet.compare.plan import REPORT, fill
from stablenet.compare.rows import Result
from stablenet.core.errors import StablenetError


class WardenError(StablenetError):
    """The warden of a run gave no answer: it was killed itself."""


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
    """Carry out a job. Raises `WardenError` if its warden was killed.

    ``started`` is given the warden's process; closing its standard input ends the run.
    """
    with tempfile.TemporaryDirectory(prefix="stablenet-") as folder:
        report = Path(folder) / "report.json"
        argv = [sys.executable, "-P", "-m", "stablenet.cli.main", *fill(job.arguments, {**job.files, REPORT: report})]
        request = {"argv": argv, "wall": job.wall, "memory": job.memory, "cores": list(job.cores)}
        warden = subprocess.Popen(
            [sys.executable, "-P", "-m", "stablenet.compare.run.limits"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if started is not None:
            started(warden)
        answer = _converse(warden, json.dumps(request).encode() + b"\n")
        text = report.read_text(encoding="utf-8") if report.is_file() and report.stat().st_size else None
    if answer is None:
        raise WardenError(f"the warden of a run ended with exit code {warden.returncode} and no answer")
    return Result(answer, text)


def _converse(warden: subprocess.Popen[bytes], request: bytes) -> dict[str, Any] | None:
    """Send the request, wait for the answer; standard input stays open meanwhile, as a sign of life."""
    assert warden.stdin is not None  # noqa: S101 - for the type checker; Popen was given pipes
    assert warden.stdout is not None  # noqa: S101
    try:
        warden.stdin.write(request)
        warden.stdin.flush()
        line = warden.stdout.read()
    except (BrokenPipeError, ValueError):
        line = b""
    finally:
        for stream in (warden.stdin, warden.stdout):
            if not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        warden.wait()
    return json.loads(line) if line.strip() else None
