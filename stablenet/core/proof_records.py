"""Reading proof files (docs/proofs.md): records of a JSON header and arrays; only their form is checked here."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import InputError

MAGIC = b"stablenet.proof/1\n"
TYPES = ("<f8", "<f4", "<u4", "<u1", "<i1")


class ProofError(InputError):
    """A proof file that is malformed, or about something else."""


@dataclass(frozen=True)
class Record:
    """Its number and kind, the header's other values, and the arrays by name: float64, or int64."""

    number: int
    kind: str
    values: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]

    def fail(self, words: str) -> ProofError:
        """An error that names the record."""
        return ProofError(f"the proof's record {self.number} ({self.kind!r}): {words}")

    def whole(self, name: str, below: int) -> int:
        """A whole number of the header from 0 up to, not including, ``below``."""
        value = self.values.get(name)
        if type(value) is not int or not 0 <= value < below:
            raise self.fail(f"{name} {value!r}; a whole number below {below} is expected")
        return value

    def _array(self, name: str, kind: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
        found = self.arrays.get(name, np.zeros(0, "?"))
        fits = found.dtype.kind == kind and found.ndim == len(shape)
        if not fits or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
            raise self.fail(f"array {name!r} is missing or not of its type and shape")
        return found

    def indices(self, name: str, length: int | None, below: int) -> npt.NDArray[np.intp]:
        """An array of whole numbers from 0 up to, not including, ``below``."""
        found = self._array(name, "i", (length,))
        if len(found) and not (found.min() >= 0 and found.max() < below):
            raise self.fail(f"array {name!r} does not hold whole numbers below {below}")
        return np.asarray(found, np.intp)

    def signs(self, name: str, length: int) -> npt.NDArray[np.float64]:
        """An array of 1 and -1, as float64."""
        found = self._array(name, "i", (length,))
        if not np.isin(found, (-1, 1)).all():
            raise self.fail(f"array {name!r} does not hold signs")
        return found.astype(np.float64)

    def numbers(self, name: str, *shape: int) -> npt.NDArray[np.float64]:
        """An array of finite numbers."""
        found = self._array(name, "f", shape)
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
            while len(lengths := file.read(12)) == 12:
                n_header, n_payload, checksum = np.frombuffer(lengths, "<u4").tolist()
                body = file.read(n_header + n_payload)
                if len(body) < n_header + n_payload:
                    return
                if zlib.crc32(body) != checksum:
                    raise ProofError(f"the proof's record {number} is damaged (its checksum is another)")
                yield _record(number, body[:n_header], body[n_header:])
                number += 1
    except OSError as error:
        raise ProofError(f"{path}: cannot be read ({error.strerror})") from None


def _record(number: int, text: bytes, payload: bytes) -> Record:
    arrays: dict[str, npt.NDArray[Any]] = {}
    at = 0
    try:
        header = json.loads(text)
        for name, kind, shape in header.pop("arrays"):
            stop = at + math.prod(shape) * np.dtype(kind).itemsize
            if kind not in TYPES or name in arrays or any(n < 0 for n in shape) or stop > len(payload):
                raise ValueError(f"array {name!r}")
            array = np.frombuffer(payload[at:stop], kind).reshape(shape)
            arrays[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
            at = stop
        return Record(number, str(header.pop("kind")), header, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(f"the proof's record {number} is malformed ({type(error).__name__}: {error})") from None
