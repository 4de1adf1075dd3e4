"""Makers of small ONNX models, and the comparison with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from stablenet.core.network import Network
from stablenet.onnx_io.reader import load_onnx

Node = tuple[Any, ...]


def node(op: str, *inputs: str, out: str | Sequence[str] = "y", name: str = "", domain: str = "", **attributes: Any):
    outputs = [out] if isinstance(out, str) else list(out)
    return helper.make_node(op, list(inputs), outputs, name=name, domain=domain, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] | None,
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model; float64 weights are stored as float32 unless the input is double, others as they are."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tensors = []
    for name, value in (weights or {}).items():
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(dtype)
        tensors.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        tensors,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 20 else 10)


def save(proto: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def run(path: Path, points: np.ndarray) -> np.ndarray:
    """Outputs of onnxruntime, (n_points, n_outputs): in one batch if the batch is symbolic, else one by one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}[entry.type]
    points = points.astype(dtype)
    if entry.shape and not isinstance(entry.shape[0], int):
        batch = points.reshape(len(points), *entry.shape[1:])
        return session.run(None, {entry.name: batch})[0].reshape(len(points), -1).astype(np.float64)
    rows = [session.run(None, {entry.name: point.reshape(entry.shape)})[0].reshape(-1) for point in points]
    return np.array(rows, np.float64)


def agree(path: Path, seed: int = 0, *, count: int = 4, tolerance: float = 1e-4, scale: float = 1.5) -> Network:
    """Load the file, and assert that forward passes agree with onnxruntime; returns the network."""
    network = load_onnx(path)
    points = np.random.default_rng(seed).normal(0.0, scale, (count, network.n_inputs))
    points = points.astype(np.float16).astype(np.float64)  # exact in every element type
    expected = run(path, points)
    found = network.forward(points)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))
    return network


def check(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    weights: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Network:
    """`agree` for a model made on the spot."""
    return agree(save(model(nodes, shape, weights, **options), folder), seed)
