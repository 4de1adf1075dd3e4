"""Small instances, grids and an outside package with fake solvers, for the tests of comparisons."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx_models import model, node, save

from stablenet.compare.store import Store
from stablenet.report.report import dumps
from stablenet.report.schema import VERDICTS

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
    path.write_text(f"time_limit = 600\n{head}{instances}{mark}{tables}")
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


def stablenet(*arguments: object, package: Path | None = None, timeout: float = 1200.0, cwd: Path | None = None):
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "stablenet.cli.main", *map(str, arguments)],
        env=environment(package), capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd,
    )  # fmt: skip


# A finished sweep without running anything

SECONDS = {"highs": [0.2, 1.5, 4.0], "scip": [0.5, 0.9, None], "cbc": [1.0, None, None]}
"""Seconds of three solvers on three instances; None is a time-out at 10 s."""


def question(state: str, by: str, witness: int = 0) -> dict[str, Any]:
    """A question of a report."""
    extra = {"witnessed": {"witness": witness, "by": by}, "refuted": {"by": by, "rigorous": False}, "open": {}}
    return {"state": state, **extra[state]}


def small_report(*, solved: bool = True, lie: bool = False) -> dict[str, Any]:
    """A report of two layers of three neurons over 25 inputs."""
    neurons = []
    for i in range(6):
        if i < 3:
            verdict, states = "unstable", ("witnessed", "witnessed")
        elif solved:
            verdict, states = "stably_inactive", ("refuted", "open")
        else:
            verdict, states = "unknown", ("open", "witnessed")
        if lie and i == 0:
            verdict, states = "stably_inactive", ("refuted", "witnessed")
        sides = {
            side: question(state, "network" if i >= 3 else "falsify", i % 2)
            for side, state in zip(("positive", "negative"), states, strict=True)
        }
        neurons.append({"layer": i // 3, "neuron": i % 3, "verdict": verdict, "lower": -1.0 - i, "upper": 2.0, **sides})
    counts = {name: sum(n["verdict"] == name for n in neurons) for name in VERDICTS}
    layers = [{"layer": k, "name": f"relu{k}", "size": 3, "shape": [3], "origin": "Relu"} for k in range(2)]
    solve = {
        "by": "network", "rows": 9, "binaries": 3, "nodes": 7, "root_bound": 2.0, "dual_bound": 0.0,
        "build_s": 0.005, "translate_s": 0.01, "cuts_s": 0.0, "solver_s": 0.1, "status": "Optimal",
    }  # fmt: skip
    return {
        "schema": "stablenet.report/1", "status": "complete" if solved else "stopped",
        "stopped_by": None if solved else "time", "created": "2026-01-01T00:00:00+00:00",
        "versions": {"stablenet": "0"},
        "network": {"file": "gone.onnx", "sha256": "0", "n_inputs": 25, "n_outputs": 2, "layers": layers},
        "domain": {"kind": "box", "lower": [0.0] * 25, "upper": [1.0] * 25},
        "config": {"formulation": "bigm", "bounds": "crown", "search": "network", "solver": "highs"},
        "seconds": {"load": 0.1, "bounds": 0.01, "falsify": 0.02, "search": 0.3, "total": 0.5}, "solves": [solve],
        "counts": {**counts, "rigorous": 3}, "neurons": neurons, "witnesses": [[i / 25 for i in range(25)], [0.5] * 25],
        "curve": [[0.0, 12], [0.05, 3], [0.2, 0 if solved else 3]],
    }  # fmt: skip


def make_sweep(folder: Path, *, liar: bool = False) -> Path:
    """The store of a finished sweep, with one lying run if asked for."""
    keys = []
    with Store(folder, create=True) as store:
        store.add_frozen("f", "net0", small_report(solved=False), "", "stablenet find")
        for solver, times in SECONDS.items():
            for i, seconds in enumerate(times):
                for seed in (0, 1):
                    keys.append(f"{solver}{i}{seed}")
                    lies = liar and solver == "cbc" and i == 0 and seed == 0
                    text = dumps(small_report(solved=seconds is not None, lie=lies))
                    store.add({"key": keys[-1], "solver": solver, "seed": seed, **_row(i, seconds, seed, text)}, text)
        instances = [
            {
                "name": f"net{i}",
                "network": f"net{i}.onnx",
                "domain": "box:0:1",
                "neurons": 6,
                "inputs": 25,
                "frozen": "f",
            }
            for i in range(3)
        ]
        left_out = {"formulation": "sos1", "solver": "highs", "step": "fair", "reason": "needs SOS1 sets", "runs": 1}
        for key, value in {
            "name": "three <solvers> & more", "grid": "time_limit = 10 # </script>", "updated": "2026-01-01",
            "versions": '{"stablenet": "0"}', "instances": json.dumps(instances), "unsupported": json.dumps([left_out]),
        }.items():  # fmt: skip
            store.set_meta(key, value)
        store.set_plan(keys)
    return folder


def _row(i: int, seconds: float | None, seed: int, text: str) -> dict[str, Any]:
    report = json.loads(text)
    work = 10.0 if seconds is None else seconds * (1 + 0.1 * seed)
    counts = {name: report["counts"][name] for name in (*VERDICTS, "rigorous")}
    return {
        "instance": f"net{i}", "formulation": "bigm", "bounds": "crown", "search": "network",
        "step": "fair", "outcome": "time" if seconds is None else "solved", "reason": "",
        "pending_start": 3, "pending_end": 3 if seconds is None else 0, "work_s": work, "wall_s": work + 1,
        "solver_s": 0.9 * work, "cpu_s": work, "bounds_s": 0.01,
        "build_s": 0.01, "translate_s": 0.02, "cuts_s": 0.0, "nodes": 7, "peak_mb": 200.0,
        "load": 1.0, "time_limit": 10.0, "curve": json.dumps(report["curve"]), "machine": json.dumps(MACHINE),
        "versions": "{}", "command": f"stablenet find net{i}.onnx", **counts,
        "report_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip


MACHINE = {"host": "h", "cpu": "A <fast> one", "cores": 2, "memory_mb": 1000, "system": "Linux", "python": "3.11"}
