"""Transposed convolutions, nearest-neighbour resizing, choices by constants: against onnxruntime, and compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import agree, check, model, node, save

from stablenet import compress
from stablenet.core.errors import NetworkError, UnsupportedOperatorError
from stablenet.onnx_io.operators import supported_operators
from stablenet.onnx_io.reader import load_onnx
from stablenet.onnx_io.refusals import REASONS

TABLE = Path(__file__).resolve().parents[2] / "docs/operators.md"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dims", [1, 2])
def test_transposed_convolutions(tmp_path, seed, dims):
    rng = np.random.default_rng(100 * dims + seed)
    groups = int(rng.choice([1, 1, 2]))
    c, m = groups * int(rng.integers(1, 3)), int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, dims).tolist()
    strides = rng.integers(1, 4, dims).tolist()
    attributes = {"strides": strides, "dilations": rng.integers(1, 3, dims).tolist(), "group": groups}
    mode = ["pads", "output_padding", "VALID", "SAME_UPPER", "SAME_LOWER", "output_shape"][seed % 6]
    if mode == "pads":
        attributes["pads"] = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    elif mode == "output_padding":
        attributes["output_padding"] = [int(rng.integers(0, s)) for s in strides]
    elif mode == "output_shape":
        attributes["output_shape"] = [5 * s + 1 - s for s in strides]
        attributes["dilations"] = [1] * dims
        kernel = [s + 1 for s in strides]
    else:
        attributes["auto_pad"] = mode
        if mode != "VALID":
            kernel = [max(k, s) for k, s in zip(kernel, strides, strict=True)]
    weights = {"w": rng.normal(size=(c, m, *kernel))}
    if seed % 2:
        weights["b"] = rng.normal(size=m * groups)
    nodes = [node("Relu", "x", out="h"), node("ConvTranspose", "h", *weights, **attributes)]
    check(tmp_path, nodes, [["N", 1][seed % 2], c, *[5] * dims], weights)


def test_wrong_transposed_convolutions_are_refused(tmp_path):
    w = np.ones((2, 1, 2))
    for attributes, error, words in (
        ({"output_shape": [99]}, UnsupportedOperatorError, "does not reach"),
        ({"output_padding": [1], "strides": [1], "dilations": [2]}, UnsupportedOperatorError, "output_padding"),
        ({"group": 3}, NetworkError, "groups"),
        ({"strides": [1, 1]}, NetworkError, "spatial axes"),
        ({"auto_pad": "SOME"}, NetworkError, "SAME_LOWER"),
    ):
        path = save(model([node("ConvTranspose", "x", "w", **attributes)], ["N", 2, 5], {"w": w}), tmp_path)
        with pytest.raises(error, match=words):
            load_onnx(path)


@pytest.mark.parametrize("transform", ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize_by_nearest(tmp_path, transform, rounding, by):
    """By halves, doubles and quarters, whose coordinates float32 holds exactly, as onnxruntime computes them."""
    options = {"coordinate_transformation_mode": transform, "nearest_mode": rounding, "mode": "nearest"}
    sizes = [(8, 16), (2, 4), (4, 2), (16, 4)] if transform != "align_corners" else [(8, 16), (7, 10)]
    for seed, (height, width) in enumerate(sizes):
        if by == "scales":
            weights = {"s": np.array([1.0, 1.0, height / 4, width / 4])}
            inputs = ("x", "", "s")
        else:
            weights = {"s": np.array([1, 2, height, width])}
            inputs = ("x", "", "", "s")
        check(tmp_path, [node("Resize", *inputs, **options)], [1, 2, 4, 4], weights, seed=seed)


def test_a_neighbour_that_depends_on_rounding_is_refused(tmp_path):
    options = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"}
    path = save(model([node("Resize", "x", "", "s", **options)], [6], {"s": np.array([1 / 3])}), tmp_path)
    with pytest.raises(UnsupportedOperatorError, match="depends on rounding"):
        load_onnx(path)
    options["nearest_mode"] = "round_prefer_floor"
    check(tmp_path, [node("Resize", "x", "", "s", **options)], [6], {"s": np.array([1 / 3])})


def test_resize_of_other_versions_and_axes(tmp_path):
    scales = {"s": np.array([1.0, 1.0, 2.0, 3.0])}
    check(tmp_path, [node("Resize", "x", "s", mode="nearest")], ["N", 2, 3, 2], scales, opset=10)
    check(tmp_path, [node("Upsample", "x", "s", mode="nearest")], ["N", 2, 3, 2], scales, opset=9)
    axes = {"s": np.array([2.0, 2.0])}
    options = {"axes": [2, 3], "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    check(tmp_path, [node("Resize", "x", "", "s", **options)], ["N", 2, 3, 2], axes, opset=18)
    old = model([node("Upsample", "x", mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])], ["N", 2, 3, 2], opset=7)
    agree(save(old, tmp_path))


@pytest.mark.parametrize("attributes", [{"mode": "linear"}, {"coordinate_transformation_mode": "tf_crop_and_resize"}])
def test_resizing_that_interpolates_is_refused(tmp_path, attributes):
    nodes = [node("Resize", "x", "", "s", **attributes)]
    path = save(model(nodes, ["N", 1, 2, 2], {"s": np.array([1.0, 1.0, 2.0, 2.0])}), tmp_path)
    with pytest.raises(UnsupportedOperatorError, match=r"'y' \(Resize\): .*there (is|are): "):
        load_onnx(path)


def test_tiles_and_blocks(tmp_path):
    check(tmp_path, [node("Tile", "x", "r")], ["N", 2, 3], {"r": np.array([1, 2, 3])})
    for mode in ("DCR", "CRD"):
        nodes = [node("DepthToSpace", "x", blocksize=2, mode=mode)]
        check(tmp_path, nodes, ["N", 8, 2, 3])
    check(tmp_path, [node("SpaceToDepth", "x", blocksize=2)], ["N", 2, 4, 6])
    with pytest.raises(NetworkError, match="blocks of 2"):
        load_onnx(save(model([node("SpaceToDepth", "x", blocksize=2)], ["N", 1, 3, 2]), tmp_path))


def test_where_with_a_constant_condition(tmp_path):
    rng = np.random.default_rng(5)
    for shape in ((2, 3), (3,), (1, 2, 1)):
        weights = {"c": rng.random(shape) < 0.5, "w": rng.normal(size=(3,))}
        nodes = [node("Relu", "x", out="h"), node("Where", "c", "h", "x", out="v"), node("Where", "c", "v", "w")]
        network = check(tmp_path, nodes, ["N", 2, 3], weights)
        assert network.exact


def test_shapes_that_an_exporter_computes_by_comparing(tmp_path):
    """Expanding to (batch, 3, 2) where -1 stands for "as it is": Equal, Where and Expand of shapes."""
    weights = {"t": np.array([-1, 3, 2]), "one": np.array([1, 1, 1]), "minus": np.array([-1, -1, -1])}
    nodes = [
        node("Equal", "t", "minus", out="same"),
        node("Where", "same", "one", "t", out="shape"),
        node("Expand", "x", "shape"),
    ]
    check(tmp_path, nodes, ["N", 1, 2], weights)
    nodes = [
        node("Shape", "x", out="s"),
        node("Equal", "s", "minus", out="unknown"),
        node("Where", "unknown", "one", "s", out="shape"),
        node("Expand", "x", "shape"),
    ]
    check(tmp_path, nodes, ["N", 2, 2], weights)
    nodes[1] = node("Equal", "s", "one", out="unknown")
    with pytest.raises(UnsupportedOperatorError, match="batch size"):
        load_onnx(save(model(nodes, ["N", 2, 2], weights), tmp_path))


def test_logic_of_constants(tmp_path):
    weights = {"a": np.array([1.0, -2.0, 0.0]), "b": np.array([1.0, 1.0, 1.0]), "f": np.array(7.0)}
    nodes = [
        node("Greater", "a", "b", out="g"),
        node("LessOrEqual", "a", "b", out="l"),
        node("Not", "g", out="n"),
        node("And", "l", "n", out="both"),
        node("Equal", "a", "b", out="e"),
        node("Xor", "both", "e", out="c"),
        node("Sign", "a", out="s"),
        node("Mul", "x", "s", out="v"),
        node("Where", "c", "v", "f"),
    ]
    check(tmp_path, nodes, ["N", 3], weights)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Sign", "x")], r"'y' \(Sign\): its result jumps"),
        ([node("Greater", "x", "w", out="c"), node("Where", "c", "x", "w")], r"'c' \(Greater\): its result jumps"),
        ([node("LayerNormalization", "x", "w")], "'LayerNormalization' is not supported: it divides by what"),
        ([node("Sigmoid", "x")], "'Sigmoid' is not supported: it is smooth"),
        ([node("Softmax", "x")], "keeps the order of the outputs"),
        ([node("ArgMax", "x")], "its result jumps"),
        ([node("CumSum", "x", "i")], "'CumSum' is not supported; supported are: Abs, Add"),
    ],
)
def test_what_is_not_piecewise_linear_is_refused_by_name(tmp_path, nodes, words):
    weights = {"w": np.ones(3), "i": np.array(1)}
    path = save(model(nodes, ["N", 3], weights), tmp_path)
    with pytest.raises(UnsupportedOperatorError, match=words) as raised:
        load_onnx(path)
    assert "\n" not in str(raised.value)


def test_every_operator_of_onnx_is_in_the_table_with_what_becomes_of_it():
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    supported = set(supported_operators())
    assert supported <= known | {"Upsample"}
    assert not supported & set(REASONS)
    assert set(REASONS) <= known
    text = TABLE.read_text()
    works = text.split("## What works")[1].split("## What is refused")[0]
    refused = text.split("## What is refused")[1]
    assert not [name for name in supported if f"`{name}`" not in works]
    assert not [name for name in known - supported if f"`{name}`" not in refused]
    assert not [reason for reason in REASONS.values() if reason not in " ".join(refused.split())]


def test_networks_with_these_operators_are_compressed(tmp_path):
    """An encoder and decoder with neurons that are dead on the domain; onnxruntime compares both files."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(4, 1, 3, 3)),
        "b1": np.array([0.1, -50.0, 0.2, 50.0]),
        "w2": rng.normal(size=(4, 2, 2, 2)),
        "b2": np.array([0.3, -80.0]),
        "s": np.array([1.0, 1.0, 2.0, 2.0]),
        "shape": np.array([0, -1]),
        "w3": rng.normal(size=(128, 3)),
        "c": rng.random((1, 128)) < 0.5,
    }
    nodes = [
        node("Conv", "x", "w1", "b1", out="a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", out="h"),
        node("ConvTranspose", "h", "w2", "b2", out="d", strides=[2, 2]),
        node("Relu", "d", out="e"),
        node("Resize", "e", "", "s", out="f", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Reshape", "f", "shape", out="g"),
        node("Where", "c", "g", "zero", out="k"),
        node("MatMul", "k", "w3"),
    ]
    weights["zero"] = np.zeros(1)
    path = save(model(nodes, ["N", 1, 4, 4], weights, kind=TensorProto.FLOAT), tmp_path)
    agree(path)
    result = compress(path, domain="box:0:1", search="off")
    assert result.network.n_neurons < load_onnx(path).n_neurons
    assert result.runtime == "onnxruntime"
    result.write(tmp_path / "small.onnx")
    agree(tmp_path / "small.onnx")
