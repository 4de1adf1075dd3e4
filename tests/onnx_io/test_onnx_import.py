"""What the importer makes of whole files: structure, names, exactness, and the networks of others."""

from __future__ import annotations

import gzip
import hashlib
import re
import time
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import agree, check, model, node, run, save

from stablenet.cli.info import describe, render
from stablenet.core.network import Network
from stablenet.onnx_io.model_file import parse_onnx
from stablenet.onnx_io.reader import load_onnx, node_labels


def dense(matrix) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


# --- structure ------------------------------------------------------------------------------------------------


def small_weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=4), "v": rng.normal(size=(2, 4))}


def two_layers() -> list[onnx.NodeProto]:
    return [
        node("Gemm", "x", "w", "b", out="g", transB=1, name="first"),
        node("Relu", "g", out="h", name="act"),
        node("Gemm", "h", "v", out="y", transB=1, name="last"),
    ]


def test_a_plain_network_is_stored_as_in_the_file(tmp_path):
    weights = small_weights()
    path = save(model(two_layers(), ["N", 3], weights), tmp_path)
    network = agree(path)
    (layer,) = network.layers
    np.testing.assert_array_equal(layer.affine.terms[0].matrix, weights["w"].astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(layer.affine.offset, weights["b"].astype(np.float32).astype(np.float64))
    assert (layer.name, layer.node, layer.origin, layer.shape, layer.channel_axis) == ("act", "act", "Relu", (4,), None)
    assert (layer.affine.nodes, network.output.nodes) == (("first",), ("last",))
    assert (network.input_name, network.output_name) == ("x", "y")
    assert (network.input_shape, network.output_shape) == ((3,), (2,))
    assert network.exact
    assert network.import_error == 0.0
    assert network.file == str(path)
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_relu_at_the_end_is_a_layer_and_the_output_its_copy(tmp_path):
    nodes = [node("Gemm", "x", "w", out="g", transB=1), node("Relu", "g")]
    network = check(tmp_path, nodes, ["N", 3], {"w": small_weights()["w"]})
    np.testing.assert_array_equal(dense(network.output.terms[0].matrix), np.eye(4))
    assert network.output.nodes == ()


def test_an_expression_with_several_consumers_makes_one_layer(tmp_path):
    nodes = [
        node("Gemm", "x", "w", "b", out="g", transB=1),
        node("Relu", "g", out="h"),
        node("Add", "h", "g", out="a"),
        node("Sub", "h", "a", out="s"),
        node("Relu", "s", out="k"),
        node("Concat", "h", "k", "g", axis=1),
    ]
    network = check(tmp_path, nodes, ["N", 3], {name: small_weights()[name] for name in "wb"})
    assert [layer.name for layer in network.layers] == ["h", "k"]
    assert [term.source for term in network.output.terms] == [0, 1, 2]
    np.testing.assert_array_equal(dense(network.layers[1].affine.terms[1].matrix), np.zeros((4, 4)))


def test_layers_come_in_the_order_of_the_file_and_unused_nodes_do_not_count(tmp_path):
    nodes = [
        node("Relu", "x", out="b"),
        node("Softmax", "b", out="unused"),
        node("Neg", "x", out="n"),
        node("Clip", "n", out="a", min=0.0, max=1.0),
        node("Relu", "n", out="dead"),
        node("Add", "a", "b"),
    ]
    network = load_onnx(save(model(nodes, ["N", 2], opset=10), tmp_path))
    assert [layer.name for layer in network.layers] == ["b", "a/low", "a/high"]
    assert [layer.origin for layer in network.layers] == ["Relu", "Clip", "Clip"]
    np.testing.assert_array_equal(network.forward([0.5, -3.0]), [[0.5, 1.0]])


def test_names_are_unique_and_fall_back_to_outputs(tmp_path):
    nodes = [
        node("Relu", "x", out="p", name="same"),
        node("Neg", "p", out="q", name="same"),
        node("Relu", "q", out="r", name="p"),
        node("Clip", "r", out="s", min=0.0, max=1.0, name="p/low"),
        node("Clip", "s", out="p/low/low", min=0.0, max=1.0),
        node("Relu", "p/low/low"),
    ]
    proto = model(nodes, ["N", 2], opset=10)
    labels = node_labels(proto.graph)
    assert len(set(labels)) == len(labels)
    assert labels == ("Relu_0", "q", "p", "p/low", "p/low/low", "y")
    network = load_onnx(save(proto, tmp_path))
    names = [layer.name for layer in network.layers]
    assert len(set(names)) == len(names) == 7


def test_initializers_may_be_listed_as_inputs(tmp_path):
    proto = model(two_layers(), ["N", 3], small_weights())
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert load_onnx(save(proto, tmp_path)).n_inputs == 3


def test_metadata_is_kept(tmp_path):
    proto = model(two_layers(), ["N", 3], small_weights())
    helper.set_model_props(proto, {"author": "someone", "domain": "box"})
    assert load_onnx(save(proto, tmp_path)).metadata == {"author": "someone", "domain": "box"}


@pytest.mark.parametrize("dims", [[0, 3], [-1, 3], ["batch", 3], [None, 3], [1, 3]])
def test_a_leading_dimension_that_is_unknown_is_the_batch(tmp_path, dims):
    proto = model(two_layers(), dims, small_weights())
    if dims[0] in (0, -1):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = dims[0]
    network = load_onnx(save(proto, tmp_path))
    assert (network.n_inputs, network.input_shape) == (3, (3,))


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_floating_point_types(tmp_path, kind):
    proto = model(two_layers(), [1, 3], small_weights(), kind=kind)
    network = agree(save(proto, tmp_path), tolerance=1e-13 if kind == TensorProto.DOUBLE else 1e-2)
    assert network.exact
    expected = small_weights()["w"].astype(np.float16 if kind == TensorProto.FLOAT16 else np.float64)
    np.testing.assert_array_equal(network.layers[0].affine.terms[0].matrix, expected.astype(np.float64))


def test_bfloat16_weights(tmp_path):
    proto = model(two_layers(), [1, 3], small_weights(), kind=TensorProto.BFLOAT16)
    network = load_onnx(save(proto, tmp_path))
    np.testing.assert_allclose(network.layers[0].affine.terms[0].matrix, small_weights()["w"], rtol=2**-8)


def test_external_data_is_read(tmp_path):
    proto = model(two_layers(), ["N", 3], small_weights())
    plain = load_onnx(save(proto, tmp_path, "plain.onnx"))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    assert (tmp_path / "data.bin").exists()
    network = load_onnx(tmp_path / "net.onnx")
    np.testing.assert_array_equal(network.forward(np.ones(3)), plain.forward(np.ones(3)))
    stored = {tensor.name: tensor for tensor in parse_onnx(tmp_path / "net.onnx").graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["w"]), small_weights()["w"].astype(np.float32))


def test_an_output_that_is_constant(tmp_path):
    nodes = [node("Mul", "x", "zero", out="z"), node("Identity", "c")]
    network = load_onnx(save(model(nodes, ["N", 2], {"zero": np.zeros(2), "c": np.array([[1.0, 2.0, 3.0]])}), tmp_path))
    assert network.output.terms == ()
    assert network.output_shape == (3,)
    np.testing.assert_array_equal(network.forward(np.ones((2, 2))), [[1.0, 2.0, 3.0]] * 2)


def test_relus_of_constants_are_computed_and_make_no_layer(tmp_path):
    nodes = [
        node("Relu", "c", out="r"),
        node("Abs", "c", out="a"),
        node("Add", "r", "a", out="s"),
        node("Add", "x", "s"),
    ]
    network = check(tmp_path, nodes, ["N", 2], {"c": np.array([-1.5, 2.0])})
    assert not network.layers
    np.testing.assert_array_equal(network.output.offset, [1.5, 4.0])


def test_a_sparse_dense_matrix_is_stored_sparse(tmp_path):
    w = np.zeros((100, 80))
    w[np.arange(80), np.arange(80)] = 1.5
    network = check(tmp_path, [node("MatMul", "x", "w")], ["N", 100], {"w": w})
    assert type(network.output.terms[0].matrix).__name__ == "csr_array"
    assert network.output.n_connections == 80


# --- exactness ------------------------------------------------------------------------------------------------


def fractions(array: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in np.asarray(array).reshape(-1)]


@pytest.mark.parametrize("seed", range(5))
def test_the_import_error_bounds_what_folding_rounded(tmp_path, seed):
    """(x - m) / s, two products in a row, a scale: the true coefficients, in rational arithmetic."""
    rng = np.random.default_rng(seed)
    n, k = 5, 4
    weights = {
        "m": rng.normal(size=n),
        "s": rng.uniform(0.1, 3.0, n),
        "u": rng.normal(size=(n, k)) * 10.0 ** rng.integers(-6, 6, (n, k)),
        "b": rng.normal(size=k),
        "v": rng.normal(size=(k, 3)),
        "f": rng.normal(size=3),
    }
    nodes = [
        node("Sub", "x", "m", out="c"),
        node("Div", "c", "s", out="d"),
        node("Gemm", "d", "u", "b", out="e"),
        node("MatMul", "e", "v", out="g"),
        node("Mul", "g", "f", out="i"),
        node("Relu", "i"),
    ]
    network = load_onnx(save(model(nodes, ["N", n], weights), tmp_path))
    m, s, b, f = (fractions(weights[name].astype(np.float32)) for name in "msbf")
    u, v = (np.array(fractions(weights[name].astype(np.float32)), object).reshape(weights[name].shape) for name in "uv")
    through = (u / np.array(s, object)[:, None]) @ v * np.array(f, object)
    offset = (np.array(b, object) - np.array(m, object) @ (u / np.array(s, object)[:, None])) @ v * np.array(f, object)
    stored = network.layers[0].affine
    differences = [
        *(
            abs(Fraction(float(a)) - e)
            for a, e in zip(dense(stored.terms[0].matrix).T.reshape(-1), through.reshape(-1), strict=True)
        ),
        *(abs(Fraction(float(a)) - e) for a, e in zip(stored.offset, offset, strict=True)),
    ]
    assert not network.exact
    assert 0 < max(differences) <= Fraction(network.import_error)
    size = max(abs(float(e)) for e in [*through.reshape(-1), *offset])
    assert network.import_error <= 1e-11 * max(size, float(np.abs(weights["u"]).max()) * 100)


@pytest.mark.parametrize("case", ["all", "factor", "shift"])
def test_batch_normalization_stays_within_its_bound(tmp_path, case):
    rng = np.random.default_rng(3)
    names = ("scale", "bias", "mean", "var")
    weights = dict(zip(names, (*rng.normal(size=(3, 6)), rng.uniform(1e-3, 9, 6)), strict=True))
    if case == "factor":
        weights["bias"], weights["mean"] = np.zeros(6), np.zeros(6)
    if case == "shift":
        weights["mean"] *= 1e4
    nodes = [node("BatchNormalization", "x", *weights, out="n", epsilon=1e-4), node("Relu", "n")]
    network = load_onnx(save(model(nodes, ["N", 6], weights), tmp_path))
    stored = network.layers[0].affine
    with localcontext() as context:
        context.prec = 60
        exact = {name: [Decimal(float(v)) for v in value.astype(np.float32)] for name, value in weights.items()}
        epsilon = Decimal(float(np.float32(1e-4)))
        worst = Decimal(0)
        for i in range(6):
            factor = exact["scale"][i] / (exact["var"][i] + epsilon).sqrt()
            shift = exact["bias"][i] - factor * exact["mean"][i]
            worst = max(worst, abs(Decimal(float(dense(stored.terms[0].matrix)[i, i])) - factor))
            worst = max(worst, abs(Decimal(float(stored.offset[i])) - shift))
        assert 0 < worst <= Decimal(network.import_error)
    assert network.import_error < (1e-10 if case == "shift" else 1e-13)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Conv", "Mul", "Add", "Div", "PRelu", "Pad", "Clip", "Max"])
def test_weights_that_the_file_computes_carry_their_rounding(tmp_path, op):
    """The constant is a / b: what the network computes is off by its rounding, and says so."""
    shape = {"Conv": (1, 1, 1), "Pad": (), "Clip": (), "MatMul": (1, 1), "Gemm": (1, 1)}.get(op, (1,))
    inputs = {"Pad": ("x", "pads", "c"), "Conv": ("x", "c")}.get(op, ("x", "c"))
    sample = [1, 1, 4] if op == "Conv" else [1, 1]
    weights = {"a": np.ones(shape), "b": np.full(shape, 3.0)}
    if op == "Pad":
        weights["pads"] = np.array([0, 0, 0, 1])
    nodes = [node("Div", "a", "b", out="c"), node(op, *inputs)]
    network = check(tmp_path, nodes, sample, weights)
    assert not network.exact
    assert abs(Fraction(1.0 / 3.0) - Fraction(1, 3)) <= Fraction(network.import_error) <= Fraction(1, 2**50)


def test_exact_where_nothing_was_rounded(tmp_path):
    rng = np.random.default_rng(4)
    integers = {
        name: rng.integers(-9, 10, shape).astype(float) for name, shape in (("u", (4, 5)), ("v", (5, 3)), ("b", 5))
    }
    nodes = [
        node("Gemm", "x", "u", "b", out="g"),
        node("MatMul", "g", "v", out="h"),
        node("Mul", "h", "two", out="i"),
        node("Relu", "i"),
    ]
    assert check(tmp_path, nodes, ["N", 4], {**integers, "two": np.array(0.125)}).exact
    normalised = [node("Div", "x", "s", out="d"), node("MatMul", "d", "u")]
    assert check(tmp_path, normalised, ["N", 4], {"u": rng.normal(size=(4, 5)), "s": np.array(0.5)}).exact
    third = check(tmp_path, normalised, ["N", 4], {"u": rng.normal(size=(4, 5)), "s": np.array(3.0)})
    assert not third.exact
    # float32 by float32 fits into float64; twice does not.
    once = [node("Mul", "x", "f", out="d"), node("MatMul", "d", "u")]
    assert check(tmp_path, once, ["N", 4], {"u": rng.normal(size=(4, 5)), "f": rng.normal(size=4)}).exact
    twice = [node("Mul", "x", "f", out="c"), node("Mul", "c", "f", out="d"), node("MatMul", "d", "u")]
    assert not check(tmp_path, twice, ["N", 4], {"u": rng.normal(size=(4, 5)), "f": rng.normal(size=4)}).exact


def test_a_sum_that_cancels_is_not_called_exact(tmp_path):
    nodes = [node("Add", "x", "a", out="p"), node("Add", "p", "b")]
    network = load_onnx(save(model(nodes, ["N", 1], {"a": np.array([1.0]), "b": np.array([2.0**-60])}), tmp_path))
    assert not network.exact
    assert Fraction(2) ** -60 <= Fraction(network.import_error) <= Fraction(2) ** -50


def test_an_underflowing_product_is_not_called_exact(tmp_path):
    weights = {"a": np.array([1e-200]), "b": np.array([1e-200])}
    nodes = [node("Mul", "x", "a", out="p"), node("Mul", "p", "b")]
    network = load_onnx(save(model(nodes, [1, 1], weights, kind=TensorProto.DOUBLE), tmp_path))
    assert not network.exact
    assert network.import_error > 0


# --- description -----------------------------------------------------------------------------------------------


def test_the_description_is_json_and_complete(tmp_path):
    import io
    import json

    from rich.console import Console

    proto = model(two_layers(), ["N", 3], small_weights())
    helper.set_model_props(proto, {"author": "some[one]"})
    description = describe(load_onnx(save(proto, tmp_path)))
    assert json.loads(json.dumps(description)) == description
    assert description["input"] == {"name": "x", "shape": [3], "size": 3}
    assert description["output"] == {
        "name": "y",
        "shape": [2],
        "size": 2,
        "sources": [1],
        "connections": 8,
        "nodes": ["last"],
    }
    assert (description["neurons"], description["connections"], description["exact_import"]) == (4, 20, True)
    assert description["layers"] == [
        {
            "layer": 0,
            "name": "act",
            "origin": "Relu",
            "node": "act",
            "size": 4,
            "shape": [4],
            "channel_axis": None,
            "sources": [0],
            "connections": 12,
            "nodes": ["first"],
        }
    ]
    text = io.StringIO()
    render(description, Console(file=text, width=120))
    for word in ("act", "first", "exact", "4 neurons", "some[one]"):
        assert word in text.getvalue()


# --- speed, and networks that others trained -----------------------------------------------------------------


def test_import_of_a_convolutional_network_is_fast_and_sparse(tmp_path):
    rng = np.random.default_rng(5)
    nodes, weights, last = [], {}, "x"
    for i, (c, m, stride) in enumerate([(3, 8, 2), (8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 16, 1)]):
        weights[f"w{i}"], weights[f"b{i}"] = rng.normal(size=(m, c, 3, 3)), rng.normal(size=m)
        nodes += [
            node("Conv", last, f"w{i}", f"b{i}", out=f"g{i}", pads=[1, 1, 1, 1], strides=[stride, stride]),
            node("Relu", f"g{i}", out=f"h{i}"),
        ]
        last = f"h{i}"
    weights["v"] = rng.normal(size=(1024, 10)) / 32
    nodes += [node("Flatten", last, out="f"), node("Gemm", "f", "v")]
    path = save(model(nodes, ["N", 3, 32, 32], weights), tmp_path)
    load_onnx(path)
    start = time.thread_time()
    network = agree(path)
    assert time.thread_time() - start < 5.0
    stored = sum(term.matrix.nnz for layer in network.layers for term in layer.affine.terms)
    assert stored < 600_000


def specification_points(network: Network, folder: Path, count: int = 3) -> np.ndarray:
    """Random points, and points of the input boxes of the specifications that lie beside the networks."""
    rng = np.random.default_rng(6)
    points = [rng.random((count, network.n_inputs))]
    for path in sorted(folder.glob("*.vnnlib.gz")):
        text = gzip.decompress(path.read_bytes()).decode()
        found = re.findall(r"\((<=|>=)\s+X_(\d+)\s+([-+.\deE]+)\)", text)
        low, high = np.full(network.n_inputs, np.nan), np.full(network.n_inputs, np.nan)
        if not found or max(int(i) for _, i, _ in found) + 1 != network.n_inputs:
            continue
        for sense, i, value in found:
            (high if sense == "<=" else low)[int(i)] = float(value)
        if np.isfinite(low).all() and np.isfinite(high).all():
            points.append(low + (high - low) * rng.random((count, network.n_inputs)))
    return np.concatenate(points).astype(np.float32).astype(np.float64)


def test_networks_that_others_trained_agree_with_onnxruntime(real_networks):
    paths = sorted(real_networks.glob("*.onnx"))
    assert paths
    for path in paths:
        network = load_onnx(path)
        points = specification_points(network, real_networks)
        expected = run(path, points)
        tolerance = 1e-4 * np.maximum(np.abs(expected).max(axis=1, keepdims=True), 1e-3)
        assert (np.abs(network.forward(points) - expected) <= tolerance).all(), path.name
