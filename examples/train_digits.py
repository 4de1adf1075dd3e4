"""Train the network of `make demo`: handwritten digits, an L1 penalty, and many stable neurons.

    python examples/train_digits.py                        # writes examples/digits_3x100.onnx

The data are the 1,797 images of 8 x 8 pixels inside scikit-learn (Alpaydin and Kaynak, UCI), scaled to
[0, 1]; one in five is held out. Adam minimises cross-entropy plus an L1 penalty on the weights, as in Serra
et al. (NeurIPS 2021), which leaves neurons with few inputs. Biases carry no penalty and start widely spread:
a neuron whose bias outweighs its few inputs is stable on all of [0, 1]^64, on or off. Weights below 1e-3 end
as zero. BLAS is held to one thread, so that the same arguments give the same file on the same machine.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float64]
HERE = Path(__file__).parent
SIZES = (64, 100, 100, 100, 10)
BATCH = 64
PRUNED = 1e-3


def data(rng: np.random.Generator) -> tuple[Array, npt.NDArray[np.intp], Array, npt.NDArray[np.intp]]:
    """Images (n, 64) in [0, 1] and labels (n,), for training and held out."""
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    images, labels = images[order] / 16.0, labels[order]
    held = len(images) // 5
    return images[held:], labels[held:], images[:held], labels[:held]


def start(rng: np.random.Generator, bias: float) -> list[Array]:
    """Weights and biases by turns: He initialisation, and biases of standard deviation ``bias``."""
    parameters: list[Array] = []
    for fan_in, fan_out in pairwise(SIZES):
        parameters.append(rng.normal(size=(fan_out, fan_in)) * np.sqrt(2.0 / fan_in))
        parameters.append(rng.normal(size=fan_out) * bias)
    return parameters


def forward(parameters: list[Array], images: Array) -> list[Array]:
    """The input, the post-activations of each layer, and the logits."""
    values = [images]
    for k in range(0, len(parameters), 2):
        pre = values[-1] @ parameters[k].T + parameters[k + 1]
        values.append(np.maximum(pre, 0.0) if k < len(parameters) - 2 else pre)
    return values


def gradients(parameters: list[Array], images: Array, labels: npt.NDArray[np.intp], l1: float) -> list[Array]:
    """Gradients of mean cross-entropy plus ``l1`` times the sum of absolute weights."""
    values = forward(parameters, images)
    odds = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
    delta = odds / odds.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1.0
    delta /= len(labels)
    result: list[Array] = []
    for k in range(len(parameters) - 2, -1, -2):
        below = values[k // 2]
        result[:0] = [delta.T @ below + l1 * np.sign(parameters[k]), delta.sum(axis=0)]
        delta = (delta @ parameters[k]) * (below > 0)
    return result


def train(seed: int, l1: float, bias: float, epochs: int, rate: float) -> tuple[list[Array], float, float]:
    """Float32 parameters, and the accuracy that they have on the training and the held-out images."""
    rng = np.random.default_rng(seed)
    images, labels, held_images, held_labels = data(rng)
    parameters = start(rng, bias)
    mean = [np.zeros_like(p) for p in parameters]
    square = [np.zeros_like(p) for p in parameters]
    step = 0
    for epoch in range(epochs):
        current = 0.5 * rate * (1.0 + np.cos(np.pi * epoch / epochs))
        for chosen in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            step += 1
            slopes = gradients(parameters, images[chosen], labels[chosen], l1)
            for k, slope in enumerate(slopes):
                mean[k] += 0.1 * (slope - mean[k])
                square[k] += 0.001 * (slope**2 - square[k])
                scale = np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8
                parameters[k] -= current / (1 - 0.9**step) * mean[k] / scale
    for weights in parameters[::2]:
        weights[np.abs(weights) < PRUNED] = 0.0
    rounded = [p.astype(np.float32).astype(np.float64) for p in parameters]
    accuracies = [
        float((forward(rounded, x)[-1].argmax(axis=1) == y).mean())
        for x, y in ((images, labels), (held_images, held_labels))
    ]
    return rounded, accuracies[0], accuracies[1]


def to_onnx(parameters: list[Array], metadata: dict[str, str]) -> onnx.ModelProto:
    """Gemm and Relu by turns, float32."""
    nodes, weights, name = [], [], "image"
    for k in range(0, len(parameters), 2):
        layer = k // 2
        last = k == len(parameters) - 2
        for kind, array in (("weight", parameters[k]), ("bias", parameters[k + 1])):
            weights.append(numpy_helper.from_array(array.astype(np.float32), f"fc{layer}.{kind}"))
        result = "logits" if last else f"pre{layer}"
        inputs = [name, f"fc{layer}.weight", f"fc{layer}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [result], f"fc{layer}", transB=1))
        if not last:
            name = f"post{layer}"
            nodes.append(helper.make_node("Relu", [result], [name], f"relu{layer}"))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIZES[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", SIZES[-1]])],
        weights,
    )
    model = helper.make_model(graph, producer_name="stablenet examples", opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Train the network of `make demo`.")
    parser.add_argument("--output", type=Path, default=HERE / "digits_3x100.onnx")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--l1", type=float, default=3e-4)
    parser.add_argument("--bias", type=float, default=2.0, help="standard deviation of the biases at the start")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=4e-3)
    given = parser.parse_args()
    with threadpool_limits(1):
        parameters, accuracy, held = train(given.seed, given.l1, given.bias, given.epochs, given.rate)
    metadata = {
        "data": "scikit-learn digits, 8 x 8 pixels scaled to [0, 1], one in five held out",
        "training": f"Adam, seed {given.seed}, l1 {given.l1}, bias {given.bias}, epochs {given.epochs}, "
        f"rate {given.rate}, batch {BATCH}; weights below {PRUNED} set to 0",
        "accuracy": f"{accuracy:.4f} training, {held:.4f} held out",
        "script": "examples/train_digits.py",
    }
    given.output.write_bytes(to_onnx(parameters, metadata).SerializeToString(deterministic=True))
    nonzero = [int(np.count_nonzero(w)) for w in parameters[::2]]
    print(f"{given.output}: accuracy {metadata['accuracy']}; nonzero weights per layer {nonzero}")


if __name__ == "__main__":
    main()
