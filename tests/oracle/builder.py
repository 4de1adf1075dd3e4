"""Builds a network twice at once: as an ONNX graph, and as plain rational maps by the definition of each operator.

A tensor is followed as an exact affine function of the input and of the ReLU outputs before it; a ReLU makes that
function a layer. Nothing is folded in floating point, so the plain network is what the graph means, not what an
importer makes of it. All tensors have a batch dimension in front, which shapes here leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from oracle.plain import PlainMap, PlainNetwork

Array = npt.NDArray[np.float64]
Row = tuple[Fraction, dict[tuple[int, int], Fraction]]  # offset, and coefficient by (source, index)


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: its name, shape without batch, and every entry's affine row, row-major."""

    name: str
    shape: tuple[int, ...]
    rows: tuple[Row, ...]


def _combine(parts: Sequence[tuple[Fraction, Row]], constant: Fraction = Fraction(0)) -> Row:
    coefficients: dict[tuple[int, int], Fraction] = {}
    for factor, (offset, row) in parts:
        constant += factor * offset
        for key, value in row.items():
            coefficients[key] = coefficients.get(key, Fraction(0)) + factor * value
    return constant, {key: value for key, value in coefficients.items() if value}


class Builder:
    """One graph under construction; ``single`` stores weights as float32 (they must be representable)."""

    def __init__(self, shape: Sequence[int], *, single: bool = False, opset: int = 17, batch: str | int = "N") -> None:
        self.element = TensorProto.FLOAT if single else TensorProto.DOUBLE
        self.dtype: type[np.floating[Any]] = np.float32 if single else np.float64
        self.opset = opset
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.layers: list[tuple[Row, ...]] = []
        self.sizes = [int(np.prod(shape))]
        self.input = Tensor("input", tuple(shape), self._fresh(0))

    def _fresh(self, source: int) -> tuple[Row, ...]:
        return tuple((Fraction(0), {(source, i): Fraction(1)}) for i in range(self.sizes[source]))

    def _constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        array = np.asarray(values, dtype=dtype or self.dtype)
        if dtype is None and not (array.astype(np.float64) == np.asarray(values, np.float64)).all():
            raise ValueError("weights are not representable in float32")
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], name=f"{operator}_{len(self.nodes)}", **attributes)
        )
        return name

    def _neurons(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """A layer whose pre-activations are the rows; the rows of its outputs."""
        self.layers.append(rows)
        self.sizes.append(len(rows))
        return self._fresh(len(self.layers))

    def relu(self, tensor: Tensor) -> Tensor:
        """A layer of neurons."""
        return Tensor(self._node("Relu", [tensor.name]), tensor.shape, self._neurons(tensor.rows))

    def leaky(self, tensor: Tensor, slope: float) -> Tensor:
        """``a x + (1 - a) relu(x)``; slope 0 < a < 1, a float32 number. -1 stands for Abs."""
        name = self._node("Abs", [tensor.name]) if slope == -1 else self._node("LeakyRelu", [tensor.name], alpha=slope)
        kept, share = self._neurons(tensor.rows), Fraction(slope)
        return Tensor(
            name,
            tensor.shape,
            tuple(_combine([(share, x), (1 - share, h)]) for x, h in zip(tensor.rows, kept, strict=True)),
        )

    def clip(self, tensor: Tensor, low: float, high: float) -> Tensor:
        """``lo + relu(x - lo) - relu(x - hi)``: two layers."""
        name = self._node("Clip", [tensor.name, self._constant(low), self._constant(high)])
        one, below, above = Fraction(1), Fraction(low), Fraction(high)
        first = self._neurons(tuple(_combine([(one, row)], -below) for row in tensor.rows))
        second = self._neurons(tuple(_combine([(one, row)], -above) for row in tensor.rows))
        rows = tuple(_combine([(one, a), (-one, b)], below) for a, b in zip(first, second, strict=True))
        return Tensor(name, tensor.shape, rows)

    def extreme(self, operator: str, left: Tensor, right: Tensor) -> Tensor:
        """Max: ``a + relu(b - a)``; Min: ``a - relu(a - b)``."""
        one = Fraction(1) if operator == "Max" else Fraction(-1)
        gap = tuple(_combine([(one, b), (-one, a)]) for a, b in zip(left.rows, right.rows, strict=True))
        excess = self._neurons(gap)
        rows = tuple(_combine([(Fraction(1), a), (one, h)]) for a, h in zip(left.rows, excess, strict=True))
        return Tensor(self._node(operator, [left.name, right.name]), left.shape, rows)

    def dense(self, tensor: Tensor, weight: Array, bias: Array | None, style: str = "gemm") -> Tensor:
        """``weight @ t + bias``; style is gemm, gemm_t (stored transposed) or matmul (with Add)."""
        if style == "matmul":
            name = self._node("MatMul", [tensor.name, self._constant(weight.T)])
            if bias is not None:
                name = self._node("Add", [name, self._constant(bias)])
        else:
            stored = weight if style == "gemm" else weight.T
            inputs = [tensor.name, self._constant(stored)] + ([] if bias is None else [self._constant(bias)])
            name = self._node("Gemm", inputs, transB=int(style == "gemm"))
        offsets = np.zeros(len(weight)) if bias is None else bias
        rows = tuple(
            _combine(
                [(Fraction(w), row) for w, row in zip(weight_row, tensor.rows, strict=True) if w], Fraction(offset)
            )
            for weight_row, offset in zip(weight.tolist(), offsets.tolist(), strict=True)
        )
        return Tensor(name, (len(weight),), rows)

    def conv(
        self, tensor: Tensor, kernel: Array, bias: Array, *, stride: int = 1, pad: int = 0, groups: int = 1
    ) -> Tensor:
        """2-D convolution, kernel (out, in / groups, height, width), the same stride and padding on all sides."""
        channels, height, width = tensor.shape
        out, depth, tall, wide = kernel.shape
        shape = (out, (height + 2 * pad - tall) // stride + 1, (width + 2 * pad - wide) // stride + 1)
        rows = []
        for o, y, x in product(*map(range, shape)):
            first = (o * groups // out) * (channels // groups)
            parts = []
            for c, dy, dx in product(range(depth), range(tall), range(wide)):
                row, column = y * stride + dy - pad, x * stride + dx - pad
                if 0 <= row < height and 0 <= column < width and kernel[o, c, dy, dx]:
                    index = ((first + c) * height + row) * width + column
                    parts.append((Fraction(float(kernel[o, c, dy, dx])), tensor.rows[index]))
            rows.append(_combine(parts, Fraction(float(bias[o]))))
        name = self._node(
            "Conv",
            [tensor.name, self._constant(kernel), self._constant(bias)],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
            kernel_shape=[tall, wide],
        )
        return Tensor(name, shape, tuple(rows))

    def average_pool(self, tensor: Tensor, window: int) -> Tensor:
        """Averages of disjoint square windows."""
        channels, height, width = tensor.shape
        shape = (channels, height // window, width // window)
        share = Fraction(1, window * window)
        rows = tuple(
            _combine(
                [
                    (share, tensor.rows[(c * height + y * window + dy) * width + x * window + dx])
                    for dy, dx in product(range(window), repeat=2)
                ]
            )
            for c, y, x in product(*map(range, shape))
        )
        name = self._node("AveragePool", [tensor.name], kernel_shape=[window] * 2, strides=[window] * 2)
        return Tensor(name, shape, rows)

    def channelwise(self, tensor: Tensor, operator: str, values: Array) -> Tensor:
        """Mul, Add, Sub or Div by a constant per channel (last axis of a vector, first of an image)."""
        shape = (-1,) if len(tensor.shape) == 1 else (-1, 1, 1)
        name = self._node(operator, [tensor.name, self._constant(values.reshape(shape))])
        change: dict[str, Callable[[Row, Fraction], Row]] = {
            "Mul": lambda row, v: _combine([(v, row)]),
            "Div": lambda row, v: _combine([(1 / v, row)]),
            "Add": lambda row, v: _combine([(Fraction(1), row)], v),
            "Sub": lambda row, v: _combine([(Fraction(1), row)], -v),
        }
        spread = np.broadcast_to(values.reshape(shape), tensor.shape).ravel().tolist()
        rows = tuple(change[operator](row, Fraction(v)) for row, v in zip(tensor.rows, spread, strict=True))
        return Tensor(name, tensor.shape, rows)

    def add(self, left: Tensor, right: Tensor, operator: str = "Add") -> Tensor:
        """Sum (or Sub) of two computed tensors of one shape."""
        sign = Fraction(1 if operator == "Add" else -1)
        rows = tuple(_combine([(Fraction(1), a), (sign, b)]) for a, b in zip(left.rows, right.rows, strict=True))
        return Tensor(self._node(operator, [left.name, right.name]), left.shape, rows)

    def concat(self, left: Tensor, right: Tensor) -> Tensor:
        """Two vectors behind each other."""
        name = self._node("Concat", [left.name, right.name], axis=1)
        return Tensor(name, (left.shape[0] + right.shape[0],), left.rows + right.rows)

    def slice(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """A range of a vector."""
        bounds = [self._constant([v], np.int64) for v in (start, stop, 1)]
        name = self._node("Slice", [tensor.name, *bounds])
        return Tensor(name, (stop - start,), tensor.rows[start:stop])

    def flatten(self, tensor: Tensor) -> Tensor:
        """To a vector, row-major."""
        return Tensor(self._node("Flatten", [tensor.name], axis=1), (len(tensor.rows),), tensor.rows)

    def finish(self, tensor: Tensor) -> tuple[bytes, PlainNetwork, bool]:
        """The ONNX file, the plain network, and whether all of the latter's numbers are float64."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("input", self.element, [self.batch, *self.input.shape])],
            [helper.make_tensor_value_info(tensor.name, self.element, [self.batch, *tensor.shape])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model)
        rows = [*self.layers, tensor.rows]
        *layers, output = (self._plain(r) for r in rows)
        numbers = (v for layer in rows for offset, row in layer for v in (offset, *row.values()))
        exact = all(Fraction(float(v)) == v for v in numbers)
        return model.SerializeToString(), PlainNetwork(self.sizes[0], tuple(layers), output), exact

    def _plain(self, rows: tuple[Row, ...]) -> PlainMap:
        sources = sorted({source for _, row in rows for source, _ in row})
        terms = tuple(
            (s, tuple(tuple(row.get((s, j), Fraction(0)) for j in range(self.sizes[s])) for _, row in rows))
            for s in sources
        )
        return PlainMap(tuple(offset for offset, _ in rows), terms)
