"""Every operator against onnxruntime, over random shapes and attributes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import agree, check, model, node, run, save

from stablenet.core.errors import NetworkError, UnsupportedOperatorError
from stablenet.onnx_io.operators import OPSETS, supported_operators
from stablenet.onnx_io.reader import load_onnx

SEEDS = range(6)


# --- affine operators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.7])
@pytest.mark.parametrize(
    ("beta", "c_shape"), [(1.0, (3,)), (0.3, (1, 3)), (1.0, ()), (0.0, (3,)), (2.0, (1,)), (1.0, None)]
)
def test_gemm(tmp_path, trans_b, alpha, beta, c_shape):
    rng = np.random.default_rng(1)
    w = rng.normal(size=(3, 5) if trans_b else (5, 3))
    weights = {"w": w} if c_shape is None else {"w": w, "c": rng.normal(size=c_shape)}
    nodes = [node("Gemm", "x", *weights, transB=trans_b, alpha=alpha, beta=beta)]
    network = check(tmp_path, nodes, ["N", 5], weights)
    assert network.n_outputs == 3


def test_gemm_of_a_transposed_input_and_with_the_constant_on_the_left(tmp_path):
    rng = np.random.default_rng(2)
    check(tmp_path, [node("Gemm", "x", "w", transA=1)], [5, 1], {"w": rng.normal(size=(5, 2))})
    check(tmp_path, [node("Gemm", "w", "x", transA=1)], [5, 1], {"w": rng.normal(size=(5, 2))})
    check(tmp_path, [node("Gemm", "w", "x", transB=1)], [1, 5], {"w": rng.normal(size=(2, 5))})


def test_gemm_with_a_computed_addend(tmp_path):
    rng = np.random.default_rng(3)
    nodes = [node("Relu", "x", out="h"), node("Gemm", "h", "w", "x", beta=0.5)]
    network = check(tmp_path, nodes, ["N", 4], {"w": rng.normal(size=(4, 4))})
    assert [term.source for term in network.output.terms] == [0, 1]


@pytest.mark.parametrize(
    ("shape", "w_shape"),
    [
        ([1, 4], (4, 3)),
        (["N", 4], (4, 3)),
        ([4], (4, 3)),
        ([4], (4,)),
        ([1, 4], (4,)),
        ([1, 3, 4], (4, 2)),
        (["N", 3, 4], (4, 2)),
        (["N", 2, 3, 4], (2, 4, 5)),
        (["N", 2, 3, 4], (1, 1, 4, 5)),
        ([1, 3, 4], (3, 4, 2)),
        ([4], (3, 4, 2)),
    ],
)
def test_matmul_with_the_constant_on_the_right(tmp_path, shape, w_shape):
    weights = {"w": np.random.default_rng(4).normal(size=w_shape)}
    check(tmp_path, [node("MatMul", "x", "w")], shape, weights)


@pytest.mark.parametrize(
    ("shape", "w_shape"),
    [
        ([4], (3, 4)),
        ([4, 1], (3, 4)),
        ([1, 4, 1], (3, 4)),
        (["N", 4, 2], (3, 4)),
        (["N", 2, 4, 3], (2, 5, 4)),
        ([4, 2], (4,)),
        ([4], (2, 3, 4)),
    ],
)
def test_matmul_with_the_constant_on_the_left(tmp_path, shape, w_shape):
    weights = {"w": np.random.default_rng(5).normal(size=w_shape)}
    check(tmp_path, [node("MatMul", "w", "x")], shape, weights)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 3, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("left", [False, True])
def test_arithmetic_with_constants(tmp_path, op, shape, left):
    rng = np.random.default_rng(6)
    weights = {"c": rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)}
    nodes = [node(op, *(("c", "x") if left else ("x", "c")))]
    if op == "Div" and left:
        with pytest.raises(UnsupportedOperatorError, match=r"'y' \(Div\): the divisor depends on the input"):
            load_onnx(save(model(nodes, ["N", 3, 4], weights), tmp_path))
        return
    if len(shape) > 3:
        check(tmp_path, nodes, [1, 3, 4], weights)
    else:
        check(tmp_path, nodes, ["N", 3, 4], weights)


def test_products_of_computed_tensors_are_refused(tmp_path):
    for op in ("Mul", "MatMul", "Div"):
        with pytest.raises(UnsupportedOperatorError, match="depend"):
            load_onnx(save(model([node(op, "x", "x")], [1, 1], {}), tmp_path))


def test_neg_mean_sum_and_residual_sums(tmp_path):
    nodes = [
        node("Neg", "x", out="n"),
        node("Relu", "n", out="r"),
        node("Mean", "x", "r", "n", "c", out="s"),
        node("Sub", "s", "r", out="d"),
        node("Sum", "d", "x", "c"),
    ]
    network = check(tmp_path, nodes, ["N", 2, 3], {"c": np.arange(3.0)})
    assert len(network.layers) == 1
    assert network.exact


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dims", [1, 2])
def test_conv(tmp_path, seed, dims):
    rng = np.random.default_rng(100 * dims + seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    c, m = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, dims).tolist()
    attributes = {
        "strides": rng.integers(1, 4, dims).tolist(),
        "dilations": rng.integers(1, 3, dims).tolist(),
        "group": groups,
        "kernel_shape": kernel,
    }
    mode = rng.choice(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if mode == "pads":
        attributes["pads"] = rng.integers(0, 3, 2 * dims).tolist()
    else:
        attributes["auto_pad"] = str(mode)
        if mode != "VALID":
            attributes["dilations"] = [1] * dims  # onnxruntime lacks the combination
    weights = {"w": rng.normal(size=(m, c // groups, *kernel))}
    if rng.random() < 0.7:
        weights["b"] = rng.normal(size=m)
    spatial = rng.integers(5, 9, dims).tolist()
    batch = ["N", 1][seed % 2]
    network = check(tmp_path, [node("Conv", "x", *weights, **attributes)], [batch, c, *spatial], weights)
    assert network.output_shape[0] == m
    assert network.exact == ("b" not in weights or network.import_error == 0)


def test_conv_of_a_sparse_map_keeps_its_sparsity(tmp_path):
    rng = np.random.default_rng(7)
    nodes = [node("Conv", "x", "w", out="g", pads=[1, 1, 1, 1]), node("Relu", "g")]
    network = check(tmp_path, nodes, [1, 2, 12, 12], {"w": rng.normal(size=(3, 2, 3, 3))})
    matrix = network.layers[0].affine.terms[0].matrix
    assert type(matrix).__name__ == "csr_array"
    assert network.layers[0].shape == (3, 12, 12)
    assert network.layers[0].channel_axis == 0
    assert matrix.nnz == 3 * 2 * (12 * 3 - 2) ** 2


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [["N", 3], ["N", 3, 4], ["N", 3, 2, 2]])
def test_batch_normalization(tmp_path, opset, shape):
    rng = np.random.default_rng(8)
    weights = {
        "scale": rng.normal(size=3),
        "bias": rng.normal(size=3),
        "mean": rng.normal(size=3),
        "var": rng.uniform(0.1, 2.0, 3),
    }
    network = check(tmp_path, [node("BatchNormalization", "x", *weights, epsilon=1e-3)], shape, weights, opset=opset)
    assert not network.exact
    assert 0.0 < network.import_error < 1e-14


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_pooling(tmp_path, op, seed):
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(1, 3))
    kernel = rng.integers(1, 4, dims).tolist()
    attributes = {"kernel_shape": kernel, "strides": rng.integers(1, 4, dims).tolist()}
    mode = rng.choice(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if mode == "pads":
        begin, end = ([int(rng.integers(0, k)) for k in kernel] for _ in range(2))
        attributes["pads"] = begin + end
        attributes["ceil_mode"] = int(rng.integers(0, 2))
    else:
        attributes["auto_pad"] = str(mode)
        # onnxruntime refuses SAME where the stride exceeds the kernel.
        attributes["strides"] = [min(pair) for pair in zip(attributes["strides"], kernel, strict=True)]
    if op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(0, 2))
    else:
        attributes["dilations"] = rng.integers(1, 3, dims).tolist() if mode in ("pads", "VALID") else [1] * dims
    spatial = rng.integers(6, 9, dims).tolist()
    nodes = [node(op, "x", **attributes)]
    network = check(tmp_path, nodes, [["N", 1][seed % 2], 2, *spatial], opset=19 if seed % 3 else 11)
    if op == "MaxPool":
        assert len(network.layers) == int(np.ceil(np.log2(np.prod(kernel)))) if max(kernel) > 1 else not network.layers
        assert network.exact
        assert {layer.origin for layer in network.layers} <= {"MaxPool"}


def test_global_pooling_and_reductions(tmp_path):
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        check(tmp_path, [node(op, "x")], ["N", 2, 3, 5])
    for keep in (0, 1):
        check(tmp_path, [node("ReduceMean", "x", axes=[2, -1], keepdims=keep)], ["N", 2, 3, 5], opset=13)
        weights = {"axes": np.array([1, 3])}
        check(tmp_path, [node("ReduceMean", "x", "axes", keepdims=keep)], ["N", 2, 3, 5], weights, opset=18)
        check(tmp_path, [node("ReduceSum", "x", "axes", keepdims=keep)], ["N", 2, 3, 5], weights, opset=13)
    check(tmp_path, [node("ReduceSum", "x", keepdims=1)], [1, 4], opset=13)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_to_the_extreme(tmp_path, op, opset, keep):
    inputs, attributes = (["x"], {"axes": [1, -1]}) if opset < 18 else (["x", "axes"], {})
    weights = {} if opset < 18 else {"axes": np.array([1, -1])}
    network = check(tmp_path, [node(op, *inputs, keepdims=keep, **attributes)], ["N", 3, 2, 5], weights, opset=opset)
    assert [layer.size for layer in network.layers] == [14, 8, 4, 2]
    assert network.exact


# --- operators that move elements -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2, 3, -2])
def test_flatten(tmp_path, axis):
    check(tmp_path, [node("Flatten", "x", axis=axis)], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("shape", "target", "options"),
    [
        (["N", 2, 6], [-1, 12], {}),
        (["N", 2, 6], [0, -1], {}),
        (["N", 2, 6], [0, 3, -1], {}),
        (["N", 2, 6], [-1, 3, 4], {}),
        ([1, 2, 6], [1, 12], {}),
        ([1, 2, 6], [12], {}),
        ([1, 2, 6], [3, 1, 4], {}),
        ([12], [1, 3, 4], {}),
        ([1, 2, 6], [1, -1, 3], {"allowzero": 1}),
    ],
)
def test_reshape(tmp_path, shape, target, options):
    nodes = [node("Relu", "x", out="h"), node("Reshape", "h", "shape", **options)]
    check(tmp_path, nodes, shape, {"shape": np.array(target)})


def test_squeeze_and_unsqueeze_by_attribute_and_by_input(tmp_path):
    nodes = [node("Squeeze", "x", out="s", axes=[1, -1]), node("Unsqueeze", "s", axes=[1, 3])]
    assert check(tmp_path, nodes, ["N", 1, 4, 1], opset=11).output_shape == (1, 4, 1)
    nodes = [node("Squeeze", "x", "a", out="s"), node("Unsqueeze", "s", "b")]
    weights = {"a": np.array([1, -1]), "b": np.array([1, 3])}
    assert check(tmp_path, nodes, ["N", 1, 4, 1], weights, opset=13).output_shape == (1, 4, 1)
    check(tmp_path, [node("Squeeze", "x")], [1, 3, 1], opset=13)


def test_transpose_keeps_track_of_the_batch(tmp_path):
    nodes = [
        node("Transpose", "x", out="t", perm=[2, 0, 1]),
        node("Relu", "t", out="r"),
        node("Transpose", "r", perm=[1, 2, 0]),
    ]
    network = check(tmp_path, nodes, ["N", 3, 4])
    assert network.layers[0].shape == (4, 3)
    assert network.exact


@pytest.mark.parametrize("seed", SEEDS)
def test_slice(tmp_path, seed):
    rng = np.random.default_rng(seed)
    axes = rng.permutation([1, 2])[: rng.integers(1, 3)].tolist()
    steps = rng.choice([-2, -1, 1, 2], len(axes)).tolist()
    starts = [int(rng.integers(-7, 7)) if s > 0 else int(rng.choice([-1, 3, 100])) for s in steps]
    ends = [int(rng.choice([4, -1, 1000, 2**31 - 1])) if s > 0 else int(rng.choice([0, -1000, 1])) for s in steps]
    starts = [min(s, 2) if step > 0 else s for s, step in zip(starts, steps, strict=True)]
    weights = {name: np.array(v) for name, v in (("s", starts), ("e", ends), ("a", axes), ("t", steps))}
    nodes = [node("Slice", "x", "s", "e", "a", "t", out="p"), node("Concat", "p", "p", axis=2)]
    path = save(model(nodes, ["N", 5, 6], weights), tmp_path)
    if run(path, np.zeros((1, 30))).size:
        agree(path)


def test_slice_by_attributes_and_without_axes(tmp_path):
    check(tmp_path, [node("Slice", "x", starts=[1], ends=[-1], axes=[1])], ["N", 5], opset=9)
    weights = {"s": np.array([0, 1]), "e": np.array([2**63 - 1, 3])}
    check(tmp_path, [node("Slice", "x", "s", "e")], ["N", 5], weights)


@pytest.mark.parametrize(("opset", "sizes"), [(11, [2, 3, 1]), (13, [2, 3, 1]), (11, None), (13, None), (18, None)])
def test_split_and_concat(tmp_path, opset, sizes):
    weights, inputs, attributes = {}, ["x"], {"axis": 1}
    if sizes and opset < 13:
        attributes["split"] = sizes
    elif sizes:
        weights["sizes"] = np.array(sizes)
        inputs.append("sizes")
    elif opset == 18:
        attributes["num_outputs"] = 3
    nodes = [
        node("Split", *inputs, out=["a", "b", "c"], **attributes),
        node("Relu", "b", out="r"),
        node("Concat", "c", "r", "k", "a", "r", axis=-2),
    ]
    weights["k"] = np.ones((1, 2, 3))
    network = check(tmp_path, nodes, [1, 6, 3], weights, opset=opset)
    assert len(network.layers) == 1
    assert network.exact


def test_split_into_unequal_parts(tmp_path):
    nodes = [node("Split", "x", out=["a", "b"], axis=1, num_outputs=2), node("Concat", "b", "a", axis=1)]
    check(tmp_path, nodes, ["N", 5], opset=18)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(tmp_path, mode):
    opset = 19 if mode == "wrap" else 13
    weights = {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "v": np.array(0.75)}
    nodes = [node("Pad", "x", "p", "v", mode=mode)]
    network = check(tmp_path, nodes, ["N", 2, 4, 4], weights, opset=opset)
    assert network.exact


def test_the_channel_axis_survives_padding_and_arithmetic_and_not_flattening(tmp_path):
    weights = {"w": np.ones((2, 1, 1, 1)), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [
        node("Conv", "x", "w", out="c"),
        node("Pad", "c", "p", out="d"),
        node("Add", "d", "d", out="e"),
        node("Relu", "e", out="r"),
        node("Transpose", "r", out="t", perm=[0, 2, 3, 1]),
        node("Relu", "t", out="s"),
        node("Flatten", "s", out="f"),
        node("Relu", "f"),
    ]
    network = check(tmp_path, nodes, ["N", 1, 3, 3], weights)
    assert [layer.channel_axis for layer in network.layers] == [0, 2, None]
    assert [layer.shape for layer in network.layers] == [(2, 5, 5), (5, 5, 2), (50,)]


def test_pad_by_attribute_with_axes_and_negative(tmp_path):
    check(tmp_path, [node("Pad", "x", pads=[0, 1, 0, 2], value=-1.5)], ["N", 4], opset=7)
    weights = {"p": np.array([1, -1, -2, 3]), "a": np.array([1, -1])}
    check(tmp_path, [node("Pad", "x", "p", "", "a")], ["N", 5, 6], weights, opset=18)


def test_gather_and_expand(tmp_path):
    check(tmp_path, [node("Gather", "x", "i", axis=1)], ["N", 4, 3], {"i": np.array([[2, -1], [0, 0]])})
    check(tmp_path, [node("Gather", "x", "i", axis=2)], ["N", 4, 3], {"i": np.array(1)})
    check(tmp_path, [node("Expand", "x", "s")], ["N", 1, 3], {"s": np.array([1, 4, 3])})


def test_identity_dropout_and_casts(tmp_path):
    nodes = [
        node("Identity", "x", out="i"),
        node("Dropout", "i", out="d"),
        node("Cast", "d", out="c", to=TensorProto.DOUBLE),
        node("Relu", "c", out="r"),
        node("Cast", "r", to=TensorProto.FLOAT),
    ]
    assert check(tmp_path, nodes, ["N", 3], opset=12).exact
    weights = {"ratio": np.array(0.5), "mode": np.array(True)}
    with pytest.raises(UnsupportedOperatorError, match="training_mode"):
        load_onnx(save(model([node("Dropout", "x", "ratio", "mode")], [1, 3], weights), tmp_path))


# --- shapes that are computed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["N", 1])
def test_flattening_by_a_computed_shape(tmp_path, batch):
    nodes = [
        node("Shape", "x", out="s"),
        node("Constant", out="zero", value_int=0),
        node("Gather", "s", "zero", out="n"),
        node("Constant", out="axes", value_ints=[0]),
        node("Unsqueeze", "n", "axes", out="nu"),
        node("Constant", out="rest", value=onnx.numpy_helper.from_array(np.array([-1]))),
        node("Concat", "nu", "rest", out="target", axis=0),
        node("Cast", "target", out="t64", to=TensorProto.INT64),
        node("Reshape", "x", "t64", out="flat"),
        node("Relu", "flat"),
    ]
    network = check(tmp_path, nodes, [batch, 2, 3])
    assert network.layers[0].shape == (6,)


def test_arithmetic_on_shapes(tmp_path):
    nodes = [
        node("Shape", "x", out="s", start=1),
        node("Div", "s", "two", out="half"),
        node("Mul", "half", "two", out="whole"),
        node("Concat", "minus", "whole", out="target", axis=0),
        node("Reshape", "x", "target"),
    ]
    weights = {"two": np.array([2, 2]), "minus": np.array([-1])}
    check(tmp_path, nodes, ["N", 4, 6], weights, opset=15)


def test_constants_of_a_shape_and_of_every_form(tmp_path):
    value = onnx.helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        node("Shape", "x", out="s"),
        node("ConstantOfShape", "s", out="half", value=value),
        node("Constant", out="f", value_float=2.0),
        node("Constant", out="fs", value_floats=[1.0, 2.0, 3.0]),
        node("Add", "x", "half", out="a"),
        node("Mul", "a", "f", out="m"),
        node("Sub", "m", "fs"),
    ]
    assert check(tmp_path, nodes, ["N", 3]).exact


# --- lowered operators ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("LeakyRelu", {"alpha": 0.0}),
        ("LeakyRelu", {"alpha": 1.7}),
        ("Abs", {}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
        ("Relu", {}),
    ],
)
def test_activations(tmp_path, op, attributes):
    nodes = [node("Gemm", "x", "w", out="g"), node(op, "g", name="act", **attributes)]
    network = check(tmp_path, nodes, ["N", 4], {"w": np.random.default_rng(9).normal(size=(4, 5))})
    assert {layer.origin for layer in network.layers} == {op}
    assert {layer.node for layer in network.layers} == {"act"}
    assert len(network.layers) == (2 if op == "HardSigmoid" else 1)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (3, 2, 2), (1, 2)])
def test_prelu(tmp_path, shape):
    weights = {"slope": np.random.default_rng(10).normal(size=shape)}
    check(tmp_path, [node("PRelu", "x", "slope")], ["N", 3, 2, 2], weights)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (None, 0.5), (-0.5, None), (None, None), (0.5, 0.5)]
)
def test_clip(tmp_path, low, high):
    given = {"min": low, "max": high}
    attributes = {name: value for name, value in given.items() if value is not None}
    by_attribute = check(tmp_path, [node("Clip", "x", **attributes)], ["N", 4], opset=6 + 1)
    weights = {name: np.array(value) for name, value in attributes.items()}
    inputs = ["x", *("" if value is None else name for name, value in given.items())]
    by_input = check(tmp_path, [node("Clip", *inputs)], ["N", 4], weights, opset=13)
    assert len(by_attribute.layers) == len(by_input.layers) == len(attributes)
    assert by_input.exact


def test_clip_with_infinite_limits_is_no_limit(tmp_path):
    weights = {"low": np.array(-np.inf), "high": np.array(np.finfo(np.float32).max)}
    network = check(tmp_path, [node("Clip", "x", "low", "high")], ["N", 4], weights)
    assert not network.layers


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize(
    "names", [["x"], ["x", "r"], ["x", "c"], ["c", "x"], ["x", "r", "c", "d"], ["c", "x", "r", "n"]]
)
def test_max_and_min(tmp_path, op, names):
    nodes = [node("Neg", "x", out="n"), node("Transpose", "x", out="r", perm=[0, 2, 1]), node(op, *names)]
    weights = {"c": np.array([0.5, -0.5, 0.0]), "d": np.array([[1.0], [0.1], [-1.0]])}
    network = check(tmp_path, nodes, ["N", 3, 3], weights)
    computed = sum(name in "xrn" for name in names)
    assert len(network.layers) == computed - (not set(names) & {"c", "d"})


def test_max_with_zero_is_a_relu(tmp_path):
    network = check(tmp_path, [node("Max", "x", "zero")], ["N", 3], {"zero": np.zeros(3)})
    assert len(network.layers) == 1
    assert len(network.output.terms) == 1


def test_maxpool_skips_padding_even_where_all_values_are_negative(tmp_path):
    nodes = [
        node("Abs", "x", out="a"),
        node("Neg", "a", out="n"),
        node("MaxPool", "n", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    network = check(tmp_path, nodes, ["N", 1, 4, 4])
    assert network.layers[1].origin == "MaxPool"


def test_outputs_beyond_the_first_are_refused_when_used(tmp_path):
    nodes = [node("MaxPool", "x", out=["p", "i"], kernel_shape=[2]), node("Cast", "i", to=TensorProto.FLOAT)]
    with pytest.raises(UnsupportedOperatorError, match="output 'i' is used"):
        load_onnx(save(model(nodes, [1, 1, 4]), tmp_path))


# --- the batch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mixer",
    [
        node("Flatten", "x", axis=0),
        node("Reshape", "x", "s1"),
        node("Reshape", "x", "s2"),
        node("Transpose", "x", perm=[1, 2, 0], out="t"),
        node("ReduceMean", "x", axes=[0]),
        node("Slice", "x", "zero", "one", "zero"),
        node("Gather", "x", "zero", axis=0),
        node("Concat", "x", "x", axis=0),
        node("Squeeze", "x", "zero"),
        node("Add", "x", "wide"),
        node("Expand", "x", "s3"),
        node("Pad", "x", "pads"),
    ],
    ids=lambda proto: f"{proto.op_type}-{'-'.join(proto.input)}",
)
def test_mixing_a_symbolic_batch_is_refused(tmp_path, mixer):
    weights = {
        "s1": np.array([1, 12]),
        "s2": np.array([-1, 6]),
        "s3": np.array([2, 3, 4]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "wide": np.ones((2, 3, 4)),
        "pads": np.array([1, 0, 0, 0, 0, 0]),
        "m": np.ones((1, 2)),
    }
    nodes = [mixer]
    if mixer.op_type == "Transpose":
        nodes.append(node("MatMul", "t", "m"))
    with pytest.raises(UnsupportedOperatorError, match="mixes the batch dimension"):
        load_onnx(save(model(nodes, ["N", 3, 4], weights), tmp_path))


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        (["N", 3], [node("Gemm", "x", "row", transA=1)]),
        (["N", 1], [node("Gemm", "x", "row", transA=1)]),
        (["N", 1], [node("Transpose", "x", perm=[1, 0], out="t"), node("MatMul", "t", "one")]),
        (["N", 1], [node("MatMul", "one", "x")]),
        (["N", 1, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("Add", "x", "t")]),
        (["N", 1, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("Concat", "x", "t", axis=2)]),
        (["N", 3, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("Reshape", "t", "sample")]),
        (["N", 2, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("Conv", "t", "kernel")]),
        (["N", 2, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("MaxPool", "t", kernel_shape=[2])]),
        (["N", 2, 4], [node("Transpose", "x", perm=[1, 0, 2], out="t"), node("Flatten", "t", axis=1)]),
    ],
    ids=lambda value: "-".join(proto.op_type for proto in value) if isinstance(value[0], onnx.NodeProto) else "",
)
def test_mixing_a_symbolic_batch_is_refused_where_one_sample_would_not_show_it(tmp_path, shape, nodes):
    weights = {
        "row": np.ones((1, 2)),
        "one": np.ones((1, 1)),
        "sample": np.array([-1, 3, 4]),
        "kernel": np.ones((1, 1, 1)),
    }
    with pytest.raises(UnsupportedOperatorError, match="mixes the batch dimension"):
        load_onnx(save(model(nodes, shape, weights), tmp_path))


def test_a_batch_of_one_may_be_moved_at_will(tmp_path):
    nodes = [
        node("Transpose", "x", perm=[1, 2, 0], out="t"),
        node("Relu", "t", out="r"),
        node("Reshape", "r", "s", out="f"),
        node("Concat", "f", "f", axis=0),
    ]
    network = check(tmp_path, nodes, [1, 3, 4], {"s": np.array([1, 12])})
    assert network.n_outputs == 24


def test_a_fixed_batch_is_refused_and_a_matrix_input_is_not(tmp_path):
    with pytest.raises(NetworkError, match="batch of 5 samples"):
        load_onnx(save(model([node("Relu", "x")], [5, 3]), tmp_path))
    weights = {"w": np.random.default_rng(11).normal(size=(2, 5))}
    network = check(tmp_path, [node("MatMul", "w", "x")], [5, 3], weights)
    assert network.n_inputs == 15
    assert network.output_shape == (2, 3)


# --- the table -------------------------------------------------------------------------------------------------


def test_the_supported_opsets_hold_no_version_of_an_operator_that_was_not_reviewed():
    reviewed = {19, 20, 21, 22, 23, 24, 25}  # new element types; Cast, Pad, AveragePool as handled
    schemas = onnx.defs.get_all_schemas_with_history()
    late = {s.since_version for s in schemas if s.domain == "" and s.name in supported_operators()}
    assert {v for v in late if 18 < v <= OPSETS[1]} <= reviewed


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 15, 17, 18, 19, 21, 22])
def test_every_supported_opset_imports(tmp_path, opset):
    rng = np.random.default_rng(opset)
    nodes = [
        node("Conv", "x", "w", "b", out="g", pads=[1, 1, 1, 1]),
        node("Relu", "g", out="h"),
        node("AveragePool", "h", out="p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", out="f"),
        node("Gemm", "f", "v", "c"),
    ]
    weights = {
        "w": rng.normal(size=(2, 1, 3, 3)),
        "b": rng.normal(size=2),
        "v": rng.normal(size=(18, 3)),
        "c": np.ones(3),
    }
    network = check(tmp_path, nodes, ["N", 1, 6, 6], weights, opset=opset)
    assert network.layers[0].affine.nodes == ("g",)
    assert network.output.nodes == ("p", "f", "y")
