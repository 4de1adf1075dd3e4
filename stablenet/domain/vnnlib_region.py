"""Regions of inputs while a VNN-LIB file is read: conjunctions of bounds and linear rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

InputBounds = dict[int, tuple[float, int]]  # input -> bound and the position that it was read at
Row = tuple[tuple[tuple[int, float], ...], float]  # coefficients and right-hand side of a row <=


@dataclass(slots=True)
class Region:
    """A conjunction of bounds and linear rows on the inputs; without any it is the whole space."""

    position: int
    lower: InputBounds = field(default_factory=dict)
    upper: InputBounds = field(default_factory=dict)
    rows: dict[Row, int] = field(default_factory=dict)  # and the position that each was read at

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

    def copy(self, position: int) -> Region:
        """A copy that may be changed."""
        return Region(position, dict(self.lower), dict(self.upper), dict(self.rows))

    def conflict(self) -> int | None:
        """An input whose lower bound exceeds its upper bound, if there is one."""
        for index, (value, _) in self.lower.items():
            if index in self.upper and value > self.upper[index][0]:
                return index
        return None

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return len(self.lower) + len(self.upper) + sum(len(coefficients) + 1 for coefficients, _ in self.rows)

    def key(self) -> tuple[object, ...]:
        """Equal for equal regions, and compact: there may be millions of numbers."""
        sides = (np.array(sorted((i, value) for i, (value, _) in side.items())) for side in (self.lower, self.upper))
        return (*((side + 0.0).tobytes() for side in sides), frozenset(self.rows))

    @property
    def whole(self) -> bool:
        """Whether it constrains nothing."""
        return not (self.lower or self.upper or self.rows)


def distinct(regions: Sequence[Region]) -> list[Region]:
    """The regions without repetitions, in order."""
    return list({region.key(): region for region in reversed(regions)}.values())[::-1]
