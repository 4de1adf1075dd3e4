"""Handlers of the operators that compute affine maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Index
from stablenet.onnx_io import windows as geometry
from stablenet.onnx_io.budget import afford
from stablenet.onnx_io.expression import Constant, Expression, Value, moved
from stablenet.onnx_io.operators import Call, bound_of, operator, spread


def _integer_arithmetic(call: Call) -> Constant | None:
    """Arithmetic of shapes: integers and the batch size."""
    a, b = call.value(0), call.value(1)
    if isinstance(a, Expression) or isinstance(b, Expression) or a.is_float or b.is_float:
        return None
    call.afford(np.broadcast_shapes(a.shape, b.shape), max(a.value.size, b.value.size))
    left, right = a.value, b.value
    if call.op == "Div":
        if not np.all(right):
            raise call.wrong("division by zero")
        return Constant(np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right)))
    operate = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[call.op]
    return Constant(np.asarray(operate(left, right)))


@operator("Add", "Sub")
def _add(call: Call) -> Value:
    shapes = _integer_arithmetic(call)
    if shapes is not None:
        return shapes
    a, b = call.expression(0), call.expression(1)
    return a.plus(b) if call.op == "Add" else a.minus(b)


@operator("Sum", "Mean")
def _sum(call: Call) -> Value:
    total = call.expression(0)
    for position in range(1, len(call.inputs)):
        total = total.plus(call.expression(position))
    return total if call.op == "Sum" else total.over(Constant(np.array(float(len(call.inputs)))))


@operator("Mul")
def _mul(call: Call) -> Value:
    shapes = _integer_arithmetic(call)
    if shapes is not None:
        return shapes
    a, b = call.value(0), call.value(1)
    if isinstance(a, Expression) and isinstance(b, Expression):
        raise call.unsupported("both factors depend on the input; that is not piecewise linear")
    if isinstance(b, Constant):
        return call.expression(0).times(call.weights(1))
    return call.expression(1).times(call.weights(0))


@operator("Div")
def _div(call: Call) -> Value:
    shapes = _integer_arithmetic(call)
    if shapes is not None:
        return shapes
    if isinstance(call.value(1), Expression):
        raise call.unsupported("the divisor depends on the input; that is not piecewise linear")
    divisor = call.weights(1)
    if not (np.abs(divisor.numbers) > divisor.error).all():
        raise call.wrong(f"the divisor {call.names[1]!r} is zero, or too close to it to tell")
    return call.expression(0).over(divisor)


@operator("Neg")
def _neg(call: Call) -> Value:
    value = call.value(0)
    if isinstance(value, Constant):
        return Constant(-value.value, value.error)
    return value.negated()


@operator("MatMul")
def _matmul(call: Call) -> Value:
    a, b = call.value(0), call.value(1)
    if isinstance(a, Expression) and isinstance(b, Expression):
        raise call.unsupported("both factors depend on the input; that is not piecewise linear")
    if isinstance(b, Constant):
        return multiplied(call, call.expression(0), call.weights(1))
    return multiplied(call, call.expression(1), call.weights(0), left=True)


def multiplied(call: Call, x: Expression, constant: Constant, *, left: bool = False) -> Expression:
    """``x @ constant``, or ``constant @ x`` if ``left``, as numpy.matmul defines it."""
    if not x.shape or not constant.shape:
        raise call.wrong("a factor is a scalar")
    weights = constant.numbers
    index, w = x.index, weights
    x_vector, w_vector = x.index.ndim == 1, weights.ndim == 1
    if x_vector:
        index = index[:, None] if left else index[None, :]
    if w_vector:
        w = w[None, :] if left else w[:, None]
    inner, given = (index.shape[-2], w.shape[-1]) if left else (index.shape[-1], w.shape[-2])
    if inner != given:
        a, b = (constant.shape, x.shape) if left else (x.shape, constant.shape)
        raise call.wrong(f"shapes {a} and {b} do not fit")
    lead = np.broadcast_shapes(index.shape[:-2], w.shape[:-2])
    n, m = (w.shape[-2], index.shape[-1]) if left else (index.shape[-2], w.shape[-1])
    full = (*lead, n, m)
    call.afford(full)
    shape = list(full)
    if x_vector:
        shape.pop(-1 if left else -2)
    if w_vector:
        shape.pop(-2 if left else -1)
    batch = None if x_vector else moved(x.batch, len(full) - index.ndim, full, single=True)
    if batch == len(full) - (2 if left else 1):
        batch = None  # summed over
    elif batch == len(full) - 1 and w_vector:
        batch -= 1
    if index.size == inner and w.ndim == 2:
        # One vector against one matrix: the matrix itself is the map.
        return x.apply(w if left else w.T, shape, batch, error=constant.error)
    matrix = _product_matrix(index, w, full, left=left)
    return x.apply(matrix, shape, batch, error=constant.error)


def _product_matrix(index: Index, w: np.ndarray, full: tuple[int, ...], *, left: bool) -> sparse.csr_array:
    """The matrix of ``x @ w`` (or ``w @ x``) with rows in row-major order of the result of shape ``full``."""
    inner = w.shape[-1] if left else w.shape[-2]
    if left:
        columns, data = np.swapaxes(index, -1, -2)[..., None, :, :], w[..., :, None, :]
    else:
        columns, data = index[..., :, None, :], np.swapaxes(w, -1, -2)[..., None, :, :]
    shape = (*full, inner)
    afford(3 * prod(shape))
    columns = np.broadcast_to(columns, shape).reshape(-1, inner)
    data = np.broadcast_to(data, shape).reshape(-1, inner)
    keep = data != 0
    return geometry.rows_of(data[keep], columns[keep], keep.sum(axis=1), index.size)


@operator("Gemm")
def _gemm(call: Call) -> Value:
    a, b = call.value(0), call.value(1)
    if isinstance(a, Expression) and isinstance(b, Expression):
        raise call.unsupported("both factors depend on the input; that is not piecewise linear")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise call.wrong(f"factors of shapes {a.shape} and {b.shape}; matrices are expected")
    left = isinstance(b, Expression)
    x, weights = (call.expression(1), call.weights(0)) if left else (call.expression(0), call.weights(1))
    trans_x, trans_w = (call.attribute(name) for name in (("transB", "transA") if left else ("transA", "transB")))
    if trans_x:
        batch = None if x.batch is None else 1 - x.batch
        x = x.take(x.index.T, batch)
    if trans_w:
        weights = Constant(weights.value.T, weights.error)
    result = multiplied(call, x, weights, left=left)
    alpha, beta = float(call.attribute("alpha")), float(call.attribute("beta"))
    if alpha != 1.0:
        result = result.times(Constant(np.array(alpha)))
    if not call.has(2) or beta == 0.0:
        return result
    added = call.expression(2)
    if np.broadcast_shapes(added.shape, result.shape) != result.shape:
        raise call.wrong(f"C of shape {added.shape} does not broadcast to {result.shape}")
    return result.plus(added if beta == 1.0 else added.times(Constant(np.array(beta))))


def window_parameters(call: Call, x: Expression, kernel: list[int]) -> geometry.Windows:
    """The windows of a convolution or pooling over the spatial axes of ``x``, (batch, channels, *spatial)."""
    spatial = x.shape[2:]
    if len(kernel) != len(spatial):
        raise call.wrong(f"a kernel of shape {kernel} over an input of shape {x.shape}")
    ones = [1] * len(spatial)
    pads = [int(n) for n in call.attribute("pads", [0] * (2 * len(spatial)))]
    call.afford([n + sum(pads) for n in spatial])
    call.afford(kernel)
    try:
        return geometry.windows(
            spatial,
            kernel,
            strides=call.attribute("strides", ones),
            dilations=call.attribute("dilations", ones),
            pads=pads,
            auto_pad=call.attribute("auto_pad"),
            ceil_mode=call.op != "Conv" and bool(call.attribute("ceil_mode")),
        )
    except ValueError as error:
        raise call.wrong(str(error)) from None


def image(call: Call) -> Expression:
    """Input 0 as a tensor (batch, channels, *spatial)."""
    x = call.expression(0)
    if len(x.shape) < 3:
        raise call.wrong(f"an input of shape {x.shape}; (batch, channels, spatial axes) is expected")
    return x


def convolution_inputs(call: Call) -> tuple[Expression, Constant, int]:
    """Input and weight of a convolution or a transposed one, whose kernels agree, and the number of groups."""
    x, weights = image(call), call.weights(1, "weight")
    w = weights.numbers
    kernel = list(w.shape[2:])
    if w.ndim != len(x.shape):
        raise call.wrong(f"a weight of shape {w.shape} for an input of shape {x.shape}")
    if call.attribute("kernel_shape", kernel) != kernel:
        raise call.wrong(f"kernel_shape {call.attribute('kernel_shape')} but a weight of shape {w.shape}")
    return x, weights, int(call.attribute("group"))


@operator("Conv")
def _conv(call: Call) -> Value:
    x, weights, groups = convolution_inputs(call)
    w = weights.numbers
    if groups < 1 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise call.wrong(f"a weight of shape {w.shape} with {groups} groups for {x.shape[1]} channels")
    over = window_parameters(call, x, list(w.shape[2:]))
    call.afford((x.shape[0], w.shape[0], *over.shape))
    matrix = geometry.convolution(w, groups, over)
    return convolved(call, x, weights, matrix, (x.shape[0], w.shape[0], *over.shape))


def convolved(call: Call, x: Expression, weights: Constant, matrix: sparse.csr_array, shape: tuple[int, ...]) -> Value:
    """A convolution's matrix, that of one element of the batch, applied to ``x``; plus the bias, if there is one."""
    if x.shape[0] != 1:
        afford(2 * x.shape[0] * matrix.nnz)
        matrix = sparse.csr_array(sparse.kron(sparse.eye_array(x.shape[0]), matrix, format="csr"))
    result = x.apply(matrix, shape, 0 if x.batch == 0 else None, 1, weights.error)
    if not call.has(2):
        return result
    bias = call.weights(2, "bias")
    if bias.shape != (shape[1],):
        raise call.wrong(f"a bias of shape {bias.shape}; ({shape[1]},) is expected")
    return result.plus(spread(bias, len(shape), 1))


@operator("BatchNormalization")
def _batch_normalization(call: Call) -> Value:
    """``scale (x - mean) / sqrt(var + epsilon) + bias``, the factor folded; it rounds four times, the shift six."""
    x = call.expression(0)
    if call.attribute("training_mode"):
        raise call.unsupported("training_mode is on; export the network for inference")
    if call.opset < 9 and not call.attribute("spatial"):
        raise call.unsupported("spatial = 0 (statistics per position)")
    if len(x.shape) < 2:
        raise call.wrong(f"an input of shape {x.shape}; (batch, channels, …) is expected")
    given = [call.weights(i, what) for i, what in enumerate(("scale", "bias", "mean", "variance"), start=1)]
    if any(constant.shape != (x.shape[1],) for constant in given):
        raise call.wrong(f"parameters of shapes {[c.shape for c in given]}; ({x.shape[1]},) each is expected")
    if any(constant.error for constant in given):
        raise call.unsupported("its parameters are computed with rounding; fold them before export")
    scale, bias, mean, variance = (constant.numbers for constant in given)
    total = variance + float(call.attribute("epsilon"))
    if not (total > 0).all():
        raise call.wrong("variance + epsilon is not positive")
    factor = scale / np.sqrt(total)
    # sqrt(var + eps) carries 1.5 roundoffs, the quotient one more; a product and a difference follow for the shift.
    shift = bias - factor * mean
    size = np.abs(bias) + np.abs(factor * mean)
    rank = len(x.shape)
    scaled = x.times(spread(Constant(factor, bound_of(factor, 4)), rank, 1))
    # In float32 the shift is the size of what it is the difference of, and the factor takes roundings of its own.
    shift = size if x.absolute else shift
    shifted = scaled.plus(spread(Constant(shift, bound_of(size, 8)), rank, 1))
    return replace(shifted, channel=1, roundings=shifted.roundings + 8)


@operator("AveragePool")
def _average_pool(call: Call) -> Value:
    x = image(call)
    over = window_parameters(call, x, [int(k) for k in call.attribute("kernel_shape", [])])
    counted = over.counted if call.attribute("count_include_pad") else over.index >= 0
    counts = counted.sum(axis=1)
    if not counts.all():
        raise call.wrong("a window lies wholly in the padding")
    images = x.shape[0] * x.shape[1]
    table = geometry.per_channel(over.index, images, over.size)
    shape = (*x.shape[:2], *over.shape)
    summed = x.apply(geometry.sums(table, x.size), shape, 0 if x.batch == 0 else None, 1)
    return summed.over(Constant(counts.reshape(over.shape).astype(np.float64)))


@operator("GlobalAveragePool")
def _global_average_pool(call: Call) -> Value:
    x = image(call)
    return _summed(x, grouped(x, list(range(2, len(x.shape))), keepdims=True), mean=True)


@operator("ReduceMean", "ReduceSum")
def _reduce(call: Call) -> Value:
    x = call.expression(0)
    groups = reduction(call, x)
    return x if groups is None else _summed(x, groups, mean=call.op == "ReduceMean")


@dataclass(frozen=True)
class Groups:
    """What a reduction makes of a tensor: ``table`` (rows, k) lists the elements that each result combines."""

    table: Index
    shape: tuple[int, ...]
    batch: int | None
    channel: int | None


def reduction(call: Call, x: Expression) -> Groups | None:
    """The groups of a Reduce operator; None: it does nothing."""
    rank = len(x.shape)
    axes = call.axes(1)
    if not axes and call.attribute("noop_with_empty_axes"):
        return None
    chosen = sorted({call.axis(axis, rank) for axis in axes or range(rank)})
    return grouped(x, chosen, keepdims=bool(call.attribute("keepdims")))


def grouped(x: Expression, axes: list[int], *, keepdims: bool) -> Groups:
    """Elements grouped along axes (sorted)."""
    afford(x.size)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    table = x.index.transpose([*kept, *axes]).reshape(-1, prod(x.shape[axis] for axis in axes))
    batch, channel = (None if axis in axes else axis for axis in (x.batch, x.channel))
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    if not keepdims:
        shape = [x.shape[axis] for axis in kept]
        batch, channel = (None if axis is None else kept.index(axis) for axis in (batch, channel))
    return Groups(table, tuple(shape), batch, channel)


def _summed(x: Expression, groups: Groups, *, mean: bool) -> Expression:
    """Sum or mean of each group."""
    summed = x.apply(geometry.sums(groups.table, x.size), groups.shape, groups.batch, groups.channel)
    return summed.over(Constant(np.array(float(groups.table.shape[1])))) if mean else summed
