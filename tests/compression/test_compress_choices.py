"""What compression leaves to choose: how far merging may go, and whether convolutions become dense."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from compress_tools import points_of, quick_report, save_dense
from onnx_models import model, node, run, save

from stablenet.api import find_stable
from stablenet.compression.compress import RELATIVE, compress
from stablenet.core.errors import InputError
from stablenet.domain.regions import Box
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.reader import load_onnx

SQUARE = Box(-np.ones(4), np.ones(4))


def deep(folder, seed: int, kind: type = np.float64):
    """4-16-16-16-16-16-3, a quarter of each layer with a large offset."""
    rng = np.random.default_rng(seed)
    sizes = (4, *(16,) * 5, 3)
    weights = [(rng.normal(size=(m, n)) / np.sqrt(n)).astype(kind) for n, m in pairwise(sizes)]
    offsets = [np.where(np.arange(m) % 4, 0.0, 3.0).astype(kind) for m in sizes[1:]]
    return save_dense(folder, weights, offsets)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_the_bound_stays_sharp_through_many_merged_layers(seed, tmp_path):
    """The phases that a report knows of the original do not show in the joint bounds of what stands in for it."""
    path = deep(tmp_path, seed)
    result = compress(path, find_stable(path, SQUARE, threads=1))
    assert len({step.layer for step in result.steps if step.kind in ("rank", "dependent")}) >= 2
    assert 0 < result.bound.max() < 1e-11


def test_merging_stops_where_the_bound_would_exceed_the_tolerance(tmp_path):
    path = deep(tmp_path, 5, np.float32)
    network = load_onnx(path)
    report = find_stable(path, SQUARE, threads=1)
    free = compress(path, report)
    assert free.left_out == ()
    assert free.tolerance == pytest.approx(RELATIVE * np.abs(network.forward(points_of(SQUARE, 500))).max(), rel=0.9)
    worst = float(free.bound.max())
    half = compress(path, report, tolerance=worst / 1.5)
    none = compress(path, report, tolerance=0.0)
    assert half.full_bound == none.full_bound == worst
    assert half.bound.max() <= worst / 1.5
    assert none.bound.max() == 0
    assert 0 < len(half.left_out) < len(none.left_out)
    assert not {step.layer for step in half.steps if step.kind == "rank"} & set(half.left_out)
    assert free.network.n_neurons < half.network.n_neurons < none.network.n_neurons < network.n_neurons
    assert compress(path, report, tolerance=np.inf).left_out == ()
    for tolerance in (-1.0, np.nan):
        with pytest.raises(InputError, match="tolerance"):
            compress(path, report, tolerance=tolerance)


def images(seed: int, offsets: tuple[float, float], size: int = 4) -> onnx.ModelProto:
    """conv with padding, ReLU, conv, ReLU, dense, with offsets drawn between the given ones."""
    rng = np.random.default_rng(seed)
    weights = {
        "w0": rng.normal(size=(6, 1, 3, 3)),
        "b0": rng.choice(offsets, size=6),
        "w1": rng.normal(size=(6, 6, 3, 3)),
        "b1": rng.choice(offsets, size=6) * 10,
        "w2": rng.normal(size=(2, 6 * (size - 2) ** 2)),
        "b2": rng.normal(size=2),
    }
    nodes = [
        node("Conv", "x", "w0", "b0", out="c0", pads=[1] * 4),
        node("Relu", "c0", out="h0", name="first"),
        node("Conv", "h0", "w1", "b1", out="c1"),
        node("Relu", "c1", out="h1", name="second"),
        node("Flatten", "h1", out="f"),
        node("Gemm", "f", "w2", "b2", out="y", transB=1),
    ]
    return model(nodes, ["N", 1, size, size], weights)


def operators(data: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_model_from_string(data).graph.node]


def numbers(data: bytes) -> int:
    return sum(int(np.prod(t.dims)) for t in onnx.load_model_from_string(data).graph.initializer)


def test_convolutions_become_dense_where_that_is_smaller(tmp_path):
    """All is stable: 16 inputs and 2 outputs, so that one dense map takes fewer numbers than the filters."""
    path = save(images(0, (60.0, -60.0)), tmp_path)
    domain = Box(np.zeros(16), np.ones(16))
    report = quick_report(load_onnx(path), domain)
    assert report.data["counts"]["unstable"] == report.data["counts"]["unknown"] == 0
    result = compress(path, report)
    assert "Conv" not in operators(result.data)
    assert numbers(result.data) < numbers(path.read_bytes())
    assert result.network.n_neurons == 0
    (tmp_path / "small.onnx").write_bytes(result.data)
    points = points_of(domain, 50)
    np.testing.assert_allclose(run(tmp_path / "small.onnx", points), run(path, points), rtol=1e-5, atol=1e-3)
    assert verify(path, tmp_path / "small.onnx", domain).equal


def test_convolutions_stay_where_dense_maps_are_larger(tmp_path):
    path = save(images(1, (1.0, -1.0), size=8), tmp_path)
    domain = Box(np.zeros(64), np.ones(64))
    report = quick_report(load_onnx(path), domain)
    kept, dense = compress(path, report), compress(path, report, dense=True)
    assert operators(kept.data).count("Conv") == 2
    assert "Conv" not in operators(dense.data)
    assert numbers(kept.data) < numbers(dense.data)
    assert dense.network.n_neurons < kept.network.n_neurons
    (tmp_path / "dense.onnx").write_bytes(dense.data)
    points = points_of(domain, 50)
    np.testing.assert_allclose(run(tmp_path / "dense.onnx", points), run(path, points), rtol=1e-4, atol=1e-4)


def test_only_what_is_linear_becomes_dense(tmp_path):
    """Before a MaxPool the convolution keeps its nodes; behind it all may change."""
    rng = np.random.default_rng(2)
    weights = {
        "w0": rng.normal(size=(3, 1, 3, 3)),
        "w1": rng.normal(size=(4, 3, 2, 2)),
        "b1": np.full(4, 20.0),
        "w2": rng.normal(size=(2, 4)),
    }
    nodes = [
        node("Conv", "x", "w0", out="c0"),
        node("Relu", "c0", out="h0"),
        node("MaxPool", "h0", out="p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p", "w1", "b1", out="c1"),
        node("Relu", "c1", out="h1"),
        node("Flatten", "h1", out="f"),
        node("Gemm", "f", "w2", out="y", transB=1),
    ]
    path = save(model(nodes, ["N", 1, 6, 6], weights), tmp_path)
    domain = Box(np.zeros(36), np.ones(36))
    result = compress(path, quick_report(load_onnx(path), domain), dense=True)
    assert operators(result.data)[:3] == ["Conv", "Relu", "MaxPool"]
    points = points_of(domain, 50)
    np.testing.assert_allclose(result.network.forward(points), load_onnx(path).forward(points), rtol=1e-4, atol=1e-4)


def test_removal_alone_stays_exact_where_folding_rounds(tmp_path):
    """Batch normalisation rounds as it is folded: without merging it keeps its nodes."""
    rng = np.random.default_rng(3)
    weights = {
        "w0": rng.normal(size=(6, 1, 3, 3)),
        "b0": np.full(6, -90.0),
        "scale": rng.uniform(0.5, 1.5, 6),
        "shift": np.where(np.arange(6) < 1, 200.0, 0.0),
        "mean": rng.normal(size=6),
        "var": rng.uniform(0.5, 2, 6),
        "w1": rng.normal(size=(2, 6 * 4)),
    }
    nodes = [
        node("Conv", "x", "w0", "b0", out="c0"),
        node("BatchNormalization", "c0", "scale", "shift", "mean", "var", out="n0"),
        node("Relu", "n0", out="h0"),
        node("Flatten", "h0", out="f"),
        node("Gemm", "f", "w1", out="y", transB=1),
    ]
    path = save(model(nodes, ["N", 1, 4, 4], weights), tmp_path)
    report = quick_report(load_onnx(path), Box(np.zeros(16), np.ones(16)))
    removed = compress(path, report, merge=False)
    assert "Conv" in operators(removed.data)
    assert not removed.rigorous_bound.any()
