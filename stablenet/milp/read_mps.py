"""Reads free-format MPS files, plain or gzipped, as a `MILP` with names.

Sections: NAME, OBJSENSE, ROWS, COLUMNS with integer markers, RHS, RANGES, BOUNDS, SOS of type 1, INDICATORS. What is
not understood is refused by line number, never skipped.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.errors import InputError
from stablenet.core.inputs import read_input
from stablenet.milp.arrays import MILP, Indicators, Rows

SUFFIXES = (".mps", ".mps.gz")
MOST_BYTES = 2**29
"""Longest text of a model that is read."""

_BINARY, _INTEGER_DEFAULT = (0.0, 1.0), (0.0, np.inf)


def read_mps(path: Path | str) -> MILP:
    """The model of a file. Raises `InputError`, with the line's number, for what is no MPS file."""
    raw = read_input(path, most=MOST_BYTES)
    if str(path).endswith(".gz"):
        try:
            with gzip.open(io.BytesIO(raw)) as stream:
                raw = stream.read(MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: not a gzip file ({error})") from None
        if len(raw) > MOST_BYTES:
            raise InputError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes")
    reader = _Reader(path)
    try:
        for line in raw.decode("utf-8").splitlines():
            reader.take(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8") from None
    return reader.model()


class _Reader:
    """The parser's state after the lines read so far."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.number = 0
        self.section = ""
        self.maximize = False
        self.integer = False
        self.objective: str | None = None
        self.free: set[str] = set()
        self.kinds: list[str] = []
        self.rows: dict[str, int] = {}
        self.columns: dict[str, int] = {}
        self.integers: list[bool] = []
        self.cost: dict[int, float] = {}
        self.constant = 0.0
        self.entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.side: dict[int, float] = {}
        self.ranges: dict[int, float] = {}
        self.lower: dict[int, float] = {}
        self.upper: dict[int, float] = {}
        self.sets: list[list[tuple[float, int]]] = []
        self.guards: dict[int, tuple[int, int]] = {}
        self.done = False
        self.handlers: dict[str, Callable[[list[str]], None]] = {
            "OBJSENSE": self._sense, "ROWS": self._row, "COLUMNS": self._column, "RHS": self._right,
            "RANGES": self._range, "BOUNDS": self._bound, "SOS": self._set, "INDICATORS": self._indicator,
        }  # fmt: skip

    def wrong(self, what: str) -> InputError:
        """An error at the line under way."""
        return InputError(f"{self.path}, line {self.number}: {what}")

    def take(self, line: str) -> None:
        """One line."""
        self.number += 1
        if not line.strip() or line.startswith("*"):
            return
        if self.done:
            raise self.wrong("text after ENDATA")
        words = line.split()
        if line[0] not in " \t":
            self._head(words)
            return
        handler = self.handlers.get(self.section)
        if handler is None:
            raise self.wrong(f"data in section {self.section or 'none'!r}")
        handler(words)

    def _head(self, words: list[str]) -> None:
        self.section = words[0].upper()
        if self.section == "ENDATA":
            self.done = True
        elif self.section == "OBJSENSE" and len(words) > 1:
            self._sense(words[1:])
        elif self.section not in {"NAME", *self.handlers}:
            raise self.wrong(f"section {words[0]!r} is not known")

    def _number(self, word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            raise self.wrong(f"{word!r} is no number") from None
        if np.isnan(value):
            raise self.wrong("not a number")
        # What MPS files call infinite.
        return value if abs(value) < 1e20 else float(np.copysign(np.inf, value))

    def _column_of(self, word: str) -> int:
        if word not in self.columns:
            raise self.wrong(f"column {word!r} is not known")
        return self.columns[word]

    def _row_of(self, word: str) -> int:
        if word not in self.rows:
            raise self.wrong(f"row {word!r} is not known")
        return self.rows[word]

    def _sense(self, words: list[str]) -> None:
        word = words[0].upper()
        if word not in {"MAX", "MAXIMIZE", "MIN", "MINIMIZE"}:
            raise self.wrong(f"objective sense {word!r}")
        self.maximize = word.startswith("MAX")

    def _row(self, words: list[str]) -> None:
        if len(words) != 2 or words[0].upper() not in {"N", "L", "G", "E"}:
            raise self.wrong("a kind (N, L, G, E) and a name are expected")
        kind, name = words[0].upper(), words[1]
        if name in self.rows or name in self.free or name == self.objective:
            raise self.wrong(f"row {name!r} occurs twice")
        if kind != "N":
            self.rows[name] = len(self.kinds)
            self.kinds.append(kind)
        elif self.objective is None:
            self.objective = name
        else:
            self.free.add(name)  # a row without sides restricts nothing

    def _pairs(self, words: Sequence[str]) -> list[tuple[str, float]]:
        if len(words) % 2:
            raise self.wrong("pairs of a name and a number are expected")
        return [(words[i], self._number(words[i + 1])) for i in range(0, len(words), 2)]

    def _column(self, words: list[str]) -> None:
        if len(words) == 3 and words[1].strip("'") == "MARKER":
            self.integer = words[2].strip("'") == "INTORG"
            return
        name = words[0]
        j = self.columns.setdefault(name, len(self.columns))
        if j == len(self.integers):
            self.integers.append(self.integer)
        elif j != len(self.integers) - 1:
            raise self.wrong(f"column {name!r} comes again after another one")
        for row, value in self._pairs(words[1:]):
            if row == self.objective:
                self.cost[j] = self.cost.get(j, 0.0) + value
            elif row not in self.free:
                places, columns, values = self.entries
                places.append(self._row_of(row))
                columns.append(j)
                values.append(value)

    def _right(self, words: list[str]) -> None:
        for row, value in self._pairs(words[len(words) % 2 :]):
            if row == self.objective:
                self.constant = -value
            elif row not in self.free:
                self.side[self._row_of(row)] = value

    def _range(self, words: list[str]) -> None:
        for row, value in self._pairs(words[len(words) % 2 :]):
            if row not in self.free:
                self.ranges[self._row_of(row)] = value

    def _bound(self, words: list[str]) -> None:
        kind = words[0].upper()
        needs = kind not in {"FR", "MI", "PL", "BV"}
        # The name of the set of bounds may be left out.
        rest = words[1:] if len(words) == (3 if needs else 2) else words[2:]
        if len(rest) != 1 + needs and not (len(rest) == 2 and not needs):
            raise self.wrong("a kind, a column and a number where the kind needs one are expected")
        j = self._column_of(rest[0])
        value = self._number(rest[1]) if needs else 0.0
        if kind in {"BV", "LI", "UI"}:
            self.integers[j] = True
        if kind in {"LO", "LI", "FX"}:
            self.lower[j] = value
        if kind in {"UP", "UI", "FX"}:
            self.upper[j] = value
            if value < 0 and kind != "FX" and j not in self.lower:
                raise self.wrong(
                    "an upper bound below 0 without a lower bound means different things to different programs"
                )
        if kind in {"FR", "MI"}:
            self.lower[j] = -np.inf
        if kind in {"FR", "PL"}:
            self.upper[j] = np.inf
        if kind == "BV":
            self.lower[j], self.upper[j] = _BINARY
        if kind not in {"LO", "LI", "UP", "UI", "FX", "FR", "MI", "PL", "BV"}:
            raise self.wrong(f"bound kind {words[0]!r} is not known")

    def _set(self, words: list[str]) -> None:
        if words[0].upper() in {"S1", "S2"} and len(words) <= 3 and words[0] not in self.columns:
            if words[0].upper() == "S2":
                raise self.wrong("SOS sets of type 2 are not supported")
            self.sets.append([])
            return
        if not self.sets or len(words) != 2:
            raise self.wrong("a set's head, or a column and its weight, is expected")
        self.sets[-1].append((self._number(words[1]), self._column_of(words[0])))

    def _indicator(self, words: list[str]) -> None:
        if len(words) != 4 or words[0].upper() != "IF" or words[3] not in {"0", "1"}:
            raise self.wrong("IF, a row, a column, and 0 or 1 are expected")
        self.guards[self._row_of(words[1])] = (self._column_of(words[2]), int(words[3]))

    def model(self) -> MILP:
        """The model, once all lines were taken."""
        if not self.done:
            raise self.wrong("the file ends without ENDATA")
        if self.objective is None:
            raise self.wrong("there is no objective (a row of kind N)")
        n, m = len(self.columns), len(self.kinds)
        row, column, value = self.entries
        matrix = sparse.csr_array((np.array(value, dtype=float), (row, column)), shape=(m, n))
        low, high = self._sides()
        integer = np.array(self.integers, dtype=bool)
        lower, upper = np.zeros(n), np.full(n, np.inf)
        # An integer column without bounds is read as binary by some programs, as unbounded by others.
        for j in np.flatnonzero(integer):
            if j not in self.lower and j not in self.upper:
                name = list(self.columns)[j]
                raise InputError(f"{self.path}: integer column {name!r} has no bounds, which programs read differently")
        for bounds, given in ((lower, self.lower), (upper, self.upper)):
            bounds[list(given)] = list(given.values())
        names = list(self.rows)
        guarded = np.array(sorted(self.guards), dtype=np.intp)
        plain = np.setdiff1d(np.arange(m), guarded)
        indicators = None
        if len(guarded):
            pairs = [self.guards[i] for i in guarded.tolist()]
            indicators = Indicators(
                np.array([j for j, _ in pairs], dtype=np.intp), np.array([bool(on) for _, on in pairs]),
                _some(matrix, low, high, guarded),
            )  # fmt: skip
        cost = np.zeros(n)
        cost[list(self.cost)] = list(self.cost.values())
        return MILP(
            _some(matrix, low, high, plain), lower, upper, integer, cost, self.constant, self.maximize,
            tuple(np.array([j for _, j in sorted(members)], dtype=np.intp) for members in self.sets), indicators,
            list(self.columns), [names[i] for i in plain.tolist()],
        )  # fmt: skip

    def _sides(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Lower and upper sides of the rows, (m,) each."""
        m = len(self.kinds)
        low, high = np.full(m, -np.inf), np.full(m, np.inf)
        for i, kind in enumerate(self.kinds):
            side, width = self.side.get(i, 0.0), self.ranges.get(i)
            if kind in "GE":
                low[i] = side
            if kind in "LE":
                high[i] = side
            if width is None:
                continue
            if kind == "G":
                high[i] = side + abs(width)
            elif kind == "L":
                low[i] = side - abs(width)
            else:
                low[i], high[i] = side + min(width, 0.0), side + max(width, 0.0)
        return low, high


def _some(matrix: sparse.csr_array, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64],
          which: npt.NDArray[np.intp]) -> Rows:  # fmt: skip
    return Rows(sparse.csr_array(matrix[which]), low[which], high[which])
