"""Campaign: signals at random moments of ``find``, ``compress``, ``verify`` and ``compare``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import dense
from hunt.product import COMMAND, judge_scratch
from hunt.verdicts import pick

MARK = "STABLENET_HUNT"
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
GUARD = 60.0
"""Seconds after the signal within which everything has to be over; far more than it takes, for a loaded machine."""

STARTING = 60.0
"""Seconds within which a command has taken over signals."""

GRID = """time_limit = 20
[[instances]]
name = "one"
network = "a.onnx"
domain = "box:-1:1"
[[runs]]
bounds = ["interval", "crown"]
search = ["network", "neuron"]
solver = ["highs", "cbc"]
"""

SEARCH = ["--bounds", "interval", "--no-falsify", "--threads", "1", "--time-limit", "20"]
COMMANDS = {
    "find": ["find", "a.onnx", "--domain", "box:-1:1", *SEARCH, "--output", "out.json"],
    "compress": [
        "compress",
        "a.onnx",
        "--domain",
        "box:-1:1",
        "--threads",
        "1",
        "--time-limit",
        "20",
        "--output",
        "out.onnx",
    ],
    "verify": ["verify", "a.onnx", "b.onnx", "--domain", "box:-1:1", "--time-limit", "20", "--output", "out.npy"],
    "compare": ["compare", "grid.toml", "--output", "sweep", "--workers", "2"],
}


def marked(mark: str) -> list[int]:
    """Processes that carry the mark in their environment, the dead that nobody has waited for left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; False if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def judge_files(folder: Path, outcome: Outcome) -> None:
    """Outputs are whole or absent, and nothing else is left behind."""
    readers: dict[str, Callable[[Path], object]] = {
        "out.json": lambda path: json.loads(path.read_text())["schema"],
        "out.onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
        "out.npy": lambda path: np.load(path, allow_pickle=False),
    }
    known = {"a.onnx", "b.onnx", "grid.toml", "case.json", "tmp", "sweep", "stdout", "stderr"}
    for path in folder.iterdir():
        if path.name in readers:
            try:
                readers[path.name](path)
            except Exception as error:
                outcome.add("CONTRACT", f"{path.name} is not whole: {error}")
        elif path.name not in known:
            outcome.add("LEAK", f"{path.name} is left")
    judge_scratch(folder, outcome)


class Killed(Campaign):
    """Exit code 3 (or the one of a run that was over), no process and no file left, outputs whole or absent."""

    name = "killed"
    title = "signals at random moments: no orphan, no temporary file, outputs whole or absent"
    share = 1.5

    def make(self, rng: Random, folder: Path) -> Job:
        n, width = 6, 14
        layers = [(rng.normal(size=(width, n)), rng.normal(size=width))]
        layers += [(rng.normal(size=(width, width)) / 4, 0.1 * rng.normal(size=width)) for _ in range(2)]
        layers += [(rng.normal(size=(1, width)), np.zeros(1))]
        other = [(w + 1e-9 * (k == 0), b) for k, (w, b) in enumerate(layers)]
        for name, some in (("a.onnx", layers), ("b.onnx", other)):
            builder, tensor = dense(some, n)
            (folder / name).write_bytes(builder.finish(tensor)[0])
        (folder / "grid.toml").write_text(GRID)
        command = pick(rng, list(COMMANDS))
        words = list(COMMANDS[command])
        if command in ("find", "verify", "compress"):
            words += ["--solver", pick(rng, ["highs", "scip", "cbc"])]
        if command == "find":
            words += ["--search", pick(rng, ["network", "neuron", "auto"])]
        return {
            "command": words,
            "shell": f"stablenet {shlex.join(words)}",
            "signal": pick(rng, SIGNALS),
            "delay": float(rng.choice([rng.uniform(0, 0.5), rng.uniform(0, 3), rng.uniform(0, 12)])),
            "again": bool(rng.random() < 0.2),
        }

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        number = int(signal.Signals[job["signal"]])
        mark = uuid.uuid4().hex
        (folder / "tmp").mkdir(exist_ok=True)
        env = {**os.environ, MARK: mark, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*COMMAND, *job["command"]],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                self._strike(process, number, job, outcome)
                if not until(lambda: not marked(mark), GUARD):
                    outcome.add(
                        "LEAK", f"processes are left {GUARD:.0f} s after {job['signal']}: {_names(marked(mark))}"
                    )
            finally:
                for pid in marked(mark):
                    os.kill(pid, signal.SIGKILL)
                process.wait()
        outcome.counts[job["command"][0]] += 1
        outcome.counts["questions"] += 1
        if job["signal"] != "SIGKILL":
            self._judge_end(process.returncode, job, folder, outcome)
            judge_files(folder, outcome)

    @staticmethod
    def _strike(process: subprocess.Popen[bytes], number: int, job: Job, outcome: Outcome) -> None:
        """The signal, some time after the program has taken over signals from the interpreter's start."""
        until(lambda: catches(process.pid, signal.SIGTERM) or process.poll() is not None, STARTING)
        until(lambda: process.poll() is not None, job["delay"])
        if process.poll() is not None:
            outcome.counts["over before"] += 1
            return
        process.send_signal(number)
        if job["again"] and not until(lambda: process.poll() is not None, 0.2):
            process.send_signal(number)
        until(lambda: process.poll() is not None, GUARD)

    @staticmethod
    def _judge_end(code: int | None, job: Job, folder: Path, outcome: Outcome) -> None:
        errors = (folder / "stderr").read_text(errors="replace")
        what = f"{job['shell']}: {job['signal']} after {job['delay']:.2f} s"
        if "Traceback (most recent call last)" in errors:
            outcome.add("TRACEBACK", f"{what}\n{errors[-1500:]}")
        elif code not in (0, 3, 4):
            outcome.add("CONTRACT", f"{what}: exit code {code}\n{errors[-500:]}")


def _names(pids: list[int]) -> list[str]:
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:150])
        except OSError:
            continue
    return found or [sys.executable]
