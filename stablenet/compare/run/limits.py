"""A process that runs one command under limits which it enforces from outside.

``python -m stablenet.compare.run.limits`` reads a request (one JSON line) from standard input and answers with one JSON
line on standard output. It becomes the parent of all processes that the command leaves behind, and ends them: neither
a solver that outlives its parent, nor the command itself if the other end of standard input closes because
the sweep was killed. A folder named as argument is where temporary files go. The process that started this one removes
it, or this one if that has ended. On Linux memory is the sum of the resident sets of all processes; elsewhere only the
wall time is limited.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stablenet.core.files import remove_folder
from stablenet.core.signals import ENDING

POLL = 0.1
"""Seconds between looks at clock and memory."""

PATIENCE = 3.0
"""Seconds that a command has for writing its report after its solver was killed or it got a signal to end."""

STDERR_TAIL = 4000
"""Characters of standard error that are kept."""

MEGABYTE = 2**20
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class LimitedCommand:
    """``wall`` in seconds, ``memory`` in megabytes; ``cores`` to pin the command to (empty: any)."""

    argv: list[str]
    wall: float
    memory: float | None = None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Watched:
    """How a command ended: ``exit_code`` is negative for a signal, ``killed`` is None, ``wall`` or ``memory``.

    ``wall_s`` and ``cpu_s`` are seconds of the command and all that it waited for, ``peak_mb`` the largest sum of
    resident sets, ``load`` the machine's load average when it began.
    """

    exit_code: int
    killed: str | None
    wall_s: float
    cpu_s: float
    peak_mb: float
    load: float | None
    stderr: str


def watch(request: LimitedCommand, *, parent: int | None = None, scratch: str | None = None) -> Watched:
    """Run a command to its end or to a limit. ``parent`` is a descriptor whose closing ends everything.

    ``scratch`` is the folder for the command's temporary files (None: the system's).
    """
    _adopt_orphans()
    _pin(request.cores)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        child = subprocess.Popen(
            request.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            env=os.environ if scratch is None else os.environ | {"TMPDIR": scratch},
            preexec_fn=_die_with_warden,  # noqa: PLW1509 - this process has one thread
        )
        handle = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
        try:
            killed, peak = _guard(child.pid, handle, request, began, parent)
        finally:
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.monotonic() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            _kill_all(keep=None)
            if handle is not None:
                os.close(handle)
        errors.seek(0)
        words = errors.read().decode(errors="replace")[-STDERR_TAIL:]
    unit = 1 if sys.platform == "darwin" else 1024
    largest = usage.ru_maxrss * unit / MEGABYTE
    cpu = usage.ru_utime + usage.ru_stime
    return Watched(child.returncode, killed, wall, cpu, max(peak, largest), load, words)


def _guard(
    pid: int, handle: int | None, request: LimitedCommand, began: float, parent: int | None
) -> tuple[str | None, float]:
    """Watch until the command has ended or is killed; returns what killed it and the peak of its memory."""
    killed: str | None = None
    deadline, peak = began + request.wall, 0.0
    while True:
        if _ended(pid, handle, parent):
            return killed, peak
        now, memory = time.monotonic(), _memory(pid)
        peak = max(peak, memory)
        if killed is not None:
            if now > deadline:
                os.killpg(pid, signal.SIGKILL)
        elif request.memory is not None and memory > request.memory:
            # The command itself only supervises: once its children are killed, it reports what they had found.
            killed, deadline = "memory", now + PATIENCE
            if not _kill_all(keep=pid):
                os.killpg(pid, signal.SIGTERM)
        elif now > deadline:
            killed, deadline = "wall", now + PATIENCE
            os.killpg(pid, signal.SIGTERM)


def _ended(pid: int, handle: int | None, parent: int | None) -> bool:
    """Wait for a moment; whether the command has ended. Kills it if the parent is gone."""
    watched = [descriptor for descriptor in (handle, parent) if descriptor is not None]
    ready: list[int] = []
    if handle is None:
        time.sleep(POLL)
    if watched:
        ready = select.select(watched, [], [], POLL if handle is not None else 0.0)[0]
    if parent is not None and parent in ready and not os.read(parent, 4096):
        _kill_all(keep=None)
        os.killpg(pid, signal.SIGKILL)
        return True
    if handle is not None:
        return handle in ready
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def descendants(pid: int) -> list[int]:
    """Processes below one, itself not included; empty where the system does not tell."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _memory(pid: int) -> float:
    """Megabytes resident in a process and all below it."""
    pages = 0
    for process in (pid, *descendants(pid)):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def _kill_all(keep: int | None) -> bool:
    """Kill all below this process but ``keep``; whether there was any. Adopted ones are waited for."""
    any_killed = False
    for _ in range(100):
        alive = [pid for pid in descendants(os.getpid()) if pid != keep and not _zombie(pid)]
        for pid in alive:
            any_killed = True
            _signal(pid)
        if not alive:
            break
        time.sleep(0.01)
    return any_killed


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _adopt_orphans() -> None:
    """Make orphans below this process its children (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_warden() -> None:
    """In the command's process: be killed if the watchdog is (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _pin(cores: tuple[int, ...]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> None:
    """Serve one request."""
    scratch = sys.argv[1] if len(sys.argv) > 1 else None

    def end(number: int, frame: object) -> None:
        del number, frame
        _kill_all(keep=None)
        _remove(scratch)
        os._exit(1)

    for number in ENDING:
        signal.signal(number, end)
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            _remove(scratch)
            return
        line += chunk
    data: dict[str, Any] = json.loads(line)
    request = LimitedCommand(data["argv"], data["wall"], data["memory"], tuple(data["cores"]))
    answer = watch(request, parent=0, scratch=scratch)
    try:
        os.write(1, json.dumps(asdict(answer)).encode() + b"\n")
    except BrokenPipeError:  # the sweep was killed
        _remove(scratch)


def _remove(scratch: str | None) -> None:
    if scratch is not None:
        remove_folder(scratch)


if __name__ == "__main__":
    main()
