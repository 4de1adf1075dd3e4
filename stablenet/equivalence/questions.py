"""Questions about one or two networks that a VNN-LIB file asks, and in which words they were understood.

A file is satisfiable if for some input all that it asserts holds; mostly that is what must not happen. Two forms are
recognised: outputs that differ (``or``: one of them by T or more), and the band of published instances (``and``: all of
them within T), by which their authors mean that no input may leave the band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.errors import DomainError
from stablenet.core.network import AffineMap, Matrix, Network, Term
from stablenet.domain.vnnlib_query import Conjunction, Query
from stablenet.domain.vnnlib_region import OutputRow
from stablenet.equivalence.decide import Case
from stablenet.equivalence.specification import Violation, within

Reading = Literal["meant", "written"]
READINGS: tuple[Reading, ...] = ("meant", "written")


@dataclass(frozen=True, eq=False)
class Question:
    """What to decide: `decide` of the cases. ``b`` is ``a`` where the file is about one network.

    ``words`` say what was understood, ``holds`` and ``violated`` what either answer means. ``tolerance`` is T where the
    question is whether no output differs by more than T; ``strictly``: by T or more. ``satisfiable`` says whether a
    violation is an input that satisfies the file as written.
    """

    a: Network
    b: Network
    cases: tuple[Case, ...]
    words: str
    holds: str
    violated: str
    tolerance: Fraction | None = None
    strictly: bool = False
    satisfiable: bool = True
    notes: tuple[str, ...] = ()


def question(query: Query, networks: Sequence[Network], reading: Reading = "meant") -> Question:
    """What a file asks of networks, in the order in which it declares them.

    ``reading`` ``meant`` turns a band around, ``written`` takes the file at its word. Raises `DomainError` where file
    and networks do not fit.
    """
    chosen, notes = _fitting(query, networks)
    n, most = query.n_inputs, max(query.n_outputs)
    a, b = chosen[0], chosen[-1]
    names = " and ".join(f"{d.name} ({letter})" for d, letter in zip(query.networks, "AB", strict=False))
    start = f"{query.file}: " + (f"networks {names}" if len(query.networks) > 1 else "one network")
    if len(query.networks) > 1:
        start += " of the same input" if query.tied else f" of {n} inputs in all"
    moved = [tuple(_moved(row, query, most) for row in rows) for case in query.cases for rows in case.conjunctions]
    band = _band(moved, n, most) if len(query.n_outputs) > 1 else None
    if band is not None and reading == "meant":
        words = (
            f"{start}; it asks for outputs within {float(band):.6g} of each other (joined by and); read as what is "
            f"meant: no output may differ by more than {float(band):.6g}"
        )
        violation = within(n, most, band)
        cases = tuple(Case(case.part, violation) for case in query.cases)
        violated = "the outputs leave the band; the file as written asks for the opposite"
        return Question(
            a, b, cases, words, violation.words, violated, tolerance=band, satisfiable=False, notes=tuple(notes)
        )
    differ = _differ(moved, n, most) if len(query.n_outputs) > 1 else None
    rest = iter(moved)
    cases = tuple(
        Case(
            case.part,
            Violation("no input satisfies the file", n, most, tuple(next(rest) for _ in case.conjunctions)),
        )
        for case in query.cases
    )
    if differ is not None:
        tolerance, strict = differ
        how = "more than " if strict else ""
        more = "" if strict else " or more"
        words = f"{start}; it asks for an output that differs by {how}{float(tolerance):.6g}{more}"
        return Question(
            a,
            b,
            cases,
            words,
            f"no output differs by {how}{float(tolerance):.6g}{more}",
            "the input satisfies the file",
            tolerance=tolerance,
            strictly=not strict,
            notes=tuple(notes),
        )
    count = len(moved)
    words = f"{start}; it asks for an input that satisfies {'one of ' if count > 1 else ''}{count} conjunction"
    words += f"{'s' if count > 1 else ''} of up to {max(map(len, moved))} rows on the outputs"
    if band is not None:
        words += f" (all outputs within {float(band):.6g}), taken as written"
    return Question(
        a, b, cases, words, "no input satisfies the file", "the input satisfies the file", notes=tuple(notes)
    )


def _fitting(query: Query, networks: Sequence[Network]) -> tuple[list[Network], list[str]]:
    """The networks over the joint input, with outputs padded to one length; notes on what the file says of them."""
    declared, notes = query.networks, list[str]()
    wanted = len(query.n_outputs)
    given = list(networks)
    if len(given) == 1 and wanted == 2 and declared[1].equal:
        given *= 2
    if wanted > 2:
        raise DomainError(f"{query.file}: declares {wanted} networks; one or two are supported")
    if len(given) != wanted:
        raise DomainError(f"{query.file}: declares {wanted} networks, but {len(given)} are given")
    if not min(query.n_outputs):
        raise DomainError(f"{query.file}: declares no output; a question about outputs is expected")
    for k, (network, places, size) in enumerate(zip(given, query.places, query.n_outputs, strict=True)):
        name = declared[k].name if declared else "X"
        if network.n_inputs != len(places) or network.n_outputs < size or (declared and network.n_outputs != size):
            raise DomainError(
                f"{query.file}: network {name} has {len(places)} inputs and {size} outputs, the file given for it "
                f"{network.n_inputs} and {network.n_outputs}"
            )
    if wanted == 2 and declared[1].like is not None:
        if declared[1].equal and given[0].content_digest != given[1].content_digest:
            raise DomainError(
                f"{query.file}: {declared[1].name} is equal to {declared[1].like}, the networks given are not"
            )
        if [layer.size for layer in given[0].layers] != [layer.size for layer in given[1].layers]:
            notes.append(
                f"{declared[1].name} is said to be isomorphic to {declared[1].like}; its layers differ in size"
            )
    most = max(query.n_outputs)
    made = [
        _padded(_spread(network, places, query.n_inputs), most)
        for network, places in zip(given, query.places, strict=True)
    ]
    if wanted == 2 and query.tied and given[0] is given[1]:
        made[1] = made[0]
    return made, notes


def _spread(network: Network, places: npt.NDArray[np.intp], n_inputs: int) -> Network:
    """The network as a function of more inputs, of which it reads those at ``places``."""
    if np.array_equal(places, np.arange(n_inputs)):
        return network

    def spread(affine: AffineMap) -> AffineMap:
        return replace(affine, terms=tuple(t if t.source else Term(0, wide(t.matrix)) for t in affine.terms))

    def wide(matrix: Matrix) -> Matrix:
        if isinstance(matrix, np.ndarray):
            made = np.zeros((len(matrix), n_inputs))
            made[:, places] = matrix
            return made
        coo = matrix.tocoo()
        return sparse.csr_array((coo.data, (coo.row, places[coo.col])), shape=(matrix.shape[0], n_inputs))

    layers = tuple(replace(layer, affine=spread(layer.affine)) for layer in network.layers)
    return replace(
        network, n_inputs=n_inputs, layers=layers, output=spread(network.output), input_shape=(n_inputs,), metadata={}
    )


def _padded(network: Network, n_outputs: int) -> Network:
    """The network with the first outputs alone, or further ones that are 0."""
    size = network.n_outputs
    if size == n_outputs:
        return network

    def rows(matrix: Matrix) -> Matrix:
        if size > n_outputs:
            return matrix[:n_outputs]
        below = np.zeros((n_outputs - size, matrix.shape[1]))
        if isinstance(matrix, np.ndarray):
            return np.concatenate([matrix, below])
        return sparse.csr_array(sparse.vstack([matrix, sparse.csr_array(below)]))

    offset = np.append(network.output.offset, np.zeros(max(n_outputs - size, 0)))[:n_outputs]
    output = AffineMap(offset, tuple(Term(t.source, rows(t.matrix)) for t in network.output.terms))
    return replace(network, output=output, output_shape=(n_outputs,), metadata={})


def _moved(row: OutputRow, query: Query, most: int) -> OutputRow:
    """A row over inputs, outputs of A and outputs of B, ``most`` each."""
    start = query.n_inputs + query.n_outputs[0]
    shift = most - query.n_outputs[0]
    terms = tuple((index + shift if index >= start else index, value) for index, value in row.coefficients)
    return OutputRow(terms, row.rhs, row.strict)


def _gap(row: OutputRow, n_inputs: int, n_outputs: int) -> tuple[int, int] | None:
    """``(output, sign)`` of a row on ``sign * (B - A)`` of one output; None for any other."""
    if len(row.coefficients) != 2:
        return None
    (first, one), (second, two) = row.coefficients
    output = first - n_inputs
    if not 0 <= output < n_outputs or second != first + n_outputs or one != -two or abs(two) != 1:
        return None
    return output, 1 if two > 0 else -1


def _sides(rows: Sequence[OutputRow], n_inputs: int, n_outputs: int) -> set[tuple[int, int]] | None:
    """The outputs and signs that rows are on, if each is on one and they have one right-hand side and strictness."""
    found = {_gap(row, n_inputs, n_outputs) for row in rows}
    if None in found or len({(row.rhs, row.strict) for row in rows}) != 1:
        return None
    return {pair for pair in found if pair is not None}


def _band(conjunctions: Sequence[Conjunction], n_inputs: int, n_outputs: int) -> Fraction | None:
    """T if the file asserts ``|B - A| <= T`` (or ``<``) of all outputs, else None."""
    if len(set(conjunctions)) != 1:
        return None
    rows = conjunctions[0]
    sides = _sides(rows, n_inputs, n_outputs) if rows else None
    everything = {(output, sign) for output in range(n_outputs) for sign in (1, -1)}
    return -rows[0].rhs if sides == everything and rows[0].rhs <= 0 else None


def _differ(conjunctions: Sequence[Conjunction], n_inputs: int, n_outputs: int) -> tuple[Fraction, bool] | None:
    """T and whether it is exceeded strictly, if the file asserts that one output differs by it; else None."""
    if any(len(rows) != 1 for rows in conjunctions):
        return None
    rows = [rows[0] for rows in conjunctions]
    sides = _sides(rows, n_inputs, n_outputs)
    everything = {(output, sign) for output in range(n_outputs) for sign in (1, -1)}
    return (rows[0].rhs, rows[0].strict) if sides == everything and rows[0].rhs >= 0 else None
