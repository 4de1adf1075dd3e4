"""Evaluates an ONNX graph in float64 (or longer) with a bound on the rounding error of every number.

Written from the operators' definitions, for auditing: no code is shared with the product's importer, nothing is
folded, and each node is computed where it stands. Every tensor has one more axis in front for a batch of inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper

Array = npt.NDArray[Any]


class NotAuditableError(Exception):
    """The graph uses an operator that the evaluator does not know."""


@dataclass(frozen=True)
class Tracked:
    """Values, (batch, ...), and a bound on how far each is from the exact one."""

    value: Array
    error: Array


Value = Tracked | Array  # arrays are constants, without batch axis


@dataclass(frozen=True)
class Pre:
    """Pre-activations that a node stands for: (batch, n) values and error bounds."""

    operator: str
    shape: tuple[int, ...]
    value: Array
    error: Array


class Graph:
    """An ONNX file. ``dtype`` is the format computed in."""

    def __init__(self, source: str | Path | bytes, dtype: type[np.floating[Any]] = np.float64) -> None:
        model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(str(source))
        self.model = model
        self.dtype = dtype
        self.unit = dtype(np.finfo(dtype).eps)  # twice the unit roundoff: covers the bounds' own rounding
        self.constants = {t.name: self._array(t) for t in model.graph.initializer}
        (entry,) = [i for i in model.graph.input if i.name not in self.constants]
        self.input_name = entry.name
        self.input_shape = [d.dim_value or 1 for d in entry.type.tensor_type.shape.dim]
        self.n_inputs = int(np.prod(self.input_shape))
        (leave,) = model.graph.output
        self.output_name = leave.name

    def _array(self, tensor: onnx.TensorProto) -> Array:
        array = numpy_helper.to_array(tensor)
        return array.astype(self.dtype) if array.dtype.kind == "f" else array

    def gamma(self, terms: int) -> Any:
        """Bound on the relative rounding error of a scalar product."""
        return self.unit * (terms + 2)

    def run(self, points: npt.ArrayLike) -> tuple[list[Pre], Tracked]:
        """Pre-activations in node order, and the output as (batch, n)."""
        x = np.asarray(points, dtype=self.dtype)
        x = x.reshape(len(x), *self.input_shape)
        known: dict[str, Value] = dict(self.constants)
        known[self.input_name] = Tracked(x, np.zeros_like(x))
        pre: list[Pre] = []
        for node in self.model.graph.node:
            attributes = {a.name: self._attribute(a) for a in node.attribute}
            inputs = [known[name] if name else None for name in node.input]
            known[node.output[0]] = self._apply(node.op_type, inputs, attributes, pre)
        output = known[self.output_name]
        if not isinstance(output, Tracked):
            output = Tracked(np.repeat(output[None], len(x), 0), np.zeros((len(x), *output.shape)))
        return pre, Tracked(output.value.reshape(len(x), -1), output.error.reshape(len(x), -1))

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        value = onnx.helper.get_attribute_value(attribute)
        return self._array(value) if isinstance(value, onnx.TensorProto) else value

    def _apply(self, operator: str, inputs: list[Any], attributes: dict[str, Any], pre: list[Pre]) -> Value:
        if operator == "Constant":
            (value,) = attributes.values()
            return np.asarray(value)
        x = inputs[0]
        if operator in ("Relu", "LeakyRelu", "PRelu", "Abs") and isinstance(x, Tracked):
            pre.append(_pre(operator, x))
            return self._piecewise(operator, x, inputs, attributes)
        if operator in _MOVES:
            move = _MOVES[operator]
            if isinstance(x, Tracked):
                return Tracked(move(x.value, 1, inputs, attributes), move(x.error, 1, inputs, attributes))
            return move(x, 0, inputs, attributes)
        if operator in ("Add", "Sub", "Mul", "Div"):
            return self._arithmetic(operator, x, inputs[1])
        handler: Callable[[list[Any], dict[str, Any]], Value] | None = {
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "Conv": self._conv,
            "BatchNormalization": self._batch_norm,
            "AveragePool": self._average_pool,
            "GlobalAveragePool": self._global_average_pool,
            "Concat": self._concat,
        }.get(operator)
        if handler is None:
            raise NotAuditableError(f"operator {operator}")
        return handler(inputs, attributes)

    def _piecewise(self, operator: str, x: Tracked, inputs: list[Any], attributes: dict[str, Any]) -> Tracked:
        if operator == "Relu":
            return Tracked(np.maximum(x.value, 0), x.error)
        slope = {"Abs": -1.0, "LeakyRelu": attributes.get("alpha", 0.01)}.get(operator)
        slope = self.dtype(slope) if slope is not None else inputs[1]
        value = np.where(x.value >= 0, x.value, slope * x.value)
        return Tracked(value, np.maximum(1, np.abs(slope)) * x.error + self.unit * np.abs(value))

    def _arithmetic(self, operator: str, a: Value, b: Value) -> Value:
        function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[operator]
        if not isinstance(a, Tracked) and not isinstance(b, Tracked):
            return np.asarray(function(a, b))
        left, right = _aligned(a, b)
        value = function(left.value, right.value)
        if operator in ("Add", "Sub"):
            error = left.error + right.error
        elif isinstance(a, Tracked) and isinstance(b, Tracked):
            raise NotAuditableError(f"{operator} of two computed tensors")
        elif operator == "Mul":
            error = np.abs(left.value) * right.error + np.abs(right.value) * left.error
        elif isinstance(a, Tracked):
            error = left.error / np.abs(right.value)
        else:
            raise NotAuditableError("Div by a computed tensor")
        return Tracked(value, error + self.unit * np.abs(value))

    def _linear(self, x: Tracked, map_: Callable[[Array, Array], Array], weight: Array, terms: int) -> Tracked:
        size = np.abs(weight)
        spread = map_(x.error, size) * (1 + self.gamma(terms))
        return Tracked(map_(x.value, weight), spread + self.gamma(terms) * map_(np.abs(x.value), size))

    def _matmul(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        del attributes
        a, b = inputs
        if isinstance(a, Tracked) and not isinstance(b, Tracked):
            return self._linear(a, lambda v, w: np.tensordot(v, w, 1) if w.ndim == 2 else v @ w, b, b.shape[-2])
        if isinstance(b, Tracked) and not isinstance(a, Tracked):
            return self._linear(b, lambda v, w: v @ w.T if v.ndim == 2 else w @ v, a, a.shape[-1])
        raise NotAuditableError("MatMul of two computed tensors")

    def _gemm(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        a, b = inputs[:2]
        alpha, beta = self.dtype(attributes.get("alpha", 1.0)), self.dtype(attributes.get("beta", 1.0))
        if attributes.get("transA", 0):
            a = Tracked(a.value.swapaxes(1, 2), a.error.swapaxes(1, 2)) if isinstance(a, Tracked) else a.T
        if attributes.get("transB", 0):
            b = Tracked(b.value.swapaxes(1, 2), b.error.swapaxes(1, 2)) if isinstance(b, Tracked) else b.T
        product = self._matmul([a, b], {})
        if alpha != 1:
            product = self._arithmetic("Mul", product, np.asarray(alpha))
        if len(inputs) < 3 or inputs[2] is None:
            return product
        constant = inputs[2] if beta == 1 else self._arithmetic("Mul", inputs[2], np.asarray(beta))
        return self._arithmetic("Add", product, constant)

    def _conv(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        x, kernel = inputs[0], inputs[1]
        groups = attributes.get("group", 1)
        window = _Window.of(attributes, kernel.shape[2:])

        def convolve(values: Array, weight: Array) -> Array:
            patches = window.patches(values, 0.0)
            batch, one, channels, *_ = patches.shape[: 3 + window.rank]
            split = patches.reshape(batch, one, groups, channels // groups, *patches.shape[3:])
            weights = weight.reshape(groups, -1, channels // groups, *weight.shape[2:])
            contracted = [3, *range(4 + window.rank, 4 + 2 * window.rank)]
            parts = [
                np.tensordot(split[:, :, g : g + 1], w, (contracted, range(1, w.ndim))) for g, w in enumerate(weights)
            ]  # each (batch, one, 1, *spatial, outs)
            return np.concatenate([np.moveaxis(p[:, :, 0], -1, 2) for p in parts], axis=2)

        result = self._linear(x, convolve, kernel, int(np.prod(kernel.shape[1:])))
        if len(inputs) > 2 and inputs[2] is not None:
            result_value = self._arithmetic("Add", result, inputs[2].reshape(1, -1, *[1] * window.rank))
            assert isinstance(result_value, Tracked)
            return result_value
        return result

    def _batch_norm(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        x, scale, shift, mean, variance = inputs
        shape = (1, -1, *[1] * (x.value.ndim - 3))
        factor = scale / np.sqrt(variance + self.dtype(attributes.get("epsilon", 1e-5)))
        centred = self._arithmetic("Sub", x, mean.reshape(shape))
        scaled = self._arithmetic("Mul", centred, factor.reshape(shape))
        assert isinstance(scaled, Tracked)
        rounded = Tracked(scaled.value, scaled.error + 4 * self.unit * np.abs(scaled.value))
        return self._arithmetic("Add", rounded, shift.reshape(shape))

    def _average_pool(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        x = inputs[0]
        window = _Window.of(attributes, attributes["kernel_shape"])
        axes = tuple(range(-window.rank, 0))
        counted = 1.0 if attributes.get("count_include_pad", 0) else 0.0
        number = window.patches(np.ones_like(x.value[:1]), counted).sum(axis=axes)

        def average(values: Array, number: Array) -> Array:
            return np.asarray(window.patches(values, 0.0).sum(axis=axes) / number)

        return self._linear(x, average, number, int(np.prod(attributes["kernel_shape"])) + 1)

    def _global_average_pool(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        del attributes
        axes = tuple(range(3, inputs[0].value.ndim))
        number = np.asarray(int(np.prod(inputs[0].value.shape[3:])))
        return self._linear(inputs[0], lambda v, n: v.sum(axis=axes, keepdims=True) / n, number, int(number) + 1)

    def _concat(self, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        axis = attributes["axis"]
        batch = next((len(x.value) for x in inputs if isinstance(x, Tracked)), None)
        if batch is None:
            return np.concatenate(inputs, axis)
        whole = [
            x if isinstance(x, Tracked) else Tracked(np.repeat(x[None], batch, 0), np.zeros((batch, *x.shape)))
            for x in inputs
        ]
        axis = axis + 1 if axis >= 0 else axis
        return Tracked(np.concatenate([x.value for x in whole], axis), np.concatenate([x.error for x in whole], axis))


def _pre(operator: str, x: Tracked) -> Pre:
    batch = len(x.value)
    return Pre(operator, x.value.shape[2:], x.value.reshape(batch, -1), x.error.reshape(batch, -1))


def _aligned(a: Value, b: Value) -> tuple[Tracked, Tracked]:
    """Both with a batch axis, and enough axes after it for numpy to broadcast as ONNX does."""
    ranks = [v.value.ndim - 1 if isinstance(v, Tracked) else v.ndim for v in (a, b)]
    out = []
    for v, rank in zip((a, b), ranks, strict=True):
        fill = [1] * (max(ranks) - rank)
        if isinstance(v, Tracked):
            shape = (len(v.value), *fill, *v.value.shape[1:])
            out.append(Tracked(v.value.reshape(shape), v.error.reshape(shape)))
        else:
            shape = (1, *fill, *v.shape)
            out.append(Tracked(v.reshape(shape), np.zeros(shape)))
    return out[0], out[1]


@dataclass(frozen=True)
class _Window:
    """A sliding window over the last ``rank`` axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @classmethod
    def of(cls, attributes: dict[str, Any], kernel: Sequence[int]) -> _Window:
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attributes.get("ceil_mode", 0):
            raise NotAuditableError("auto_pad or ceil_mode")
        rank = len(kernel)
        pads = attributes.get("pads", [0] * (2 * rank))
        return cls(
            tuple(kernel),
            tuple(attributes.get("strides", [1] * rank)),
            tuple(attributes.get("dilations", [1] * rank)),
            tuple((pads[i], pads[i + rank]) for i in range(rank)),
        )

    def patches(self, values: Array, fill: float) -> Array:
        """(..., *spatial) to (..., *places, *kernel)."""
        lead = values.ndim - self.rank
        padded = np.pad(values, [(0, 0)] * lead + list(self.pads), constant_values=fill)
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        view = sliding_window_view(padded, spans, axis=tuple(range(lead, lead + self.rank)))
        places = tuple(slice(None, None, s) for s in self.strides)
        return view[(*[slice(None)] * lead, *places, *(slice(None, None, d) for d in self.dilations))]


Move = Callable[[Array, int, list[Any], dict[str, Any]], Array]


def _reshape(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    del attributes
    own = x.shape[lead:]
    target = [own[i] if d == 0 else int(d) for i, d in enumerate(inputs[1])]
    return x.reshape(*x.shape[:lead], *target)


def _flatten(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    del inputs
    axis = attributes.get("axis", 1)
    axis = axis if axis >= 0 else axis + x.ndim - lead
    own = x.shape[lead:]
    return x.reshape(*x.shape[:lead], int(np.prod(own[:axis])), int(np.prod(own[axis:])))


def _transpose(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    del inputs
    order = attributes.get("perm", list(range(x.ndim - lead))[::-1])
    return x.transpose(*range(lead), *(p + lead for p in order))


def _axes(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any], extra: int) -> list[int]:
    axes = attributes["axes"] if "axes" in attributes else [int(a) for a in inputs[1]]
    rank = x.ndim - lead + extra
    return sorted((a if a >= 0 else a + rank) + lead for a in axes)


def _squeeze(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    if len(inputs) < 2 and "axes" not in attributes:
        return x.reshape(*x.shape[:lead], *(d for d in x.shape[lead:] if d != 1))
    return np.squeeze(x, tuple(_axes(x, lead, inputs, attributes, 0)))


def _unsqueeze(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    count = len(attributes["axes"] if "axes" in attributes else inputs[1])
    return np.expand_dims(x, tuple(_axes(x, lead, inputs, attributes, count)))


def _pad(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    if attributes.get("mode", b"constant") != b"constant" or (len(inputs) > 3 and inputs[3] is not None):
        raise NotAuditableError("Pad with a mode or axes")
    pads = attributes["pads"] if "pads" in attributes else [int(p) for p in inputs[1]]
    fill = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else attributes.get("value", 0.0)
    if fill:
        raise NotAuditableError("Pad with a value")
    rank = x.ndim - lead
    return np.pad(x, [(0, 0)] * lead + [(pads[i], pads[i + rank]) for i in range(rank)])


def _slice(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    if "starts" in attributes:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    else:
        starts, ends, axes, steps = [*inputs[1:], None, None][:4]
    index = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(axes[i]) if axes is not None else i
        axis = axis + lead if axis >= 0 else axis
        step = int(steps[i]) if steps is not None else 1
        # A negative end beyond the start of a reversed range means "to the very beginning".
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        index[axis] = slice(int(start), stop, step)
    return x[tuple(index)]


def _same(x: Array, lead: int, inputs: list[Any], attributes: dict[str, Any]) -> Array:
    del lead, inputs, attributes
    return x


_MOVES: dict[str, Move] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Pad": _pad,
    "Slice": _slice,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _same,
}
