"""An ONNX graph beside the network that was read from it: which nodes make which map, and what may be rewritten how."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.network import AffineMap
from stablenet.onnx_io.model_file import parse_onnx
from stablenet.onnx_io.reader import load_onnx, node_labels
from stablenet.onnx_io.semantics import IN_ORDER, PRODUCTS, is_scaled


class Graph:
    """The graph of a file; ``network`` is what `load_onnx` made of it.

    Maps are numbered as layers, the output last. ``free[k]`` says that map k can be written as Gemm nodes with any
    numbers, and its layer lose any neuron: it computes a vector from inputs and plain ReLUs, is not larger so than its
    nodes are, and all that reads its layer is free too. ``anew[k]`` says that it must be written so: see `unrolled`.
    """

    def __init__(self, path: str | Path) -> None:
        self.network = load_onnx(path)
        self.model = parse_onnx(path)
        self.graph = self.model.graph
        self.labels = node_labels(self.graph)
        self.index = {label: i for i, label in enumerate(self.labels)}
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producer = {name: i for i, node in enumerate(self.graph.node) for name in node.output if name}
        given = [value for value in self.graph.input if value.name == self.network.input_name]
        self.input = self.network.input_name
        self.output = self.network.output_name
        kind = given[0].type.tensor_type
        self.element = int(kind.elem_type)
        dims = kind.shape.dim
        self.input_rank = len(dims)
        self.batched = len(dims) == len(self.network.input_shape) + 1
        self.symbolic = self.batched and dims[0].WhichOneof("value") != "dim_value"
        self.output_dims = self.network.output_shape
        out = self.graph.output[0].type.tensor_type.shape.dim
        self.output_batched = self.batched if not len(out) else len(out) == len(self.output_dims) + 1
        self.free = self._free()
        self.anew = (False,) * len(self.free)

    def unrolled(self, first: int) -> Graph:
        """The same graph with maps from ``first`` on free wherever Gemm nodes can compute them, images or not."""
        other = copy(self)
        layers = self.network.layers
        could = [k >= first and (self.free[k] or self._linear(k)) for k in range(len(layers) + 1)]
        for k in reversed(range(len(layers))):
            could[k] = could[k] and all(could[reader] for reader in self._readers(k))
        other.free = tuple(free or new for free, new in zip(self.free, could, strict=True))
        other.anew = tuple(could) if other.free != self.free else self.anew
        return other

    @property
    def is_double(self) -> bool:
        """Whether it computes in float64."""
        import onnx

        return self.element == int(onnx.TensorProto.DOUBLE)

    def map(self, k: int) -> AffineMap:
        """Map k of the file's network."""
        return self.network.output if k == len(self.network.layers) else self.network.layers[k].affine

    def nodes_of(self, k: int) -> list[int]:
        """Indices of the nodes that map k folds."""
        return [self.index[label] for label in self.map(k).nodes]

    def relu_node(self, k: int) -> int:
        """Index of layer k's node."""
        return self.index[self.network.layers[k].node]

    def relu_output(self, k: int) -> str:
        """Name of the tensor that layer k gives."""
        return str(self.graph.node[self.relu_node(k)].output[0])

    def stem(self, k: int) -> str:
        """A name for what is written in place of map k: that of its product, else of its layer."""
        products = [i for i in self.nodes_of(k) if self.graph.node[i].op_type in PRODUCTS]
        if products:
            return self.labels[products[-1]]
        return self.network.layers[k].name if k < len(self.network.layers) else self.output

    def weight_names(self, k: int) -> tuple[str, str]:
        """Names of the weight and the offset of map k in the file, or names made for them."""
        stem = self.stem(k)
        weight, bias = f"{stem}.weight", f"{stem}.bias"
        products = [i for i in self.nodes_of(k) if self.graph.node[i].op_type in PRODUCTS]
        if len(products) == 1:
            node = self.graph.node[products[0]]
            weight = next((n for n in node.input[:2] if n in self.weights), weight)
            if len(node.input) > 2 and node.input[2] in self.weights:
                bias = node.input[2]
            else:
                sums = [self.graph.node[i] for i in self.nodes_of(k) if self.graph.node[i].op_type == "Add"]
                if len(sums) == 1:
                    bias = next((n for n in sums[0].input if n in self.weights), bias)
        return weight, bias

    def exact_map(self, k: int) -> bool:
        """Whether folding map k cannot have rounded: one plain product, at most one sum with a constant."""
        if self.network.exact:
            return True
        nodes = [self.graph.node[i] for i in self.nodes_of(k)]
        products = [node for node in nodes if node.op_type in PRODUCTS]
        sums = [node for node in nodes if node.op_type == "Add"]
        if len(products) + len(sums) + sum(node.op_type in IN_ORDER for node in nodes) != len(nodes):
            return False
        if len(products) != 1 or is_scaled(products[0]):
            return False
        constants = sum(any(name in self.weights for name in node.input) for node in sums)
        return len(sums) == constants and constants + (len(products[0].input) > 2) <= 1

    def one_product(self, k: int) -> bool:
        """Whether map k is a single product of a matrix and a tensor, and at most one constant added to it."""
        kinds = [self.graph.node[i].op_type for i in self.nodes_of(k)]
        products, sums = (sum(kind in kinds_of for kind in kinds) for kinds_of in (PRODUCTS, {"Add"}))
        plain = products == 1 and sums <= 1 and products + sums + sum(kind in IN_ORDER for kind in kinds) == len(kinds)
        if not plain or len(self.map(k).terms) != 1:
            return False
        node = next(self.graph.node[i] for i in self.nodes_of(k) if self.graph.node[i].op_type in PRODUCTS)
        return not is_scaled(node)

    def parameters(self, k: int) -> int:
        """How many stored numbers the nodes of map k use."""
        names = {name for i in self.nodes_of(k) for name in self.graph.node[i].input if name in self.weights}
        return sum(prod(self.weights[name].dims) for name in names)

    @cached_property
    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, as far as ONNX infers it; 0 where a dimension is not known."""
        import onnx

        try:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
        except Exception:  # shape inference fails on some unusual graphs: then no shapes are known
            inferred = self.graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        known = {
            value.name: tuple(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
            for value in values
            if value.type.tensor_type.HasField("shape")
        }
        return known | {name: tuple(tensor.dims) for name, tensor in self.weights.items()}

    def rank(self, name: str) -> int | None:
        """Number of axes of a tensor, None if it is not known."""
        return len(self.dims[name]) if name in self.dims else None

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The value of an initializer or of a Constant node's tensor; None for anything else."""
        import onnx

        if name in self.weights:
            return np.asarray(onnx.numpy_helper.to_array(self.weights[name]))
        node = self.graph.node[self.producer[name]] if name in self.producer else None
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(onnx.numpy_helper.to_array(node.attribute[0].t))
        return None

    def _free(self) -> tuple[bool, ...]:
        network = self.network
        layers = network.layers
        plain = [self._plain(k) for k in range(len(layers) + 1)]
        readers = [self._readers(k) for k in range(len(layers))]
        free = list(plain)
        for k in reversed(range(len(layers))):
            free[k] = plain[k] and all(free[reader] for reader in readers[k])
        if not all(free):
            # Parts that keep their nodes need their tensors in the same shape as before.
            for k in range(len(layers)):
                free[k] &= self.rank(self.relu_output(k)) == 2
            for k in reversed(range(len(layers))):
                free[k] = free[k] and all(free[reader] for reader in readers[k])
        return tuple(free)

    def _readers(self, layer: int) -> set[int]:
        """The maps that read a layer."""
        maps = range(layer + 1, len(self.network.layers) + 1)
        return {k for k in maps if any(term.source == layer + 1 for term in self.map(k).terms)}

    def _linear(self, k: int) -> bool:
        """Whether a map computes a plain ReLU's argument, or the output, from inputs and plain ReLUs."""
        layers = self.network.layers
        if k < len(layers) and layers[k].origin != "Relu":
            return False
        return all(not term.source or layers[term.source - 1].origin == "Relu" for term in self.map(k).terms)

    def _plain(self, k: int) -> bool:
        layers = self.network.layers
        if not self._linear(k) or (k < len(layers) and len(layers[k].shape) > 1 + (not self.batched)):
            return False
        affine = self.map(k)
        times = max(len(affine.terms), 1)  # a product of a sum has its columns once for each summand
        return affine.n_connections <= times * (self.parameters(k) + affine.size)
