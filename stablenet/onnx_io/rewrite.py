"""A compressed network written back into its ONNX graph.

Two ways, map by map. A map of vectors is written anew, as one Gemm per source (a Flatten before it where the source is
an image, sums by Add; a source that is added as it is stays a plain operand). Any other map keeps its nodes, and loses
whole channels (`stablenet.onnx_io.channels`). All else, names of inputs, outputs and kept nodes, batch dimension and
metadata included, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array, Index
from stablenet.core.errors import InputError
from stablenet.core.network import AffineMap, Matrix, Network
from stablenet.onnx_io.channel_cuts import cut_channels
from stablenet.onnx_io.channels import Channels
from stablenet.onnx_io.graph import Graph


@dataclass(frozen=True, eq=False)
class Target:
    """What to write: a network, its stored type, and how its maps relate to those of the file.

    ``inactive[k]`` (n_k,) are neurons of layer k of the file that give 0 on the domain, as when channels were chosen.
    ``maps[k]`` is the number that map k (the output last) has in the file, ``neurons[k]`` the neuron there that each of
    layer k's is, -1 for none; ``changed[k]`` says that map k holds numbers which the file does not.
    """

    network: Network
    maps: tuple[int, ...]
    neurons: tuple[Index, ...]
    changed: tuple[bool, ...]
    stored: str
    inactive: tuple[npt.NDArray[np.bool_], ...] | None = None


def rewrite(graph: Graph, target: Target | None, metadata: Mapping[str, str]) -> Any:
    """The model of ``graph`` with the maps of ``target``, as an ONNX ``ModelProto``; raises `InputError`.

    ``metadata`` is written into the model's properties, over those that it has. Without a target only they change.
    """
    import onnx

    if target is not None:
        return _Rewrite(graph, target).model(metadata)
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.model)
    return annotated(proto, metadata)


def annotated(proto: Any, metadata: Mapping[str, str]) -> Any:
    """A model with properties added or replaced."""
    entries = {entry.key: entry.value for entry in proto.metadata_props} | dict(metadata)
    del proto.metadata_props[:]
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


class _Rewrite:
    def __init__(self, graph: Graph, target: Target) -> None:
        import onnx

        self.graph = graph
        self.target = target
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(graph.model)
        self.dtype = np.dtype(target.stored)
        self.element = {"float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE}[target.stored]
        self.before: dict[int, list[Any]] = {}
        self.added: list[Any] = []
        self.flat: dict[int, str] = {}
        self.anew = self._written_anew()
        self.fresh = _Names(graph, self._replaceable())
        self.renamed: dict[str, str] = {}
        self.converts = graph.element != self.element
        if self.converts and not all(self.anew):
            raise InputError(
                f"{graph.network.file}: parts of the graph are kept as they are, in its own element type; "
                f"the weights cannot be stored as {target.stored}"
            )

    def _written_anew(self) -> list[bool]:
        """Which maps are written as Gemm nodes."""
        graph, target = self.graph, self.target
        anew = []
        for k, old in enumerate(target.maps):
            free = graph.free[old]
            new = graph.anew[old] or graph.exact_map(old) or target.changed[k] or graph.element != self.element
            anew.append(free and new)
        for k, old in enumerate(target.maps):
            if graph.free[old] and not anew[k] and not self._sliceable(k, anew):
                anew[k] = True
        return anew

    def _replaceable(self) -> set[str]:
        """Initializers that only nodes of maps written anew use, or of maps that are gone."""
        graph, target = self.graph, self.target
        kept = {old for k, old in enumerate(target.maps) if not self.anew[k]}
        staying = {i for old in kept for i in graph.nodes_of(old)}
        going = {i for k in range(len(graph.network.layers) + 1) for i in graph.nodes_of(k)} - staying
        read = {name for i, node in enumerate(graph.graph.node) if i not in going for name in node.input}
        return {name for i in going for name in graph.graph.node[i].input if name in graph.weights} - read

    def _gone(self) -> list[Index]:
        """Neurons of each layer of the file that the target lacks."""
        gone = [np.arange(layer.size) for layer in self.graph.network.layers]
        for old, neurons in zip(self.target.maps[:-1], self.target.neurons, strict=True):
            gone[old] = np.setdiff1d(gone[old], neurons)
        return gone

    def _sliceable(self, k: int, anew: Sequence[bool]) -> bool:
        """Whether a free map can keep its nodes and lose just the rows that are gone."""
        if k == len(self.target.maps) - 1:
            return not self._reads_changed(k)
        if self._reads_changed(k):
            return False
        kept = {old for j, old in enumerate(self.target.maps) if not anew[j]}
        return Channels(self.graph, kept).can_lose(self.target.maps[k], self._gone()[self.target.maps[k]])

    def _reads_changed(self, k: int) -> bool:
        """Whether a map reads a layer that has not all its neurons."""
        network = self.target.network
        affine = network.output if k == len(network.layers) else network.layers[k].affine
        read = {term.source for term in affine.terms}
        old = self.graph.map(self.target.maps[k])
        gone = self._gone()
        return len(read) != len(old.terms) or any(len(gone[t.source - 1]) for t in old.terms if t.source)

    def model(self, metadata: Mapping[str, str]) -> Any:
        """The finished model."""
        network, target = self.target.network, self.target
        graph = self.proto.graph
        if self.anew[-1]:
            self._free_output()
        for k, layer in enumerate(network.layers):
            if self.anew[k]:
                node = self.graph.relu_node(target.maps[k])
                pre = self._map(layer.affine, target.maps[k], node)
                graph.node[node].input[0] = pre
        if self.anew[-1]:
            self._output(network.output)
        else:
            self._slice()
        if self.anew[-1] and not all(self.anew):
            self._slice()
        self._finish(metadata)
        return self.proto

    def _slice(self) -> None:
        kept = {old for k, old in enumerate(self.target.maps) if not self.anew[k]}
        gone = self._gone()
        channels = Channels(self.graph, kept, self.target.inactive)
        cut_channels(channels, self.proto, {k: gone[k] for k in kept if k < len(gone)})

    def _node(
        self, at: int, operator: str, inputs: Sequence[str], stem: str, output: str = "", **attributes: Any
    ) -> str:
        """A new node before node ``at``; returns the name of its output."""
        import onnx

        name = output or self.fresh(stem)
        node = onnx.helper.make_node(operator, list(inputs), [name], name=self.fresh.node(stem), **attributes)
        self.before.setdefault(at, []).append(node)
        return name

    def _constant(self, values: npt.NDArray[Any], name: str) -> str:
        import onnx

        name = self.fresh(name)
        self.added.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _source(self, source: int, at: int) -> str:
        """The tensor (batch, n) of a source of the target."""
        if source in self.flat:
            return self.flat[source]
        if source == 0:
            name = self.graph.input
            if self.converts:
                name = self._node(at, "Cast", [name], f"{name}_cast", to=self.element)
            if not self.graph.batched:
                size = np.array([1, self.graph.network.n_inputs])
                name = self._node(at, "Reshape", [name, self._constant(size, "input_shape")], "input_row")
            elif self.graph.input_rank != 2:
                name = self._node(at, "Flatten", [name], f"{self.graph.input}_flat", axis=1)
        else:
            old = self.target.maps[source - 1]
            name = self.graph.relu_output(old)
            name = self.renamed.get(name, name)
            if not self.anew[source - 1] and self.graph.rank(name) != 2:  # an image
                name = self._node(at, "Flatten", [name], f"{name}_flat", axis=1)
        self.flat[source] = name
        return name

    def _map(self, affine: AffineMap, old: int, at: int, output: str = "") -> str:
        """Nodes that compute a map as (batch, n), before node ``at``; ``output`` names the result."""
        stem = self.graph.stem(old)
        weight_name, bias_name = self.graph.weight_names(old)
        plain = [t for t in affine.terms if _is_identity(t.matrix)]
        products = [t for t in affine.terms if not _is_identity(t.matrix)]
        # An offset that the type does not hold comes as two biases.
        high = affine.offset.astype(self.dtype)
        low = (affine.offset - high).astype(self.dtype)
        biases = [self._constant(v, bias_name) for v in (high, low) if v.any()]
        if not affine.terms:
            row = self._constant(high[None, :], bias_name)
            return self._spread(row, affine.size, at, stem, output)
        steps: list[tuple[str, list[str]]] = []
        for i, term in enumerate(products):
            weight = self._constant(
                _dense(term.matrix).astype(self.dtype), weight_name if len(products) == 1 else f"{stem}.weight{i}"
            )
            inputs = [self._source(term.source, at), weight]
            if biases:
                inputs.append(biases.pop(0))
            elif self.graph.network.opset < 11:  # there C is not optional
                inputs.append(self._constant(np.zeros(affine.size, self.dtype), f"{stem}.zero"))
            steps.append(("Gemm", inputs))
        operands = [self._source(term.source, at) for term in plain] + biases
        return self._sum_of(steps, operands, at, stem, output)

    def _sum_of(
        self, products: Sequence[tuple[str, list[str]]], operands: Sequence[str], at: int, stem: str, output: str
    ) -> str:
        """Products and operands added up; the last node carries the name of the output."""
        if not products and len(operands) == 1:
            return self._node(at, "Identity", operands, stem, output)
        last = len(products) + len(operands) == 1
        parts = [
            self._node(at, operator, inputs, f"{stem}_gemm", output if last else "", transB=1)
            for operator, inputs in products
        ]
        parts += operands
        total = parts[0]
        for i, part in enumerate(parts[1:], start=2):
            total = self._node(at, "Add", [total, part], f"{stem}_sum", output if i == len(parts) else "")
        return total

    def _spread(self, row: str, size: int, at: int, stem: str, output: str) -> str:
        """A constant row for every sample of the batch."""
        if not self.graph.symbolic:
            return self._node(at, "Identity", [row], f"{stem}_constant", output)
        shape = self._node(at, "Shape", [self.graph.input], f"{stem}_shape")
        first = self._node(at, "Gather", [shape, self._constant(np.array([0]), f"{stem}.first")], f"{stem}_batch")
        width = self._constant(np.array([size]), f"{stem}.width")
        wanted = self._node(at, "Concat", [first, width], f"{stem}_wanted", axis=0)
        return self._node(at, "Expand", [row, wanted], f"{stem}_constant", output)

    def _free_output(self) -> None:
        """Whatever node gave the output gives it under another name from now on."""
        old, new = self.graph.output, self.fresh(f"{self.graph.output}_before")
        self.renamed[old] = new
        for node in self.proto.graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new

    def _output(self, affine: AffineMap) -> None:
        """The output map, under the output's name and in its shape."""
        graph = self.graph
        at = len(self.proto.graph.node)
        reshaped = graph.output_dims != (affine.size,) or not graph.output_batched
        result = self._map(affine, len(graph.network.layers), at, "" if reshaped or self.converts else graph.output)
        if self.converts:
            name = "" if reshaped else graph.output
            result = self._node(at, "Cast", [result], f"{graph.output}_cast", name, to=graph.element)
        if reshaped:
            dims = [-1, *graph.output_dims] if graph.output_batched else list(graph.output_dims)
            shape = self._constant(np.array(dims, np.int64), "output_shape")
            self._node(at, "Reshape", [result, shape], f"{graph.output}_row", graph.output)

    def _finish(self, metadata: Mapping[str, str]) -> None:
        graph = self.proto.graph
        nodes = []
        for i, node in enumerate(graph.node):
            nodes += [*self.before.get(i, []), node]
        nodes += self.before.get(len(graph.node), [])
        needed, used = {value.name for value in graph.output}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                used.append(node)
                needed.update(node.input)
        del graph.node[:]
        graph.node.extend(used[::-1])
        replaced = {tensor.name for tensor in self.added}
        tensors = [tensor for tensor in graph.initializer if tensor.name not in replaced]
        tensors = [tensor for tensor in (*tensors, *self.added) if tensor.name in needed]
        del graph.initializer[:]
        graph.initializer.extend(tensors)
        del graph.value_info[:]
        self._inputs(graph)
        annotated(self.proto, metadata)

    def _inputs(self, graph: Any) -> None:
        """Old files list initializers among the inputs: those that are left, in their new shapes."""
        import onnx

        tensors = {tensor.name: tensor for tensor in graph.initializer}
        listed = [value for value in graph.input if value.name != self.graph.input]
        given = [value for value in graph.input if value.name == self.graph.input]
        del graph.input[:]
        graph.input.extend(given)
        if listed or self.proto.ir_version < 4:
            for name, tensor in tensors.items():
                if self.proto.ir_version < 4 or any(value.name == name for value in listed):
                    graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))


class _Names:
    """Fresh names of tensors and nodes; a name of the file is free again once its initializer is replaced."""

    def __init__(self, graph: Graph, reusable: set[str]) -> None:
        proto = graph.model.graph
        self.tensors = {name for node in proto.node for name in (*node.input, *node.output)}
        self.tensors |= {value.name for value in (*proto.input, *proto.output)}
        self.nodes = {node.name for node in proto.node}
        self.reusable = set(reusable)

    def __call__(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.tensors and name not in self.reusable:
            name, number = f"{stem}_{number}", number + 1
        self.reusable.discard(name)
        self.tensors.add(name)
        return name

    def node(self, stem: str) -> str:
        """A name of a node."""
        name, number = stem, 1
        while name in self.nodes:
            name, number = f"{stem}_{number}", number + 1
        self.nodes.add(name)
        return name


def _dense(matrix: Matrix) -> Array:
    return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix.toarray())


def _is_identity(matrix: Matrix) -> bool:
    """Whether a map takes a source as it is."""
    rows, columns = matrix.shape
    if rows != columns:
        return False
    return bool(np.array_equal(_dense(matrix), np.eye(rows)))
