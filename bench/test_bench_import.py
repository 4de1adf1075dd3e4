"""From a file to the canonical network, and from nothing to a running command.

The public networks are read if STABLENET_NETWORKS names their folder; networks of the same shapes are written here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clock import cpu
from public import file_of, needs_networks
from trained import write_onnx

from stablenet.onnx_io.reader import load_onnx

SHAPES = {"784-256x4-10": (784, 256, 256, 256, 256, 10), "784-800x2-10": (784, 800, 800, 10)}
PUBLIC = ("acasxu_1_1", "seed_mnist_200-200", "mnistfc_256x4", "eran_mnist_9x200", "oval_cifar_base_kw")


@pytest.mark.parametrize("shape", SHAPES)
def test_dense(benchmark, shape: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parameters: list[np.ndarray] = []
    for n, m in pairwise(SHAPES[shape]):
        parameters += [rng.normal(size=(m, n)).astype(np.float32), np.zeros(m, np.float32)]
    path = tmp_path / "net.onnx"
    write_onnx(parameters, path, {})
    assert benchmark.pedantic(load_onnx, (path,), rounds=3).n_neurons == sum(SHAPES[shape][1:-1])


@needs_networks
@pytest.mark.parametrize("name", PUBLIC)
def test_public(benchmark, name: str) -> None:
    assert benchmark.pedantic(load_onnx, (file_of(name),), rounds=3).exact


@pytest.mark.parametrize("module", ["stablenet", "stablenet.cli.main", "stablenet.find.engine"])
def test_start_of_python(benchmark, module: str) -> None:
    """A process that imports the module: what each command, and each engine, costs before its work."""
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", f"import {module}"],), {"check": True}, rounds=3)


LIBRARIES = "import numpy, scipy.sparse, onnx"
"""What a search without a solver cannot do without."""

MOST = 3.0
"""Times the processor time of importing these libraries that a command may take, both of its processes together."""

EXAMPLE = str(Path(__file__).resolve().parents[1] / "examples" / "digits_3x100.onnx")
COMMANDS = {
    "find": ["find", EXAMPLE, "--domain", "box:0:1", "--search", "off", "--threads", "1"],
    "bounds": ["bounds"],
    "searches": ["searches"],
    "help": ["--help"],
}


@pytest.fixture(name="environment")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Compiled modules are kept, as they are where a package was installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.getbasetemp() / "compiled"), "OMP_NUM_THREADS": "1"}


def spent(arguments: list[str], environment: dict[str, str]) -> float:
    """Processor seconds of a Python process and of those that it has waited for."""
    began = cpu()
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    assert done.returncode in {0, 3}, done.stderr
    return cpu() - began


@pytest.mark.parametrize("name", COMMANDS)
def test_start_of_a_command(benchmark, name: str, environment: dict[str, str]) -> None:
    """A command that needs no solver, against the import of its libraries, run in turns on the same machine."""
    command, libraries = ["-m", "stablenet", *COMMANDS[name]], ["-c", LIBRARIES]
    for arguments in (command, libraries):
        spent(arguments, environment)  # compiles
    pairs = [(spent(command, environment), spent(libraries, environment)) for _ in range(5)]
    ratio = min(a for a, _ in pairs) / min(b for _, b in pairs)
    benchmark.extra_info["times the import of its libraries"] = round(ratio, 2)
    benchmark.pedantic(spent, (command, environment), rounds=3)
    assert ratio < MOST
