"""What is asked of two networks: properties of their outputs, as the ways in which they can be violated.

A property is violated at x where, for one of several conjunctions, all rows hold: linear inequalities in x and both
outputs. With variables in the order x, A(x), B(x), for outputs i and j:

- ``within T`` (each output): ``B_i - A_i > T`` or ``A_i - B_i > T``;
- ``top1``: no output is largest in both networks: for some i and j, ``A_i >= A_k`` and ``B_j >= B_k`` for all k,
  ``A_i > A_j`` and ``B_j > B_i``;
- ``top1:d``: A prefers i to all others by more than d, yet B prefers some j to i: ``A_i > A_k + d`` for all k != i,
  ``B_j >= B_k`` for all k and ``B_j > B_i``;
- ``order:d``: ``A_i > A_j + d`` yet ``B_j > B_i``.

Ties violate nothing: outputs that are equal in one network may come in any order in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from stablenet.core.errors import InputError, UnknownNameError, UnsupportedError
from stablenet.domain.vnnlib_region import OutputRow

Rows = tuple[OutputRow, ...]
Norm = Literal["linf", "l1", "l2"]

NORMS: tuple[Norm, ...] = ("linf", "l1", "l2")
PROPERTIES = ("within", "top1", "order")

MOST_REFERENCES = 2**21
"""Most rows, counted once for each conjunction, that a property may need."""

SIGNED_OUTPUTS = 8
"""Up to so many outputs, a bound on the l1 norm is asked of each pattern of signs."""


@dataclass(frozen=True, eq=False)
class Violation:
    """How a property is violated: by one of ``conjunctions``, or by ``norm`` of ``B - A`` above ``radius``.

    ``words`` say what holds if it is never violated. Rows are over ``n_inputs`` inputs, then the outputs of A, then
    those of B, ``n_outputs`` each.
    """

    words: str
    n_inputs: int
    n_outputs: int
    conjunctions: tuple[Rows, ...] = ()
    norm: Norm | None = None
    radius: Fraction = Fraction(0)

    def holds_at(self, x: Sequence[Fraction], a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
        """Whether the property is violated, exactly, by these values."""
        if self.norm is not None:
            gaps = [abs(two - one) for one, two in zip(a, b, strict=True)]
            if self.norm == "l1":
                return sum(gaps, Fraction(0)) > self.radius
            return sum((gap * gap for gap in gaps), Fraction(0)) > self.radius**2
        values = (*x, *a, *b)
        return any(all(_holds(row, values) for row in rows) for rows in self.conjunctions)


def _holds(row: OutputRow, values: Sequence[Fraction]) -> bool:
    value = sum((c * values[i] for i, c in row.coefficients), Fraction(0))
    return value > row.rhs if row.strict else value >= row.rhs


def parse_property(text: str, n_inputs: int, n_outputs: int, *, tolerance: float, norm: str = "linf") -> Violation:
    """The property that ``--property`` names: ``within``, ``top1``, ``top1:MARGIN``, ``order`` or ``order:MARGIN``.

    ``tolerance`` and ``norm`` are those of ``within``. Raises `InputError` for anything else.
    """
    name, _, argument = text.partition(":")
    if name not in PROPERTIES:
        raise UnknownNameError("property", name, PROPERTIES)
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    if name != "within" and norm != "linf":
        raise InputError(f"norm {norm}: a norm belongs to the property within, not to {name}")
    if name == "within":
        if argument or text.endswith(":"):
            raise InputError(f"property {text!r}: the tolerance of within is given by --tolerance")
        return within(n_inputs, n_outputs, Fraction(_number(tolerance, "tolerance")), norm)
    margin = Fraction(0)
    if ":" in text:
        margin = Fraction(_number(argument, f"the margin of {name}"))
    return (top1 if name == "top1" else order)(n_inputs, n_outputs, margin)


def _number(text: str | float, what: str) -> float:
    try:
        value = float(text) if "_" not in str(text) else float("nan")
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"{what} is {text!r}; a finite number from 0 up is expected")
    return value


def within(n_inputs: int, n_outputs: int, tolerance: Fraction, norm: str = "linf") -> Violation:
    """``B - A`` stays within ``tolerance`` in a norm: ``linf`` (each output), ``l1`` or ``l2``."""
    shown = f"{float(tolerance):.6g}"
    if norm == "l2" or (norm == "l1" and n_outputs > SIGNED_OUTPUTS):
        which: Norm = "l2" if norm == "l2" else "l1"
        return Violation(f"the {norm} norm of B - A is at most {shown}", n_inputs, n_outputs, (), which, tolerance)
    a, b = n_inputs, n_inputs + n_outputs
    if norm == "l1":
        words = f"the l1 norm of B - A is at most {shown}"
        patterns = [[1 if k >> i & 1 else -1 for i in range(n_outputs)] for k in range(2**n_outputs)]
    else:
        words = f"no output differs by more than {shown}"
        patterns = [[s if i == j else 0 for i in range(n_outputs)] for j in range(n_outputs) for s in (1, -1)]
    rows = []
    for signs in patterns:
        terms = [(a + i, Fraction(-s)) for i, s in enumerate(signs) if s]
        terms += [(b + i, Fraction(s)) for i, s in enumerate(signs) if s]
        rows.append((OutputRow(tuple(terms), tolerance, strict=True),))
    return Violation(words, n_inputs, n_outputs, tuple(rows))


def _above(i: int, j: int, margin: Fraction = Fraction(0), *, strict: bool) -> OutputRow:
    """``z_i - z_j >= margin``, or ``>``."""
    terms = sorted(((i, Fraction(1)), (j, Fraction(-1))))
    return OutputRow(tuple(terms), margin, strict)


def top1(n_inputs: int, n_outputs: int, margin: Fraction) -> Violation:
    """Both networks have the same largest output, where A's exceeds its others by more than ``margin``."""
    pairs = n_outputs * (n_outputs - 1)
    if pairs * 2 * n_outputs > MOST_REFERENCES:
        raise UnsupportedError(f"top1 of {n_outputs} outputs is {pairs:,} cases; networks of up to 100 are supported")
    a, b, others = n_inputs, n_inputs + n_outputs, range(n_outputs)
    of_a = {(i, k): _above(a + i, a + k, margin, strict=margin > 0) for i in others for k in others}
    of_b = {(j, k): _above(b + j, b + k, strict=False) for j in others for k in others}
    sure_a = {(i, j): _above(a + i, a + j, margin, strict=True) for i in others for j in others}
    sure_b = {(j, i): _above(b + j, b + i, strict=True) for i in others for j in others}
    found = []
    for i in others:
        for j in others:
            if i != j:
                rest = [k for k in others if k not in {i, j}]
                found.append((sure_a[i, j], sure_b[j, i], *(of_a[i, k] for k in rest), *(of_b[j, k] for k in rest)))
    where = f" wherever A's exceeds the others by more than {float(margin):.6g}" if margin else ""
    return Violation(f"the largest output is the same{where}", n_inputs, n_outputs, tuple(found))


def order(n_inputs: int, n_outputs: int, margin: Fraction) -> Violation:
    """What A puts above another output by more than ``margin``, B does not put below it."""
    if n_outputs * (n_outputs - 1) * 2 > MOST_REFERENCES:
        raise UnsupportedError(f"the order of {n_outputs} outputs; networks of up to 1,000 are supported")
    a, b = n_inputs, n_inputs + n_outputs
    found = tuple(
        (_above(a + i, a + j, margin, strict=True), _above(b + j, b + i, strict=True))
        for i in range(n_outputs)
        for j in range(n_outputs)
        if i != j
    )
    where = f", where outputs of A are more than {float(margin):.6g} apart" if margin else ""
    return Violation(f"the outputs come in the same order{where}", n_inputs, n_outputs, found)
