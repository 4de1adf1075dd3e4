"""Regions of inputs while a VNN-LIB file is read: conjunctions of bounds and linear rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

InputBounds = dict[int, tuple[float, int]]  # input -> bound and the position that it was read at
Row = tuple[tuple[tuple[int, float], ...], float]  # coefficients and right-hand side of a row <=


@dataclass(frozen=True, slots=True)
class OutputRow:
    """``sum of coefficients times variables >= rhs``, or ``>`` if ``strict``; variables are inputs, then outputs."""

    coefficients: tuple[tuple[int, Fraction], ...]
    rhs: Fraction
    strict: bool


@dataclass(slots=True)
class Region:
    """A conjunction of bounds and linear rows on the inputs; without any it is the whole space.

    ``outputs`` are rows that outputs occur in, where those are read, and the position of each.
    """

    position: int
    lower: InputBounds = field(default_factory=dict)
    upper: InputBounds = field(default_factory=dict)
    rows: dict[Row, int] = field(default_factory=dict)  # and the position that each was read at
    outputs: dict[OutputRow, int] = field(default_factory=dict)

    def bound(self, op: str, index: int, value: float, position: int) -> None:
        """Add ``x[index] <= value`` or ``>= value``; the tighter bound stays."""
        side = self.upper if op == "<=" else self.lower
        old = side.get(index)
        if old is None or (value < old[0] if op == "<=" else value > old[0]):
            side[index] = (value, position)

    def meet(self, other: Region) -> None:
        """Intersect with another region."""
        for op, bounds in ((">=", other.lower), ("<=", other.upper)):
            for index, (value, position) in bounds.items():
                self.bound(op, index, value, position)
        self.rows.update(other.rows)
        self.outputs.update(other.outputs)

    def copy(self, position: int) -> Region:
        """A copy that may be changed."""
        return Region(position, dict(self.lower), dict(self.upper), dict(self.rows), dict(self.outputs))

    def conflict(self) -> int | None:
        """An input whose lower bound exceeds its upper bound, if there is one."""
        for index, (value, _) in self.lower.items():
            if index in self.upper and value > self.upper[index][0]:
                return index
        return None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        rows = sum(len(coefficients) + 1 for coefficients, _ in self.rows)
        return len(self.lower) + len(self.upper) + rows + sum(len(row.coefficients) + 1 for row in self.outputs)

    def key(self) -> tuple[object, ...]:
        """A key that is equal for equal regions, and compact, since there may be millions of numbers."""
        return (*self.input_key(), frozenset(self.outputs))

    def input_key(self) -> tuple[object, ...]:
        """A key that is equal for regions with the same bounds and rows on inputs."""
        sides = (np.array(sorted((i, value) for i, (value, _) in side.items())) for side in (self.lower, self.upper))
        return (*((side + 0.0).tobytes() for side in sides), frozenset(self.rows))

    @property
    def whole(self) -> bool:
        """Whether it has no bounds and no rows."""
        return not (self.lower or self.upper or self.rows or self.outputs)


def distinct(regions: Sequence[Region]) -> list[Region]:
    """The regions without repetitions, in order."""
    return list({region.key(): region for region in reversed(regions)}.values())[::-1]
