"""Handlers of quantised weights: QuantizeLinear and DequantizeLinear of constants (the "QDQ" form of ONNX).

A network with quantised weights is read as the real-valued function of the weights that its integers stand for:
``(q - zero_point) * scale``, which float64 holds exactly for integers of up to 29 bits and float32 scales. Quantised
activations are refused: rounding them is no piecewise-linear function.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.rounding import TINY, UNIT
from stablenet.onnx_io.budget import work
from stablenet.onnx_io.expression import Constant, Expression, Value
from stablenet.onnx_io.operators import Call, operator

_INTEGERS = {name: np.iinfo(name) for name in ("int8", "uint8", "int16", "uint16", "int32")}
"""Types of quantised tensors; those of 4 bits and 8-bit floats are refused."""


def _along(call: Call, position: int, what: str, x: Constant) -> npt.NDArray[np.generic]:
    """A scale or zero point, shaped to go with ``x``: one number, or one for each entry of an axis."""
    given = call.constant(position, what).value
    if given.size == 1:
        return given.reshape(())
    if int(call.attribute("block_size")):
        raise call.unsupported("block_size; a scale for the whole tensor or for each entry of one axis is supported")
    axis = call.axis(int(call.attribute("axis")), len(x.shape))
    if given.shape != (x.shape[axis],):
        raise call.wrong(f"{what} has shape {given.shape}; {(x.shape[axis],)} is expected on axis {axis}")
    shape = [1] * len(x.shape)
    shape[axis] = -1
    return given.reshape(shape)


def _scale(call: Call, x: Constant) -> npt.NDArray[np.generic]:
    scale = _along(call, 1, "the scale", x)
    numbers = scale.astype(np.float64)
    if scale.dtype.kind != "f" or not (np.isfinite(numbers) & (numbers > 0)).all():
        raise call.wrong("the scale is not of finite numbers above 0")
    return scale


@operator("DequantizeLinear")
def _dequantize(call: Call) -> Value:
    """Constants: ``(q - zero_point) * scale``, in float64."""
    if isinstance(call.value(0), Expression):
        raise call.unsupported("a computed tensor as quantised values; quantised weights alone are supported")
    x = call.constant(0, "the quantised tensor")
    if x.value.dtype.name not in _INTEGERS:
        raise call.unsupported(f"values of type {x.value.dtype}; {', '.join(_INTEGERS)} are supported")
    work(x.value.size)
    scale = _scale(call, x).astype(np.float64)
    zero = _along(call, 2, "the zero point", x) if call.has(2) else np.zeros((), np.int64)
    if zero.dtype.kind not in "iu":
        raise call.wrong(f"the zero point is of type {zero.dtype}; integers are expected")
    steps = x.value.astype(np.int64) - zero.astype(np.int64)  # below 2**33: exact, as in float64
    return Constant(steps * scale, _rounded(steps, scale))


def _rounded(steps: npt.NDArray[np.int64], scale: Array) -> float:
    """A bound on what the products round: none where mantissas fit into 53 bits and nothing underflows."""
    mantissa = np.abs(np.frexp(scale)[0] * 2.0**53).astype(np.int64)
    # Trailing zeros of the mantissa are free: bits of q and of the scale together.
    bits = 53 - np.log2((mantissa & -mantissa).astype(np.float64)).min()
    wide = float(np.log2(np.abs(steps).max(initial=1).astype(np.float64) + 1.0))
    if bits + wide <= 53 and float(scale.min()) > 1e-290:
        return 0.0
    return float(np.abs(steps * scale).max(initial=0.0)) * 2.0 * UNIT + TINY


def _output_type(call: Call) -> npt.DTypeLike:
    """The type of quantised values where no zero point says it."""
    import onnx

    given = int(call.attribute("output_dtype"))
    return np.uint8 if given == 0 else onnx.helper.tensor_dtype_to_np_dtype(given)


@operator("QuantizeLinear")
def _quantize(call: Call) -> Value:
    """Constants: rounded to the nearest step, ties to even, in the precision of the file as runtimes do."""
    if isinstance(call.value(0), Expression):
        raise call.unsupported(
            "it rounds a computed tensor to whole steps of its scale, which is no piecewise-linear function; "
            "quantised weights are supported, quantised activations are not"
        )
    x = call.weights(0, "the tensor to quantise")
    if x.error:
        raise call.unsupported("it rounds a constant that is itself known within rounding only")
    scale = _scale(call, x)
    zero = _along(call, 2, "the zero point", x) if call.has(2) else np.zeros((), _output_type(call))
    if zero.dtype.name not in _INTEGERS:
        raise call.unsupported(f"values of type {zero.dtype}; {', '.join(_INTEGERS)} are supported")
    work(x.value.size)
    with np.errstate(over="ignore"):
        steps = np.rint(x.value / scale).astype(np.float64) + zero.astype(np.float64)
    limits = _INTEGERS[zero.dtype.name]
    return Constant(np.clip(steps, limits.min, limits.max).astype(zero.dtype))
