"""From a file to the canonical network, and from nothing to a running command.

The public networks are read if STABLENET_NETWORKS names their folder; networks of the same shapes are written here.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
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
