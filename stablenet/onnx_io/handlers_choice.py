"""Handlers of operators that choose: they are exact where what decides is constant, and refused where it is computed.

A choice that depends on the input makes the output jump, or is at best piecewise linear in a way that no bound on the
operator alone shows; both are refused by name.
"""

from __future__ import annotations

import numpy as np

from stablenet.onnx_io.expression import BATCH, Constant, Expression, Value, concatenated
from stablenet.onnx_io.operators import Call, operator

_COMPARE = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
_LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


@operator("Where")
def _where(call: Call) -> Value:
    """Elements of one operand or the other, by a constant condition."""
    condition = call.constant(0, "the condition").value
    if condition.dtype != np.bool_:
        raise call.wrong(f"a condition of type {condition.dtype}; bool is expected")
    one, other = call.value(1), call.value(2)
    shape = np.broadcast_shapes(condition.shape, one.shape, other.shape)
    call.afford(shape, condition.size)
    if isinstance(one, Constant) and isinstance(other, Constant):
        return Constant(np.where(condition, one.value, other.value), max(one.error, other.error))
    left, right = call.expression(1).broadcast(shape), call.expression(2).broadcast(shape)
    joined = concatenated([part.reshaped((part.size,), None) for part in (left, right)], 0)
    index = np.where(np.broadcast_to(condition, shape), left.index, right.index + left.size)
    batches, channels = ({getattr(e, name) for e in (left, right) if e.terms} for name in ("batch", "channel"))
    return joined.take(
        index, batches.pop() if len(batches) == 1 else None, channels.pop() if len(channels) == 1 else None
    )


def _decided(call: Call, position: int) -> Constant:
    """An operand of a comparison, which is known without rounding."""
    value = call.value(position)
    if isinstance(value, Expression):
        raise call.unsupported("its result jumps where a computed operand passes a value; that is not piecewise linear")
    if value.error:
        raise call.unsupported(f"operand {call.names[position]!r} is known up to rounding alone")
    return value


@operator(*_COMPARE)
def _comparison(call: Call) -> Value:
    a, b = _decided(call, 0).value, _decided(call, 1).value
    call.afford(np.broadcast_shapes(a.shape, b.shape), max(a.size, b.size))
    if BATCH in a.reshape(-1).tolist() or BATCH in b.reshape(-1).tolist():
        return Constant(_with_batch(call, *np.broadcast_arrays(a, b)))
    return Constant(np.asarray(_COMPARE[call.op](a, b), np.bool_))


def _with_batch(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shapes with the unknown batch size in them: it differs from every number below 0, and no more is known."""
    found = []
    for one, other in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True):
        unknown = one is BATCH or other is BATCH
        number = other if one is BATCH else one
        if unknown and not (call.op == "Equal" and isinstance(number, int) and number < 0):
            raise call.unsupported("a comparison that depends on the batch size")
        found.append(not unknown and bool(_COMPARE[call.op](one, other)))
    return np.array(found, np.bool_).reshape(a.shape)


@operator(*_LOGIC)
def _logic(call: Call) -> Value:
    a, b = _decided(call, 0).value, _decided(call, 1).value
    call.afford(np.broadcast_shapes(a.shape, b.shape), max(a.size, b.size))
    return Constant(np.asarray(_LOGIC[call.op](a, b)))


@operator("Not")
def _not(call: Call) -> Value:
    return Constant(np.logical_not(_decided(call, 0).value))


@operator("Sign")
def _sign(call: Call) -> Value:
    return Constant(np.sign(_decided(call, 0).value))
