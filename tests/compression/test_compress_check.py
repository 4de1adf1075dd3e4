"""The check of a compressed file: evaluators that are wrong accuse nobody, and every type is stored or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from compress_tools import quick_report
from onnx import TensorProto
from onnx_models import model, node, save

from stablenet.compression import check
from stablenet.compression.compress import compress
from stablenet.core.errors import ContradictionError, InputError, StablenetError
from stablenet.domain.regions import Box
from stablenet.onnx_io.reader import load_onnx

UNIT_BOX = Box(np.zeros(2), np.ones(2))


def dead_channel(folder: Path, opset: int, kind: int = TensorProto.DOUBLE) -> Path:
    """Two channels, the second dead, through a batch normalisation that is no identity."""
    weights = {
        "w": np.ones((2, 2)),
        "b": np.array([1.0, -9.0]),
        "s": np.ones(2),
        "o": np.zeros(2),
        "m": np.array([0.5, 0.0]),
        "v": np.ones(2),
        "w2": np.ones((1, 2)),
        "b2": np.zeros(1),
    }
    nodes = [
        node("Gemm", "x", "w", "b", out="a", transB=1),
        node("BatchNormalization", "a", "s", "o", "m", "v", out="n"),
        node("Relu", "n", out="r"),
        node("Gemm", "r", "w2", "b2", transB=1),
    ]
    return save(model(nodes, ["N", 2], weights, opset=opset, kind=kind), folder)


def run(path: Path, domain: Box = UNIT_BOX):
    return compress(path, quick_report(load_onnx(path), domain), domain=domain)


def in_turn(monkeypatch, makers) -> None:
    """The makers of runs take turns: the original's, the new file's, and so on."""
    waiting = iter(makers)

    def maker(*arguments):
        return next(waiting)(*arguments)

    monkeypatch.setattr(check, "_runner", maker)


@pytest.fixture
def no_onnxruntime(monkeypatch):
    monkeypatch.setattr(check, "_sessions", lambda _: None)


@pytest.mark.parametrize("opset", [9, 11, 13, 14, 17])
def test_the_reference_evaluator_accuses_no_right_report(opset, tmp_path, no_onnxruntime):
    result = run(dead_channel(tmp_path, opset))
    assert result.network.n_neurons < result.original.n_neurons
    assert result.checked > 0
    assert "onnx.reference" in result.runtime


def test_an_evaluator_that_is_wrong_on_the_original_is_named_and_not_used(tmp_path, monkeypatch):
    made = check._runner

    def wrong(*arguments):
        right = made(*arguments)
        return lambda points: right(points) + 0.25 * (1.0 + points[:, :1])

    in_turn(monkeypatch, [wrong, made] * 2)
    result = run(dead_channel(tmp_path, 17, TensorProto.FLOAT))
    assert result.runtime.startswith("stablenet itself; not by onnxruntime")
    assert "onnx.reference" in result.runtime


def test_an_evaluator_that_objects_to_the_new_file_alone_is_named(tmp_path, monkeypatch):
    made = check._runner

    def wrong(*arguments):
        right = made(*arguments)
        return lambda points: right(points) + 0.25

    in_turn(monkeypatch, [made, wrong])
    with pytest.raises(StablenetError, match="onnxruntime gives output 0") as caught:
        run(dead_channel(tmp_path, 17, TensorProto.FLOAT))
    assert not isinstance(caught.value, ContradictionError)


def test_a_false_report_is_still_accused(tmp_path):
    path = dead_channel(tmp_path, 17, TensorProto.FLOAT)
    report = quick_report(load_onnx(path), UNIT_BOX)
    neurons = [
        {**n, "verdict": "stably_inactive", "positive": {"state": "refuted", "by": "crown", "rigorous": True}}
        for n in report.data["neurons"]
    ]
    with pytest.raises(ContradictionError, match="the report holds is false"):
        compress(path, replace(report, data={**report.data, "neurons": neurons}))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize("batch", ["N", 1])
def test_a_network_that_becomes_constant_is_written_in_any_type(kind, batch, tmp_path):
    weights = {"w": np.array([[-1.0, -2.0]]), "b": np.array([-0.3]), "w2": np.ones((2, 1)), "b2": np.array([0.1, -0.7])}
    nodes = [
        node("Gemm", "x", "w", "b", out="a", transB=1),
        node("Relu", "a", out="r"),
        node("Gemm", "r", "w2", "b2", transB=1),
    ]
    result = run(save(model(nodes, [batch, 2], weights, kind=kind), tmp_path))
    assert result.network.n_neurons == 0
    written = onnx.load_model_from_string(result.data)
    assert written.graph.output[0].type.tensor_type.elem_type == kind
    value, original = result.network.forward(np.zeros(2)), result.original.forward(np.zeros(2))
    assert (np.abs(value - original) <= result.bound).all()


def test_a_result_rounded_to_float16_counts_in_the_bound(tmp_path):
    """1.0 + 2^-11 is no float16: the constant that is stored is another number, and the bound says so."""
    weights = {
        "w": np.array([[-1.0, -1.0]]),
        "b": np.zeros(1),
        "b1": np.array([2.0**-11]),
        "w2": np.ones((1, 1)),
        "b2": np.array([1.0]),
    }
    nodes = [
        node("Gemm", "x", "w", "b", out="a", transB=1),
        node("Relu", "a", out="r"),
        node("Gemm", "r", "w2", "b2", out="s", transB=1),
        node("Add", "s", "b1"),
    ]
    result = run(save(model(nodes, ["N", 2], weights, kind=TensorProto.FLOAT16), tmp_path))
    assert result.network.n_neurons == 0
    assert result.network.forward(np.zeros(2))[0, 0] in (1.0, 1.0 + 2.0**-10)
    assert 2.0**-11 <= result.bound.max() < 2.0**-10


def test_bfloat16_is_refused_by_name(tmp_path):
    path = dead_channel(tmp_path, 17, TensorProto.BFLOAT16)
    with pytest.raises(InputError, match="bfloat16"):
        run(path)
