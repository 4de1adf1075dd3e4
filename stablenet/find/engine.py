"""The engine process of a supervisor: a run of `stablenet.find.pipeline` that streams its events.

Run as ``python -m stablenet.find.engine`` it reads a job (one JSON object) from standard input and streams ledger
events, one JSON object a line, to standard output; what solvers print there goes elsewhere.
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
from stablenet.core.errors import ContradictionError, InputError, SolverError, StablenetError
from stablenet.core.events import Event
from stablenet.core.files import remove_folder
from stablenet.core.ledger import Ledger
from stablenet.core.memory import limit_memory
from stablenet.core.options import Options
from stablenet.core.signals import install
from stablenet.domain.regions import domain_from_json
from stablenet.find.pipeline import Setup, find
from stablenet.report.report import network_to_json


def main() -> None:
    """Read a job from standard input, stream its events to standard output."""
    send = _claim_stdout()
    install()
    scratch = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        job = json.loads(sys.stdin.buffer.readline())
    except ValueError as error:
        with contextlib.suppress(BrokenPipeError):  # the supervisor was killed
            send({"event": "error", "exit_code": 1, "message": f"no job on standard input ({error})"})
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
    from stablenet.domain.spec import parse_domain
    from stablenet.onnx_io.reader import load_onnx

    known = False
    try:
        options = Options.from_json(request["options"])
        began = time.monotonic()
        network = load_onnx(request["network"], options.arithmetic)
        domain = request["domain"]
        region = parse_domain(domain, network.n_inputs) if isinstance(domain, str) else domain_from_json(domain)
        job = Setup(network, region, options)
        ledger = Ledger([layer.size for layer in network.layers], len(region.parts), send)
        send(
            {
                "event": "job",
                "network": network_to_json(network, region),
                "domain": region.to_json(),
                "options": options.to_json(),
                "n_parts": len(region.parts),
            }
        )
        known = True
        ledger.log.add_seconds("load", time.monotonic() - began)
        return {"event": "done", "stopped_by": find(job, ledger, deadline)}
    except MemoryError:
        if known:
            return {"event": "done", "stopped_by": "memory"}
        words = f"reading it takes more memory than the limit of {options.memory_limit} MB (see --memory-limit)"
        return {"event": "error", "exit_code": InputError.exit_code, "message": f"{request['network']}: {words}"}
    except SolverError as error:
        return {"event": "done", "stopped_by": "solver", "message": str(error)}
    except ContradictionError as error:
        return {"event": "done", "stopped_by": "solver", "message": str(error), "contradiction": True}
    except StablenetError as error:
        return {"event": "error", "exit_code": error.exit_code, "message": str(error)}


def _claim_stdout() -> Callable[[Event], None]:
    """Keep standard output for events alone: whatever else writes to descriptor 1 goes to standard error's null."""
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
        # Not through sys.stdin: its lock, held here, would abort the interpreter's end.
        while os.read(0, 4096):
            pass
        if scratch is not None:
            remove_folder(scratch)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(3)  # started by hand: the group is somebody else's

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
