"""Pairs of neurons that stay near each other, freed together: what two can add is bounded over a polygon.

Of a pair with coefficients c on ``max(g, 0)`` and any numbers nu, what is left to maximise is
``c_1 max(g_1, 0) - nu_1 g_1 + c_2 max(g_2, 0) - nu_2 g_2`` where ``g_1``, ``g_2`` and ``d = scale g_1 - g_2`` lie
in their intervals. For each choice of signs this is a linear program in two variables: for any mu, ``x g_1 + y g_2`` is
``(x - mu scale) g_1 + (y + mu) g_2 + mu d``, which falls apart into three terms, and the best mu is 0, x / scale or -y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from stablenet.check.arithmetic import SLACK, Array, Index
from stablenet.check.duality import Block, Boxes, Ends, Map, by_duality, some_of, usual

Two = tuple[Array, Array]

DERIVED = 1.05  # the second of a pair has bounds of its own where those by the first are wider than it by this factor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of a map that are near each other: ``g[third] = scale * g[first] - g[second]``."""

    first: Index
    second: Index
    third: Index
    scale: Array


class PairedMap(Map):
    """A map with pairs; what they differ by is not to be read."""

    def __init__(self, size: int, blocks: list[Block], pairs: Pairs) -> None:
        super().__init__(size, blocks)
        self.pairs = pairs

    def together(self, kept: Index, low: Array, high: Array, ends: Ends) -> FreedPairs | None:
        """See `Map`: pairs whose signs are not all known."""
        pairs = self.pairs
        one, two = (np.searchsorted(kept, rows) for rows in (pairs.first, pairs.second))
        known = np.append(kept, -1)
        some = (known[one] == pairs.first) & (known[two] == pairs.second)
        one, two, third, scale = one[some], two[some], pairs.third[some], pairs.scale[some]
        open_ = ~(np.minimum(low[..., one], low[..., two]) >= 0).all(axis=(0, 1))
        one, two, third, scale = one[open_], two[open_], third[open_], scale[open_]
        both: list[Ends] = [(low[..., one], high[..., one]), (low[..., two], high[..., two])]
        difference = ends[0][:, None, third], ends[1][:, None, third]
        return FreedPairs(one, two, [*both, difference], scale) if len(one) else None

    def tighten(self, boxes: Boxes, layer: int, rows: Index | None, lower: Array, upper: Array) -> None:
        """See `Map`: first of A and of the differences, then of B what that leaves open."""
        pairs, undecided = self.pairs, np.asarray(~((lower >= 0) | (upper <= 0)).all(axis=0))
        undecided[pairs.third] = undecided[pairs.first] | undecided[pairs.second]
        undecided[pairs.second] = False
        by_duality(boxes, layer, some_of(undecided, rows), lower, upper)
        for bound, others, sign in ((upper, lower, 1), (lower, upper, -1)):
            one, two = pairs.scale * bound[:, pairs.first], others[:, pairs.third]
            apart = one - two + sign * SLACK * (np.abs(one) + np.abs(two))
            bound[:, pairs.second] = sign * np.minimum(sign * bound[:, pairs.second], sign * apart)
        low, high = lower[:, pairs.second], upper[:, pairs.second]
        wide = high - low > DERIVED * pairs.scale * (upper - lower)[:, pairs.first]
        left = np.zeros(self.size, bool)
        left[pairs.second] = ((low < 0) & (high > 0) & wide).any(axis=0)
        by_duality(boxes, layer, some_of(left, rows), lower, upper)


@dataclass(frozen=True, eq=False)
class FreedPairs:
    """Pairs among kept neurons, at ``one`` and ``two``; ``ends`` of both and of the difference, (parts, 1, pairs)."""

    one: Index
    two: Index
    ends: list[Ends]
    scale: Array

    def choose(self, post: Array, nu: Array) -> None:
        """Choose nu by the difference or apart."""
        one, two = self.one, self.two
        apart = nu[..., one], nu[..., two]
        nu[..., one], nu[..., two] = usual_of_pairs(post[..., one], post[..., two], apart, self.ends, self.scale)

    def bound(self, post: Array, nu: Array, most: Array) -> None:
        """Bound what both add, which stands at the first."""
        one, two = self.one, self.two
        coefficients, chosen = (post[..., one], post[..., two]), (nu[..., one], nu[..., two])
        most[..., one], most[..., two] = pair_most(coefficients, chosen, self.ends, self.scale), 0.0


def pair_most(coefficients: Two, nu: Two, ends: Sequence[Ends], scale: Array) -> Array:
    """Upper bounds of what pairs can add; ``ends`` of g_1, g_2 and d, (parts, 1, pairs)."""
    most = np.asarray(-np.inf)
    for signs in product((1.0, 0.0), repeat=2):
        x, y = (sign * c - n for sign, c, n in zip(signs, coefficients, nu, strict=True))
        one, two = (
            (np.maximum(low, 0.0), high) if sign else (low, np.minimum(high, 0.0))
            for sign, (low, high) in zip(signs, ends, strict=False)
        )
        least = np.asarray(np.inf)
        for mu in (np.zeros_like(x), x / scale, -y):
            terms = ((x - mu * scale, one), (y + mu, two), (mu, ends[2]))
            least = np.minimum(least, sum(np.maximum(c * low, c * high) for c, (low, high) in terms))
        most = np.maximum(most, np.where((one[0] <= one[1]) & (two[0] <= two[1]), least, -np.inf))
    # Every number above is the result of a few roundings of sums of these.
    sizes = [np.abs(c) + np.abs(n) for c, n in zip(coefficients, nu, strict=True)]
    mu = sizes[0] / scale + sizes[1]
    reach = [np.maximum(np.abs(low), np.abs(high)) for low, high in ends]
    total = (sizes[0] + mu * scale) * reach[0] + (sizes[1] + mu) * reach[1] + mu * reach[2]
    return np.asarray(most + 16.0 * SLACK * total + np.where(total > 0, 2.0**-900, 0.0))


def usual_of_pairs(one: Array, two: Array, apart: Two, ends: Sequence[Ends], scale: Array) -> Two:
    """The usual nu of pairs with coefficients ``one`` and ``two``: by their difference where its chord leaves a smaller
    gap than the relaxations of both, else ``apart``.

    ``one max(g_1, 0) + two max(g_2, 0)`` is ``one / scale`` times the difference ``scale h_1 - h_2``, which lies
    between ``min(d, 0)`` and ``max(d, 0)``, and ``one / scale + two`` times h_2.
    """
    on_d = one / scale
    down, rise = np.maximum(-ends[2][0], 0.0), np.maximum(ends[2][1], 0.0)
    largest = np.where(on_d > 0, rise, down)
    gaps = []
    for low, high in ends[:2]:
        below, above = np.maximum(-low, 0.0), np.maximum(high, 0.0)
        gaps.append((below * above / np.maximum(below + above, 1e-300), np.minimum(below, above)))
    (up_1, low_1), (up_2, low_2) = gaps
    allowed = np.where(on_d > 0, scale * up_1 + low_2, scale * low_1 + up_2)
    active = (ends[0][0] >= 0) & (ends[1][0] >= 0)
    slope = np.where(active, 1.0, largest / np.maximum(down + rise, 1e-300))
    by_difference = (largest < allowed) | active
    on_two = usual(on_d + two, *ends[1])
    return (
        np.where(by_difference, on_d * slope * scale, apart[0]),
        np.where(by_difference, on_two - on_d * slope, apart[1]),
    )
