"""Handlers of the piecewise-linear operators: ReLU, and what is lowered to it exactly.

LeakyRelu, PRelu ``a x + (1 - a) relu(x)``; Abs ``2 relu(x) - x``; Clip ``lo + relu(x - lo) - relu(x - hi)``;
Max a left fold of ``a + relu(b - a)``, Min of ``a - relu(a - b)``, constants first; MaxPool a balanced tree of
maxima over each window in row-major order, padding skipped; ReduceMax likewise, ReduceMin by negation.
"""

from __future__ import annotations

import numpy as np

from stablenet.onnx_io import windows as geometry
from stablenet.onnx_io.budget import afford
from stablenet.onnx_io.expression import Constant, Expression, Value
from stablenet.onnx_io.handlers_affine import Groups, grouped, image, reduction, window_parameters
from stablenet.onnx_io.operators import Call, operator

ONE = Constant(np.array(1.0))
TWO = Constant(np.array(2.0))


@operator("Relu")
def _relu(call: Call) -> Value:
    return call.builder.relu(call.expression(0), call)


def _sloped(call: Call, x: Expression, slope: Constant) -> Expression:
    """``a x + (1 - a) relu(x)``."""
    kept = call.builder.relu(x, call)
    if not slope.numbers.any() and not slope.error:
        return kept
    complement = Expression.lift(ONE).minus(slope)
    rest = Constant(complement.offset.reshape(complement.shape), complement.error)
    return x.times(slope).plus(kept.times(rest))


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Value:
    alpha = float(call.attribute("alpha"))
    return _sloped(call, call.expression(0), Constant(np.array(alpha)))


@operator("PRelu")
def _prelu(call: Call) -> Value:
    x, slope = call.expression(0), call.weights(1, "slope")
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise call.wrong(f"a slope of shape {slope.shape} does not broadcast to {x.shape}")
    return _sloped(call, x, slope)


@operator("Abs")
def _abs(call: Call) -> Value:
    x = call.expression(0)
    return call.builder.relu(x, call).times(TWO).minus(x)


def _limit(call: Call, position: int, name: str, ends: tuple[float, ...]) -> Constant | None:
    """A limit of Clip, None if it is absent or the end of the range of a floating-point type."""
    if not call.gives_inputs:
        given = call.attribute(name)
        limit, error = None if given is None else float(given), 0.0
    elif call.has(position):
        limit, error = call.scalar(position, name), call.constant(position, name).error
    else:
        return None
    if limit is None or limit in ends:
        return None
    if not np.isfinite(limit):
        raise call.wrong(f"{name} is {limit}")
    return Constant(np.array(limit), error)


@operator("Clip")
def _clip(call: Call) -> Value:
    x = call.expression(0)
    top = [float(np.finfo(kind).max) for kind in (np.float32, np.float64)]
    low = _limit(call, 1, "min", (-np.inf, *(-value for value in top)))
    high = _limit(call, 2, "max", (np.inf, *top))
    if low is not None and high is not None and low.numbers > high.numbers:
        raise call.unsupported(f"min {low.value} is above max {high.value}")
    return _clipped(call, x, low, high)


def _clipped(call: Call, x: Expression, low: Constant | None, high: Constant | None) -> Expression:
    """``lo + relu(x - lo) - relu(x - hi)``, one-sided where a limit is absent."""
    result = x
    if low is not None:
        result = call.builder.relu(x.minus(low), call, "low" if high is not None else "").plus(low)
    if high is not None:
        over = call.builder.relu(x.minus(high), call, "high" if low is not None else "")
        result = result.minus(over)
    return result


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    """``max(0, min(1, alpha x + beta))``; the attributes are float32 numbers, exact in float64."""
    alpha, beta = float(call.attribute("alpha")), float(call.attribute("beta"))
    scaled = call.expression(0).times(Constant(np.array(alpha))).plus(Constant(np.array(beta)))
    return _clipped(call, scaled, Constant(np.array(0.0)), ONE)


@operator("Max", "Min")
def _max(call: Call) -> Value:
    constants = [call.weights(i) for i, value in enumerate(call.inputs) if isinstance(value, Constant)]
    computed = [value for value in call.inputs if isinstance(value, Expression)]
    pick = np.maximum if call.op == "Max" else np.minimum
    if constants:
        known, error = constants[0].numbers, max(constant.error for constant in constants)
        for constant in constants[1:]:
            known = pick(known, constant.numbers)
        result, rest = Expression.lift(Constant(known, error)), computed
    else:
        result, rest = computed[0], computed[1:]
    for step, other in enumerate(rest):
        part = str(step) if len(rest) > 1 else ""
        if call.op == "Max":
            result = result.plus(call.builder.relu(other.minus(result), call, part))
        else:
            result = result.minus(call.builder.relu(result.minus(other), call, part))
    return result


@operator("MaxPool")
def _max_pool(call: Call) -> Value:
    x = image(call)
    over = window_parameters(call, x, [int(k) for k in call.attribute("kernel_shape", [])])
    table = geometry.per_channel(over.index, x.shape[0] * x.shape[1], over.size)
    return _largest(call, x, Groups(table, (*x.shape[:2], *over.shape), 0 if x.batch == 0 else None, 1))


@operator("GlobalMaxPool")
def _global_max_pool(call: Call) -> Value:
    x = image(call)
    return _largest(call, x, grouped(x, list(range(2, len(x.shape))), keepdims=True))


@operator("ReduceMax", "ReduceMin")
def _reduce_max(call: Call) -> Value:
    x = call.expression(0)
    groups = reduction(call, x)
    if groups is None:
        return x
    return _largest(call, x, groups) if call.op == "ReduceMax" else _largest(call, x.negated(), groups).negated()


def _largest(call: Call, x: Expression, groups: Groups) -> Expression:
    """The maximum of each group; -1 in a table is no element.

    Each level halves the groups, ``max(a, b) = a + relu(b - a)`` for neighbours, all groups at once.
    """
    table, level = groups.table, 0
    if not (table >= 0).any(axis=1).all():
        raise call.wrong("a window lies wholly in the padding")
    afford(3 * table.size)
    order = np.argsort(table < 0, axis=1, kind="stable")
    table = np.take_along_axis(table, order, axis=1)
    while table.shape[1] > 1:
        if table.shape[1] % 2:
            table = np.pad(table, ((0, 0), (0, 1)), constant_values=-1)
        first, second = table[:, 0::2], table[:, 1::2]
        alive, pair = first >= 0, second >= 0
        values = x.take(first[alive])
        if pair.any():
            pre = x.take(second[pair]).minus(x.take(first[pair]))
            if pair.all():
                pre = pre.reshaped((*groups.shape, pair.shape[1]), groups.batch, groups.channel)
            excess = call.builder.relu(pre, call, f"level{level}")
            where = np.full(first.shape, -1)
            where[pair] = np.arange(pre.size)
            values = values.plus(excess.take(where[alive]))
        x, level = values, level + 1
        table = np.full(first.shape, -1)
        table[alive] = np.arange(x.size)
    return x.take(table.reshape(groups.shape), groups.batch, groups.channel)
