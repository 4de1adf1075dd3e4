"""The engine process of a supervisor: a run of `stablenet.find.pipeline` that streams its events.

Run as ``python -m stablenet.find.engine`` it reads a job (one JSON object) from standard input and streams ledger
events, one JSON object a line, to standard output; what solvers print there is discarded.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from stablenet.core.deadline import Deadline
from stablenet.core.errors import ContradictionError, ExitCode, SolverError, StablenetError
from stablenet.core.events import Event
from stablenet.core.files import remove_folder
from stablenet.core.ledger import Ledger
from stablenet.core.memory import limit_memory
from stablenet.core.options import Options
from stablenet.core.signals import install
from stablenet.find.ending import Ending
from stablenet.find.pipeline import find


def main() -> None:
    """Read a job from standard input, stream its events to standard output."""
    send = _claim_stdout()
    install()
    scratch = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        job = json.loads(sys.stdin.buffer.readline())
    except ValueError as error:
        with contextlib.suppress(BrokenPipeError):  # the supervisor was killed
            send(_refusal(ExitCode.BUG, f"no job on standard input ({error})"))
        if scratch is not None:
            remove_folder(scratch)
        return
    _die_with_parent(scratch)
    limit_memory(job["options"].get("memory_limit"))
    deadline = Deadline(None if job["deadline"] is None else max(0.0, job["deadline"] - time.time()))
    send({"event": "reading"})
    send(run_job(job, send, deadline))


def run_job(request: dict[str, Any], send: Callable[[Event], None], deadline: Deadline) -> Event:
    """Run a job given as JSON; returns the closing event."""
    from stablenet.find.prepare import prepare

    ledger: Ledger | None = None
    try:
        options = Options.from_json(request["options"])
        began = time.monotonic()
        setup = prepare(request["network"], request["domain"], options)
        ledger = setup.ledger(send)
        send({"event": "job", **setup.describe(), "n_parts": len(setup.domain.parts)})
        ledger.log.add_seconds("load", time.monotonic() - began)
        return Ending(find(setup, ledger, deadline)).to_event()
    except (MemoryError, SolverError, ContradictionError) as error:
        if ledger is not None or not isinstance(error, MemoryError):
            return Ending.of(error).to_event()
        words = f"reading it takes more memory than the limit of {options.memory_limit} MB (see --memory-limit)"
        return _refusal(ExitCode.INPUT, f"{request['network']}: {words}")
    except StablenetError as error:
        return _refusal(error.exit_code, str(error))


def _refusal(code: int, message: str) -> Event:
    """The closing event of a run that cannot begin."""
    return {"event": "error", "exit_code": int(code), "message": message}


def _claim_stdout() -> Callable[[Event], None]:
    """Keep standard output for events alone: what others write to descriptor 1 is discarded."""
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    lock = threading.Lock()

    def send(event: Event) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with lock:
            view = memoryview(line)
            while view:
                view = view[stream.write(view) :]

    return send


def _die_with_parent(scratch: str | None) -> None:
    """End this process and its group when the supervisor's end of standard input closes, and remove their folder."""

    def watch() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort the process when the interpreter exits.
        while os.read(0, 4096):
            pass
        if scratch is not None:
            remove_folder(scratch)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(3)  # started by hand: the group belongs to another program

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
