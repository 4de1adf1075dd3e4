"""ONNX files to networks in canonical form.

`load_onnx` reads, validates and folds a file. The result is the real-valued function of the file's numbers;
`Network.exact` says that no coefficient was rounded on the way, otherwise `Network.import_error` bounds the rounding
error of each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.core.errors import NetworkError, StablenetError, TooLargeError, UnsupportedOperatorError
from stablenet.core.float32 import check_arithmetic
from stablenet.core.network import AffineMap, Network
from stablenet.onnx_io.budget import MOST_ELEMENTS, Budget, spending, work
from stablenet.onnx_io.expression import Constant, Expression, Value
from stablenet.onnx_io.handlers_shape import FLOAT_TYPES, IN_FLOAT32
from stablenet.onnx_io.magnitudes import with_roundoff
from stablenet.onnx_io.model_file import one_line, parse_model, read_model, stored_numbers
from stablenet.onnx_io.operators import HANDLERS, OPSETS, Builder, Call, supported_operators
from stablenet.onnx_io.semantics import attributes_of


def load_onnx(path: str | Path, arithmetic: str = "real") -> Network:
    """Read the network of an ONNX file.

    The input's first dimension, if symbolic or 1 and not the only one, is the batch; a network is one sample. Other
    dimensions must be known.

    Args:
        path: the file; external data of its tensors is looked for beside it.
        arithmetic: with "float32" the maps have a `Roundoff`: their bounds hold for every evaluation of the file's
            nodes in float32 as well.

    Returns:
        The network. Its ``sha256`` is that of the file, followed by the external data.

    Raises:
        NetworkError: the file is no such network.
        UnsupportedOperatorError: an operator, or a use of one, has no exact piecewise-linear form.
        TooLargeError: the network needs more than the limits on size or memory allow.
    """
    file = Path(path)
    data = read_model(file)
    try:
        model, outside = parse_model(data, file)
        digest = hashlib.sha256(data)
        for tensor in outside:
            digest.update(tensor.raw_data)
        check_arithmetic(arithmetic)
        read = _Import(model, file, digest.hexdigest())
        with spending(Budget(stored_numbers(model))):
            network = read.network()
        if arithmetic == "float32":
            with spending(Budget(stored_numbers(model))):
                network = read.in_float32(network)
        return replace(network, content=network.content_digest)
    except MemoryError:
        raise TooLargeError(f"{file}: needs more memory than there is (see --memory-limit)") from None
    except StablenetError as error:
        words = " ".join(str(error).split())  # names in the file may have line breaks
        raise type(error)(words if str(file) in words else f"{file}: {words}") from error.__cause__


def node_labels(graph: Any) -> tuple[str, ...]:
    """A unique name for each node of a graph: its name, else its first output, else operator and position."""
    names = Counter(node.name for node in graph.node)
    taken = {name for name, count in names.items() if name and count == 1}
    labels: list[str] = []
    for i, node in enumerate(graph.node):
        if node.name in taken and names[node.name] == 1:
            labels.append(node.name)
            continue
        output = next((name for name in node.output if name), "")
        label = output if output and output not in taken else f"{node.op_type}_{i}"
        while label in taken:
            label += "'"
        taken.add(label)
        labels.append(label)
    return tuple(labels)


@dataclass(frozen=True)
class _Port:
    """The network's input: name, shape with batch 1, whether the batch size is symbolic, and the elements' type."""

    name: str
    shape: tuple[int, ...]
    symbolic: bool
    type: str


class _Import:
    """One pass over a graph."""

    def __init__(self, model: Any, file: Path, sha256: str) -> None:
        self.model = model
        self.graph = model.graph
        self.file = file
        self.sha256 = sha256
        self.labels = node_labels(self.graph)
        self.absolute = False
        self.roundoffs: list[tuple[int, float, float]] = []
        self.opset = _opset(model)
        self.port = self._input()
        self.output = self._output()
        self.used = self._used_nodes()
        self._check_operators()
        self._check_model()

    def network(self) -> Network:
        """The canonical network."""
        port = self.port
        if port.shape and port.shape[0] > 1 and len(port.shape) > 1:
            return self._without_batch()
        return self._run(port.shape, 0 if len(port.shape) > 1 else None, strict=port.symbolic)

    def _without_batch(self) -> Network:
        """A first dimension that is a number above 1: a batch if nothing mixes it, else part of the sample."""
        port = self.port
        try:
            self._run((1, *port.shape[1:]), 0, strict=True)
        except TooLargeError:
            raise
        except NetworkError:
            return self._run(port.shape, None, strict=False)
        raise NetworkError(
            f"input {port.name!r} of shape {list(port.shape)} is a batch of {port.shape[0]} samples; "
            "a batch dimension that is symbolic or 1 is expected"
        )

    def in_float32(self, network: Network) -> Network:
        """The same network with what float32 evaluations may be off, by a second pass over the graph's magnitudes."""
        if self.port.type not in IN_FLOAT32:
            raise UnsupportedOperatorError(
                f"input {self.port.name!r} has element type {self.port.type}; --arithmetic float32 speaks of networks "
                "that compute in float32"
            )
        self.absolute = True
        return with_roundoff(network, self.network(), self.roundoffs)

    def _run(self, shape: tuple[int, ...], batch: int | None, *, strict: bool) -> Network:
        builder = Builder(self.labels)
        source = Expression.source(0, shape, batch, absolute=self.absolute)
        values = self._constants()
        values[self.port.name] = source
        with np.errstate(all="ignore"):
            last = {name: i for i in self.used for name in self.graph.node[i].input}
            last[self.output] = len(self.graph.node)
            for i in self.used:
                self._evaluate(i, values, builder, strict=strict)
                for name in {*self.graph.node[i].input, *self.graph.node[i].output}:
                    if last.get(name, i) <= i:
                        values.pop(name, None)
            return self._finish(values[self.output], source, builder)

    def _finish(self, value: Value, source: Expression, builder: Builder) -> Network:
        if isinstance(value, Constant):
            if not value.is_float:
                raise NetworkError(f"output {self.output!r} holds {value.value.dtype}; floating-point numbers expected")
            value = replace(Expression.lift(value), batch=0 if source.batch is not None and value.value.ndim else None)
        output: AffineMap = builder.affine(value)
        self.roundoffs = builder.roundoffs
        layers = tuple(builder.layers)
        return Network(
            n_inputs=source.size,
            layers=layers,
            output=output,
            input_shape=source.shape_without_batch,
            output_shape=value.shape_without_batch,
            input_name=self.port.name,
            output_name=self.output,
            file=str(self.file),
            sha256=self.sha256,
            exact=builder.error == 0.0,
            import_error=builder.error,
            opset=self.opset,
            metadata={entry.key: entry.value for entry in self.model.metadata_props},
        )

    def _evaluate(self, i: int, values: dict[str, Value], builder: Builder, *, strict: bool) -> None:
        node = self.graph.node[i]
        inputs = tuple(values[name] if name else None for name in node.input)
        label = self.labels[i]
        where = f"node {label!r} ({node.op_type})"
        try:
            attributes = attributes_of(node)
            call = Call(
                node.op_type,
                label,
                i,
                self.opset,
                attributes,
                tuple(node.input),
                inputs,
                len(node.output),
                strict,
                builder,
            )
            results = HANDLERS[node.op_type](call)
        except TooLargeError as error:
            raise TooLargeError(f"{where}: {error}") from None
        except StablenetError:
            raise
        except MemoryError:
            raise TooLargeError(f"{where}: needs more memory than there is (see --memory-limit)") from None
        except Exception as error:
            # A malformed node can make NumPy raise anything; the message must name the node.
            raise NetworkError(f"{where}: cannot be computed ({one_line(error)})") from error
        results = results if isinstance(results, tuple) else (results,)
        for name, value in zip(node.output, results, strict=False):
            values[name] = self._settled(value, i, strict=strict)
        lost = [name for name in node.output[len(results) :] if name and name in self._consumed]
        if lost:
            raise UnsupportedOperatorError(f"{where}: its output {lost[0]!r} is used; only the first one is supported")

    def _settled(self, value: Value, i: int, *, strict: bool) -> Value:
        """A node's result: constants as such, the node noted, the batch axis checked."""
        if isinstance(value, Constant):
            return value
        if not value.terms:
            if self.absolute and value.roundings:
                raise UnsupportedOperatorError(
                    f"node {self.labels[i]!r} ({self.graph.node[i].op_type}): computes with constants, which float32 "
                    "rounds too; fold them before export, or use --arithmetic real"
                )
            return Constant(value.offset.reshape(value.shape), value.error)
        work(len(value.nodes) // 8)
        node = self.graph.node[i]
        if strict and value.batch is None:
            raise UnsupportedOperatorError(
                f"node {self.labels[i]!r} ({node.op_type}): mixes the batch dimension with others; "
                "fix the batch size of the file to 1 if that is what it is made for"
            )
        return value if node.op_type == "Relu" else replace(value, nodes=value.nodes | {i})

    def _constants(self) -> dict[str, Value]:
        import onnx

        values: dict[str, Value] = {}
        for tensor in self.graph.initializer:
            if tensor.name not in self._consumed:
                continue
            try:
                values[tensor.name] = Constant(onnx.numpy_helper.to_array(tensor))
            except Exception as error:
                raise NetworkError(f"initializer {tensor.name!r} cannot be read ({one_line(error)})") from None
        return values

    def _input(self) -> _Port:
        known = {tensor.name for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in known]
        if len(inputs) != 1:
            raise NetworkError(f"{_listed('input', [v.name for v in inputs])}; a network with one is expected")
        kind = inputs[0].type.tensor_type
        if kind.elem_type not in FLOAT_TYPES:
            raise NetworkError(
                f"input {inputs[0].name!r} has element type {_type_name(kind.elem_type)}; "
                f"one of {', '.join(FLOAT_TYPES.values())} is expected"
            )
        if not kind.HasField("shape"):
            raise NetworkError(f"input {inputs[0].name!r} has no shape; known dimensions are expected")
        dims = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else 0 for dim in kind.shape.dim]
        symbolic = len(dims) > 1 and dims[0] <= 0
        if symbolic:
            dims[0] = 1
        if prod(dims) > MOST_ELEMENTS:
            raise NetworkError(
                f"input {inputs[0].name!r} of shape {dims}; at most {MOST_ELEMENTS} elements are supported"
            )
        unknown = [i for i, n in enumerate(dims) if n <= 0]
        if unknown:
            dim = kind.shape.dim[unknown[0]]
            raise NetworkError(
                f"input {inputs[0].name!r}: dimension {unknown[0]} is {dim.dim_param or 'unknown'!r}; "
                "all dimensions but a leading batch must be known numbers"
            )
        return _Port(inputs[0].name, tuple(dims), symbolic, FLOAT_TYPES[kind.elem_type])

    def _output(self) -> str:
        names = [value.name for value in self.graph.output]
        if len(names) != 1:
            raise NetworkError(f"{_listed('output', names)}; a network with one is expected")
        return str(names[0])

    def _used_nodes(self) -> list[int]:
        """The nodes that the output needs, in the file's order, which must be a topological one."""
        if self.graph.sparse_initializer:
            raise NetworkError("sparse initializers are not supported; store them dense")
        known = {tensor.name for tensor in self.graph.initializer} | {self.port.name, ""}
        producers = {name: i for i, node in enumerate(self.graph.node) for name in node.output if name}
        for i, node in enumerate(self.graph.node):
            missing = next((name for name in node.input if name not in known), None)
            if missing is not None:
                raise NetworkError(f"node {self.labels[i]!r} ({node.op_type}) {self._why(missing, producers)}")
            known.update(node.output)
        if self.output not in known:
            raise NetworkError(f"output {self.output!r} is not computed by any node")
        needed, used = {self.output}, []
        for i in reversed(range(len(self.graph.node))):
            if needed.intersection(self.graph.node[i].output):
                used.append(i)
                needed.update(name for name in self.graph.node[i].input if name)
        self._consumed = needed
        return used[::-1]

    def _why(self, name: str, producers: dict[str, int]) -> str:
        """Why a tensor is missing when it is needed: never computed, in a cycle, or computed later in the file."""
        if name not in producers:
            return f"needs {name!r}, which nothing computes"
        pending, seen = [producers[name]], set()
        while pending:
            i = pending.pop()
            seen.add(i)
            sources = {producers[n] for n in self.graph.node[i].input if n in producers}
            if producers[name] in sources:
                return f"needs {name!r}, which is part of a cycle; a feed-forward network is expected"
            pending.extend(sources - seen)
        return f"needs {name!r} before it is computed; ONNX demands that nodes are sorted"

    def _check_operators(self) -> None:
        supported = supported_operators()
        listed = ", ".join(supported)
        for i in self.used:
            node = self.graph.node[i]
            named = f"node {self.labels[i]!r}: operator {node.op_type!r}"
            if node.domain not in ("", "ai.onnx"):
                raise UnsupportedOperatorError(
                    f"{named} of domain {node.domain!r} is not supported; of ONNX' own there are: {listed}"
                )
            if node.op_type not in supported:
                raise UnsupportedOperatorError(f"{named} is not supported; supported are: {listed}")

    def _check_model(self) -> None:
        import onnx

        # The checker requires a shape of the output, which runtimes and this reader do not need.
        self.graph.output[0].type.tensor_type.shape.SetInParent()
        try:
            onnx.checker.check_model(self.model)
        except Exception as error:
            raise NetworkError(f"is no valid ONNX network ({one_line(error)})") from None


def _listed(kind: str, names: Sequence[str]) -> str:
    return f"{len(names)} {kind}s ({', '.join(map(repr, names))})" if names else f"no {kind}"


def _type_name(number: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return str(number)


def _opset(model: Any) -> int:
    versions: Iterable[int] = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    version = max(versions, default=0)
    if not OPSETS[0] <= version <= OPSETS[1]:
        found = f"opset {version}" if version else "no opset of the default domain"
        raise NetworkError(f"{found}; opsets {OPSETS[0]} to {OPSETS[1]} are supported")
    return version
