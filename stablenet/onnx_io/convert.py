"""Networks from PyTorch and scikit-learn, as ONNX files.

Both packages are optional (extras ``torch`` and ``sklearn``) and imported only when a function is called on their
objects. All else in this package works on the file; no reference to the object is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import InputError, NetworkError, NotInstalledError, UnsupportedError
from stablenet.core.files import atomic_path
from stablenet.core.network import Network
from stablenet.onnx_io.reader import load_onnx

OPSET = 17


def from_torch(module: Any, input_shape: Sequence[int], path: str | Path, *, dynamo: bool = False) -> Network:
    """Convert a ``torch.nn.Module``, by way of an ONNX file that torch's own exporter writes.

    The module is exported as for inference (``eval``), and each of its modules is left in the mode it was in. Torch
    folds batch normalisation after a convolution, in the module's own precision: the network is that of the file.

    Args:
        module: the module.
        input_shape: shape of one sample, without the batch, which is symbolic.
        path: the ONNX file to write.
        dynamo: take torch's newer exporter, which needs the package onnxscript, in place of the one by tracing.

    Returns:
        The network of the file.

    Raises:
        NotInstalledError: torch is not installed.
        InputError: the object is no module, or does not take such inputs.
        NetworkError: torch cannot export the module, or its graph is not piecewise linear.
    """
    try:
        import torch
    except ImportError:
        raise NotInstalledError('torch is not installed: pip install "stablenet[torch]"') from None
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"an object of type {type(module).__name__}; a torch.nn.Module is expected")
    if not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise InputError(f"input_shape {tuple(input_shape)!r}; positive integers, without the batch, are expected")
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with atomic_path(Path(path)) as temporary, torch.no_grad():
            _export(torch, module, _sample(torch, module, input_shape), temporary, dynamo=dynamo)
            try:
                load_onnx(temporary)
            except NetworkError as error:
                error.args = (str(error).replace(str(temporary), "the exported module"),)
                raise
    finally:
        for part, training in modes:
            part.training = training
    return load_onnx(path)


def _sample(torch: Any, module: Any, input_shape: Sequence[int]) -> Any:
    """A batch of two zeros, which the module is seen to take and to give one tensor for."""
    known = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)
    kind = {} if known is None else {"dtype": known.dtype, "device": known.device}
    sample = torch.zeros((2, *input_shape), **kind)
    try:
        result = module(sample)
    except Exception as error:  # the module's own code may raise anything
        raise InputError(f"the module takes no batch of shape {tuple(sample.shape)}: {_line(error)}") from None
    if not isinstance(result, torch.Tensor):
        raise InputError(f"the module gives a {type(result).__name__}; one tensor is expected")
    return sample


def _export(torch: Any, module: Any, sample: Any, path: Path, *, dynamo: bool) -> None:
    """Write a module as ONNX by one of torch's two exporters."""
    if dynamo:
        try:
            import onnxscript  # noqa: F401 - torch's exporter needs it
        except ImportError:
            raise NotInstalledError("torch's newer exporter needs onnxscript: pip install onnxscript") from None
        batch = torch.export.Dim("batch")
        options = {
            "opset_version": OPSET + 1,
            "dynamic_shapes": ({0: batch},),
            "external_data": False,
            "verbose": False,
        }
    else:
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        options = {"opset_version": OPSET, "dynamic_axes": axes}
    names = {"input_names": ["input"], "output_names": ["output"]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about the exporter
            torch.onnx.export(module, (sample,), str(path), dynamo=dynamo, **names, **options)
    except Exception as error:  # torch's exporter raises errors of many kinds
        raise NetworkError(f"torch cannot export the module: {_line(error)}") from None


def _line(error: Exception) -> str:
    """The first line of an error, with its kind where it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def from_sklearn(estimator: Any, path: str | Path) -> Network:
    """Convert a fitted scikit-learn ``MLPClassifier`` or ``MLPRegressor`` to an ONNX file in float64.

    The output is the decision before the last, monotone, activation: the logits of a classifier (one for two classes,
    whose sign decides), the prediction of a regressor.

    Args:
        estimator: the fitted estimator; activations are relu or identity.
        path: the ONNX file to write.

    Returns:
        The network of the file.

    Raises:
        NotInstalledError: scikit-learn is not installed.
        InputError: another object, or one that is not fitted.
        UnsupportedError: an activation other than relu and identity.
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
