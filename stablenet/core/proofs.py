"""Writing proof files (docs/proofs.md): certificates of refutations, in the order in which they were found.

A file is appended to record by record, so what stands in it when a run is ended counts.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError

MAGIC = b"stablenet.proof/1\n"
Pairs = Sequence[tuple[Array, Array]]


class ProofLog:
    """A proof file that is being written. ``path`` is created anew, or appended to if ``resume``.

    ``network`` and ``domain`` are their digests; the domain has so many parts. ``appended`` says whether the file was
    there and holds the proofs of the runs before.
    """

    def __init__(self, path: str | Path, network: str, domain: str, n_parts: int, *, resume: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self.appended = resume and self.path.exists()
        try:
            if self.appended:
                _drop_torn_end(self.path)
                _check_belongs(self.path, network, domain)
                self._file: BinaryIO = self.path.open("ab")
            else:
                self._file = self.path.open("wb")
                self._file.write(MAGIC)
        except OSError as error:
            raise InputError(f"{path}: the proof cannot be written ({error.strerror})") from None
        self.parts = [PartProof(self, number) for number in range(n_parts)]
        self.write("begin", {"network": network, "domain": domain}, {})

    def write(self, kind: str, values: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append a record."""
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        layout = [[name, array.dtype.str.replace("|", "<"), list(array.shape)] for name, array in stored.items()]
        header = json.dumps({"kind": kind, **values, "arrays": layout}, separators=(",", ":")).encode()
        payload = b"".join(array.tobytes() for array in stored.values())
        lengths = np.array([len(header), len(payload), zlib.crc32(header + payload)], "<u4")
        with self._lock:
            self._file.write(lengths.tobytes() + header + payload)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PartProof:
    """The certificates of one part of the domain."""

    def __init__(self, log: ProofLog, part: int) -> None:
        self.log = log
        self.part = part
        self._frame: bytes | None = None
        self._trees = 0

    def write(self, kind: str, values: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append a record of this part."""
        self.log.write(kind, {"part": self.part, **values}, arrays)

    def bounds(self, method: str) -> None:
        """All layers were bounded, in order, by ``interval`` or ``crown``."""
        self.write("bounds", {"method": method}, {})

    def layer(self, before: Pairs, by: str) -> None:
        """A layer was bounded by intervals and CROWN over the bounds of those before, (n_k,) each."""
        self.frame(before)
        self.write("layer", {"layer": len(before), "by": by}, {})

    def frame(self, before: Pairs) -> None:
        """Record that what follows rests on these bounds of the first layers; they are written if they are new."""
        lower = np.concatenate([np.zeros(0), *(low for low, _ in before)]).astype("<f8")
        upper = np.concatenate([np.zeros(0), *(high for _, high in before)]).astype("<f8")
        content = lower.tobytes() + upper.tobytes()
        if content != self._frame:
            self._frame = content
            self.write("frame", {"layer": len(before)}, {"lower": lower, "upper": upper})

    def new_trees(self, count: int) -> npt.NDArray[np.uint32]:
        """Numbers for trees."""
        self._trees += count
        return np.arange(self._trees - count, self._trees, dtype="<u4")

    def leaves(
        self,
        before: Pairs,
        by: str,
        arrays: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        """Leaves of trees over the next layer, and the trees that they complete; arrays as docs/proofs.md says."""
        self.frame(before)
        self.write("leaves", {"layer": len(before), "by": by}, arrays)


def ragged(dense: npt.NDArray[Any], places: npt.NDArray[np.intp], name: str, kind: str) -> dict[str, npt.NDArray[Any]]:
    """The nonzero entries of rows, (rows, n), as three arrays; ``places`` says what the columns are."""
    rows, columns = np.nonzero(dense)
    return {
        f"{name}_count": np.bincount(rows, minlength=len(dense)).astype("<u4"),
        f"{name}_at": places[columns].astype("<u4"),
        name: dense[rows, columns].astype(kind),
    }


def _check_belongs(path: Path, network: str, domain: str) -> None:
    """Raise `InputError` where the file begins with a run on another network or domain: no checker would take it."""
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        lengths = np.frombuffer(file.read(12), "<u4")
        if not len(lengths):
            return
        try:
            begun = json.loads(file.read(int(lengths[0])))
            theirs = begun["network"], begun["domain"]
        except (ValueError, LookupError, TypeError):
            raise InputError(f"{path}: a proof file that does not begin with a run") from None
    for what, told, expected in zip(("network", "domain"), theirs, (network, domain), strict=True):
        if told != expected:
            raise InputError(f"{path}: holds proofs about another {what}; a run can only append to its own")


def _drop_torn_end(path: Path) -> None:
    """Cut off a last record that was not written to its end."""
    with path.open("r+b") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{path}: not a proof file; it would be written over")
        size = path.stat().st_size
        while True:
            start = file.tell()
            lengths = file.read(12)
            stop = start + 12 + int(np.frombuffer(lengths[:8], "<u4").sum()) if len(lengths) == 12 else size + 1
            if stop > size:
                file.truncate(start)
                return
            file.seek(stop)
