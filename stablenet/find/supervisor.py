"""The supervisor of an engine process: it replays the engine's events, makes the report and enforces the limits.

Whatever happens to the engine (a solver that crashes, hangs, is killed or runs out of memory), all that was
found until then stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, Any

from stablenet.core.errors import ExitCode, StablenetError
from stablenet.core.events import Event
from stablenet.core.files import scratch_folder
from stablenet.core.ledger import Ledger
from stablenet.core.memory import default_megabytes
from stablenet.core.options import Options
from stablenet.core.signals import Interrupted, Interrupts
from stablenet.find.ending import ENGINE_PROCESS, Ending, Finished, finish

GRACE = 0.6
"""Seconds that an engine may overrun the time limit before it is killed: the report takes the rest of a second."""

READING = 1.0
"""Seconds that an engine has for reading network and domain, however long its own start took."""

START = 60.0
"""Seconds that an engine may take to start."""

EXIT_GRACE = 5.0
"""Seconds that an engine may take to exit after its closing event."""

POLL = 0.2
"""Seconds between looks at the clock."""


class EngineRefusedError(StablenetError):
    """The engine refused the job, or ended before there was anything to report."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.code = exit_code
        super().__init__(message)


@dataclass
class _Run:
    """State of one supervised engine."""

    began: float
    ledger: Ledger | None = None
    reading: float | None = None
    job: Event = field(default_factory=dict)
    closing: Event | None = None
    ended: bool = False
    tail: bytes = b""
    interrupts: Interrupts = field(default_factory=Interrupts)


def supervise(
    network: str,
    domain: str | dict[str, Any],
    options: Options,
    *,
    started: float | None = None,
    watch: Callable[[Ledger], None] | None = None,
) -> Finished:
    """Run a search in an engine process of its own.

    ``network`` is a file, ``domain`` a specification or the report's form of one. ``started`` is the moment
    (`time.time`) from which the time limit counts; ``watch`` is called after events, for showing progress. Raises
    `EngineRefusedError` where the engine refuses the job; everything else ends in a `Finished`.
    """
    began = time.time() if started is None else started
    if options.memory_limit is None:
        options = replace(options, memory_limit=default_megabytes())
    deadline = None if options.time_limit is None else began + options.time_limit
    request = {"network": network, "domain": domain, "options": options.to_json(), "deadline": deadline}
    run = _Run(began)
    with Interrupts() as run.interrupts, scratch_folder() as folder, tempfile.TemporaryFile() as errors:
        engine = subprocess.Popen(
            # -P: modules of the working folder are not imported.
            [sys.executable, "-P", "-m", "stablenet.find.engine", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=_environment(options) | {"TMPDIR": folder},
        )
        try:
            stopped_by = _follow(engine, json.dumps(request).encode() + b"\n", run, deadline, watch)
        finally:
            _finish(engine, run)
        errors.seek(0)
        words = errors.read().decode(errors="replace")
    return _conclude(run, engine.returncode, stopped_by, words, time.time() - began)


def _environment(options: Options) -> dict[str, str]:
    """The engine's environment: BLAS gets as many threads as the solver."""
    threads = str(options.threads)
    return os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)


def _follow(
    engine: subprocess.Popen[bytes],
    request: bytes,
    run: _Run,
    deadline: float | None,
    watch: Callable[[Ledger], None] | None,
) -> str | None:
    """Replay events until the engine is done; returns the stop reason if it has to be stopped."""
    assert engine.stdin is not None  # noqa: S101 - for the type checker; Popen was given pipes
    assert engine.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        engine.stdin.write(request)
        engine.stdin.flush()
    with selectors.DefaultSelector() as selector:
        selector.register(engine.stdout, selectors.EVENT_READ)
        while run.closing is None:
            if run.interrupts.seen:
                return "interrupt"
            left = POLL if deadline is None else _left(run, deadline)
            if left <= 0:
                return "time"
            if selector.select(min(left, POLL)) and not _read(engine.stdout, run):
                return None
            if watch is not None and run.ledger is not None:
                watch(run.ledger)
    return None


def _left(run: _Run, deadline: float) -> float:
    """Seconds until the engine is ended. Without a network there is no report, so a slow start is not counted."""
    now = time.time()
    if run.ledger is not None:
        return deadline + GRACE - now
    if run.reading is not None:
        return max(deadline + GRACE, run.reading + READING) - now
    return deadline + START - now


def _read(stream: IO[bytes], run: _Run) -> bool:
    """Replay what the pipe holds; False at its end."""
    chunk = os.read(stream.fileno(), 1 << 20)
    if not chunk:
        run.ended = True
        return False
    *lines, rest = (run.tail + chunk).split(b"\n")
    run.tail = rest
    for line in lines:
        _replay(json.loads(line), run)
    return True


def _replay(event: Event, run: _Run) -> None:
    kind = event["event"]
    if kind == "reading":
        run.reading = time.time()
    elif kind == "job":
        run.job = event
        run.ledger = Ledger([layer["size"] for layer in event["network"]["layers"]], event["n_parts"])
        if run.reading is not None:
            run.ledger.log.add_seconds("start", run.reading - run.began)
    elif kind in {"done", "error"}:
        run.closing, run.ended = event, True
    elif run.ledger is not None:
        run.ledger.apply(event)


def _finish(engine: subprocess.Popen[bytes], run: _Run) -> None:
    """End the engine and whatever it started, then replay what it had still sent."""
    if run.ended:
        # Let it exit by itself first: its own exit code says more than that of the signal below.
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(EXIT_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    if engine.stdout is not None:
        while not run.ended and _read(engine.stdout, run):
            pass
        engine.stdout.close()
    if engine.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            engine.stdin.close()
    engine.wait()


def _conclude(run: _Run, engine_code: int, stopped_by: str | None, errors: str, seconds: float) -> Finished:
    """Report and exit code from what was replayed and how the engine ended."""
    closing = run.closing
    if closing is not None and closing["event"] == "error":
        raise EngineRefusedError(str(closing["message"]), int(closing["exit_code"]))
    if closing is not None:
        ending = Ending.from_event(closing)
    elif stopped_by is None:
        ending = _crash(engine_code, errors)
    else:
        ending = Ending(stopped_by)
    if run.ledger is None:
        raise _nothing_read(ending, engine_code)
    run.ledger.log.cut_off()
    return finish(
        run.ledger,
        ending,
        network=run.job["network"],
        domain=run.job["domain"],
        options=run.job["options"],
        seconds=seconds,
    )


def _nothing_read(ending: Ending, engine_code: int) -> BaseException:
    """What to raise where the engine ended before network and domain were read: there is no report."""
    if ending.stopped_by == "interrupt":
        return Interrupted()
    message = ending.message
    if ending.stopped_by == "time":
        message = "the time limit passed before network and domain were read; there is nothing to report"
    # A Python traceback is a bug of this package; a crash or a limit is not.
    bug = engine_code == 1 and ending.stopped_by == "solver"
    message = message or "the engine ended before the network was read"
    return EngineRefusedError(message, ExitCode.BUG if bug else ExitCode.STOPPED)


def _crash(code: int, errors: str) -> Ending:
    """The ending of an engine without a closing event."""
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    words = ("memoryerror", "bad_alloc", "out of memory", "memory allocation", "cannot allocate memory")
    memory = any(word in errors.lower() for word in words)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Ending("memory" if memory else "solver", f"{ENGINE_PROCESS} {how}{': ' + last if last else ''}")
