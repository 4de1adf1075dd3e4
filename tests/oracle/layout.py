"""Operators of ONNX that only move numbers, and sliding windows: the shapes behind `graph`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[Any]


class NotAuditableError(Exception):
    """The graph uses an operator that the evaluator does not know."""


@dataclass(frozen=True)
class Window:
    """A sliding window over the last ``rank`` axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @classmethod
    def of(cls, attributes: dict[str, Any], kernel: Sequence[int]) -> Window:
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


MOVES: dict[str, Move] = {
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
