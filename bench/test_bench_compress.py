"""Compression and its proof on the shipped network, and on a wide one with many mergeable neurons."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stablenet.api import find_stable
from stablenet.compression.compress import compress
from stablenet.domain.regions import Box
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.convert import dense_model
from stablenet.onnx_io.reader import load_onnx

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits_3x100.onnx"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """784-400-400-10 with half of each layer stably active."""
    rng = np.random.default_rng(0)
    sizes = (784, 400, 400, 10)
    weights = [rng.normal(size=(n, m)) / n for n, m in pairwise(sizes)]
    offsets = [np.where(np.arange(m) % 2, 3.0, 0.0) for m in sizes[1:]]
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    path.write_bytes(dense_model([w.astype(np.float32) for w in weights], offsets).SerializeToString())
    return path, find_stable(path, Box(np.zeros(784), np.ones(784)), search="off")


def test_compress_digits(benchmark):
    report = find_stable(DIGITS, "box:0:1", search="off")
    result = benchmark(compress, DIGITS, report, check=100)
    assert result.network.n_neurons < result.original.n_neurons


def test_compress_wide(benchmark, wide):
    path, report = wide
    result = benchmark.pedantic(compress, (path, report), {"check": 50}, rounds=3)
    assert result.network.n_neurons < 0.8 * load_onnx(path).n_neurons


def test_verify_digits(benchmark, tmp_path):
    small = tmp_path / "small.onnx"
    compress(DIGITS, find_stable(DIGITS, "box:0:1", search="off")).write(small)
    assert benchmark(verify, DIGITS, small, "box:0:1").equal
