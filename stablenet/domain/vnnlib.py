"""The input part of VNN-LIB files, versions 1 (assertions over X_i and Y_j) and 2 (networks, X[i,j]), plain or gzip.

The domain is what the assertions say of the inputs alone: every constraint on outputs is taken as
satisfiable, so a disjunction over outputs says nothing, and one whose branches hold boxes of inputs
gives the union of those boxes. Decimals are read exactly and rounded to the nearest float64; the verdicts hold on that
float64 domain, which may differ from the decimal one by half a unit in the last place. Version 2:
https://www.vnnlib.org (VNN-LIB standard 2.0, 2025); of several networks the file must tie the inputs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.errors import DomainError
from stablenet.domain.regions import Box, Domain, Part, Polytope, Union
from stablenet.domain.vnnlib_names import Kind, Names
from stablenet.domain.vnnlib_region import Region, distinct
from stablenet.domain.vnnlib_text import Expression, Form, SourceText, read_text

MAX_PARTS = 10_000
"""Largest number of boxes that the disjunctions may multiply out to."""
MAX_WORK = 1 << 22
"""Bounds and coefficients that may be copied and compared while the assertions are multiplied out."""
MAX_NUMBERS = 1 << 21
"""Most bounds and coefficients that the parts of a domain may have together."""
MAX_DIGITS = 20_000
"""Longest decimal."""
MAX_BITS = 1 << 16
"""Largest numerator or denominator that exact arithmetic on decimals may come to."""
POLYTOPE = 4096
"""Work of asking an LP solver whether a polytope is empty."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit"}
MIRROR = {"<=": ">=", ">=": "<=", "<": ">", ">": "<"}


Linear = tuple[dict[int, Fraction], Fraction]  # coefficients and constant


class ContradictionInFileError(DomainError):
    """Assertions that no input and no outputs can satisfy."""


def read_vnnlib(path: str | Path) -> Domain:
    """The input part of a VNN-LIB file.

    Args:
        path: the file, which may be compressed by gzip.

    Returns:
        A `Box`, a `Polytope` where a linear row ties several inputs, or a `Union` of those where the disjunctions
        have several branches. Equal branches are kept once, empty combinations of branches are dropped.

    Raises:
        DomainError: the file cannot be read, or is not a bounded, non-empty domain of that kind; names the line.
    """
    path = Path(path)
    try:
        return Reader(read_text(path), str(path)).domain()
    except MemoryError:
        raise DomainError(f"{path}: needs more memory than there is (see --memory-limit)") from None


class Reader(SourceText):
    """The state of reading one file: its text, and the variables declared so far."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text, name)
        self.names = Names(self)
        self.work = 0

    def spend(self, work: int, position: int) -> None:
        """Count work that is about to be done; raises `DomainError` beyond the limit."""
        self.work += work
        if self.work > MAX_WORK:
            raise self.error(position, f"the assertions up to here take more than {MAX_WORK:,} steps to multiply out")

    def domain(self) -> Domain:
        """Read the whole text."""
        asserted = self.asserted()
        for network, places in zip(self.names.networks, self.names.places, strict=False):
            if not np.array_equal(places, self.names.places[0]):
                words = f"the inputs of network {network.name} are not tied, one by one, to the first network's; "
                raise self.error(network.position, words + "(assert (== X_f[0] X_g[0])) ties two")
        parts = [self.part(region, self.names.n_inputs) for region in self.conjunction(asserted, position=0)]
        return parts[0] if len(parts) == 1 else Union(parts)

    def asserted(self) -> list[Expression]:
        """Carry out all declarations; returns what the file asserts."""
        forms = self.parse()
        if not forms:
            raise DomainError(f"{self.name}: empty; declarations of X_i and assertions on them are expected")
        asserted = [body for form in forms for body in self.command(form)]
        self.names.tie(asserted)
        return asserted

    def command(self, form: Form) -> list[Expression]:
        """Carry out a top-level command; returns what it asserts."""
        match form.items:
            case ["assert", Form() as body]:
                return [body]
            case [str(head), *_] if head in _IGNORED or self.names.command(form):
                return []
        raise self.error(
            form.position,
            f"{self.show(form)} is not understood; (declare-const X_0 Real) or (assert (<= X_0 1.0)) is expected",
        )

    def conjunction(self, forms: Iterable[Expression], position: int) -> list[Region]:
        """The regions, at least one, whose union satisfies all the forms."""
        base = Region(position)
        choices: list[list[Region]] = []
        for form in forms:
            if self.simple_bound(form, base):
                continue
            regions = self.evaluate(form, position)
            if len(regions) == 1:
                self.spend(regions[0].size, position)
                base.meet(regions[0])
            else:
                choices.append(regions)
        self.refuse_conflict(base)
        result = [base]
        for regions in choices:
            result = self.product(result, regions)
        return result

    def product(self, left: Sequence[Region], right: Sequence[Region]) -> list[Region]:
        """All non-empty intersections of a region of either side."""
        if len(left) * len(right) > MAX_PARTS:
            raise self.error(right[0].position, f"the disjunctions multiply out to more than {MAX_PARTS} parts")
        result: list[Region] = []
        numbers = 0
        for one in left:
            for other in right:
                self.spend(2 * one.size + other.size + 8, other.position)
                both = one.copy(other.position)
                both.meet(other)
                if both.conflict() is None:
                    result.append(both)
                    numbers += both.size
                if numbers > MAX_NUMBERS:
                    raise self.error(other.position, f"the disjunctions multiply out to over {MAX_NUMBERS:,} bounds")
        if not result:
            raise self.contradiction(
                right[0].position, "no branch of this disjunction fits the other assertions; the domain is empty"
            )
        return distinct(result)

    def contradiction(self, position: int, message: str) -> ContradictionInFileError:
        """The error to raise where assertions exclude each other."""
        return ContradictionInFileError(str(self.error(position, message)))

    def refuse_conflict(self, region: Region) -> None:
        """Raise `DomainError` where a lower bound exceeds an upper one."""
        index = region.conflict()
        if index is None:
            return
        (low, first), (high, second) = region.lower[index], region.upper[index]
        raise self.contradiction(
            max(first, second),
            f"{self.names.input(index)[0]} has lower bound {low} above upper bound {high}; the domain is empty",
        )

    def simple_bound(self, form: Expression, region: Region) -> bool:
        """Add ``(<= X_i number)`` or its like to the region; False if the form is another one."""
        if not isinstance(form, Form) or len(form.items) != 3:
            return False
        op, left, right = form.items
        if not (isinstance(left, str) and isinstance(right, str) and isinstance(op, str) and op in ("<=", ">=")):
            return False
        found = self.names.find(left, form.position)
        if found is None:
            op, right, found = MIRROR[op], left, self.names.find(right, form.position)
        if found is None or found[0] != "X" or not _NUMBER.fullmatch(right):
            return False
        region.bound(op, found[1], self.number(right, form.position), form.position)
        return True

    def evaluate(self, form: Expression, position: int) -> list[Region]:
        """The regions of inputs for which outputs may satisfy the form."""
        if not isinstance(form, Form) or not form.items or not isinstance(form.items[0], str):
            where = form.position if isinstance(form, Form) else position
            raise self.error(where, f"{self.show(form)} where a constraint such as (<= X_0 1.0) is expected")
        op, *arguments = form.items
        if op in ("and", "or"):
            if not arguments:
                raise self.error(form.position, f"({op}) without arguments")
            if op == "and":
                return self.conjunction(arguments, form.position)
            regions = [region for argument in arguments for region in self.branch(argument, form.position)]
            if not regions:
                raise self.contradiction(form.position, f"{self.show(form)}: no branch can hold; the domain is empty")
            free = next((region for region in regions if region.whole), None)
            return [free] if free is not None else distinct(regions)
        kinds = {kind for argument in arguments for kind in self.kinds(argument, form.position)}
        if kinds - {"X"}:
            return self.on_outputs(form, str(op), arguments, kinds)
        if op not in ("<=", ">=", "=", "=="):
            raise self.error(
                form.position,
                f"{self.show(form)}: {op!r} on inputs; and, or, <=, >=, = and == are supported (no strict ones)",
            )
        if len(arguments) < 2:
            raise self.error(form.position, f"{self.show(form)}: two sides are expected")
        region = Region(form.position)
        for left, right in pairwise(arguments):
            self.compare(str(op), left, right, form, region)
        return [region]

    def on_outputs(self, form: Form, op: str, arguments: Sequence[Expression], kinds: set[Kind]) -> list[Region]:
        """The regions of inputs for which a comparison that outputs occur in may hold."""
        del op, arguments
        if "X" in kinds:
            raise self.error(form.position, f"{self.show(form)} ties inputs to outputs; that is no input domain")
        return [Region(form.position)]

    def branch(self, form: Expression, position: int) -> list[Region]:
        """The regions of one branch of a disjunction."""
        region = Region(form.position if isinstance(form, Form) else position)
        return [region] if self.simple_bound(form, region) else self.evaluate(form, position)

    def kinds(self, expression: Expression, position: int) -> set[Kind]:
        """Which kinds of variables occur in an expression."""
        if isinstance(expression, Form):
            return {kind for item in expression.items[1:] for kind in self.kinds(item, expression.position)}
        found = self.names.find(expression, position)
        return set() if found is None else {found[0]}

    def index(self, word: str, position: int) -> int | None:
        """The number of a variable among those that rows are made of; None for another word."""
        found = self.names.find(word, position)
        return None if found is None else found[1]

    def compare(self, op: str, left: Expression, right: Expression, form: Form, region: Region) -> None:
        """Add ``left op right``, both linear in the inputs, to the region."""
        terms, rhs = self.difference(left, right, form)
        if not terms:
            if not {"<=": rhs >= 0, ">=": rhs <= 0}.get(op, rhs == 0):
                raise self.contradiction(form.position, f"{self.show(form)} never holds; the domain is empty")
            return
        if len(terms) == 1:
            ((index, value),) = terms.items()
            limit = self.nearest(rhs / value, form)
            for one in ("<=", ">=") if op in ("=", "==") else (op if value > 0 else MIRROR[op],):
                region.bound(one, index, limit, form.position)
            return
        if op in ("=", "=="):
            raise self.error(
                form.position,
                f"{self.show(form)}: an equality of several inputs; its solutions have no interior in float64",
            )
        sign = 1 if op == "<=" else -1
        row = tuple((index, self.nearest(sign * value, form)) for index, value in terms.items())
        region.rows[row, self.nearest(sign * rhs, form)] = form.position

    def difference(self, left: Expression, right: Expression, form: Form) -> tuple[dict[int, Fraction], Fraction]:
        """The nonzero coefficients, in order, and the right-hand side of ``left - right`` compared with a number."""
        coefficients, constant = self.linear(left, form.position)
        others, other_constant = self.linear(right, form.position)
        for index, value in others.items():
            coefficients[index] = coefficients.get(index, Fraction(0)) - value
        return {index: value for index, value in sorted(coefficients.items()) if value}, other_constant - constant

    def linear(self, expression: Expression, position: int) -> Linear:
        """Coefficients and constant of a linear expression in the variables, exactly."""
        if isinstance(expression, str):
            variable = self.index(expression, position)
            if variable is not None:
                return {variable: Fraction(1)}, Fraction(0)
            self.number(expression, position)
            return {}, Fraction(Decimal(expression))  # an int of a text has a limit on its digits
        where = expression.position
        op = expression.items[0] if expression.items else ""
        operands = [self.linear(item, where) for item in expression.items[1:]]
        if op == "-" and len(operands) == 1:
            return self.scaled(operands[0], Fraction(-1), where)
        if op in ("+", "-") and operands:
            total, constant = operands[0]
            sign = 1 if op == "+" else -1
            for coefficients, value in operands[1:]:
                constant = self.exact(constant, sign * value, operator.add, where)
                for index, c in coefficients.items():
                    total[index] = self.exact(total.get(index, Fraction(0)), sign * c, operator.add, where)
            return total, constant
        if op == "*" and operands and sum(bool(c) for c, _ in operands) <= 1:
            result: Linear = ({}, Fraction(1))
            for operand in operands:
                many, one = (operand, result[1]) if operand[0] else (result, operand[1])
                result = self.scaled(many, one, where)
            return result
        if op == "/" and len(operands) == 2 and not operands[1][0] and operands[1][1]:
            return self.scaled(operands[0], 1 / operands[1][1], where)
        raise self.error(where, f"{self.show(expression)} is not linear; +, -, * and / by numbers are supported")

    def exact(
        self, a: Fraction, b: Fraction, operate: Callable[[Fraction, Fraction], Fraction], position: int
    ) -> Fraction:
        """A sum or product of rational numbers, as long as they are not absurdly long."""
        bits = max(n.bit_length() for x in (a, b) for n in (x.numerator, x.denominator))
        if bits > MAX_BITS:
            raise self.error(position, f"a number here takes more than {MAX_BITS:,} bits to write exactly")
        self.spend(1 + ((bits >> 6) ** 2 >> 5), position)
        return operate(a, b)

    def scaled(self, linear: Linear, factor: Fraction, position: int) -> Linear:
        """A linear expression times a number."""
        coefficients, constant = linear
        return (
            {index: self.exact(value, factor, operator.mul, position) for index, value in coefficients.items()},
            self.exact(constant, factor, operator.mul, position),
        )

    def number(self, token: str, position: int) -> float:
        """The float64 nearest to a decimal."""
        if len(token) > MAX_DIGITS:
            raise self.error(position, f"a word of {len(token):,} characters; numbers have at most {MAX_DIGITS:,}")
        value = float(token) if _NUMBER.fullmatch(token) else float("nan")
        if not np.isfinite(value):
            raise self.error(position, f"{self.show(token)} is no finite number and no declared input")
        return value

    def nearest(self, value: Fraction, form: Form) -> float:
        """The float64 nearest to a rational number."""
        try:
            return float(value)
        except OverflowError:
            raise self.error(form.position, f"{self.show(form)} has a number beyond float64") from None

    def part(self, region: Region, n: int) -> Part:
        """The box or polytope of a region."""
        sides: list[Array] = []
        for word, bounds in (("lower", region.lower), ("upper", region.upper)):
            side = np.full(n, np.nan)
            side[list(bounds)] = [value for value, _ in bounds.values()]
            missing = np.flatnonzero(np.isnan(side))
            if missing.size:
                name, declared = self.names.input(int(missing[0]))
                position = region.position or declared
                raise self.error(position, f"{name} has no {word} bound; every input needs both, on every branch")
            sides.append(side)
        if not region.rows:
            return Box(*sides)
        entries = len(region.rows) * n
        if entries > MAX_NUMBERS:
            raise self.error(region.position, f"{len(region.rows):,} rows on {n:,} inputs; at most {MAX_NUMBERS:,}")
        self.spend(POLYTOPE + entries, region.position)
        a, b = np.zeros((len(region.rows), n)), np.array([rhs for _, rhs in region.rows])
        for k, (coefficients, _) in enumerate(region.rows):
            a[k, [i for i, _ in coefficients]] = [value for _, value in coefficients]
        lower, upper = sides
        polytope = Polytope(lower, upper, a, b)
        if polytope.is_empty():
            raise self.contradiction(
                max(region.rows.values()),
                "the linear constraints leave no point within the bounds; the domain is empty",
            )
        return polytope
