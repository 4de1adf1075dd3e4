"""Writes a `MILP` as a free-format MPS file that HiGHS, SCIP, CBC and Gurobi read alike.

Numbers are written so that reading them gives the same float64 again. What the format does not state in the same
way for all readers is avoided: bounds of integer columns are always written, a lower bound stands before
its upper one, an indicator row has one side, and a row without sides, which means nothing, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.milp.arrays import MILP, Rows

OBJECTIVE = "obj"


def write_mps(milp: MILP, path: Path, *, name: str = "stablenet", numbered: bool = False) -> None:
    """Write the model to ``path``; with ``numbered``, columns are called c0 and so on, rows r0 and so on.

    Otherwise the names of the `MILP` are used. Raises `InputError` for names that the format cannot hold.
    """
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(mps_chunks(milp, name=name, numbered=numbered))


def column_names(milp: MILP, *, numbered: bool = False) -> list[str]:
    """The columns' names in files."""
    return _names("column", () if numbered else milp.columns, "c", milp.n_columns)


def mps_chunks(milp: MILP, *, name: str = "stablenet", numbered: bool = False) -> Iterator[str]:
    """The text of the file, in pieces."""
    columns = column_names(milp, numbered=numbered)
    names = _names("row", () if numbered else milp.row_names, "r", milp.n_rows)
    indicators, guards = _indicator_rows(milp)
    rows = _stack(milp.rows, indicators)
    names += _distinct([f"indicator_{i}" for i in range(len(guards))], names)
    kinds = _kinds(rows)
    yield f"NAME {_word('model', name)}\n"
    if milp.maximize:
        yield "OBJSENSE\n    MAX\n"
    yield f"ROWS\n N {OBJECTIVE}\n"
    yield from (f" {kind} {row}\n" for kind, row in zip(kinds, names, strict=True) if kind != "N")
    yield "COLUMNS\n"
    yield from _columns(milp, rows, columns, names, kinds)
    yield "RHS\n"
    yield from _sides(milp, rows, names, kinds)
    yield "BOUNDS\n"
    yield from _bounds(milp, columns)
    yield from _special(milp, columns, guards, names[milp.n_rows :])
    yield "ENDATA\n"


def _names(what: str, given: Sequence[str], letter: str, count: int) -> list[str]:
    if not given:
        return [f"{letter}{i}" for i in range(count)]
    if len(given) != count:
        raise InputError(f"{len(given)} {what} names where {count} are expected")
    names = [_word(what, name) for name in given]
    if len(set(names)) < count:
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{what} name {repeated!r} occurs more than once")
    if what == "row" and OBJECTIVE in names:
        raise InputError(f"row name {OBJECTIVE!r} is the objective's")
    return names


def _word(what: str, name: str) -> str:
    if not name or not name.isascii() or not name.isprintable() or " " in name or name[0] in "*$'":
        raise InputError(
            f"{what} name {name!r}: printable ASCII without blanks that does not begin with *, $ or ' is expected"
        )
    return name


def _distinct(wanted: list[str], taken: Sequence[str]) -> list[str]:
    known = set(taken)
    while known.intersection(wanted):
        wanted = [f"{name}_" for name in wanted]
    return wanted


def _indicator_rows(milp: MILP) -> tuple[Rows, list[tuple[int, int]]]:
    """The indicator rows with one side each, and for each its column and the value that switches it on."""
    n = milp.n_columns
    if milp.indicators is None:
        return Rows(sparse.csr_array((0, n)), np.zeros(0), np.zeros(0)), []
    rows = milp.indicators.rows
    low, high = np.flatnonzero(np.isfinite(rows.lower)), np.flatnonzero(np.isfinite(rows.upper))
    which = np.concatenate([low, high])
    one_sided = Rows(
        sparse.csr_array(rows.matrix[which]),
        np.concatenate([rows.lower[low], np.full(len(high), -np.inf)]),
        np.concatenate([np.full(len(low), np.inf), rows.upper[high]]),
    )
    binary, value = milp.indicators.binary[which], milp.indicators.value[which]
    return one_sided, list(zip(binary.tolist(), value.astype(int).tolist(), strict=True))


def _stack(first: Rows, second: Rows) -> Rows:
    if not len(second.lower):
        return first
    return Rows(
        sparse.csr_array(sparse.vstack([first.matrix, second.matrix], format="csr")),
        np.concatenate([first.lower, second.lower]),
        np.concatenate([first.upper, second.upper]),
    )


def _kinds(rows: Rows) -> list[str]:
    """N, L, G or E for each row; a range stands on its side of smaller magnitude, which gives the other exactly."""
    low, high = np.isfinite(rows.lower), np.isfinite(rows.upper)
    from_below = low & ~(high & (np.abs(rows.upper) < np.abs(rows.lower)))
    kinds = np.where(from_below, "G", np.where(high, "L", "N"))
    kinds[low & (rows.lower == rows.upper)] = "E"
    return [str(kind) for kind in kinds.tolist()]


def _columns(
    milp: MILP, rows: Rows, columns: Sequence[str], names: Sequence[str], kinds: Sequence[str]
) -> Iterator[str]:
    kept = np.array([kind != "N" for kind in kinds], dtype=bool)
    matrix = rows.matrix if kept.all() else sparse.csr_array(rows.matrix[np.flatnonzero(kept)])
    labels = np.array(names, dtype=object)[kept]
    by_column = matrix.tocsc()
    begin = by_column.indptr.tolist()
    label_of, values = labels[by_column.indices].tolist(), by_column.data.tolist()
    objective = milp.objective.tolist()
    inside = False
    for j, (column, integer) in enumerate(zip(columns, milp.integer.tolist(), strict=True)):
        if integer != inside:
            yield f" MARKER 'MARKER' '{'INTORG' if integer else 'INTEND'}'\n"
            inside = integer
        part = slice(begin[j], begin[j + 1])
        # A column in no row and without cost still has to be named once.
        if objective[j] != 0 or begin[j] == begin[j + 1]:
            yield f" {column} {OBJECTIVE} {objective[j]!r}\n"
        yield "".join(
            [f" {column} {label} {value!r}\n" for label, value in zip(label_of[part], values[part], strict=True)]
        )
    if inside:
        yield " MARKER 'MARKER' 'INTEND'\n"


def _sides(milp: MILP, rows: Rows, names: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    if milp.constant:
        yield f" RHS {OBJECTIVE} {-milp.constant!r}\n"
    below = np.array([kind in "GE" for kind in kinds], dtype=bool)
    side = np.where(below, rows.lower, rows.upper)
    yield from (
        f" RHS {n} {v!r}\n" for n, v, kind in zip(names, side.tolist(), kinds, strict=True) if v and kind != "N"
    )
    ranged = np.flatnonzero(np.isfinite(rows.lower) & np.isfinite(rows.upper) & (rows.lower != rows.upper))
    if len(ranged):
        yield "RANGES\n"
        # From above it is the same with the signs turned.
        here, there = np.where(below, rows.lower, -rows.upper)[ranged], np.where(below, rows.upper, -rows.lower)[ranged]
        widths = _widths(here, there).tolist()
        yield from (f" RNG {names[i]} {width!r}\n" for i, width in zip(ranged.tolist(), widths, strict=True))


def _widths(lower: Array, upper: Array) -> Array:
    """Widths that, added to ``lower`` in floating point, give ``upper``, or the next number above it."""
    width = upper - lower
    for _ in range(2):
        width = np.where(lower + width < upper, np.nextafter(width, np.inf), width)
    smaller = np.nextafter(width, -np.inf)
    return np.where(lower + smaller >= upper, smaller, width)


def _bounds(milp: MILP, columns: Sequence[str]) -> Iterator[str]:
    bounds = zip(columns, milp.lower.tolist(), milp.upper.tolist(), milp.integer.tolist(), strict=True)
    for column, low, high, integer in bounds:
        if integer and low == 0 and high == 1:
            # SCIP takes no other integer column for an indicator's.
            yield f" BV BND {column}\n"
            continue
        if low == high:
            yield f" FX BND {column} {low!r}\n"
            continue
        if low == -np.inf:
            yield f" {'FR' if high == np.inf else 'MI'} BND {column}\n"
        elif low != 0 or integer:
            yield f" LO BND {column} {low!r}\n"
        if high < np.inf:
            yield f" UP BND {column} {high!r}\n"
        elif integer and low > -np.inf:
            yield f" PL BND {column}\n"


def _special(
    milp: MILP, columns: Sequence[str], guards: Iterable[tuple[int, int]], guarded: Sequence[str]
) -> Iterator[str]:
    if milp.sos1:
        yield "SOS\n"
    for k, members in enumerate(milp.sos1):
        yield f" S1 sos{k}\n"
        yield "".join([f"    {columns[j]} {weight}\n" for weight, j in enumerate(members.tolist(), start=1)])
    if guarded:
        yield "INDICATORS\n"
        yield from (f" IF {row} {columns[j]} {on}\n" for row, (j, on) in zip(guarded, guards, strict=True))
