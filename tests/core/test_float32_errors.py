"""What float32 evaluations may be off, held against evaluations in many orders of summation."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx_models import model, node, save
from single_precision import evaluations

from stablenet.bounds import run
from stablenet.core.errors import InputError, UnsupportedOperatorError
from stablenet.core.float32 import in_float32
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.spec import parse_domain
from stablenet.onnx_io.reader import load_onnx


def network(sizes, seed, scale=1.0, double=False):
    """A random dense network; weights are float32 numbers unless ``double``."""
    rng = np.random.default_rng(seed)
    kind = np.float64 if double else np.float32
    maps = []
    for n, m in itertools.pairwise(sizes):
        weights = (scale * rng.normal(size=(m, n))).astype(kind).astype(np.float64)
        offset = (scale * rng.normal(size=m)).astype(kind).astype(np.float64)
        maps.append(AffineMap(offset, (Term(len(maps), weights),)))
    layers = tuple(Layer(affine, f"l{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


CASES = [(1.0, False, 1.0), (1.0, True, 1.0), (30.0, False, 1e3), (1e-13, False, 1e-3), (1e-20, True, 1e-10)]


@pytest.mark.parametrize(("scale", "double", "size"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_every_evaluation_is_within_the_error_of_the_forward_pass(scale, double, size, seed):
    net = network((12, 20, 15, 3), seed, scale, double)
    single = in_float32(net)
    x = size * np.random.default_rng(seed).uniform(-1, 1, (40, 12))
    found, real = single.evaluate(x), net.evaluate(x)
    assert [np.array_equal(a, b) for a, b in zip(found.pre, real.pre, strict=True)] == [True, True]
    largest, beyond = 0.0, False
    for values in evaluations(net, x, seed):
        for mine, value, error, own in zip(
            (*found.pre, found.output),
            values,
            (*found.pre_error, found.output_error),
            (*real.pre_error, real.output_error),
            strict=True,
        ):
            off = np.abs(value - mine)
            assert (off <= error).all()
            largest = max(largest, float((off / error).max()))
            beyond |= bool((off > own).any())
    assert beyond, "the real network's error bounds hold for float32 as well: nothing is tested"
    if scale > 1e-10:
        assert largest > 0.01, "the bound is so wide that nothing is tested"


METHODS = ["interval", "crown", "crown-alpha", "branch:8", "lp", "lp:bigm", "milp:50", "rolling:1"]


@pytest.mark.parametrize("method", METHODS)
def test_every_evaluation_is_within_the_bounds(method):
    for seed in range(3):
        net = network((4, 10, 8, 2), seed)
        part = parse_domain("box:-0.5:0.5", 4).parts[0]
        bounds = run(method, in_float32(net), part)
        rng = np.random.default_rng(seed)
        x = np.concatenate([part.lower + rng.random((60, 4)), rng.choice([-0.5, 0.5], (40, 4))])
        for values in evaluations(net, x, seed):
            for layer, value in zip(bounds.layers, values, strict=False):
                assert (value >= layer.lower).all()
                assert (value <= layer.upper).all()


@pytest.mark.parametrize("method", ["interval", "crown", "branch:8", "lp", "lp:bigm", "milp:50"])
def test_where_the_real_network_only_touches_zero_the_bounds_allow_for_float32(method):
    """On a point, real bounds are all but exact; a float32 evaluation lies beyond them."""
    net = network((30, 20, 20, 2), 5)
    x = np.random.default_rng(1).uniform(0, 1, 30).astype(np.float32).astype(np.float64)
    part = parse_domain("box:0:1", 30).parts[0]
    part = type(part)(x, x)
    beyond = False
    real, single = run(method, net, part), run(method, in_float32(net), part)
    for values in evaluations(net, x[None]):
        for layer, plain, value in zip(single.layers, real.layers, values, strict=False):
            assert (value[0] >= layer.lower).all()
            assert (value[0] <= layer.upper).all()
            beyond |= bool((value[0] > plain.upper).any())
    assert beyond


def test_a_neuron_that_reads_nothing_is_exactly_zero():
    net = network((3, 5, 4, 2), 0)
    first, second = net.layers
    matrix, offset = second.affine.terms[0].matrix.copy(), second.affine.offset.copy()
    matrix[1], offset[1] = 0.0, 0.0
    layers = (first, Layer(AffineMap(offset, (Term(1, matrix),)), "l1", (4,)))
    single = in_float32(Network(3, layers, net.output))
    bounds = run("crown", single, parse_domain("box:-1:1", 3).parts[0])
    assert bounds.layers[1].lower[1] == bounds.layers[1].upper[1] == 0.0
    assert bounds.layers[1].upper[0] > bounds.layers[1].lower[0]


def test_what_may_overflow_float32_is_not_bounded():
    net = network((3, 4, 2), 0, scale=1e25)
    with pytest.raises(InputError, match="overflow"):
        run("interval", in_float32(net), parse_domain("box:-1e14:1e14", 3).parts[0])
    with pytest.raises(InputError, match="overflows float32"):
        in_float32(network((3, 4, 2), 0, scale=1e39, double=True))


def runtime(path, x):
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": row[None].astype(np.float32)})[0].reshape(1, -1) for row in x])


def graphs():
    rng = np.random.default_rng(7)

    def weights(*shape):
        return rng.normal(size=shape)

    one, two = weights(6, 20), 100.0 * weights(20, 6)
    yield (
        "cancel",
        [
            node("MatMul", "x", "a", out="p"),
            node("MatMul", "p", "b", out="q"),
            node("Add", "q", "c", out="g"),
            node("Relu", "g", out="y"),
        ],
        # In real arithmetic the product of both is 0.
        {"a": np.hstack([one, one]), "b": np.vstack([two, -two]), "c": np.zeros(6)},
        [1, 6],
    )
    yield (
        "images",
        [
            node("Conv", "x", "w", "b", out="c", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c", "s", "o", "m", "v", out="n"),
            node("LeakyRelu", "n", out="r", alpha=0.1),
            node("AveragePool", "r", out="p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p", "u", out="d"),
            node("Clip", "d", "zero", "six", out="k"),
            node("MaxPool", "k", out="z", kernel_shape=[2, 2]),
            node("Flatten", "z", out="f"),
            node("Gemm", "f", "t", "e", out="y", transB=1, alpha=0.3),
        ],
        {
            "w": weights(3, 2, 3, 3),
            "b": weights(3),
            "s": weights(3),
            "o": weights(3),
            "m": 5.0 * weights(3),
            "v": np.abs(weights(3)),
            "u": weights(4, 3, 1, 1),
            "zero": np.array(0.0),
            "six": np.array(6.0),
            "t": weights(3, 4),
            "e": weights(3),
        },
        [1, 2, 4, 4],
    )
    yield (
        "residual",
        [
            node("Sub", "x", "mean", out="d"),
            node("Div", "d", "std", out="s"),
            node("Gemm", "s", "a", "b", out="g", transB=1),
            node("Relu", "g", out="h"),
            node("MatMul", "h", "c", out="i"),
            node("Add", "i", "s", out="j"),
            node("Max", "j", "k", out="l"),
            node("Abs", "l", out="m"),
            node("ReduceMean", "m", out="y", axes=[1], keepdims=1),
        ],
        {
            "mean": 100.0 + weights(5),
            "std": 0.1 + np.abs(weights(5)),
            "a": weights(9, 5),
            "b": weights(9),
            "c": weights(9, 5),
            "k": weights(1, 5),
        },
        [1, 5],
    )


@pytest.mark.parametrize(("name", "nodes", "weights", "shape"), [*graphs()], ids=[graph[0] for graph in graphs()])
def test_what_onnxruntime_computes_is_within_the_error(tmp_path, name, nodes, weights, shape):
    path = save(model(nodes, shape, weights, opset=13), tmp_path)
    real, single = load_onnx(path), load_onnx(path, "float32")
    assert single.arithmetic == "float32"
    assert single.content_digest == real.content_digest
    low, high = (99.0, 101.0) if name == "residual" else (-1.0, 1.0)
    x = np.random.default_rng(3).uniform(low, high, (200, *shape[1:]))
    found, own = single.evaluate(x.reshape(200, -1)), real.evaluate(x.reshape(200, -1))
    values = runtime(path, x)
    off = np.abs(values - found.output)
    assert (off <= found.output_error).all()
    assert (off > own.output_error).any()
    assert (off / found.output_error).max() > 1e-4
    if name == "cancel":
        by_rows = in_float32(real).evaluate(x.reshape(200, -1))
        assert (off > by_rows.output_error).any(), "magnitudes of the folded map alone would have done"


def test_what_float32_does_not_stand_for_is_refused(tmp_path):
    half = [node("Cast", "x", out="c", to=10), node("Cast", "c", out="d", to=1), node("Relu", "d", out="y")]
    path = save(model(half, [1, 3], {}), tmp_path, "half.onnx")
    assert load_onnx(path).n_inputs == 3
    with pytest.raises(UnsupportedOperatorError, match="FLOAT16"):
        load_onnx(path, "float32")
    constants = [node("Mul", "a", "b", out="c"), node("Add", "x", "c", out="d"), node("Relu", "d", out="y")]
    path = save(model(constants, [1, 3], {"a": np.ones(3), "b": np.full(3, 0.1)}), tmp_path, "constants.onnx")
    assert load_onnx(path).n_inputs == 3
    with pytest.raises(UnsupportedOperatorError, match="computes with constants"):
        load_onnx(path, "float32")
