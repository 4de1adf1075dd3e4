"""Reading proof files (docs/proofs.md): records of a JSON header and arrays, believed in nothing but their form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import InputError

MAGIC = b"stablenet.proof/1\n"
TYPES = ("<f8", "<f4", "<u4", "<u1", "<i1")
LARGEST = 2**31


class ProofError(InputError):
    """A proof file that is not one."""


@dataclass(frozen=True)
class Record:
    """``kind``, the header's other values, and the arrays by name."""

    number: int
    kind: str
    values: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]

    def fail(self, words: str) -> ProofError:
        """An error that names the record."""
        return ProofError(f"the proof's record {self.number} ({self.kind!r}): {words}")

    def whole(self, name: str, below: int) -> int:
        """A whole number from 0 up to, not including, ``below``."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise self.fail(f"{name} {value!r}; a whole number below {below} is expected")
        return value

    def array(self, name: str, *shape: int) -> npt.NDArray[Any]:
        """An array, as whole numbers (int64) or float64, of a shape in which -1 stands for any length."""
        found = self.arrays.get(name)
        if (
            found is None
            or found.ndim != len(shape)
            or any(s not in (-1, n) for s, n in zip(shape, found.shape, strict=True))
        ):
            raise self.fail(f"array {name!r} is missing or not of shape {shape}")
        return found

    def indices(self, name: str, length: int, below: int) -> npt.NDArray[np.intp]:
        """Whole numbers below a limit."""
        found = self.array(name, length)
        if found.dtype.kind != "i" or (len(found) and not (found.min() >= 0 and found.max() < below)):
            raise self.fail(f"array {name!r} does not hold whole numbers below {below}")
        return np.asarray(found, np.intp)

    def numbers(self, name: str, *shape: int) -> npt.NDArray[np.float64]:
        """Finite numbers."""
        found = np.asarray(self.array(name, *shape), np.float64)
        if not np.isfinite(found).all():
            raise self.fail(f"array {name!r} holds a number that is not finite")
        return found


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a file, in order. What a run that was ended had not written to its end is left out."""
    try:
        with Path(path).open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ProofError(f"{path}: not a proof file of this version")
            number = 0
            while (record := _next(file, number)) is not None:
                yield record
                number += 1
    except OSError as error:
        raise ProofError(f"{path}: cannot be read ({error.strerror})") from None


def _next(file: BinaryIO, number: int) -> Record | None:
    lengths = file.read(12)
    if len(lengths) < 12:
        return None
    n_header, n_payload, check = (int(n) for n in np.frombuffer(lengths, "<u4"))
    if n_header > LARGEST or n_payload > LARGEST:
        raise ProofError(f"the proof's record {number} is too long")
    body = file.read(n_header + n_payload)
    if len(body) < n_header + n_payload:
        return None
    if zlib.crc32(body) != check:
        raise ProofError(f"the proof's record {number} is damaged (its checksum is another)")
    try:
        header = json.loads(body[:n_header])
        layout = header.pop("arrays", [])
        return Record(number, str(header.pop("kind")), header, _arrays(layout, body[n_header:]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(f"the proof's record {number} is malformed ({type(error).__name__}: {error})") from None


def _arrays(layout: list[list[Any]], payload: bytes) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for name, kind, shape in layout:
        if kind not in TYPES or not all(isinstance(n, int) and 0 <= n <= LARGEST for n in shape) or name in found:
            raise ValueError(f"array {name!r} of type {kind!r} and shape {shape!r}")
        count = 1
        for n in shape:
            count *= n
        stop = at + count * np.dtype(kind).itemsize
        if stop > len(payload):
            raise ValueError("arrays longer than the record")
        array = np.frombuffer(payload[at:stop], kind).reshape(shape)
        # Small types would wrap around in sums and comparisons.
        found[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        at = stop
    if at != len(payload):
        raise ValueError("bytes that belong to no array")
    return found
