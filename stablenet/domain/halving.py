"""Cutting boxes in two: where a box can be cut, at which input, and its halves.

Boxes are given by their lower and upper corners, (boxes, n_inputs) each. Halves share the face between them, so that no
point is lost.
"""

from __future__ import annotations

import numpy as np

from stablenet.core.arrays import Array, Index, Mask

MOST = 1e300
"""Widths and gains count for no more, which only says where to cut."""

BY_WIDTH = 0.02
"""The share of the widest input's score that width alone is worth: it breaks ties, and keeps inputs that an estimate
misses from being left for ever."""


def middle(lower: Array, upper: Array) -> Array:
    """A number between two, without overflow; one of them where there is no other."""
    return np.clip(0.5 * lower + 0.5 * upper, lower, upper)


def width(lower: Array, upper: Array) -> Array:
    """``upper - lower``, at most `MOST`."""
    with np.errstate(over="ignore"):
        return np.minimum(upper - lower, MOST)


def divisible(lower: Array, upper: Array) -> Mask:
    """Where a number of float64 lies between the bounds."""
    at = middle(lower, upper)
    return np.asarray((at > lower) & (at < upper))


def best(score: Array, able: Mask) -> Index:
    """The input of the largest score (at least 0) among those that can be cut, (boxes,); -1 where there is none."""
    return np.where(able.any(axis=1), np.where(able, np.minimum(score, MOST), -1.0).argmax(axis=1), -1)


def guided(lower: Array, upper: Array, gain: Array) -> Index:
    """The input at which to halve each box, (boxes,), by estimates of what that gains; -1 where none can be halved."""
    wide = width(lower, upper)
    most, widest = gain.max(axis=1, keepdims=True), wide.max(axis=1, keepdims=True)
    score = gain / np.maximum(most, 1e-300) + BY_WIDTH * wide / np.maximum(widest, 1e-300)
    return best(score, divisible(lower, upper))


def halves(lower: Array, upper: Array, cut: Index) -> tuple[Array, Array]:
    """Upper corners of the lower halves and lower corners of the upper halves of boxes cut at an input each."""
    rows = np.arange(len(lower))
    at = middle(lower[rows, cut], upper[rows, cut])
    left, right = upper.copy(), lower.copy()
    left[rows, cut] = at
    right[rows, cut] = at
    return left, right
