"""Small instances, grids and an outside package with fake solvers, for the tests of comparisons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx_models import model, node, save

FAKES = '''
"""Solvers that misbehave, and a formulation from outside."""
import os
import signal
import time
from dataclasses import replace

from stablenet.backends.base import Status
from stablenet.backends.highs import Highs, HighsSession
from stablenet.formulations.bigm import BigM


class _Lying(HighsSession):
    def solve(self, *args, **kwargs):
        result = super().solve(*args, **kwargs)
        return replace(result, status=Status.OPTIMAL, x=None, objective=0.0, dual_bound=0.0)


class Liar(Highs):
    name = "liar"

    def open(self, milp, settings):
        return _Lying(self, milp, settings)


class Crasher(Highs):
    name = "crasher"

    def open(self, milp, settings):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hog(Highs):
    name = "hog"

    def open(self, milp, settings):
        self.hoard = [bytearray(b"x" * 2**20) for _ in range(3000) if not time.sleep(0.0005)]
        time.sleep(60)


class Sleeper(Highs):
    name = "sleeper"

    def open(self, milp, settings):
        time.sleep(600)


class Absent(Highs):
    name = "absent"

    def available(self):
        return replace(super().available(), installed=False, install="pip install absent-solver")


class Outside(BigM):
    name = "outside"
    title = "big-M from an outside package"
'''

POINTS = """[stablenet.backends]
liar = fake_solvers:Liar
crasher = fake_solvers:Crasher
hog = fake_solvers:Hog
sleeper = fake_solvers:Sleeper
absent = fake_solvers:Absent

[stablenet.formulations]
outside = fake_solvers:Outside
"""


def write_network(folder: Path, name: str = "net.onnx", *, seed: int = 0, width: int = 6) -> Path:
    """A random network with 3 inputs and two layers of ReLUs, some of them stable on [-1, 1]."""
    rng = np.random.default_rng(seed)
    weights = {
        "a": rng.normal(size=(3, width)), "b": rng.normal(size=width),
        "c": rng.normal(size=(width, width)), "d": rng.normal(size=width), "e": rng.normal(size=(width, 2)),
    }  # fmt: skip
    nodes = [
        node("MatMul", "x", "a", out="t0"), node("Add", "t0", "b", out="t1"), node("Relu", "t1", out="t2"),
        node("MatMul", "t2", "c", out="t3"), node("Add", "t3", "d", out="t4"), node("Relu", "t4", out="t5"),
        node("MatMul", "t5", "e"),
    ]  # fmt: skip
    return save(model(nodes, (1, 3), weights), folder, name)


def write_grid(folder: Path, body: str, *, networks: int = 1, name: str = "grid.toml") -> Path:
    """A grid over as many random networks; ``body`` holds the rest of the file."""
    instances = ""
    for seed in range(networks):
        write_network(folder, f"net{seed}.onnx", seed=seed)
        instances += f'[[instances]]\nname = "net{seed}"\nnetwork = "net{seed}.onnx"\ndomain = "box:-1:1"\n'
    path = folder / name
    head, mark, tables = body.partition("[")
    path.write_text(f"time_limit = 60\n{head}{instances}{mark}{tables}")
    return path


def write_fakes(folder: Path) -> Path:
    """An outside package with entry points; the folder is what has to be on the path."""
    package = folder / "site"
    info = package / "fake_solvers-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "fake_solvers.py").write_text(FAKES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-solvers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return package


def environment(package: Path | None = None) -> dict[str, str]:
    """The environment of a command, with an outside package on the path."""
    return {**os.environ, "NO_COLOR": "1", **({} if package is None else {"PYTHONPATH": str(package)})}


def stablenet(*arguments: object, package: Path | None = None, timeout: float = 240.0, cwd: Path | None = None):
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "stablenet.cli", *map(str, arguments)],
        env=environment(package), capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd,
    )  # fmt: skip
