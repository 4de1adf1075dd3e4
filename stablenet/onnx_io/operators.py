"""The handlers of ONNX operators by name, and what a handler is given; `semantics` has the facts about operators.

A handler takes a `Call` and returns the value of the node's output, or a tuple of values for several
outputs. It is registered by `operator`; the modules `handlers_affine`, `handlers_shape`, `handlers_relu` and
`handlers_quantized` hold them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.errors import NetworkError, UnsupportedOperatorError
from stablenet.core.network import AffineMap, Layer, Term
from stablenet.core.rounding import SMALLEST32, UNIT
from stablenet.onnx_io import exact_matrices as folding
from stablenet.onnx_io.budget import afford_tensor, work
from stablenet.onnx_io.exact_matrices import Selection
from stablenet.onnx_io.expression import BATCH, Constant, Expression, Value
from stablenet.onnx_io.semantics import OPERATORS, gives_inputs

Handler: TypeAlias = "Callable[[Call], Value | tuple[Value, ...]]"

HANDLERS: dict[str, Handler] = {}

OPSETS = (7, 27)
"""First and last version of the default operator set whose semantics the handlers follow."""


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operators of the default domain."""

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in HANDLERS or name not in OPERATORS:
                raise RuntimeError(f"operator {name} has two handlers, or is not in the table of operators")
            HANDLERS[name] = handler
        return handler

    return register


def supported_operators() -> tuple[str, ...]:
    """The names of all operators that can be imported."""
    from stablenet.onnx_io import (  # noqa: F401  they register the handlers
        handlers_quantized,
        handlers_relu,
        handlers_shape,
    )

    return tuple(sorted(OPERATORS))


class Builder:
    """The layers of a network as they are found; ``roundoffs`` are those of the maps, if they are absolute."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.roundoffs: list[tuple[int, float, float]] = []
        self.labels = tuple(labels)
        self.known = set(labels)
        self.taken: set[str] = set()
        self.layers: list[Layer] = []
        self.error = 0.0

    def affine(self, value: Expression) -> AffineMap:
        """The finished affine map of an expression."""
        self.error = max(self.error, value.error)
        self.roundoffs.append((value.roundings, value.lost, value.peak))
        terms = tuple(Term(source, folding.settle(matrix)) for source, matrix in sorted(value.terms.items()))
        offset = np.array(value.offset)
        offset.setflags(write=False)
        return AffineMap(offset, terms, tuple(self.labels[i] for i in sorted(value.nodes)))

    def relu(self, pre: Expression, call: Call, part: str = "") -> Expression:
        """The ReLU of an expression: a new layer, named after the node and ``part``; constants stay constant."""
        if not pre.terms:
            return Expression.lift(Constant(np.maximum(pre.offset, 0.0).reshape(pre.shape), pre.error))
        name = f"{call.label}/{part}" if part else call.label
        while name in self.taken or (part and name in self.known):
            name += "'"
        self.taken.add(name)
        self.layers.append(
            Layer(self.affine(pre), name, pre.shape_without_batch, call.op, pre.channel_axis, call.label)
        )
        return Expression(
            pre.shape,
            {len(self.layers): Selection.identity(pre.size)},
            np.zeros(pre.size),
            pre.batch,
            pre.channel,
            absolute=pre.absolute,
            lost=SMALLEST32,
        )


@dataclass(frozen=True, eq=False)
class Call:
    """One node with its inputs' values.

    ``label`` is the node's unique name, ``strict`` whether the batch size is symbolic, so that no operator
    may mix the batch axis.
    """

    op: str
    label: str
    index: int
    opset: int
    attributes: Mapping[str, Any]
    names: tuple[str, ...]
    inputs: tuple[Value | None, ...]
    n_outputs: int
    strict: bool
    builder: Builder

    def unsupported(self, why: str) -> UnsupportedOperatorError:
        """The error for a use of the operator that has no exact form here."""
        return UnsupportedOperatorError(f"node {self.label!r} ({self.op}): {why}")

    def wrong(self, why: str) -> NetworkError:
        """The error for a node that makes no sense."""
        return NetworkError(f"node {self.label!r} ({self.op}): {why}")

    def afford(self, shape: Sequence[int], stored: int = 0) -> None:
        """Refuse a tensor that is unreasonably large (``stored``: elements that exist already)."""
        afford_tensor(shape, stored)

    def attribute(self, name: str, derived: Any = None) -> Any:
        """An attribute of the node, or its default; strings are str, lists are lists.

        ``derived`` is the default where it depends on the inputs' shapes, and so is not in the table.
        """
        default = OPERATORS[self.op].defaults[name]
        return self.attributes.get(name, derived if default is None else default)

    @property
    def gives_inputs(self) -> bool:
        """Whether this opset takes as inputs what were attributes before."""
        return gives_inputs(self.op, self.opset)

    def has(self, position: int) -> bool:
        """Whether the optional input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def value(self, position: int) -> Value:
        """A required input."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if value is None:
            raise self.wrong(f"input {position} is missing")
        return value

    def expression(self, position: int) -> Expression:
        """A required input as an expression; constants are lifted, and must be finite floating-point numbers."""
        value = self.value(position)
        return value if isinstance(value, Expression) else Expression.lift(self.weights(position))

    def constant(self, position: int, what: str) -> Constant:
        """A required input that must not depend on the network's input."""
        value = self.value(position)
        if isinstance(value, Expression):
            raise self.unsupported(f"{what} {self.names[position]!r} depends on the input; a constant is expected")
        return value

    def weights(self, position: int, what: str = "operand") -> Constant:
        """A required constant input of finite floating-point numbers."""
        constant = self.constant(position, what)
        if not constant.is_float:
            raise self.unsupported(
                f"input {self.names[position]!r} holds {constant.value.dtype}; floating-point numbers are expected"
            )
        work(constant.value.size)
        if not np.isfinite(constant.numbers).all():
            raise self.wrong(f"input {self.names[position]!r} holds NaN or infinity")
        return constant

    def scalar(self, position: int, what: str) -> float:
        """A required constant input of one number."""
        constant = self.constant(position, what)
        if constant.value.size != 1:
            raise self.wrong(f"{what} has shape {constant.shape}; one number is expected")
        return float(constant.numbers.reshape(-1)[0])

    def integers(self, position: int, what: str) -> list[int]:
        """A required constant input of integers, none of which is the unknown batch size."""
        values = self.dimensions(position, what)
        if BATCH in values:
            raise self.unsupported(f"{what} depends on the batch size")
        return [int(value) for value in values]

    def dimensions(self, position: int, what: str) -> list[Any]:
        """A required constant input of integers; `BATCH` may be among them."""
        array = self.constant(position, what).value
        if array.dtype.kind not in "iuO" or array.ndim > 1:
            raise self.wrong(f"{what} must be a vector of integers, not {array.dtype} of shape {array.shape}")
        return array.reshape(-1).tolist()

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < rank:
            raise self.wrong(f"axis {axis} of a tensor with {rank} axes")
        return axis % rank

    def axes(self, position: int) -> list[int] | None:
        """The axes of a node that takes them as attribute, and in later opsets as input."""
        if not self.gives_inputs:
            axes = self.attribute("axes")
            return None if axes is None else [int(axis) for axis in axes]
        return self.integers(position, "axes") if self.has(position) else None


def rearranged(
    value: Value,
    change: Callable[[Any], Any],
    batch: int | None = None,
    channel: int | None = None,
) -> Value:
    """A value whose elements ``change`` only moves about: it maps an array to an array."""
    if isinstance(value, Constant):
        return Constant(np.asarray(change(value.value)), value.error)
    index: Index = np.asarray(change(value.index))
    return value.take(index, batch, channel)


def spread(constant: Constant, rank: int, axis: int) -> Constant:
    """A vector laid along one axis of a tensor with ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return Constant(constant.value.reshape(shape), constant.error)


def bound_of(values: Array, units: float) -> float:
    """``units`` roundoffs of the largest magnitude."""
    return units * UNIT * float(np.abs(values).max(initial=0.0)) + folding.TINY
