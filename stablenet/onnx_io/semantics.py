"""What is known of each ONNX operator, stated once for the import and for the writing of compressed graphs.

The table `OPERATORS` says of each supported operator what kind of function it is, which attributes it has with which
defaults, from which opset on what were attributes are inputs, and what it does to a channel that is constant. Handlers
(`handlers_affine` and the others) compute with these facts; `channels`, `graph` and `rewrite` change graphs by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np


class Kind(Enum):
    """What kind of function of its computed inputs an operator is."""

    AFFINE = "affine"
    PIECEWISE_LINEAR = "piecewise linear; lowered to ReLUs"
    MOVES = "moves elements about"
    CONSTANT = "a constant, of constants"


class Effect(Enum):
    """What an operator that works on each channel alone (axis 1) does to a channel of one value everywhere."""

    KEEPS = "the channel keeps its value"
    KEEPS_ZERO = "a channel of zeros stays one; other values are not followed"
    CHANGES = "the channel has another value, which is not followed"
    RECTIFIES = "the value's positive part"
    COMBINES = "the value combined with that of the other operand"


@dataclass(frozen=True)
class Operator:
    """The facts about one operator of the default domain.

    ``defaults`` has every attribute that is read, with its default by the standard: None where the standard has none
    (or derives it from the shapes). ``inputs_since`` is the opset from which on attributes such as axes or pads are
    inputs. ``effect`` is None where the operator does not work on each channel alone. ``is_product`` marks products of
    a tensor and a matrix, ``in_order`` operators whose output has the input's elements in the same row-major order.
    """

    kind: Kind
    defaults: Mapping[str, Any] = field(default_factory=dict)
    inputs_since: int | None = None
    effect: Effect | None = None
    is_product: bool = False
    in_order: bool = False


_WINDOW = {
    "kernel_shape": None, "strides": None, "dilations": None, "pads": None, "auto_pad": "NOTSET",
}  # fmt: skip
"""Attributes of windows; strides and dilations are 1 and pads 0 by default, on each spatial axis."""

_REDUCTION = {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}

_QUANTIZED = {"axis": 1, "block_size": 0, "output_dtype": 0}

# Defaults of floating-point attributes are float32 numbers, as attributes in files are.
OPERATORS: Mapping[str, Operator] = MappingProxyType({
    "Abs": Operator(Kind.PIECEWISE_LINEAR, effect=Effect.KEEPS_ZERO),
    "Add": Operator(Kind.AFFINE, effect=Effect.COMBINES),
    "AveragePool": Operator(Kind.AFFINE, {**_WINDOW, "ceil_mode": 0, "count_include_pad": 0}, effect=Effect.KEEPS_ZERO),
    "BatchNormalization": Operator(
        Kind.AFFINE, {"epsilon": float(np.float32(1e-5)), "training_mode": 0, "spatial": 1}
    ),
    "Cast": Operator(Kind.MOVES, {"to": 0}, effect=Effect.KEEPS, in_order=True),
    "Clip": Operator(Kind.PIECEWISE_LINEAR, {"min": None, "max": None}, inputs_since=11, effect=Effect.CHANGES),
    "Concat": Operator(Kind.MOVES, {"axis": 1}),
    "Constant": Operator(Kind.CONSTANT),
    "ConstantOfShape": Operator(Kind.CONSTANT, {"value": None}),
    "Conv": Operator(Kind.AFFINE, {**_WINDOW, "group": 1}),
    "DequantizeLinear": Operator(Kind.CONSTANT, _QUANTIZED),
    "Div": Operator(Kind.AFFINE, effect=Effect.COMBINES),
    "Dropout": Operator(Kind.MOVES, effect=Effect.KEEPS, in_order=True),
    "Expand": Operator(Kind.MOVES),
    "Flatten": Operator(Kind.MOVES, {"axis": 1}, in_order=True),
    "Gather": Operator(Kind.MOVES, {"axis": 0}),
    "Gemm": Operator(Kind.AFFINE, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, is_product=True),
    "GlobalAveragePool": Operator(Kind.AFFINE, effect=Effect.KEEPS),
    "GlobalMaxPool": Operator(Kind.PIECEWISE_LINEAR, effect=Effect.KEEPS),
    "HardSigmoid": Operator(
        Kind.PIECEWISE_LINEAR,
        {"alpha": float(np.float32(0.2)), "beta": float(np.float32(0.5))},
        effect=Effect.CHANGES,
    ),
    "Identity": Operator(Kind.MOVES, effect=Effect.KEEPS, in_order=True),
    "LeakyRelu": Operator(Kind.PIECEWISE_LINEAR, {"alpha": float(np.float32(0.01))}, effect=Effect.KEEPS_ZERO),
    "MatMul": Operator(Kind.AFFINE, is_product=True),
    "Max": Operator(Kind.PIECEWISE_LINEAR),
    "MaxPool": Operator(Kind.PIECEWISE_LINEAR, {**_WINDOW, "ceil_mode": 0}, effect=Effect.KEEPS),
    "Mean": Operator(Kind.AFFINE),
    "Min": Operator(Kind.PIECEWISE_LINEAR),
    "Mul": Operator(Kind.AFFINE, effect=Effect.COMBINES),
    "Neg": Operator(Kind.AFFINE),
    "PRelu": Operator(Kind.PIECEWISE_LINEAR, effect=Effect.KEEPS_ZERO),
    "Pad": Operator(
        Kind.MOVES, {"mode": "constant", "pads": (), "value": 0.0}, inputs_since=11, effect=Effect.KEEPS_ZERO
    ),
    "QuantizeLinear": Operator(Kind.CONSTANT, _QUANTIZED),
    "ReduceMax": Operator(Kind.PIECEWISE_LINEAR, _REDUCTION, inputs_since=18),
    "ReduceMean": Operator(Kind.AFFINE, _REDUCTION, inputs_since=18),
    "ReduceMin": Operator(Kind.PIECEWISE_LINEAR, _REDUCTION, inputs_since=18),
    "ReduceSum": Operator(Kind.AFFINE, _REDUCTION, inputs_since=13),
    "Relu": Operator(Kind.PIECEWISE_LINEAR, effect=Effect.RECTIFIES),
    "Reshape": Operator(Kind.MOVES, {"allowzero": 0}, in_order=True),
    "Shape": Operator(Kind.CONSTANT, {"start": 0, "end": None}),
    "Slice": Operator(Kind.MOVES, {"starts": (), "ends": (), "axes": None}, inputs_since=10),
    "Split": Operator(Kind.MOVES, {"axis": 0, "split": None, "num_outputs": None}, inputs_since=13),
    "Squeeze": Operator(Kind.MOVES, {"axes": None}, inputs_since=13, in_order=True),
    "Sub": Operator(Kind.AFFINE, effect=Effect.COMBINES),
    "Sum": Operator(Kind.AFFINE),
    "Transpose": Operator(Kind.MOVES, {"perm": None}),
    "Unsqueeze": Operator(Kind.MOVES, {"axes": None}, inputs_since=13, in_order=True),
})  # fmt: skip

PRODUCTS = frozenset(name for name, facts in OPERATORS.items() if facts.is_product)
"""Operators that multiply a tensor and a matrix."""

IN_ORDER = frozenset(name for name, facts in OPERATORS.items() if facts.in_order)
"""Operators that change the shape or type alone: the elements stay in row-major order."""


def value_of(entry: Any) -> Any:
    """The value of an ``AttributeProto``: strings are str, lists are list."""
    import onnx

    value = onnx.helper.get_attribute_value(entry)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if isinstance(value, list) else value


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes that a ``NodeProto`` gives, by name."""
    return {entry.name: value_of(entry) for entry in node.attribute}


def attribute(node: Any, name: str) -> Any:
    """An attribute of a ``NodeProto``, or its default."""
    given = next((entry for entry in node.attribute if entry.name == name), None)
    return OPERATORS[node.op_type].defaults[name] if given is None else value_of(given)


def gives_inputs(operator: str, opset: int) -> bool:
    """Whether an operator of this opset takes as inputs what were attributes before."""
    since = OPERATORS[operator].inputs_since
    return since is not None and opset >= since


def effect_of(operator: str) -> Effect | None:
    """What an operator does to a constant channel, None for one that is not known or works across channels."""
    return OPERATORS[operator].effect if operator in OPERATORS else None


def is_scaled(node: Any) -> bool:
    """Whether a product multiplies by further factors: a Gemm with alpha or beta other than 1."""
    return node.op_type == "Gemm" and not attribute(node, "alpha") == attribute(node, "beta") == 1.0
