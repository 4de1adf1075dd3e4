"""Networks from PyTorch and scikit-learn, as ONNX files.

Both packages are optional (extras ``torch`` and ``sklearn``) and imported only when a function is called on their
objects. All else in this package works on the file; no reference to the object is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import InputError, NetworkError, NotInstalledError, UnsupportedError
from stablenet.core.files import atomic_path
from stablenet.core.network import Network
from stablenet.onnx_io.reader import load_onnx

OPSET = 17

Operation: TypeAlias = "tuple[str, tuple[npt.NDArray[Any], ...]]"
"""An operator of ONNX with the constants that follow its first operand."""


def from_torch(module: Any, input_shape: Sequence[int], path: str | Path, *, dynamo: bool = False) -> Network:
    """Convert a ``torch.nn.Module``, or what ``torch.export.export`` made of one, by torch's own ONNX exporter.

    The module is exported as for inference (``eval``), and each of its modules is left in the mode it was in. Torch
    folds batch normalisation after a convolution, in the module's own precision: the network is that of the file.

    Args:
        module: the module, or a ``torch.export.ExportedProgram``, exported in eval mode and best with a dynamic batch;
            that takes the newer exporter in any case.
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
    if not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise InputError(f"input_shape {tuple(input_shape)!r}; positive integers, without the batch, are expected")
    if isinstance(module, torch.export.ExportedProgram):
        return _from_program(torch, module, tuple(input_shape), Path(path))
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"an object of type {type(module).__name__}; a torch.nn.Module is expected")
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with atomic_path(Path(path)) as temporary, torch.no_grad():
            _export(torch, module, _sample(torch, module, input_shape), temporary, dynamo=dynamo)
            _checked(temporary)
    finally:
        for part, training in modes:
            part.training = training
    return load_onnx(path)


def _checked(path: Path) -> Network:
    """The network of a file that is only being written, whose name says nothing."""
    try:
        return load_onnx(path)
    except NetworkError as error:
        error.args = (str(error).replace(str(path), "the exported module"),)
        raise


def _from_program(torch: Any, program: Any, input_shape: tuple[int, ...], path: Path) -> Network:
    """The network of a ``torch.export.ExportedProgram``, whose inputs have shapes of their own."""
    _need_onnxscript()
    with atomic_path(path) as temporary, torch.no_grad():
        _write(torch, program, (), temporary, {"dynamo": True, **_NEWER, **_NAMES})
        network = _checked(temporary)
        if network.input_shape != input_shape:
            raise InputError(f"the program takes samples of shape {network.input_shape}, not {input_shape}")
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


_NEWER = {"opset_version": OPSET + 1, "external_data": False, "verbose": False}
_NAMES = {"input_names": ["input"], "output_names": ["output"]}


def _need_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise NotInstalledError("torch's newer exporter needs onnxscript: pip install onnxscript") from None


def _export(torch: Any, module: Any, sample: Any, path: Path, *, dynamo: bool) -> None:
    """Write a module as ONNX by one of torch's two exporters."""
    if dynamo:
        _need_onnxscript()
        options = {**_NEWER, "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    else:
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        options = {"opset_version": OPSET, "dynamic_axes": axes}
    _write(torch, module, (sample,), path, {"dynamo": dynamo, **options, **_NAMES})


def _write(torch: Any, module: Any, arguments: tuple[Any, ...], path: Path, options: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about the exporter
            warnings.simplefilter("ignore", FutureWarning)
            torch.onnx.export(module, arguments, str(path), **options)
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
        estimator: the fitted estimator, with activations relu or identity, or a ``Pipeline`` that ends in one and has
            scalers before it: StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler. The network's inputs are those
            of the pipeline.
        path: the ONNX file to write.

    Returns:
        The network of the file.

    Raises:
        NotInstalledError: scikit-learn is not installed.
        InputError: another object, or one that is not fitted.
        UnsupportedError: an activation other than relu and identity, or another step of a pipeline.
    """
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import Pipeline
    except ImportError:
        raise NotInstalledError('scikit-learn is not installed: pip install "stablenet[sklearn]"') from None
    scalers: list[tuple[str, Any]] = []
    if isinstance(estimator, Pipeline):
        scalers, estimator = estimator.steps[:-1], estimator.steps[-1][1]
    if not isinstance(estimator, (MLPClassifier, MLPRegressor)):
        raise InputError(
            f"an object of type {type(estimator).__name__}; an MLPClassifier or MLPRegressor is expected, or a "
            "Pipeline that ends in one"
        )
    if not hasattr(estimator, "coefs_"):
        raise InputError(f"this {type(estimator).__name__} is not fitted; call fit first")
    if estimator.activation not in ("relu", "identity"):
        raise UnsupportedError(
            f"activation {estimator.activation!r} is not piecewise linear; there are: relu, identity"
        )
    before = [operation for name, scaler in scalers for operation in scaling(name, scaler)]
    relu = estimator.activation == "relu"
    model = dense_model(estimator.coefs_, estimator.intercepts_, relu=relu, before=before)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return load_onnx(path)


def scaling(name: str, scaler: Any) -> list[Operation]:
    """What a scaler of scikit-learn computes, in the order in which it does; ``name`` is its step's in a pipeline.

    Raises `UnsupportedError` for a step that is no scaler, `InputError` for one that is not fitted.
    """
    kind = type(scaler).__name__
    if scaler is None or isinstance(scaler, str):  # "passthrough"
        return []
    # Operator, attribute, and the flag that switches it off: some scalers keep numbers that they do not use.
    attributes: dict[str, tuple[tuple[str, str, str], ...]] = {
        "StandardScaler": (("Sub", "mean_", "with_mean"), ("Div", "scale_", "with_std")),
        "RobustScaler": (("Sub", "center_", "with_centering"), ("Div", "scale_", "with_scaling")),
        "MaxAbsScaler": (("Div", "scale_", ""),),
        "MinMaxScaler": (("Mul", "scale_", ""), ("Add", "min_", "")),
    }
    if kind not in attributes:
        raise UnsupportedError(f"step {name!r} of the pipeline is a {kind}; there are: {', '.join(attributes)}")
    if not hasattr(scaler, "n_features_in_"):
        raise InputError(f"step {name!r} of the pipeline, a {kind}, is not fitted; call fit first")
    made: list[Operation] = [
        (operator, (np.asarray(getattr(scaler, attribute), np.float64),))
        for operator, attribute, flag in attributes[kind]
        if not flag or getattr(scaler, flag)
    ]
    if getattr(scaler, "clip", False):
        ends = scaler.feature_range if kind == "MinMaxScaler" else (-1.0, 1.0)
        made.append(("Clip", tuple(np.array(float(end)) for end in ends)))
    return made


def dense_model(
    weights: Sequence[npt.NDArray[Any]],
    offsets: Sequence[npt.NDArray[Any]],
    *,
    relu: bool = True,
    before: Sequence[Operation] = (),
) -> Any:
    """An ONNX model of Gemm nodes with ReLUs between them.

    ``weights[k]`` is (n_k, n_{k+1}) and ``offsets[k]`` (n_{k+1},), as ``x @ w + b`` takes them; ``before`` are
    operations on the inputs.
    """
    import onnx
    from onnx import helper, numpy_helper

    kind = np.result_type(*weights)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes, tensors, name = [], [], "input"
    for k, (operator, constants) in enumerate(before):
        names = [f"scaling{k}.{i}" for i in range(len(constants))]
        tensors += [numpy_helper.from_array(c.astype(kind), n) for c, n in zip(constants, names, strict=True)]
        nodes.append(helper.make_node(operator, [name, *names], [f"scaled{k}"], name=f"scaling{k}"))
        name = f"scaled{k}"
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
