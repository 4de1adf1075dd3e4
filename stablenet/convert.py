"""Networks from PyTorch and scikit-learn, as ONNX files.

Both packages are optional (extras ``torch`` and ``sklearn``) and imported only when a function is called on their
objects. The file is what all else in this package works on; nothing keeps a reference to the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.errors import InputError, NotInstalledError, UnsupportedError
from stablenet.files import atomic_path
from stablenet.network import Network
from stablenet.onnx_io import load_onnx

OPSET = 17


def from_torch(module: Any, input_shape: Sequence[int], path: str | Path) -> Network:
    """The network of a ``torch.nn.Module``, written as an ONNX file by torch's own exporter.

    ``input_shape`` is the shape of one sample; the batch is symbolic. The module is exported as for inference
    (``eval``), and left in the mode it was in. Raises `NotInstalledError` without torch, `InputError` for an object
    that is no module, and `NetworkError` where the exported graph is not piecewise linear.
    """
    try:
        import torch
    except ImportError:
        raise NotInstalledError('torch is not installed: pip install "stablenet[torch]"') from None
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"an object of type {type(module).__name__}; a torch.nn.Module is expected")
    training = module.training
    first = next(iter(module.parameters()), None)
    kind = {} if first is None else {"dtype": first.dtype, "device": first.device}
    sample = torch.zeros((1, *input_shape), **kind)
    try:
        with atomic_path(Path(path)) as temporary, torch.no_grad():
            module.eval()
            torch.onnx.export(
                module,
                (sample,),
                str(temporary),
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
            load_onnx(temporary)
    finally:
        module.train(training)
    return load_onnx(path)


def from_sklearn(estimator: Any, path: str | Path) -> Network:
    """The network of a fitted scikit-learn ``MLPClassifier`` or ``MLPRegressor``, as an ONNX file in float64.

    Its output is the decision before the last, monotone, activation: the logits of a classifier (one for two classes,
    whose sign decides), the prediction of a regressor. Raises `NotInstalledError` without scikit-learn, `InputError`
    for another object or one that is not fitted, and `UnsupportedError` for activations other than relu and identity.
    """
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
    except ImportError:
        raise NotInstalledError('scikit-learn is not installed: pip install "stablenet[sklearn]"') from None
    if not isinstance(estimator, (MLPClassifier, MLPRegressor)):
        raise InputError(f"an object of type {type(estimator).__name__}; an MLPClassifier or MLPRegressor is expected")
    if not hasattr(estimator, "coefs_"):
        raise InputError(f"this {type(estimator).__name__} is not fitted; call fit first")
    if estimator.activation not in ("relu", "identity"):
        raise UnsupportedError(
            f"activation {estimator.activation!r} is not piecewise linear; there are: relu, identity"
        )
    model = dense_model(estimator.coefs_, estimator.intercepts_, relu=estimator.activation == "relu")
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return load_onnx(path)


def dense_model(weights: Sequence[npt.NDArray[Any]], offsets: Sequence[npt.NDArray[Any]], *, relu: bool = True) -> Any:
    """An ONNX model of Gemm nodes with ReLUs between them.

    ``weights[k]`` is (n_k, n_{k+1}) and ``offsets[k]`` (n_{k+1},), as ``x @ w + b`` takes them.
    """
    import onnx
    from onnx import helper, numpy_helper

    kind = np.result_type(*weights)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes, tensors, name = [], [], "input"
    for k, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        last = k == len(weights) - 1
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(weight, kind), f"layer{k}.weight"))
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(offset, kind), f"layer{k}.bias"))
        out = "output" if last else f"layer{k}_pre"
        nodes.append(helper.make_node("Gemm", [name, f"layer{k}.weight", f"layer{k}.bias"], [out], name=f"layer{k}"))
        if not last:
            name = f"layer{k}_post" if relu else out
            if relu:
                nodes.append(helper.make_node("Relu", [out], [name], name=f"relu{k}"))
    ends = [
        helper.make_tensor_value_info(end, element, ["batch", size])
        for end, size in (("input", weights[0].shape[0]), ("output", weights[-1].shape[1]))
    ]
    graph = helper.make_graph(nodes, "network", [ends[0]], [ends[1]], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model
