"""Files that are refused: one clear line each, of a type under StablenetError."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import model, node, save

from stablenet.core.errors import NetworkError, StablenetError, UnsupportedOperatorError
from stablenet.onnx_io.operators import OPSETS, supported_operators
from stablenet.onnx_io.reader import load_onnx


def good() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [node("Gemm", "x", "w", "b", out="g", name="gemm"), node("Relu", "g", name="act")]
    return model(nodes, ["N", 3], {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)})


def refused(path, *words: str, error: type[StablenetError] = NetworkError) -> str:
    with pytest.raises(error) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message
    return message


def test_the_good_file_is_good(tmp_path):
    assert load_onnx(save(good(), tmp_path)).n_outputs == 4


def test_missing_file_and_directory(tmp_path):
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "is a directory")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    refused(path, "is empty")


def test_every_truncation_is_refused(tmp_path):
    data = good().SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(1, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path)


def test_a_file_cut_in_half(tmp_path):
    path = tmp_path / "net.onnx"
    data = good().SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    refused(path, "truncated")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path, seed):
    path = tmp_path / "net.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(1 + 37 * seed))
    refused(path)


def test_text(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("This is no network.\n" * 20)
    refused(path, "is no ONNX")


@pytest.mark.parametrize("seed", range(150))
def test_flipped_bytes_raise_nothing_but_our_own_errors(tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = np.frombuffer(good().SerializeToString(), np.uint8).copy()
    where = rng.integers(0, len(data), 3)
    data[where] = rng.integers(0, 256, 3)
    path = tmp_path / "net.onnx"
    path.write_bytes(data.tobytes())
    message = ""
    try:
        load_onnx(path)
    except StablenetError as error:
        message = str(error)
    assert "\n" not in message


def test_cycle_and_unsorted_nodes(tmp_path):
    nodes = [node("Add", "x", "b", out="a", name="one"), node("Relu", "a", out="b", name="two"), node("Relu", "b")]
    refused(save(model(nodes, [1, 3]), tmp_path), "'one'", "'b'", "part of a cycle")
    nodes = [node("Relu", "a", name="late"), node("Neg", "x", out="a")]
    refused(save(model(nodes, [1, 3]), tmp_path), "'late'", "'a' before it is computed", "sorted")
    nodes = [node("Neg", "x", out="n"), node("Relu", "a", name="late", out="y"), node("Neg", "n", out="a")]
    refused(save(model(nodes, [1, 3]), tmp_path), "'late'", "'a' before it is computed", "sorted")
    nodes = [node("Add", "x", "ghost")]
    refused(save(model(nodes, [1, 3]), tmp_path), "'ghost', which nothing computes")


@pytest.mark.parametrize("dims", [["N", "features"], ["N", 3, None], ["N"], [None]])
def test_dynamic_shapes(tmp_path, dims):
    refused(save(model([node("Relu", "x")], dims), tmp_path), "'x': dimension", "must be known numbers")


def test_no_shape_at_all(tmp_path):
    refused(save(model([node("Relu", "x")], None), tmp_path), "'x' has no shape")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "b"])
def test_weights_that_are_no_numbers(tmp_path, value, name):
    weights = {"w": np.ones((3, 4)), "b": np.ones(4)}
    weights[name].flat[2] = value
    nodes = [node("Gemm", "x", "w", "b", name="gemm")]
    refused(save(model(nodes, [1, 3], weights), tmp_path), "'gemm'", f"{name!r} holds NaN or infinity")


def test_folding_that_overflows(tmp_path):
    nodes = [node("Mul", "x", "a", out="p"), node("Mul", "p", "a", out="g"), node("Relu", "g")]
    proto = model(nodes, [1, 2], {"a": np.array([1e200, 1.0])}, kind=TensorProto.DOUBLE)
    refused(save(proto, tmp_path), "not finite")


@pytest.mark.parametrize("opset", [1, OPSETS[0] - 1, OPSETS[1] + 1, 999])
def test_opsets(tmp_path, opset):
    proto = good()
    proto.opset_import[0].version = opset
    refused(save(proto, tmp_path), f"opset {opset}", f"{OPSETS[0]} to {OPSETS[1]}")


def test_no_opset_and_a_new_ir_version(tmp_path):
    proto = good()
    del proto.opset_import[:]
    refused(save(proto, tmp_path), "no opset")
    proto = good()
    proto.ir_version = 99
    refused(save(proto, tmp_path), "ir_version")


def test_external_data_that_is_missing_or_short(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(good(), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    data = (tmp_path / "data.bin").read_bytes()
    (tmp_path / "data.bin").write_bytes(data[:20])
    refused(path)
    (tmp_path / "data.bin").unlink()
    refused(path, "external data", "data.bin")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname"])
def test_external_data_outside_the_folder(tmp_path, location):
    (tmp_path / "outside.bin").write_bytes(bytes(48))
    folder = tmp_path / "inner"
    folder.mkdir()
    onnx.save(good(), folder / "net.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    proto = onnx.load(folder / "net.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    refused(save(proto, folder), "external data")


def test_operators_are_refused_by_name(tmp_path):
    nodes = [node("Sigmoid", "x", name="squash")]
    refused(save(model(nodes, [1, 3]), tmp_path), "'squash'", "'Sigmoid'", "smooth", error=UnsupportedOperatorError)
    nodes = [node("Shrink", "x", name="less")]
    message = refused(save(model(nodes, [1, 3]), tmp_path), "'less'", "'Shrink'", error=UnsupportedOperatorError)
    for name in supported_operators():
        assert name in message


def test_operators_of_other_domains(tmp_path):
    nodes = [node("FusedGemm", "x", "w", name="fused", domain="com.microsoft")]
    proto = model(nodes, [1, 3], {"w": np.ones((3, 2))}, domains={"com.microsoft": 1})
    refused(save(proto, tmp_path), "'fused'", "'FusedGemm'", "'com.microsoft'", error=UnsupportedOperatorError)


def test_quantised_networks(tmp_path):
    weights = {"s": np.array(0.1), "z": np.array(0, np.uint8)}
    nodes = [node("QuantizeLinear", "x", "s", "z", out="q"), node("DequantizeLinear", "q", "s", "z")]
    refused(save(model(nodes, [1, 3], weights), tmp_path), "(QuantizeLinear)", error=UnsupportedOperatorError)


@pytest.mark.parametrize(
    "kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL, TensorProto.STRING]
)
def test_inputs_that_are_no_floating_point_numbers(tmp_path, kind):
    proto = good()
    proto.graph.input[0].type.tensor_type.elem_type = kind
    refused(save(proto, tmp_path), "'x'", TensorProto.DataType.Name(kind), "FLOAT")


def test_casts_to_integers_and_integer_weights(tmp_path):
    nodes = [node("Cast", "x", out="i", to=TensorProto.INT64), node("Cast", "i", to=TensorProto.FLOAT)]
    refused(save(model(nodes, [1, 3]), tmp_path), "a cast to element type 7", error=UnsupportedOperatorError)
    nodes = [node("Add", "x", "c", name="add")]
    refused(save(model(nodes, [1, 3], {"c": np.array([1, 2, 3])}), tmp_path), "'add'", "int64")


def test_several_inputs_and_outputs(tmp_path):
    nodes = [node("Add", "a", "b", out="y"), node("Neg", "a", out="z")]
    refused(save(model(nodes, [1, 3], inputs=("a", "b")), tmp_path), "2 inputs ('a', 'b')")
    refused(save(model([nodes[1]], [1, 3], inputs=("a",), outputs=("z", "z")), tmp_path), "2 outputs ('z', 'z')")
    refused(save(model([node("Relu", "w")], [1, 3], {"w": np.ones(3)}, inputs=()), tmp_path), "no input")


def test_outputs_that_nothing_computes(tmp_path):
    refused(save(model([node("Relu", "x", out="z")], [1, 3]), tmp_path), "'y' is not computed")


def test_sparse_initializers(tmp_path):
    proto = good()
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    refused(save(proto, tmp_path), "sparse initializers")


@pytest.mark.parametrize(
    ("bad", "weights", "words"),
    [
        (node("Gemm", "x", "w", name="n"), {"w": np.ones((4, 2))}, ["'n' (Gemm)", "do not fit"]),
        (node("MatMul", "x", "w", name="n"), {"w": np.ones((4, 2))}, ["'n' (MatMul)", "do not fit"]),
        (node("Gemm", "x", "w", "c", name="n"), {"w": np.ones((3, 2)), "c": np.ones(3)}, ["'n' (Gemm)"]),
        (node("Add", "x", "c", name="n"), {"c": np.ones(5)}, ["'n' (Add)"]),
        (node("Div", "x", "c", name="n"), {"c": np.zeros(3)}, ["'n' (Div)", "zero"]),
        (node("Conv", "x", "w", name="n"), {"w": np.ones((1, 3, 1))}, ["'n' (Conv)"]),
        (node("Reshape", "x", "s", name="n"), {"s": np.array([1, 5])}, ["'n' (Reshape)", "does not fill"]),
        (node("Reshape", "x", "s", name="n"), {"s": np.array([-1, -1])}, ["'n' (Reshape)"]),
        (node("Transpose", "x", name="n", perm=[0, 0]), {}, ["'n' (Transpose)", "perm"]),
        (node("Concat", "x", "c", name="n", axis=1), {"c": np.ones((2, 3))}, ["'n' (Concat)"]),
        (node("Squeeze", "x", "s", name="n"), {"s": np.array([1])}, ["'n' (Squeeze)", "size 1"]),
        (node("Flatten", "x", name="n", axis=9), {}, ["'n' (Flatten)", "axis 9"]),
        (node("Gather", "x", "i", name="n", axis=1), {"i": np.array([3])}, ["'n' (Gather)", "outside"]),
        (node("Clip", "x", "a", "b", name="n"), {"a": np.array(1.0), "b": np.array(0.0)}, ["'n' (Clip)", "above"]),
        (node("Clip", "x", "a", name="n"), {"a": np.array(np.nan)}, ["'n' (Clip)", "nan"]),
        (node("MaxPool", "x", name="n", kernel_shape=[2]), {}, ["'n' (MaxPool)"]),
        (node("Relu", "x", name="n", slope=1.0), {}, ["slope"]),
        (node("ConstantOfShape", "s", name="n"), {"s": np.array([2**40])}, []),
        (node("Pad", "x", "p", name="n", mode="mirror"), {"p": np.zeros(4, np.int64)}, ["'n' (Pad)", "mirror"]),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_nodes_that_make_no_sense(tmp_path, bad, weights, words):
    path = save(model([bad], [1, 3], weights), tmp_path)
    if bad.op_type == "ConstantOfShape":
        bad_add = node("Add", "x", "y", out="z")
        path = save(model([bad, bad_add], [1, 3], weights, outputs=("z",)), tmp_path)
    refused(path, *words)


def test_pooling_windows_that_do_not_fit_or_see_only_padding(tmp_path):
    for attributes in ({"kernel_shape": [7]}, {"kernel_shape": [1], "pads": [1, 1]}):
        for op in ("MaxPool", "AveragePool"):
            refused(save(model([node(op, "x", name="pool", **attributes)], [1, 1, 4]), tmp_path), "'pool'")


def test_weights_that_depend_on_the_input(tmp_path):
    nodes = [node("Conv", "x", "x", name="conv")]
    refused(save(model(nodes, [1, 1, 3]), tmp_path), "'conv'", "depends on the input", error=UnsupportedOperatorError)
    nodes = [node("Shape", "x", out="s"), node("Mul", "s", "two", out="t"), node("Reshape", "x", "t", name="reshape")]
    refused(save(model(nodes, ["N", 3], {"two": np.array([2, 1])}), tmp_path), "(Mul)")
