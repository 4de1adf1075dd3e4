"""Whole channels removed from the parts of a graph that keep their nodes.

Axis 1 of every tensor of such a part belongs to a *space*: operators that work channel by channel, and sums of two
tensors, keep it, so all tensors of a space lose the same channels (residual sums stay consistent); products and
convolutions leave it. A channel can go if wherever the space is left it is constant: 0 as a ReLU that never fires, or a
number that a bias can take over; or if it is not read at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Index, Mask
from stablenet.onnx_io.channel_spaces import Exit, Slot, Space, may_go
from stablenet.onnx_io.graph import Graph
from stablenet.onnx_io.semantics import Effect, attribute, effect_of, gives_inputs, is_scaled

CHANNELWISE = {Effect.KEEPS, Effect.KEEPS_ZERO, Effect.CHANGES, Effect.RECTIFIES}
"""Effects of operators with one computed input."""


class Channels:
    """The spaces of those maps of a graph that keep their nodes.

    ``inactive[k]`` (n_k,) are neurons of layer k whose output is 0 on the domain; without it none is known.
    """

    def __init__(self, graph: Graph, kept: Collection[int], inactive: Sequence[Mask] | None = None) -> None:
        self.graph = graph
        self.inactive = inactive
        self.slots: dict[str, Slot] = {}
        self.exits: list[Exit] = []
        self.slices: dict[tuple[int, int], list[tuple[int, Space, int]]] = {}
        self.groups: dict[int, Space] = {}
        self.flattened: dict[int, Space] = {}
        self.layers_of: dict[int, list[int]] = {}
        for k, layer in enumerate(graph.network.layers):
            self.layers_of.setdefault(graph.index[layer.node], []).append(k)
        nodes = {i for k in kept for i in graph.nodes_of(k)}
        nodes |= {graph.relu_node(k) for k in kept if k < len(graph.network.layers)}
        for i in sorted(nodes):
            self._visit(i)
        if graph.output in self.slots:
            self.slots[graph.output].space.root.pinned = True
        self._leave_for_others(kept)

    def _leave_for_others(self, kept: Collection[int]) -> None:
        """Note the maps written anew that read ReLUs of this part: channels that are 0 can be removed from these
        too.
        """
        network = self.graph.network
        for k in range(len(network.layers) + 1):
            for term in self.graph.map(k).terms if k not in kept else ():
                if term.source - 1 in kept:
                    name = self.graph.relu_output(term.source - 1)
                    if network.layers[term.source - 1].origin != "Relu":
                        self.slots[name].space.root.pinned = True
                    self.exits.append(Exit(-1, self.slots[name], None, 0, False, None))

    def removable(self) -> dict[int, Index]:
        """Neurons, by layer, that go with all channels that can go."""
        gone = self._gone()
        result: dict[int, Index] = {}
        for space, mask in gone.items():
            for k in space.layers if mask.any() else ():
                result[k] = np.flatnonzero(self._neurons(k, mask))
        return result

    def _neurons(self, layer: int, channels: Mask) -> Mask:
        return np.repeat(channels, self.graph.network.layers[layer].size // len(channels))

    def _gone(self) -> dict[Space, Mask]:
        spaces = {slot.space.root for slot in self.slots.values()}
        gone = {space: np.zeros(space.size, bool) for space in spaces if not space.pinned and space.layers}
        while True:
            allowed = {space: np.ones(space.size, bool) for space in gone}
            for leaving in self.exits:
                space = leaving.slot.space.root
                if space in allowed:
                    rows = gone.get(leaving.out.root) if leaving.out is not None else None
                    allowed[space] &= may_go(leaving, rows)
            for mask in allowed.values():
                if mask.all():
                    mask[0] = False  # operators need at least one channel
            if all(np.array_equal(allowed[space], mask) for space, mask in gone.items()):
                return gone
            gone = allowed

    def can_lose(self, layer: int, neurons: Index) -> bool:
        """Whether a layer's own space allows to remove exactly these neurons."""
        if not len(neurons):
            return True
        slot = self.slots.get(self.graph.relu_output(layer))
        if slot is None or slot.space.root.pinned or slot.space.root.layers != {layer}:
            return False
        leaves = any(e.weight is not None and e.slot.space.root is slot.space.root for e in self.exits)
        return not leaves and slot.space.root.size == self.graph.network.layers[layer].size

    # Walking the graph

    def _slot(self, name: str) -> Slot | None:
        """The slot of a computed tensor; None for a constant. What is not part of the walk is pinned."""
        if name in self.slots:
            return self.slots[name]
        producer = self.graph.producer.get(name)
        computed = name == self.graph.input or (producer is not None and self._is_computed(producer))
        if not computed:
            return None
        dims = self.graph.dims.get(name, ())
        size = dims[1] if len(dims) > 1 else 1
        self.slots[name] = Slot(Space(max(size, 1), pinned=True), 1, np.full(max(size, 1), np.nan))
        return self.slots[name]

    def _is_computed(self, node: int) -> bool:
        names = [name for name in self.graph.graph.node[node].input if name]
        if any(name == self.graph.input or name in self.slots for name in names):
            return True
        return any(self._is_computed(self.graph.producer[n]) for n in names if n in self.graph.producer)

    def _visit(self, i: int) -> None:
        node = self.graph.graph.node[i]
        slots = [self._slot(name) if name else None for name in node.input]
        if not any(slot is not None for slot in slots):
            return  # computes a constant
        dims = [self.graph.dims.get(name, ()) for name in (*(n for n in node.input if n), node.output[0])]
        handler = getattr(self, f"_on_{node.op_type.lower()}", None)
        known = all(len(d) == 0 or min(d[1:], default=1) > 0 for d in dims) and self.graph.batched
        result: Slot | None = None
        effect = effect_of(node.op_type)
        if known and effect in CHANNELWISE:
            result = self._channelwise(i, node, slots)
        elif known and effect is Effect.COMBINES:
            result = self._elementwise(i, node, slots)
        elif known and handler is not None:
            result = handler(i, node, slots)
        if result is None:
            result = self._opaque(node, slots)
        self.slots[node.output[0]] = result
        if self.layers_of.get(i):
            self._register(i, result)

    def _register(self, i: int, slot: Slot) -> None:
        """Note the layers of a node, and that their neurons go with the channels of its space."""
        space = slot.space.root
        for k in self.layers_of[i]:
            layer = self.graph.network.layers[k]
            fits = layer.shape and layer.shape[0] == space.size and slot.block == 1 and layer.channel_axis in (0, None)
            if not fits:
                space.pinned = True
            space.layers.add(k)

    def _opaque(self, node: Any, slots: Sequence[Slot | None]) -> Slot:
        """An operator that is not followed: nothing around it may change."""
        for slot in slots:
            if slot is not None:
                slot.space.root.pinned = True
        dims = self.graph.dims.get(node.output[0], ())
        size = max(dims[1] if len(dims) > 1 else 1, 1)
        return Slot(Space(size, pinned=True), 1, np.full(size, np.nan))

    def _channelwise(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot = slots[0]
        if slot is None or any(s is not None for s in slots[1:]):
            return None
        value, effect = slot.value, effect_of(node.op_type)
        if effect is Effect.RECTIFIES:
            value = np.maximum(value, 0.0)
            layers = self.layers_of.get(i, [])
            if self.inactive is not None and len(layers) == 1:
                value = np.where(self.inactive[layers[0]].reshape(len(value), -1).all(axis=1), 0.0, value)
        elif effect is Effect.CHANGES:
            value = np.full_like(value, np.nan)
        elif effect is Effect.KEEPS_ZERO:
            value = np.where(value == 0, 0.0, np.nan)
        if node.op_type == "Pad" and not self._pads_space_only(node):
            return None
        if node.op_type == "PRelu":
            slope = self.graph.constant(node.input[1])
            if slope is None or not self._along(i, 1, slope, slot, len(self.graph.dims[node.input[0]])):
                return None
        return Slot(slot.space, slot.block, value)

    def _pads_space_only(self, node: Any) -> bool:
        """Whether a Pad leaves batch and channels alone and fills with 0."""
        if attribute(node, "mode") not in ("constant", "") or (len(node.input) > 3 and node.input[3]):
            return False
        if not gives_inputs("Pad", self.graph.network.opset):
            pads, fill = list(attribute(node, "pads")), float(attribute(node, "value"))
        else:
            given = self.graph.constant(node.input[1])
            other = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
            if given is None or other is None:
                return False
            pads, fill = given.reshape(-1).tolist(), float(other.reshape(-1)[0])
        rank = len(pads) // 2
        return rank >= 2 and fill == 0.0 and not any(pads[:2]) and not any(pads[rank : rank + 2])

    def _along(self, i: int, position: int, constant: npt.NDArray[Any], slot: Slot, rank: int) -> bool:
        """Note that a constant operand is cut along axis 1; False if it does not lie along it in a simple way."""
        axis = constant.ndim - (rank - 1)  # where axis 1 of the tensor falls
        if constant.ndim > rank:
            return False
        if axis < 0 or constant.shape[axis] == 1:
            return True
        if constant.shape[axis] != len(slot.value):
            return False
        self._note(i, position, axis, slot)
        return True

    def _note(self, i: int, position: int, axis: int, slot: Slot) -> None:
        self.slices.setdefault((i, position), []).append((axis, slot.space, slot.block))

    def _elementwise(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        a, b = slots
        if a is not None and b is not None:
            return self._sum(node, a, b)
        slot, position = (a, 1) if a is not None else (b, 0)
        constant = self.graph.constant(node.input[position])
        out = self.graph.dims[node.output[0]]
        if slot is None or constant is None or self.graph.dims[node.input[1 - position]][1:] != out[1:]:
            return None
        rank = len(out)
        if not self._along(i, position, constant, slot, rank):
            return None
        value = np.full_like(slot.value, np.nan)
        if prod(constant.shape) in (1, len(value)) and (constant.ndim < rank or constant.shape[0] == 1):
            numbers = np.broadcast_to(constant.astype(np.float64).reshape(-1), value.shape)
            value = self._combined(node.op_type, slot.value, numbers, swapped=position == 0)
        return Slot(slot.space, slot.block, value)

    @staticmethod
    def _combined(operator: str, value: Array, numbers: Array, *, swapped: bool) -> Array:
        left, right = (numbers, value) if swapped else (value, numbers)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"Add": left + right, "Sub": left - right, "Mul": left * right, "Div": left / right}[operator]

    def _sum(self, node: Any, a: Slot, b: Slot) -> Slot | None:
        shapes = [self.graph.dims[name][1:] for name in (*node.input, node.output[0])]
        if node.op_type not in ("Add", "Sub") or len(set(shapes)) != 1 or a.block != b.block:
            return None
        first, second = a.space.root, b.space.root
        if first is not second:
            second.parent = first
            first.pinned |= second.pinned
            first.layers |= second.layers
        return Slot(first, a.block, a.value + b.value if node.op_type == "Add" else a.value - b.value)

    def _on_batchnormalization(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot = slots[0]
        given = [self.graph.constant(name) for name in node.input[1:5]]
        if slot is None or slot.block != 1 or any(constant is None for constant in given):
            return None
        epsilon = float(attribute(node, "epsilon"))
        scale, bias, mean, variance = (np.asarray(constant, np.float64) for constant in given)
        for position in range(1, 5):
            self._note(i, position, 0, slot)
        with np.errstate(all="ignore"):
            value = scale * (slot.value - mean) / np.sqrt(variance + epsilon) + bias
        return Slot(slot.space, 1, value)

    def _on_flatten(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        del i
        slot = slots[0]
        if slot is None or attribute(node, "axis") != 1:
            return None
        return self._flat(node, slot)

    def _flat(self, node: Any, slot: Slot) -> Slot:
        times = prod(self.graph.dims[node.input[0]][2:])
        return Slot(slot.space, slot.block * times, np.repeat(slot.value, times))

    def _on_reshape(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot, dims = slots[0], self.graph.dims[node.input[0]]
        out = self.graph.dims[node.output[0]]
        if slot is None or len(out) != 2 or out[1] != prod(dims[1:]):
            return None
        self.flattened[i] = slot.space
        return self._flat(node, slot)

    def _on_conv(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot, weight = slots[0], self.graph.constant(node.input[1])
        if slot is None or slot.block != 1 or weight is None:
            return None
        group = int(attribute(node, "group"))
        padded = any(attribute(node, "pads") or ()) or attribute(node, "auto_pad") not in ("NOTSET", "VALID", "")
        biased = len(node.input) > 2 and bool(node.input[2])
        if biased and self.graph.constant(node.input[2]) is None:
            return None
        out = len(weight)
        if group != 1:
            if not group == out == len(slot.value):
                return None
            self.groups[i] = slot.space
            result = Slot(slot.space, 1, np.full(out, np.nan))
        else:
            result = Slot(Space(out), 1, np.full(out, np.nan))
            self._note(i, 1, 1, slot)
            self.exits.append(Exit(i, slot, weight.astype(np.float64), 1, not padded, result.space))
        self._note(i, 1, 0, result)
        if biased:
            self._note(i, 2, 0, result)
        return result

    def _on_gemm(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot, weight = slots[0], self.graph.constant(node.input[1])
        if slot is None or weight is None or attribute(node, "transA"):
            return None
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is None and len(node.input) > 2 and node.input[2]:
            return None
        transposed = bool(attribute(node, "transB"))
        return self._product(i, slot, weight, bias, transposed=transposed, folds=not is_scaled(node))

    def _on_matmul(self, i: int, node: Any, slots: Sequence[Slot | None]) -> Slot | None:
        slot, weight = slots[0], self.graph.constant(node.input[1])
        if slot is None or weight is None or weight.ndim != 2 or len(self.graph.dims[node.input[0]]) != 2:
            return None
        return self._product(i, slot, weight, None, transposed=False, folds=False)

    def _product(
        self,
        i: int,
        slot: Slot,
        weight: npt.NDArray[Any],
        bias: npt.NDArray[Any] | None,
        *,
        transposed: bool,
        folds: bool,
    ) -> Slot | None:
        out_axis = 0 if transposed else 1
        result = Slot(Space(weight.shape[out_axis]), 1, np.full(weight.shape[out_axis], np.nan))
        if bias is not None and not self._along(i, 2, bias, result, 2):
            return None
        self._note(i, 1, 1 - out_axis, slot)
        self._note(i, 1, out_axis, result)
        self.exits.append(Exit(i, slot, weight.astype(np.float64), 1 - out_axis, folds, result.space))
        return result
