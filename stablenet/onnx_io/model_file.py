"""ONNX files as they are stored: read up to a length, parsed, external data included."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from stablenet.core.errors import NetworkError, TooLargeError
from stablenet.core.inputs import open_input, read_input

MOST_BYTES = 2**28
"""Longest file that is read, and most external data."""


def parse_onnx(path: str | Path) -> Any:
    """The ONNX ``ModelProto`` of a file, external data included, not checked further; raises `NetworkError`."""
    file = Path(path)
    return parse_model(read_model(file), file)[0]


def read_model(file: Path) -> bytes:
    """The bytes of a file that may be an ONNX model, by its outermost fields; raises `NetworkError`."""
    with open_input(file, NetworkError, MOST_BYTES) as opened:
        size = os.fstat(opened.fileno()).st_size
        if not size:
            raise NetworkError(f"{file}: is empty; an ONNX file is expected")
        if not _has_fields(opened, size):
            raise NetworkError(f"{file}: is no ONNX file, or a truncated one")
    return read_input(file, NetworkError, MOST_BYTES)


def _has_fields(file: BinaryIO, size: int) -> bool:
    """Whether a file is a sequence of Protocol Buffers fields; their contents are skipped."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(20)
        tag, used = _varint(head)
        kind = tag & 7
        if tag < 8 or kind not in (0, 1, 2, 5):
            return False
        value, more = _varint(head[used:]) if kind in (0, 2) else (0, 0)
        if not used or (kind in (0, 2) and not more):
            return False
        position += used + more + {0: 0, 1: 8, 2: value, 5: 4}[kind]
    return position == size


def _varint(data: bytes) -> tuple[int, int]:
    """A number of variable length and how many bytes it takes, 0 if it does not end."""
    value = 0
    for i, byte in enumerate(data[:10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, i + 1
    return 0, 0


def one_line(error: BaseException) -> str:
    """The message of an error of another package on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}…"


def parse_model(data: bytes, file: Path) -> tuple[Any, list[Any]]:
    """The ONNX ``ModelProto`` in a file's bytes, external data included, and the tensors with that data, in file order.

    Raises `NetworkError`.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise NetworkError(f"{file}: is no ONNX file, or a truncated one ({one_line(error)})") from None
    if not model.graph.node or not model.graph.output:
        raise NetworkError(f"{file}: is no ONNX network: it has no nodes or no outputs")
    _check_external(model, file)
    outside = [tensor for tensor in _tensors(model) if onnx.external_data_helper.uses_external_data(tensor)]
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(file.parent))
    except Exception as error:
        raise NetworkError(f"{file}: its external data cannot be read ({one_line(error)})") from None
    return model, outside


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors of a model's graph: initializers and attributes, those of inner graphs as well."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            for entry in node.attribute:
                yield from (*([entry.t] if entry.HasField("t") else []), *entry.tensors)
                graphs += [*([entry.g] if entry.HasField("g") else []), *entry.graphs]


def _check_external(model: Any, file: Path) -> None:
    """Refuse external data that is too long, or no regular file, before it is read."""
    total = 0
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        given = {entry.key: entry.value for entry in tensor.external_data}
        target = file.parent / given.get("location", "")
        try:
            found = target.stat()
            length = int(given.get("length", found.st_size))
        except (OSError, ValueError) as error:
            raise NetworkError(f"{file}: its external data cannot be read ({one_line(error)})") from None
        if not stat.S_ISREG(found.st_mode):
            raise NetworkError(f"{file}: its external data {str(target)!r} is no regular file")
        total += min(max(length, 0), found.st_size) if "length" in given else found.st_size
    if total > MOST_BYTES:
        raise TooLargeError(f"{file}: has {total:,} bytes of external data; at most {MOST_BYTES:,} are read")


def stored_numbers(model: Any) -> int:
    """How many numbers a model stores: half a byte each at least, whatever its dimensions say."""
    return sum(min(max(prod(tensor.dims), 0), 2 * tensor.ByteSize()) for tensor in _tensors(model))
