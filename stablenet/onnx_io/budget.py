"""How much work the import of one file may cost, counted before anything is built.

A file of a few hundred bytes can stand for a matrix of billions of coefficients. Every operation of the import first
counts the coefficients that it will make (`afford`) and is refused beyond the limits. These grow with the numbers that
the file stores, so that a file with large matrices can be imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

from stablenet.core.errors import TooLargeError

MOST_ELEMENTS = 2**22
"""Elements of one tensor."""

MOST_AT_ONCE = 2**24
"""Coefficients that one operation may make, besides as many as the file stores numbers."""

MOST_IN_ALL = 3 * 2**24
"""Coefficients that all operations together may make, besides `TIMES_STORED` for each number that the file stores."""

TIMES_STORED = 16

FLOPS = 64
"""Multiplications of a product of dense matrices that cost as much time as making one coefficient."""

SPARSE_FLOPS = 8
"""The same for products of sparse matrices."""


class Budget:
    """The remaining budget of the import of one file; ``stored`` is how many numbers the file stores."""

    def __init__(self, stored: int = 0) -> None:
        self.at_once = MOST_AT_ONCE + stored
        self.in_all = MOST_IN_ALL + TIMES_STORED * stored
        self.spent = 0

    def afford(self, coefficients: int) -> None:
        """Count coefficients that are about to be made; raises `TooLargeError` beyond the limits."""
        if coefficients > self.at_once:
            raise TooLargeError(
                f"would make {coefficients:,} coefficients; at most {self.at_once:,} are supported in one operation"
            )
        self.work(coefficients)

    def work(self, units: int) -> None:
        """Count time alone, in coefficients that could be made in it."""
        self.spent += units
        if self.spent > self.in_all:
            raise TooLargeError(
                f"the operations up to here would make {self.spent:,} coefficients; at most {self.in_all:,} "
                "are supported for this file"
            )


_CURRENT: ContextVar[Budget | None] = ContextVar("stablenet_budget", default=None)


@contextmanager
def spending(budget: Budget) -> Iterator[Budget]:
    """Context in which `afford` and `work` count against a budget."""
    token = _CURRENT.set(budget)
    try:
        yield budget
    finally:
        _CURRENT.reset(token)


def afford(coefficients: int) -> None:
    """Count coefficients against the budget of the import that is going on, if there is one."""
    budget = _CURRENT.get()
    if budget is not None:
        budget.afford(int(coefficients))


def work(units: int) -> None:
    """Count time against the budget of the import that is going on, if there is one."""
    budget = _CURRENT.get()
    if budget is not None:
        budget.work(int(units))


def afford_tensor(shape: Sequence[int], stored: int = 0) -> None:
    """Refuse a tensor that is unreasonably large (``stored``: elements that the file stores)."""
    size = prod(int(n) for n in shape)
    if size > max(MOST_ELEMENTS, stored):
        raise TooLargeError(f"a tensor of shape {list(shape)}; at most {MOST_ELEMENTS} elements are supported")
    afford(size)
