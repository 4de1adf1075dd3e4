"""Evaluates an ONNX graph in float64 (or longer) with a bound on the rounding error of every number.

Written from the operators' definitions, for auditing: no code is shared with the product's importer, nothing is
folded, and each node is computed where it stands. Every tensor has one more axis in front for a batch of inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from oracle.layout import MOVES, NotAuditableError, Window

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tracked:
    """Values, (batch, ...), and a bound on how far each is from the exact one."""

    value: Array
    error: Array


Value = Tracked | Array  # arrays are constants, without batch axis


@dataclass(frozen=True)
class Pre:
    """Pre-activations that a node stands for: (batch, n) values and error bounds.

    ``shape`` is their tensor's without batch, None where the lowering of the operator does not fix it.
    """

    operator: str
    shape: tuple[int, ...] | None
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
        if operator == "Clip" and isinstance(x, Tracked):
            return self._clip(x, inputs, attributes, pre)
        if operator in ("Max", "Min") and any(isinstance(v, Tracked) for v in inputs):
            return self._extreme(operator, inputs, pre)
        if operator == "MaxPool":
            return self._max_pool(x, attributes, pre)
        if operator in MOVES:
            move = MOVES[operator]
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

    def _clip(self, x: Tracked, inputs: list[Any], attributes: dict[str, Any], pre: list[Pre]) -> Tracked:
        """``lo + relu(x - lo) - relu(x - hi)``: up to two layers; a limit at the end of float32 is none."""
        given = [*inputs[1:], None, None][:2] if len(inputs) > 1 else [attributes.get("min"), attributes.get("max")]
        low, high = (
            None if v is None or abs(float(v)) >= np.finfo(np.float32).max else self.dtype(float(v)) for v in given
        )
        for limit in (low, high):
            if limit is not None:
                shifted = self._arithmetic("Sub", x, np.asarray(limit))
                assert isinstance(shifted, Tracked)
                pre.append(_pre("Clip", shifted))
        return Tracked(np.clip(x.value, low, high) if (low, high) != (None, None) else x.value, x.error)

    def _extreme(self, operator: str, inputs: list[Any], pre: list[Pre]) -> Value:
        """A left fold of ``a + relu(b - a)`` (Max) or ``a - relu(a - b)`` (Min), constants first."""
        pick = np.maximum if operator == "Max" else np.minimum
        constants = [v for v in inputs if not isinstance(v, Tracked)]
        computed = [v for v in inputs if isinstance(v, Tracked)]
        known: Value = functools.reduce(pick, constants) if constants else computed.pop(0)
        for other in computed:
            left, right = _aligned(known, other)
            step = self._arithmetic("Sub", *((right, left) if operator == "Max" else (left, right)))
            assert isinstance(step, Tracked)
            pre.append(
                Pre(operator, None, step.value.reshape(len(step.value), -1), step.error.reshape(len(step.value), -1))
            )
            known = Tracked(pick(left.value, right.value), np.maximum(left.error, right.error))
        return known

    def _max_pool(self, x: Tracked, attributes: dict[str, Any], pre: list[Pre]) -> Tracked:
        """Level by level, neighbours in row-major order of each window, padding skipped; ``b - a`` of each pair."""
        window = Window.of(attributes, attributes["kernel_shape"])
        batch, shape = len(x.value), window.patches(x.value, 0.0).shape[1 : -window.rank]
        alive = window.patches(np.ones_like(x.value[:1]), 0.0).reshape(-1, int(np.prod(window.kernel))) > 0
        order = np.argsort(~alive, axis=1, kind="stable")
        alive = np.take_along_axis(alive, order, 1)
        value, error = (
            np.take_along_axis(window.patches(v, 0.0).reshape(batch, *alive.shape), order[None], 2)
            for v in (x.value, x.error)
        )
        while alive.shape[1] > 1:
            if alive.shape[1] % 2:
                alive = np.pad(alive, ((0, 0), (0, 1)))
                value, error = (np.pad(v, ((0, 0), (0, 0), (0, 1))) for v in (value, error))
            pair, first = alive[:, 1::2], alive[:, 0::2]
            gap = value[..., 1::2] - value[..., 0::2]
            if pair.any():
                rounding = error[..., 1::2] + error[..., 0::2] + self.unit * np.abs(gap)
                pre.append(Pre("MaxPool", None, gap[:, pair], rounding[:, pair]))
            value = np.where(pair, np.maximum(value[..., 0::2], value[..., 1::2]), value[..., 0::2])
            error = np.where(pair, np.maximum(error[..., 0::2], error[..., 1::2]), error[..., 0::2])
            alive = first
        return Tracked(value.reshape(batch, *shape), error.reshape(batch, *shape))

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
        window = Window.of(attributes, kernel.shape[2:])

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
        window = Window.of(attributes, attributes["kernel_shape"])
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
