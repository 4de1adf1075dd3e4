"""Convolutional graphs stay convolutional: whole channels go, through what works channel by channel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compress_tools import points_of, quick_report
from onnx_models import model, node, run, save

from stablenet.compression.compress import compress
from stablenet.domain.regions import Box
from stablenet.onnx_io.reader import load_onnx

DEAD = -100.0


def images(rng: np.random.Generator, *, pads: int, residual: bool, groups: int = 1) -> onnx.ModelProto:
    """conv, BatchNorm, ReLU, (depthwise) conv, ReLU, average pool, dense; channels 1 and 3 of the first never fire."""
    first = rng.normal(size=4)
    first[[1, 3]] = DEAD
    second = rng.normal(size=4)
    second[[1, 3]] = DEAD if residual or groups > 1 else second[[1, 3]]
    weights = {
        "w0": rng.normal(size=(4, 2, 3, 3)),
        "b0": first,
        "scale": rng.uniform(0.5, 1.5, 4),
        "shift": rng.normal(size=4) * 0.1,
        "mean": rng.normal(size=4) * 0.1,
        "var": rng.uniform(0.5, 1.5, 4),
        "w1": rng.normal(size=(4, 4 // groups, 3, 3)),
        "b1": second,
        "w2": rng.normal(size=(3, 4 * (9 if pads else 1))),
        "b2": rng.normal(size=3),
    }
    nodes = [
        node("Conv", "x", "w0", "b0", out="c0", pads=[1] * 4),
        node("BatchNormalization", "c0", "scale", "shift", "mean", "var", out="n0"),
        node("Relu", "n0", out="h0", name="first"),
        node("Conv", "h0", "w1", "b1", out="c1", pads=[pads] * 4, group=groups),
        *([node("Add", "c1", "h0", out="g1")] if residual else []),
        node("Relu", "g1" if residual else "c1", out="h1", name="second"),
        node("AveragePool", "h1", out="p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", out="f"),
        node("Gemm", "f", "w2", "b2", out="y", transB=1),
    ]
    if not pads:
        nodes[-3] = node("AveragePool", "h1", out="p", kernel_shape=[4, 4])
    return model(nodes, ["N", 2, 6, 6], weights)


@pytest.mark.parametrize(("pads", "residual", "groups"), [(1, False, 1), (0, False, 1), (1, True, 1), (1, False, 4)])
def test_dead_channels_go(pads, residual, groups, tmp_path):
    path = save(
        images(np.random.default_rng(pads + 2 * residual + groups), pads=pads, residual=residual, groups=groups),
        tmp_path,
    )
    network, domain = load_onnx(path), Box(np.zeros(72), np.ones(72))
    result = compress(path, quick_report(network, domain))
    proto = onnx.load_model_from_string(result.data)
    assert [n.op_type for n in proto.graph.node] == [n.op_type for n in onnx.load(path).graph.node]
    dims = {t.name: list(t.dims) for t in proto.graph.initializer}
    convolutions = [n for n in proto.graph.node if n.op_type == "Conv"]
    assert dims[convolutions[0].input[1]][0] == 2
    assert dims[convolutions[1].input[1]][1] == (1 if groups > 1 else 2)
    assert result.network.layers[0].shape == (2, 6, 6)
    assert {step.kind for step in result.steps} == {"inactive"}
    assert not result.rigorous_bound.any()
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    (tmp_path / "small.onnx").write_bytes(result.data)
    points = points_of(domain, 20)
    np.testing.assert_allclose(run(tmp_path / "small.onnx", points), run(path, points), atol=1e-4)


def test_a_sum_keeps_a_channel_that_one_side_needs(tmp_path):
    proto = images(np.random.default_rng(1), pads=1, residual=True)
    for tensor in proto.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(4, 1.0, np.float32), "b1"))
    path = save(proto, tmp_path)
    domain = Box(np.zeros(72), np.ones(72))
    result = compress(path, quick_report(load_onnx(path), domain))
    assert result.network.layers[0].shape == (4, 6, 6)
    assert not result.rigorous_bound.any()


def test_a_constant_channel_goes_into_the_bias(tmp_path):
    """After a dead ReLU a constant is added: without padding the next bias takes it over."""
    rng = np.random.default_rng(2)
    bias = np.zeros(4)
    bias[2] = DEAD
    weights = {
        "w0": rng.normal(size=(4, 1, 1, 1)),
        "b0": bias,
        "plus": rng.integers(1, 5, size=(4, 1, 1)).astype(float),
        "w1": rng.integers(-3, 4, size=(2, 4, 2, 2)).astype(float),
        "w2": rng.normal(size=(2, 2)),
    }
    nodes = [
        node("Conv", "x", "w0", "b0", out="c0"),
        node("Relu", "c0", out="h0"),
        node("Add", "h0", "plus", out="s0"),
        node("Conv", "s0", "w1", out="c1"),
        node("Relu", "c1", out="h1"),
        node("Flatten", "h1", out="f"),
        node("Gemm", "f", "w2", out="y"),
    ]
    path = save(model(nodes, ["N", 1, 2, 2], weights), tmp_path)
    domain = Box(-np.ones(4), np.ones(4))
    network = load_onnx(path)
    result = compress(path, quick_report(network, domain))
    assert result.network.layers[0].shape == (3, 2, 2)
    points = points_of(domain, 50)
    np.testing.assert_allclose(result.network.forward(points), network.forward(points), atol=1e-12)


def test_operators_that_are_not_followed_keep_everything(tmp_path):
    rng = np.random.default_rng(3)
    weights = {"w0": rng.normal(size=(4, 1, 1, 1)), "b0": np.full(4, DEAD), "w2": rng.normal(size=(16, 2))}
    nodes = [
        node("Conv", "x", "w0", "b0", out="c0"),
        node("Relu", "c0", out="h0"),
        node("Transpose", "h0", out="t", perm=[0, 2, 3, 1]),
        node("Flatten", "t", out="f"),
        node("Gemm", "f", "w2", out="y"),
    ]
    path = save(model(nodes, ["N", 1, 2, 2], weights), tmp_path)
    domain = Box(-np.ones(4), np.ones(4))
    network = load_onnx(path)
    result = compress(path, quick_report(network, domain))
    points = points_of(domain, 20)
    np.testing.assert_allclose(result.network.forward(points), network.forward(points), atol=1e-12)
