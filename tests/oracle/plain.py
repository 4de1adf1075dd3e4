"""Networks and domains as plain rational numbers: what the oracle reasons about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Vector = tuple[Fraction, ...]
Rows = tuple[Vector, ...]


@dataclass(frozen=True)
class PlainMap:
    """``offset + sum of rows @ h[source]``; source 0 is the input, k + 1 the output of ReLU layer k."""

    offset: Vector
    terms: tuple[tuple[int, Rows], ...]

    def __call__(self, posts: Sequence[Vector]) -> Vector:
        """Exact value."""
        return tuple(
            offset
            + sum(
                (w * h for source, rows in self.terms for w, h in zip(rows[i], posts[source], strict=True) if w),
                Fraction(0),
            )
            for i, offset in enumerate(self.offset)
        )


@dataclass(frozen=True)
class PlainNetwork:
    """ReLU layers in order of computation, and the output as one more affine map."""

    n_inputs: int
    layers: tuple[PlainMap, ...]
    output: PlainMap

    def forward(self, x: Sequence[Fraction | float]) -> tuple[list[Vector], Vector]:
        """Exact pre-activations of every layer, and the exact output."""
        posts: list[Vector] = [tuple(Fraction(v) for v in x)]
        pre: list[Vector] = []
        for layer in self.layers:
            pre.append(layer(posts))
            posts.append(tuple(max(g, Fraction(0)) for g in pre[-1]))
        return pre, self.output(posts)


@dataclass(frozen=True)
class Region:
    """``lower <= x <= upper``, and ``a @ x <= b`` if there are rows."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    a: tuple[tuple[float, ...], ...] = ()
    b: tuple[float, ...] = ()

    def contains(self, x: Sequence[Fraction | float]) -> bool:
        """Exact membership."""
        point = [Fraction(v) for v in x]
        box = all(
            Fraction(low) <= v <= Fraction(high) for low, v, high in zip(self.lower, point, self.upper, strict=True)
        )
        return box and all(
            sum((Fraction(w) * v for w, v in zip(row, point, strict=True)), Fraction(0)) <= Fraction(rhs)
            for row, rhs in zip(self.a, self.b, strict=True)
        )


def plain_map(offset: Sequence[float], terms: Sequence[tuple[int, Sequence[Sequence[float]]]]) -> PlainMap:
    """From floats (each taken at its exact value)."""
    return PlainMap(
        tuple(Fraction(v) for v in offset),
        tuple((source, tuple(tuple(Fraction(v) for v in row) for row in rows)) for source, rows in terms),
    )
