"""The cutting of channels out of a copy of a graph: smaller constants, new biases, groups and Flattens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Index, Mask
from stablenet.onnx_io.channel_spaces import Space
from stablenet.onnx_io.channels import Channels


def cut_channels(channels: Channels, proto: Any, gone: Mapping[int, Index]) -> None:
    """Remove neurons, given by layer, from a copy of the graph that ``channels`` were found in.

    ``gone[k]`` are neurons of layer k; only such as `Channels.removable` or `Channels.can_lose` allow. ``proto`` is the
    copy, which is changed in place.
    """
    masks: dict[Space, Mask] = {}
    for slot in channels.slots.values():
        space = slot.space.root
        for k in space.layers & set(gone):
            if len(gone[k]):
                lost = np.zeros(channels.graph.network.layers[k].size, bool)
                lost[gone[k]] = True
                masks[space] = np.asarray(lost.reshape(space.size, -1).all(axis=1))
    folded = _biases(channels, masks)
    fresh = _Fresh(proto)
    for (i, position), cuts in channels.slices.items():
        array = folded.pop((i, position), None)
        known = channels.graph.constant(channels.graph.graph.node[i].input[position]) if array is None else array
        assert known is not None  # noqa: S101 - it was read when the cut was noted
        result = known
        for axis, space, block in cuts:
            mask = masks.get(space.root)
            if mask is not None:
                result = np.compress(~np.repeat(mask, block), result, axis=axis)
        if result is not known or array is not None:
            fresh.replace(proto.graph.node[i], position, result)
    for (i, position), array in folded.items():
        fresh.replace(proto.graph.node[i], position, array)
    for i, space in channels.groups.items():
        if space.root in masks:
            group = next(a for a in proto.graph.node[i].attribute if a.name == "group")
            group.i = int((~masks[space.root]).sum())
    for i, space in channels.flattened.items():
        if space.root in masks:
            _to_flatten(proto.graph.node[i])


def _biases(channels: Channels, masks: Mapping[Space, Mask]) -> dict[tuple[int, int], npt.NDArray[Any]]:
    """New biases of nodes that read a constant other than 0 which goes."""
    found: dict[tuple[int, int], npt.NDArray[Any]] = {}
    for leaving in channels.exits:
        mask = masks.get(leaving.slot.space.root)
        if mask is None or leaving.weight is None:
            continue
        lost = np.repeat(mask, leaving.slot.block) & ~np.isnan(leaving.slot.value) & (leaving.slot.value != 0)
        if not lost.any():
            continue
        node = channels.graph.graph.node[leaving.node]
        weight = np.moveaxis(leaving.weight, leaving.axis, 0)[lost]
        rows = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
        shift = leaving.slot.value[lost] @ rows
        given = channels.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        dtype = np.asarray(channels.graph.constant(node.input[1])).dtype
        base = np.zeros(len(shift)) if given is None else given.astype(np.float64)
        found[leaving.node, 2] = (base + shift).astype(dtype)
        if given is None and leaving.out is not None:
            channels.slices.setdefault((leaving.node, 2), [(0, leaving.out, 1)])
    return found


class _Fresh:
    """New initializers under the old name where no one else uses it, else under a new one."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.names = {tensor.name for tensor in proto.graph.initializer}
        self.names |= {name for node in proto.graph.node for name in (*node.input, *node.output)}

    def replace(self, node: Any, position: int, values: npt.NDArray[Any]) -> None:
        """Give a node's input another constant value."""
        import onnx

        while len(node.input) <= position:
            node.input.append("")
        stem = node.input[position] or f"{node.output[0]}.bias"
        name, number = stem, 1
        while name in self.names:
            name, number = f"{stem}_{number}", number + 1
        self.names.add(name)
        node.input[position] = name
        self.proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))


def _to_flatten(node: Any) -> None:
    """A Reshape to vectors as a Flatten, which holds no sizes."""
    import onnx

    del node.input[1:]
    del node.attribute[:]
    node.op_type = "Flatten"
    node.attribute.append(onnx.helper.make_attribute("axis", 1))
