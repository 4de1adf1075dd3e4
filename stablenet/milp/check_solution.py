"""Whether a point is a solution of a `MILP`, and its objective value, in exact arithmetic and without a solver.

Sums are exact: each product of two float64 numbers is the sum of two (Dekker, *A floating-point technique for extending
the available precision*, 1971), and `math.fsum` adds them with one rounding at the end.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.core.files import write_text
from stablenet.core.inputs import MOST_BYTES, read_input, read_text_input
from stablenet.milp.arrays import MILP, Rows
from stablenet.milp.mps import column_names

FEASIBLE = 1e-6
"""Largest absolute violation at which a point counts as a solution: what MIPLIB's checker allows."""

_SPLIT = 134217729.0  # 2^27 + 1


@dataclass(frozen=True)
class Checked:
    """What a point is: its objective value and its largest violations, all absolute.

    ``where`` names the row, column or set of the largest of them.
    """

    objective: float
    rows: float
    bounds: float
    integrality: float
    sets: float
    where: str

    @property
    def violation(self) -> float:
        """The largest of all."""
        return max(self.rows, self.bounds, self.integrality, self.sets)

    def feasible(self, tolerance: float = FEASIBLE) -> bool:
        """Whether no violation is above a tolerance."""
        return self.violation <= tolerance


def check_solution(milp: MILP, x: Array) -> Checked:
    """Check a point, (n,). Integer columns are not rounded first; an indicator's column is read at its nearest value.

    Raises `InputError` for a point of another length, or with an entry that is not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.shape != (milp.n_columns,) or not np.isfinite(x).all():
        raise InputError(f"a solution of {milp.n_columns} finite numbers is expected")
    names = column_names(milp)
    outside = np.maximum(np.maximum(milp.lower - x, x - milp.upper), 0.0)
    broken = np.where(milp.integer, np.abs(x - np.round(x)), 0.0)
    beyond = _beyond(milp.rows, x)
    worst = [
        (_most(beyond), "row", milp.row_names or [f"r{i}" for i in range(milp.n_rows)]),
        (_most(outside), "bounds of column", names),
        (_most(broken), "integrality of column", names),
    ]
    sets = [float(np.sort(np.abs(x[members]))[:-1].max(initial=0.0)) for members in milp.sos1]
    worst.append((_most(np.array(sets)), "SOS1 set", [f"sos{k}" for k in range(len(sets))]))
    row = worst[0][0][0]
    if milp.indicators is not None:
        on = np.round(x[milp.indicators.binary]).astype(bool) == milp.indicators.value
        guarded = np.where(on, _beyond(milp.indicators.rows, x), 0.0)
        worst.append((_most(guarded), "indicator row", [f"indicator {i}" for i in range(len(on))]))
        row = max(row, _most(guarded)[0])
    (value, index), kind, labels = max(worst, key=lambda entry: entry[0][0])
    objective = _dot(milp.objective, x, milp.constant)
    where = f"{kind} {labels[index]}" if value > 0 else ""
    return Checked(objective, row, worst[1][0][0], worst[2][0][0], worst[3][0][0], where)


def _most(values: Array) -> tuple[float, int]:
    return (float(values.max()), int(values.argmax())) if len(values) else (0.0, 0)


def _products(a: Array, b: Array) -> tuple[Array, Array]:
    """``p + e == a * b`` exactly, barring overflow and underflow."""
    high_a, high_b = _high(a), _high(b)
    p = a * b
    error = ((high_a * high_b - p) + high_a * (b - high_b) + (a - high_a) * high_b) + (a - high_a) * (b - high_b)
    return p, error


def _high(a: Array) -> Array:
    big = _SPLIT * a
    return big - (big - a)


def _dot(a: Array, b: Array, start: float = 0.0) -> float:
    p, e = _products(a, b)
    return math.fsum([start, *p.tolist(), *e.tolist()])


def _beyond(rows: Rows, x: Array) -> Array:
    """By how much each row is violated, (m,)."""
    matrix = rows.matrix
    p, e = _products(matrix.data, x[matrix.indices])
    both = np.stack([p, e], axis=1).ravel().tolist()
    begin = (2 * matrix.indptr).tolist()
    result = np.zeros(len(rows.lower))
    for i, (low, high) in enumerate(zip(rows.lower.tolist(), rows.upper.tolist(), strict=True)):
        terms = both[begin[i] : begin[i + 1]]
        if low > -math.inf:
            result[i] = max(0.0, -math.fsum([*terms, -low]))
        if high < math.inf:
            result[i] = max(result[i], math.fsum([*terms, -high]))
    return result


def write_solution(milp: MILP, x: Array, path: Path) -> None:
    """Write a point as a file of names and values in MIPLIB's form; columns of value 0 are left out."""
    write_text(path, solution_text(milp, x))


def solution_text(milp: MILP, x: Array) -> str:
    """The text that `write_solution` writes."""
    lines = [f"=obj= {_dot(milp.objective, x, milp.constant)!r}\n"]
    lines += [f"{name} {value!r}\n" for name, value in zip(column_names(milp), x.tolist(), strict=True) if value]
    return "".join(lines)


def read_solution(milp: MILP, path: Path) -> Array:
    """The point of a file that `write_solution`, or MIPLIB, wrote, (n,), plain or gzipped.

    Raises `InputError` for anything else.
    """
    place: Mapping[str, int] = {name: j for j, name in enumerate(column_names(milp))}
    x = np.zeros(milp.n_columns)
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(("#", "=obj=")):
            continue
        try:
            name, value = words
            x[place[name]] = float(value)
        except (ValueError, KeyError):
            raise InputError(f"{path}, line {number}: a column of the model and its value are expected") from None
    return x


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return read_text_input(path)
    try:
        with gzip.open(io.BytesIO(read_input(path))) as stream:
            return stream.read(MOST_BYTES).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a gzip file of text ({error})") from None
