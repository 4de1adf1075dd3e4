"""Quantised weights against onnxruntime and exact arithmetic; quantised activations are refused by name."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx_models import agree, check, model, node, save

from stablenet.core.errors import NetworkError, UnsupportedOperatorError
from stablenet.equivalence.verify import verify
from stablenet.onnx_io.reader import load_onnx


def qdq(rng, dtype, *, axis=None, zero=True, size=(5, 4)):
    """Initializers of a quantised matrix."""
    info = np.iinfo(dtype)
    low, high = (info.min, info.max) if info.bits <= 16 else (-(2**31), 2**31 - 1)
    count = () if axis is None else (size[axis],)
    weights = {
        "q": rng.integers(low, high + 1, size).astype(dtype),
        "s": (0.01 + rng.random(count)).astype(np.float32) / (high - low),
    }
    if zero:
        weights["z"] = rng.integers(low // 2, high // 2, count).astype(dtype)
    return weights


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("zero", [True, False])
def test_weights_are_what_their_integers_stand_for(tmp_path, dtype, axis, zero):
    rng = np.random.default_rng(1)
    weights = qdq(rng, dtype, axis=axis, zero=zero and dtype != "int32")
    nodes = [
        node("DequantizeLinear", *weights, out="w", **({} if axis is None else {"axis": axis})),
        node("Gemm", "x", "w", out="g", transB=1),
        node("Relu", "g"),
    ]
    network = check(tmp_path, nodes, ["N", 4], weights, opset=21)
    matrix = network.layers[0].affine.terms[0].matrix
    for i in range(5):
        for j in range(4):
            at = () if axis is None else ((i, j)[axis],)
            z = int(weights["z"][at]) if "z" in weights else 0
            exact = (int(weights["q"][i, j]) - z) * Fraction(float(weights["s"][at]))
            assert abs(Fraction(matrix[i, j]) - exact) <= Fraction(network.import_error)
    if dtype != "int32":
        assert network.exact
        assert network.import_error == 0


def test_wide_integers_say_that_they_round(tmp_path):
    """31 bits times 24 bits are more than float64 holds."""
    weights = {"q": np.array([[2**31 - 1]], np.int32), "s": np.float32(1 / 3)}
    nodes = [node("DequantizeLinear", "q", "s", out="w"), node("MatMul", "x", "w")]
    network = check(tmp_path, nodes, ["N", 1], weights)
    assert not network.exact
    assert 0 < network.import_error <= 2.0**-51 * float(network.output.terms[0].matrix[0, 0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_constants_are_quantised_as_the_runtime_does(tmp_path, dtype):
    rng = np.random.default_rng(2)
    scale = np.float32(0.05)
    values = rng.normal(size=(6, 4)) * 4
    values[0] = (np.array([0.5, 1.5, -2.5, 1e6])) * scale  # ties and saturation
    weights = {"v": values, "s": scale, "z": np.array(3, dtype)}
    nodes = [
        node("QuantizeLinear", "v", "s", "z", out="q"),
        node("DequantizeLinear", "q", "s", "z", out="w"),
        node("Gemm", "x", "w", transB=1),
    ]
    check(tmp_path, nodes, ["N", 4], weights, opset=21)


def test_a_convolution_with_quantised_weights_and_bias(tmp_path):
    rng = np.random.default_rng(3)
    weights = {
        "q": rng.integers(-127, 128, (3, 2, 3, 3)).astype(np.int8),
        "s": np.array([0.01, 0.02, 0.005], np.float32),
        "z": np.zeros(3, np.int8),
        "bq": rng.integers(-1000, 1000, 3).astype(np.int32),
        "bs": np.array([1e-3, 2e-3, 5e-4], np.float32),
    }
    nodes = [
        node("DequantizeLinear", "q", "s", "z", out="w", axis=0),
        node("DequantizeLinear", "bq", "bs", out="b", axis=0),
        node("Conv", "x", "w", "b", out="g", pads=[1, 1, 1, 1]),
        node("Relu", "g"),
    ]
    assert check(tmp_path, nodes, ["N", 2, 5, 5], weights).exact


def refused(tmp_path, nodes, weights, **options):
    with pytest.raises((UnsupportedOperatorError, NetworkError)) as caught:
        load_onnx(save(model(nodes, ["N", 4], weights, **options), tmp_path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quantised_activations_are_refused_by_name(tmp_path):
    weights = {"s": np.float32(0.1), "z": np.array(0, np.int8)}
    nodes = [
        node("QuantizeLinear", "x", "s", "z", out="q", name="input_quantised"),
        node("DequantizeLinear", "q", "s", "z"),
    ]
    words = refused(tmp_path, nodes, weights)
    assert "'input_quantised' (QuantizeLinear)" in words
    assert "quantised activations are not" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"s": np.float32(0)}, "finite numbers above 0"),
        ({"s": np.float32(np.nan)}, "finite numbers above 0"),
        ({"s": np.float32([1, 2])}, "(2,)"),
        ({"q": np.ones((4, 4), np.float32)}, "values of type float32"),
        ({"q": np.ones((4, 4), np.int64)}, "values of type int64"),
        ({"z": np.float32(1)}, "integers are expected"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, change, words):
    weights = {"q": np.ones((4, 4), np.int8), "s": np.float32(0.5), "z": np.array(0, np.int8)} | change
    nodes = [node("DequantizeLinear", "q", "s", "z", out="w"), node("MatMul", "x", "w")]
    assert words in refused(tmp_path, nodes, weights)


def test_blocks_are_refused(tmp_path):
    weights = {"q": np.ones((4, 4), np.int8), "s": np.ones((2, 4), np.float32)}
    nodes = [node("DequantizeLinear", "q", "s", out="w", block_size=2, axis=0), node("MatMul", "x", "w")]
    assert "block_size" in refused(tmp_path, nodes, weights, opset=21)


def pair(tmp_path, kind):
    """A float32 network, and its form with int8 weights or in float16, with the largest change of a weight."""
    rng = np.random.default_rng(5)
    sizes = (4, 8, 8, 2)
    plain, other, nodes, changed = {}, {}, [], []
    last, gap = "x", 0.0
    for k in range(3):
        w = rng.normal(size=(sizes[k + 1], sizes[k])).astype(np.float32) / 2
        b = rng.normal(size=sizes[k + 1]).astype(np.float32)
        plain |= {f"w{k}": w, f"b{k}": b}
        if kind == "int8":
            scale = np.float32(np.abs(w).max() / 127)
            q = np.rint(w / scale).astype(np.int8)
            other |= {f"q{k}": q, f"s{k}": scale, f"b{k}": b}
            changed.append(node("DequantizeLinear", f"q{k}", f"s{k}", out=f"w{k}"))
            gap = max(gap, float(np.abs(q * scale.astype(np.float64) - w).max()))
        else:
            other |= {f"w{k}": w.astype(np.float16), f"b{k}": b.astype(np.float16)}
            gap = max(gap, float(np.abs(w.astype(np.float16).astype(np.float64) - w).max()))
        out = "y" if k == 2 else f"g{k}"
        layer = [node("Gemm", last, f"w{k}", f"b{k}", out=out, transB=1)]
        last = f"h{k}"
        layer += [] if k == 2 else [node("Relu", out, out=last)]
        nodes += layer
        changed += layer
    one = save(model(nodes, ["N", 4], plain), tmp_path, "plain.onnx")
    type_ = onnx.TensorProto.FLOAT16 if kind == "float16" else onnx.TensorProto.FLOAT
    two = save(model(changed, ["N", 4], other, kind=type_), tmp_path, f"{kind}.onnx")
    return one, two, gap


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_verify_takes_quantised_and_float16_networks_as_real_functions(tmp_path, kind):
    one, two, gap = pair(tmp_path, kind)
    assert gap > 0
    agree(two, tolerance=1e-4 if kind == "int8" else 1e-2)
    a, b = load_onnx(one), load_onnx(two)
    points = np.random.default_rng(0).random((20_000, 4))
    seen = float(np.abs(a.forward(points) - b.forward(points)).max())
    assert verify(one, two, "box:0:1", tolerance=3 * seen, time_limit=600).outcome == "equal"
    below = verify(one, two, "box:0:1", tolerance=0.9 * seen, time_limit=600)
    assert below.outcome == "different"
