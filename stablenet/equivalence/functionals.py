"""The linear forms that a property's rows are made of, and what their bounds refute.

Forms are over x, A(x) and ``B(x) - A(x)``: in the difference cancels exactly what the networks have in common. Rows
that differ in sign or right-hand side share a form. A conjunction is refuted where one of its rows cannot hold, or the
sum of two of them in which A(x) cancels: at x, ``A_i > A_j`` and ``B_j > B_i`` give ``(B - A)_j > (B - A)_i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.core.rounding import SAFETY
from stablenet.domain.vnnlib_region import OutputRow
from stablenet.equivalence.specification import MOST_REFERENCES, Rows, Violation

MOST_PAIRS = 2**18
"""Pairs of rows that are looked at for a sum in which A(x) cancels."""


def below(value: Fraction) -> float:
    """The largest float64 that is not above a rational number."""
    try:
        nearest = float(value)
    except OverflowError:
        return float(np.finfo(np.float64).max) if value > 0 else -np.inf
    return nearest if Fraction(nearest) <= value else float(np.nextafter(nearest, -np.inf))


def refuting(rhs: Fraction, *, strict: bool) -> float:
    """The largest float64 u such that ``value <= u`` excludes ``value >= rhs`` (``value > rhs`` if strict)."""
    limit = below(rhs)
    exact = np.isfinite(limit) and Fraction(limit) == rhs
    return float(np.nextafter(limit, -np.inf)) if exact and not strict else limit


@dataclass(frozen=True, eq=False)
class Functionals:
    """The forms, ``x``, ``a`` and ``difference``: (forms, n) each, with errors of their rounded coefficients.

    ``form``, ``sign``, ``limit`` and ``rhs`` are one entry for each row or sum that a conjunction has; ``first`` is
    where each conjunction's begin, and ``own`` marks those that are rows, not sums.
    """

    x: Array
    a: Array
    difference: Array
    x_error: Array
    a_error: Array
    difference_error: Array
    form: Index
    sign: Array
    limit: Array
    rhs: Array
    first: Index
    own: Mask

    @property
    def size(self) -> int:
        """Number of forms."""
        return len(self.x)

    @property
    def n_conjunctions(self) -> int:
        """Number of conjunctions."""
        return len(self.first)

    def refuted(self, lower: Array, upper: Array) -> Mask:
        """Which conjunctions cannot hold where the forms are within bounds, (parts, forms): (parts, conjunctions)."""
        with np.errstate(invalid="ignore"):
            top = np.where(self.sign > 0, upper[:, self.form], -lower[:, self.form])
            return np.logical_or.reduceat(top <= self.limit, self.first, axis=1)

    def hardest(self, lower: Array, upper: Array, open_: Mask) -> tuple[Index, Array]:
        """On each box the form, and the sign, that bounds come nearest to excluding in the conjunction, of those open,
        that is furthest from being excluded: (parts,) each. ``open_`` is (parts, conjunctions).
        """
        with np.errstate(invalid="ignore"):
            top = np.where(self.sign > 0, upper[:, self.form], -lower[:, self.form])
            miss = np.where(np.isnan(top), np.inf, top - self.limit)
        nearest = np.minimum.reduceat(miss, self.first, axis=1)
        worst = np.where(open_, nearest, -np.inf).argmax(axis=1)
        counts = np.diff(np.append(self.first, len(self.form)))
        own = np.repeat(np.arange(len(self.first)), counts) == worst[:, None]
        found = np.where(own, miss, np.inf).argmin(axis=1)
        return self.form[found], self.sign[found]

    def needed(self, open_: Mask) -> Index:
        """The forms that occur in conjunctions of a mask, (conjunctions,)."""
        counts = np.diff(np.append(self.first, len(self.form)))
        return np.unique(self.form[np.repeat(open_, counts)])

    def values(self, x: Array, a: Array, b: Array) -> Array:
        """By how much each row or sum holds at points, (batch, references), rounded."""
        forms = x @ self.x.T + a @ self.a.T + (b - a) @ self.difference.T
        return np.asarray(forms[:, self.form] * self.sign - self.rhs)

    def least(self, values: Array) -> Array:
        """The least of each conjunction's rows, (batch, conjunctions)."""
        return np.asarray(np.minimum.reduceat(np.where(self.own, values, np.inf), self.first, axis=1))

    def weakest(self, values: Array, chosen: Index) -> Index:
        """For each point the reference of the row that holds least in its conjunction ``chosen``, (batch,)."""
        ends = np.append(self.first, len(self.form))
        masked = np.where(self.own, values, np.inf)
        picks = [
            ends[c] + int(masked[i, ends[c] : ends[c + 1]].argmin()) for i, c in enumerate(np.asarray(chosen).tolist())
        ]
        return np.array(picks, dtype=np.intp)


Form = tuple[tuple[int, Fraction], ...]


class _Collector:
    """Forms and references as they are found."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.forms: dict[Form, int] = {}
        self.moved: dict[OutputRow, tuple[dict[int, Fraction], bool]] = {}
        self.known: dict[OutputRow, tuple[int, float]] = {}
        self.references: list[tuple[int, float, Fraction, bool, bool]] = []
        self.first: list[int] = []
        self.pairs = 0

    def take(self, rows: Rows) -> None:
        """The rows of a conjunction, and the sums of them that cancel A; without rows it always holds."""
        rows = rows or (OutputRow((), Fraction(0), strict=False),)
        self.first.append(len(self.references))
        for row in rows:
            if row not in self.known:
                self.known[row] = self._place(self._terms(row)[0])
            self.references.append((*self.known[row], row.rhs, row.strict, True))
        with_a = [row for row in rows if self._terms(row)[1]]
        n_pairs = len(with_a) * (len(with_a) - 1) // 2
        # The first two rows are those that matter in properties of this package; all pairs where they are few.
        pairs: Sequence[tuple[OutputRow, ...]] = [tuple(rows[:2])] if len(rows) > 1 else []
        if self.pairs + n_pairs <= MOST_PAIRS:
            self.pairs += n_pairs
            pairs = list(combinations(with_a, 2))
        for one, two in pairs:
            total = dict(self._terms(one)[0])
            for index, value in self._terms(two)[0].items():
                total[index] = total.get(index, Fraction(0)) + value
            total = {index: value for index, value in total.items() if value}
            if not any(self.n_inputs <= index < self.n_inputs + self.n_outputs for index in total):
                strict = one.strict or two.strict
                self.references.append((*self._place(total), one.rhs + two.rhs, strict, False))
        if len(self.references) > MOST_REFERENCES:
            raise UnsupportedError(f"the property has more than {MOST_REFERENCES:,} rows; fewer outputs are supported")

    def _terms(self, row: OutputRow) -> tuple[dict[int, Fraction], bool]:
        """Coefficients over x, A(x) and ``B(x) - A(x)``, and whether A(x) is among them."""
        found = self.moved.get(row)
        if found is None:
            terms: dict[int, Fraction] = {}
            for index, value in row.coefficients:
                terms[index] = terms.get(index, Fraction(0)) + value
                if index >= self.n_inputs + self.n_outputs:  # B is A and the difference
                    terms[index - self.n_outputs] = terms.get(index - self.n_outputs, Fraction(0)) + value
            terms = {index: value for index, value in terms.items() if value}
            with_a = any(self.n_inputs <= index < self.n_inputs + self.n_outputs for index in terms)
            found = self.moved[row] = (terms, with_a)
        return found

    def _place(self, terms: dict[int, Fraction]) -> tuple[int, float]:
        """Number of a form, and the sign with which it occurs."""
        form = tuple(sorted(terms.items()))
        sign = 1.0
        if form and form[0][1] < 0:
            form, sign = tuple((index, -value) for index, value in form), -1.0
        return self.forms.setdefault(form, len(self.forms)), sign


def functionals(violation: Violation) -> Functionals:
    """The forms of a property's conjunctions. Raises `InputError` where a coefficient is beyond float64."""
    collector = _Collector(violation.n_inputs, violation.n_outputs)
    for rows in violation.conjunctions:
        collector.take(rows)
    n, m = violation.n_inputs, violation.n_outputs
    shape = (len(collector.forms), n + 2 * m)
    if shape[0] * shape[1] > 2**27:
        raise UnsupportedError(f"the property has {shape[0]:,} linear forms in {shape[1]:,} variables: too many")
    matrix, error = np.zeros(shape), np.zeros(shape)
    for form, number in collector.forms.items():
        for index, value in form:
            try:
                matrix[number, index] = rounded = float(value)
            except OverflowError:
                raise InputError("a coefficient of the property is beyond float64") from None
            gap = abs(Fraction(rounded) - value)
            error[number, index] = -below(-gap * Fraction(SAFETY)) if gap else 0.0
    of_x, of_a, of_difference = slice(0, n), slice(n, n + m), slice(n + m, n + 2 * m)
    references = collector.references
    return Functionals(
        matrix[:, of_x],
        matrix[:, of_a],
        matrix[:, of_difference],
        error[:, of_x],
        error[:, of_a],
        error[:, of_difference],
        np.array([r[0] for r in references], dtype=np.intp),
        np.array([r[1] for r in references]),
        np.array([refuting(r[2], strict=r[3]) for r in references]),
        np.array([below(r[2]) for r in references]),
        np.array(collector.first, dtype=np.intp),
        np.array([r[4] for r in references], dtype=bool),
    )
