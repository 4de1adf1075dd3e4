"""A process that runs cases one after the other, so that a crash or a hang of a solver costs one case."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from hunt.campaign import Outcome
from hunt.product import leftovers

KEPT = "pyomo_child"
"""One idle process of this name is kept for the next session, by design; it ends with the worker."""


def work(pipe: Connection, scratch: Path) -> None:
    """Run the cases that come through the pipe, (campaign, seed, folder), and send what came of each."""
    from hunt.registry import CAMPAIGNS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's business
    scratch.mkdir(parents=True, exist_ok=True)
    _silence(scratch.with_suffix(".log"))
    faulthandler.enable()
    tempfile.tempdir = str(scratch)
    os.environ["TMPDIR"] = str(scratch)
    while True:
        try:
            name, seed, folder = pipe.recv()
        except EOFError:
            return
        outcome = CAMPAIGNS[name]().run(seed, folder)
        left_behind(scratch, outcome)
        pipe.send(outcome)


def children() -> list[int]:
    """Processes that this one has started and that have not ended."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between the listing and the reading; the kernel then hands its children to another thread.
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def left_behind(scratch: Path, outcome: Outcome) -> None:
    """Note temporary files and child processes that a case has left, and remove them."""
    for path in leftovers(scratch):
        outcome.add("LEAK", f"temporary {path.name} is left")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = 0
    for pid in children():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended, and a library collected it
            continue
        if KEPT in words and not kept:
            kept += 1
            continue
        outcome.add("LEAK", f"a child process is left: {words[:200] or pid}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _silence(log: Path) -> None:
    """What solvers print goes to a file."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
