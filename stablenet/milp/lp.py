"""A `MILP` in the CPLEX LP format, in the dialect that HiGHS, SCIP, CBC and Gurobi all read.

Ranges become two rows, a constant in the objective a column fixed at 1. Numbers are written so that they
read back exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from stablenet.core.files import atomic_path
from stablenet.milp.arrays import MILP, Rows

_KEYWORDS = {"st", "s.t.", "such", "subject", "to", "bounds", "bound", "free", "binary", "binaries", "bin", "general"}
_KEYWORDS |= {"generals", "gen", "integer", "integers", "int", "end", "sos", "inf", "infinity", "max", "min"}
_KEYWORDS |= {"maximize", "minimize", "maximise", "minimise", "maximum", "minimum", "semi", "semis"}


def safe_names(names: Sequence[str], count: int, prefix: str) -> list[str]:
    """Names that every reader of LP files takes, all different: brackets become underscores, ``x[3]`` ``x_3``."""
    wanted = list(names) if names else [f"{prefix}{i}" for i in range(count)]
    taken: set[str] = set()
    result = []
    for i, name in enumerate(wanted):
        safe = re.sub(r"[^A-Za-z0-9_.]", "_", name.replace("]", ""))
        if not re.match(r"[A-DF-Za-df-z_]", safe) or safe.lower() in _KEYWORDS or len(safe) > 200:
            safe = f"{prefix}{i}_{safe[:180]}"
        if safe in taken:
            safe = f"{safe}__{i}"
        taken.add(safe)
        result.append(safe)
    return result


def write_lp(milp: MILP, path: Path) -> None:
    """Write a `MILP` as LP file, atomically; raises `InputError` if the path can't be written."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        for line in _lines(milp):
            file.write(line)
            file.write("\n")


def _lines(milp: MILP) -> Iterator[str]:
    columns = safe_names(milp.columns, milp.n_columns, "c")
    rows = safe_names(milp.row_names, milp.n_rows, "r")
    one = _free_name("one", columns)
    yield "Maximize" if milp.maximize else "Minimize"
    used = np.flatnonzero(milp.objective)
    objective = _terms(milp.objective[used].tolist(), [columns[j] for j in used])
    if milp.constant:
        objective += _terms([milp.constant], [one])
    yield from _wrapped(" obj:", objective or [f"0 {columns[0]}" if columns else ""])
    yield "Subject To"
    yield from _rows(milp.rows, columns, rows)
    yield from _indicators(milp, columns)
    yield "Bounds"
    yield from _bounds(milp, columns)
    if milp.constant:
        yield f" {one} = 1"
    binary = milp.integer & (milp.lower == 0) & (milp.upper == 1)
    for title, chosen in (("Binaries", binary), ("Generals", milp.integer & ~binary)):
        if chosen.any():
            yield title
            yield from _wrapped("", [columns[j] for j in np.flatnonzero(chosen)])
    if milp.sos1:
        yield "SOS"
        for i, members in enumerate(milp.sos1):
            yield f" sos{i}: S1:: " + " ".join(f"{columns[j]}:{weight}" for weight, j in enumerate(members, 1))
    yield "End"


def _free_name(name: str, taken: Iterable[str]) -> str:
    known = set(taken)
    while name in known:
        name += "_"
    return name


def _terms(coefficients: Sequence[float], names: Sequence[str]) -> list[str]:
    return [f"{c:+} {name}" for c, name in zip(coefficients, names, strict=True)]


def _wrapped(head: str, words: Sequence[str]) -> Iterator[str]:
    """Short lines: some readers cut at 255 or 510 characters."""
    if not words:
        yield head
    for start in range(0, len(words), 4):
        yield (head if start == 0 else " ") + " " + " ".join(words[start : start + 4])


def _sides(lower: float, upper: float) -> list[tuple[str, str]]:
    """Suffix of the name and right-hand side, for each row that the two sides need."""
    if lower == upper:
        return [("", f"= {lower!r}")]
    sides = []
    if upper < np.inf:
        sides.append(("_up", f"<= {upper!r}"))
    if lower > -np.inf:
        sides.append(("_lo", f">= {lower!r}"))
    return [("", sides[0][1])] if len(sides) == 1 else sides


def _row_terms(rows: Rows, columns: Sequence[str], i: int) -> list[str]:
    span = slice(rows.matrix.indptr[i], rows.matrix.indptr[i + 1])
    terms = _terms(rows.matrix.data[span].tolist(), [columns[j] for j in rows.matrix.indices[span].tolist()])
    return terms or [f"0 {columns[0]}"]


def _rows(rows: Rows, columns: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    for i, (lower, upper) in enumerate(zip(rows.lower.tolist(), rows.upper.tolist(), strict=True)):
        terms = _row_terms(rows, columns, i)
        for suffix, side in _sides(lower, upper):
            yield from _wrapped(f" {names[i]}{suffix}:", [*terms, side])


def _indicators(milp: MILP, columns: Sequence[str]) -> Iterator[str]:
    if milp.indicators is None:
        return
    rows = milp.indicators.rows
    for i, (binary, value) in enumerate(
        zip(milp.indicators.binary.tolist(), milp.indicators.value.tolist(), strict=True)
    ):
        for suffix, side in _sides(float(rows.lower[i]), float(rows.upper[i])):
            head = f" indicator{i}{suffix}: {columns[binary]} = {int(value)} ->"
            yield from _wrapped(head, [*_row_terms(rows, columns, i), side])


def _bounds(milp: MILP, columns: Sequence[str]) -> Iterator[str]:
    for name, lower, upper in zip(columns, milp.lower.tolist(), milp.upper.tolist(), strict=True):
        if lower == upper:
            yield f" {name} = {lower!r}"
        elif lower == -np.inf and upper == np.inf:
            yield f" {name} free"
        else:
            low = "-infinity" if lower == -np.inf else repr(lower)
            high = "+infinity" if upper == np.inf else repr(upper)
            yield f" {low} <= {name} <= {high}"
