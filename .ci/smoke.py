"""Try an installed stablenet: the command line and the Python functions, each once, on the example network.

    python .ci/smoke.py

Runs in a temporary folder, so that it is the installed package that answers. `find` on the command line and `compare`
need a POSIX system, and are tried only there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits_3x100.onnx"
PYTHON = """
from stablenet import build_model, compress, find_stable, verify
report = find_stable("net.onnx", "box:0:1")
assert report.complete, report.counts
assert report.counts["stably_active"] + report.counts["stably_inactive"] == 172, report.counts
assert len(build_model("net.onnx", "box:0:1").x) == 64
small = compress("net.onnx", report)
small.write("small.onnx")
answer = verify("net.onnx", "small.onnx", "box:0:1")
assert answer.outcome == "equal", answer.outcome
print("172 stable neurons;", small.network.n_neurons, "neurons left")
"""


def run(*command: str) -> None:
    """Run a command of the installed package; its failure is ours."""
    print("$", *command, flush=True)
    subprocess.run(command, check=True, timeout=600)


def main() -> None:
    """Try everything."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(EXAMPLE, Path(folder) / "net.onnx")
        run("stablenet", "--version")
        stablenet = (sys.executable, "-m", "stablenet")
        run(*stablenet, "--version")
        run(*stablenet, "info", "net.onnx")
        for kind in ("formulations", "bounds", "searches", "solvers"):
            run(*stablenet, kind)
        run(*stablenet, "export", "net.onnx", "--domain", "box:0:1", "--output", "model.mps")
        run(sys.executable, "-c", PYTHON)
        if os.name == "posix":
            run(*stablenet, "find", "net.onnx", "--domain", "box:0:1", "--output", "report.json")


if __name__ == "__main__":
    main()
