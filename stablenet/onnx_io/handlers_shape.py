"""Handlers of the operators that move elements about, and of the constants that shapes are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from stablenet.core.arrays import Index
from stablenet.onnx_io.expression import BATCH, Constant, Expression, Value, concatenated
from stablenet.onnx_io.operators import Call, operator, rearranged

FLOAT_TYPES = {1: "FLOAT", 10: "FLOAT16", 11: "DOUBLE", 16: "BFLOAT16"}
"""ONNX element types whose values float64 holds exactly."""

IN_FLOAT32 = ("FLOAT", "DOUBLE")
"""Those for which bounds in float32 arithmetic hold: types with fewer bits round more."""

_INTEGER_TYPES = {2, 3, 4, 5, 6, 7, 12, 13}


@operator("Identity")
def _identity(call: Call) -> Value:
    return call.value(0)


@operator("Dropout")
def _dropout(call: Call) -> Value:
    if call.has(2) and bool(np.any(call.constant(2, "training_mode").value)):
        raise call.unsupported("training_mode is on; export the network for inference")
    return call.value(0)


@operator("Constant")
def _constant(call: Call) -> Value:
    import onnx

    given = dict(call.attributes)
    if len(given) != 1:
        raise call.wrong(f"attributes {sorted(given)}; exactly one value is expected")
    name, value = next(iter(given.items()))
    if name == "value":
        return Constant(onnx.numpy_helper.to_array(value))
    if name in ("value_float", "value_floats"):
        return Constant(np.array(value, np.float32))
    if name in ("value_int", "value_ints"):
        return Constant(np.array(value, np.int64))
    raise call.unsupported(f"a constant given as {name}; there are: value, value_float(s), value_int(s)")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Value:
    import onnx

    shape = _static(call.dimensions(0, "shape"))
    given = call.attribute("value")
    value = np.zeros(1, np.float32) if given is None else onnx.numpy_helper.to_array(given)
    call.afford(shape)
    return Constant(np.broadcast_to(value.reshape(-1)[0], shape))


def _static(dimensions: Sequence[Any]) -> tuple[int, ...]:
    """Dimensions of a constant tensor: its values are the same for every sample, so the batch counts as 1."""
    return tuple(1 if n is BATCH else int(n) for n in dimensions)


@operator("Shape")
def _shape(call: Call) -> Value:
    x = call.value(0)
    dims: list[Any] = list(x.shape)
    if call.strict and isinstance(x, Expression) and x.batch is not None:
        dims[x.batch] = BATCH
    chosen = dims[slice(call.attribute("start"), call.attribute("end"))]
    return Constant(np.array(chosen, object if BATCH in chosen else np.int64))


@operator("Cast")
def _cast(call: Call) -> Value:
    """Computed tensors keep their values, since results hold for the real-valued function. Constants are cast."""
    import onnx

    to, value = int(call.attribute("to")), call.value(0)
    if to in FLOAT_TYPES:
        if isinstance(value, Expression) and value.absolute and FLOAT_TYPES[to] not in IN_FLOAT32:
            raise call.unsupported(f"a cast to {FLOAT_TYPES[to]}: --arithmetic float32 speaks of float32 throughout")
        if isinstance(value, Expression) or (value.is_float and value.error):
            return value
        if value.is_float or value.value.dtype.kind in "iub":
            return Constant(value.value.astype(onnx.helper.tensor_dtype_to_np_dtype(to)))
    elif to in _INTEGER_TYPES and isinstance(value, Constant) and value.value.dtype.kind in "iuO":
        return value
    raise call.unsupported(f"a cast to element type {to} of {_kind(value)}; casts between floating-point types only")


def _kind(value: Value) -> str:
    return "a computed tensor" if isinstance(value, Expression) else f"a constant of type {value.value.dtype}"


@operator("Flatten")
def _flatten(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    axis = call.attribute("axis")
    if not -rank <= axis <= rank:
        raise call.wrong(f"axis {axis} of a tensor with {rank} axes")
    axis += rank if axis < 0 else 0
    shape = (prod(x.shape[:axis]), prod(x.shape[axis:]))
    return _reshaped(x, shape, 0 if isinstance(x, Expression) and _is_before(x, axis) else 1)


def _is_before(x: Expression, axis: int) -> bool:
    return x.batch is not None and x.batch < axis


def _reshaped(x: Value, shape: tuple[int, ...], batch: int | None) -> Value:
    """A value in a new shape, where the batch axis is expected to become axis ``batch``.

    It does if it keeps size 1 and its place in row-major order.
    """
    if isinstance(x, Constant):
        return Constant(x.value.reshape(shape), x.error)
    keeps = (
        x.batch is not None
        and batch is not None
        and shape[batch] == 1
        and prod(x.shape[: x.batch]) == prod(shape[:batch])
    )
    return x.reshaped(shape, batch if keeps else None, x.channel if shape == x.shape else None)


@operator("Reshape")
def _reshape(call: Call) -> Value:
    x = call.value(0)
    target = call.dimensions(1, "shape")
    old_batch = x.batch if isinstance(x, Expression) else None
    size = prod(x.shape)
    copies = not call.attribute("allowzero")
    claims = [i for i, n in enumerate(target) if n is BATCH or (n == 0 and copies and i == old_batch)]
    try:
        dims = [1 if n is BATCH else x.shape[i] if n == 0 and copies else int(n) for i, n in enumerate(target)]
    except IndexError:
        raise call.wrong(f"shape {target} copies an axis that the input of shape {x.shape} does not have") from None
    if -1 in dims:
        free = dims.index(-1)
        rest = prod(n for i, n in enumerate(dims) if i != free)
        if rest <= 0 or size % rest:
            raise call.wrong(f"an input of shape {x.shape} does not fill shape {target}")
        dims[free] = size // rest
        if not claims:
            claims = [free] if call.strict else []
    if min(dims, default=1) < 0 or prod(dims) != size:
        raise call.wrong(f"an input of shape {x.shape} does not fill shape {target}")
    if not claims and not call.strict and old_batch is not None:
        before = prod(x.shape[:old_batch])
        ones = [i for i, n in enumerate(dims) if n == 1 and prod(dims[:i]) == before]
        claims = sorted(ones, key=lambda i: abs(i - old_batch))[:1]
    return _reshaped(x, tuple(dims), claims[0] if len(claims) == 1 else None)


@operator("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    axes = call.axes(1)
    if axes is None:
        if call.strict and isinstance(x, Expression):
            axes = [i for i, n in enumerate(x.shape) if n == 1 and i != x.batch]
        else:
            axes = [i for i, n in enumerate(x.shape) if n == 1]
    gone = {call.axis(axis, rank) for axis in axes}
    if any(x.shape[axis] != 1 for axis in gone):
        raise call.wrong(f"axes {sorted(gone)} of shape {x.shape} are not all of size 1")
    kept = [i for i in range(rank) if i not in gone]
    shape = tuple(x.shape[i] for i in kept)
    return _relabelled(x, shape, lambda axis: kept.index(axis) if axis in kept else None)


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.value(0)
    axes = call.axes(1)
    if axes is None:
        raise call.wrong("axes are missing")
    rank = len(x.shape) + len(axes)
    new = {call.axis(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise call.wrong(f"axes {axes} are not distinct")
    old = [i for i in range(rank) if i not in new]
    shape = [1] * rank
    for i, n in zip(old, x.shape, strict=True):
        shape[i] = n
    return _relabelled(x, tuple(shape), lambda axis: old[axis])


def _relabelled(x: Value, shape: tuple[int, ...], new: Any) -> Value:
    if isinstance(x, Constant):
        return Constant(x.value.reshape(shape), x.error)
    batch, channel = (None if axis is None else new(axis) for axis in (x.batch, x.channel))
    return x.reshaped(shape, batch, channel)


@operator("Transpose")
def _transpose(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    order = [int(axis) for axis in call.attribute("perm", range(rank)[::-1])]
    if sorted(order) != list(range(rank)):
        raise call.wrong(f"perm {order} of a tensor with {rank} axes")
    return rearranged(x, lambda array: array.transpose(order), *_axes_through(x, order))


def _axes_through(x: Value, order: list[int]) -> tuple[int | None, int | None]:
    if isinstance(x, Constant):
        return None, None
    return tuple(None if axis is None else order.index(axis) for axis in (x.batch, x.channel))  # type: ignore[return-value]


@operator("Concat")
def _concat(call: Call) -> Value:
    values = [call.value(i) for i in range(len(call.inputs))]
    rank = len(values[0].shape)
    axis = call.axis(int(call.attribute("axis")), rank)
    constants = [value for value in values if isinstance(value, Constant)]
    call.afford([sum(prod(value.shape) for value in values)], sum(constant.value.size for constant in constants))
    if len(constants) == len(values):
        joined = np.concatenate([constant.value for constant in constants], axis=axis)
        return Constant(joined, max(constant.error for constant in constants))
    shapes = [value.shape for value in values]
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1 or len({len(s) for s in shapes}) != 1:
        raise call.wrong(f"inputs of shapes {shapes} do not fit along axis {axis}")
    return concatenated([call.expression(i) for i in range(len(values))], axis)


def _cut(x: Value, parts: dict[int, slice]) -> Value:
    """Slices by axis. A slice of the batch axis, other than all of it, forgets that axis."""
    key = tuple(parts.get(axis, slice(None)) for axis in range(len(x.shape)))
    batch = x.batch if isinstance(x, Expression) else None
    channel = x.channel if isinstance(x, Expression) else None
    return rearranged(x, lambda array: array[key], None if batch in parts else batch, channel)


@operator("Slice")
def _slice(call: Call) -> Value:
    x = call.value(0)
    rank = len(x.shape)
    if not call.gives_inputs:
        starts, ends = call.attribute("starts"), call.attribute("ends")
        axes, steps = call.attribute("axes"), None
    else:
        starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
        axes = call.integers(3, "axes") if call.has(3) else None
        steps = call.integers(4, "steps") if call.has(4) else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise call.wrong("starts, ends, axes and steps differ in length")
    parts: dict[int, slice] = {}
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = call.axis(given, rank)
        if step == 0 or axis in parts:
            raise call.wrong("a step of 0" if step == 0 else f"axis {axis} occurs twice")
        if start == 0 and step == 1 and end >= 2**31 - 1:
            continue
        parts[axis] = _clamped(start, end, step, x.shape[axis])
    return _cut(x, parts)


def _clamped(start: int, end: int, step: int, n: int) -> slice:
    """ONNX' rules for negative and excessive bounds, as a Python slice."""
    start, end = (value + n if value < 0 else value for value in (start, end))
    if step > 0:
        return slice(min(max(start, 0), n), min(max(end, 0), n), step)
    stop = min(max(end, -1), n - 1)
    return slice(min(max(start, 0), n - 1), None if stop < 0 else stop, step)


@operator("Split")
def _split(call: Call) -> tuple[Value, ...]:
    x = call.value(0)
    axis = call.axis(int(call.attribute("axis")), len(x.shape))
    n, outputs = x.shape[axis], call.n_outputs
    sizes = call.attribute("split") if not call.gives_inputs else call.integers(1, "split") if call.has(1) else None
    if sizes is None:
        count = int(call.attribute("num_outputs", outputs))
        chunk = -(-n // count)
        sizes = [min(chunk, n - i * chunk) for i in range(count)]
    if len(sizes) != outputs or sum(sizes) != n or min(sizes) < 0:
        raise call.wrong(f"parts of sizes {list(sizes)} for {outputs} outputs from {n} elements along axis {axis}")
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(_cut(x, {axis: slice(a, b)}) for a, b in pairwise(ends))


@operator("Gather")
def _gather(call: Call) -> Value:
    x, index = call.value(0), call.constant(1, "indices").value
    axis = call.axis(int(call.attribute("axis")), len(x.shape))
    if index.dtype.kind not in "iu":
        raise call.wrong(f"indices of type {index.dtype}; integers are expected")
    chosen = index.astype(np.intp)
    if ((chosen < -x.shape[axis]) | (chosen >= x.shape[axis])).any():
        raise call.wrong(f"an index is outside axis {axis} of shape {x.shape}")
    call.afford((*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :]), prod(x.shape))
    batch, channel = (x.batch, x.channel) if isinstance(x, Expression) else (None, None)
    shift = index.ndim - 1
    batch, channel = (None if at is None or at == axis else at if at < axis else at + shift for at in (batch, channel))
    return rearranged(x, lambda array: np.take(array, chosen, axis=axis), batch, channel)


@operator("Expand")
def _expand(call: Call) -> Value:
    x = call.value(0)
    shape = np.broadcast_shapes(x.shape, _static(call.dimensions(1, "shape")))
    call.afford(shape)
    if isinstance(x, Constant):
        return Constant(np.broadcast_to(x.value, shape), x.error)
    return x.broadcast(shape)


_PAD_MODES = {"constant", "edge", "reflect", "wrap"}


@operator("Pad")
def _pad(call: Call) -> Value:
    x = call.expression(0)
    rank = len(x.shape)
    mode = call.attribute("mode")
    if mode not in _PAD_MODES:
        raise call.unsupported(f"mode {mode!r}; there are: {', '.join(sorted(_PAD_MODES))}")
    if not call.gives_inputs:
        pads, fill = [int(n) for n in call.attribute("pads")], float(call.attribute("value"))
    else:
        pads = call.integers(1, "pads")
        fill = call.scalar(2, "constant_value") if call.has(2) else 0.0
    given = call.integers(3, "axes") if call.has(3) else list(range(rank))
    if len(pads) != 2 * len(given):
        raise call.wrong(f"{len(pads)} pads for {len(given)} axes; begin and end of each are expected")
    if not np.isfinite(fill):
        raise call.wrong(f"padding with {fill}")
    width = [(0, 0)] * rank
    for i, axis in enumerate(given):
        width[call.axis(axis, rank)] = (pads[i], pads[i + len(given)])
    call.afford([n + max(begin, 0) + max(end, 0) for n, (begin, end) in zip(x.shape, width, strict=True)])
    index = _padded(call, x.index, width, mode)
    batch = None if x.batch is not None and width[x.batch] != (0, 0) else x.batch
    padded = x.take(index, batch, x.channel, fill)
    return replace(padded, error=max(x.error, call.constant(2, "constant_value").error if call.has(2) else 0.0))


def _padded(call: Call, index: Index, width: list[tuple[int, int]], mode: str) -> Index:
    """An index array padded; negative widths cut."""
    if any(begin < 0 or end < 0 for begin, end in width):
        if mode != "constant":
            raise call.unsupported(f"negative pads in mode {mode!r}")
        cuts = [
            slice(max(-begin, 0), max(n - max(-end, 0), 0)) for n, (begin, end) in zip(index.shape, width, strict=True)
        ]
        index = index[tuple(cuts)]
    grow = [(max(begin, 0), max(end, 0)) for begin, end in width]
    if mode == "constant":
        return np.pad(index, grow, constant_values=-1)
    return np.asarray(np.pad(index, grow, mode=mode))  # type: ignore[call-overload]
