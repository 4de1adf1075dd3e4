"""Interval propagation, proof against rounding, for a batch of boxes at once.

An affine map of a box ``c +- r`` is ``W c + b +- |W| r``; the computed value is widened by the
classical bound on the error of scalar products (Higham, *Accuracy and Stability*, 3.1), with
``|W| m + |b|``, ``m = max(|l|, |u|)``, as the magnitude. Rows whose computed bound is too close to zero
for that to tell its sign are computed again in exact rational arithmetic, so that ties are decided.
Where a map says what float32 makes of it (`AffineMap.deviation`), every value that this allows is within the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core.arrays import Array
from stablenet.core.network import AffineMap, Network, apply
from stablenet.core.rounding import OVERFLOW, SAFETY, gamma, underflow

_EXACT_WORK = 200_000
"""Multiplications in rational arithmetic that one call may spend on ties."""


def centre_radius(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Centres and radii whose intervals contain ``[lower, upper]``; a point gets radius 0."""
    centre = 0.5 * lower + 0.5 * upper
    radius = np.maximum(upper - centre, centre - lower)
    return centre, np.where(radius > 0, np.nextafter(radius, np.inf), 0.0)


def magnitude(lower: Array, upper: Array) -> Array:
    """``max(|l|, |u|)``."""
    return np.maximum(np.abs(lower), np.abs(upper))


def affine_bounds(affine: AffineMap, lower: Sequence[Array], upper: Sequence[Array]) -> tuple[Array, Array]:
    """Bounds of an affine map, (parts, size) each.

    ``lower[s]`` and ``upper[s]``, (parts, n_s), bound its sources. Where a bound cannot be computed
    (overflow) it is NaN, or infinite on its own side, which decides nothing.
    """
    n_parts = lower[0].shape[0]
    middle = np.broadcast_to(affine.offset, (n_parts, affine.size))
    spread = np.zeros((n_parts, affine.size))
    size = np.broadcast_to(np.abs(affine.offset), (n_parts, affine.size))
    tiny = False
    with np.errstate(invalid="ignore", over="ignore"):
        for term in affine.terms:
            low, high = lower[term.source], upper[term.source]
            centre, radius = centre_radius(low, high)
            most = magnitude(low, high)
            middle = middle + apply(term.matrix, centre)
            spread = spread + apply(term.absolute, radius)
            size = size + apply(term.absolute, most)
            least = most[most > 0].min(initial=np.inf)
            # Centres and radii may be smaller than the largest magnitudes, by the precision of float64.
            tiny |= term.smallest * least < 1e-280
        error = SAFETY * gamma(affine.n_terms + 2 * len(affine.terms) + 8) * size
        if tiny:
            lost = 4.0 * underflow(affine.n_terms + len(affine.terms))
            error = error + np.where(_has_terms(affine, lower, upper), lost, 0.0)
        doubt = error
        if affine.roundoff is not None:
            deviation = affine.deviation([magnitude(low, high) for low, high in zip(lower, upper, strict=True)])
            error = error if deviation is None else error + deviation
            doubt = np.where(deviation == 0, error, 0.0)
        below, above = middle - spread - error, middle + spread + error
        # One more rounding happened in these sums; where nothing could round, the bounds stay as they are.
        touched = error > 0
        below = np.where(touched, np.nextafter(below, -np.inf), below)
        above = np.where(touched, np.nextafter(above, np.inf), above)
        sure = size < OVERFLOW
        below, above = np.where(sure, below, -np.inf), np.where(sure, above, np.inf)
    _settle_ties(affine, lower, upper, (below, above), doubt)
    return below, above


def _has_terms(affine: AffineMap, lower: Sequence[Array], upper: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """Where a row has a nonzero coefficient on a source that is not identically zero, (parts, size)."""
    found = np.zeros((lower[0].shape[0], affine.size))
    for term in affine.terms:
        live = (magnitude(lower[term.source], upper[term.source]) > 0).astype(np.float64)
        if isinstance(term.matrix, sparse.csr_array):
            pattern = sparse.csr_array(
                (np.ones_like(term.matrix.data), term.matrix.indices, term.matrix.indptr), shape=term.matrix.shape
            )
            found += apply(pattern, live)
        else:
            found += live @ (term.matrix != 0).astype(np.float64).T
    return found > 0


def _settle_ties(
    affine: AffineMap, lower: Sequence[Array], upper: Sequence[Array], result: tuple[Array, Array], error: Array
) -> None:
    """Recompute, exactly, bounds (below, above) whose sign the rounding bound leaves open; in place."""
    budget = _EXACT_WORK
    for bound, sign in zip(result, (-1, 1), strict=True):
        with np.errstate(invalid="ignore"):
            doubtful = (sign * bound > 0) & (sign * bound <= 3.0 * error)
        for part, row in np.argwhere(doubtful):
            budget -= affine.n_terms + 1
            if budget < 0:
                return
            value = _exact_bound(affine, int(row), [x[part] for x in lower], [x[part] for x in upper], sign)
            if value is not None:
                bound[part, row] = _outward(value, sign)


def _exact_bound(
    affine: AffineMap, row: int, lower: Sequence[Array], upper: Sequence[Array], sign: int
) -> Fraction | None:
    """The bound in rational arithmetic; None where a source has no finite bound."""
    total = Fraction(float(affine.offset[row]))
    for term in affine.terms:
        if isinstance(term.matrix, sparse.csr_array):
            start, stop = term.matrix.indptr[row], term.matrix.indptr[row + 1]
            columns, weights = np.asarray(term.matrix.indices[start:stop], np.intp), term.matrix.data[start:stop]
        else:
            columns = np.flatnonzero(term.matrix[row])
            weights = term.matrix[row, columns]
        ends = np.where(sign * weights > 0, upper[term.source][columns], lower[term.source][columns])
        if not np.isfinite(ends).all():
            return None
        total += sum(
            (Fraction(w) * Fraction(e) for w, e in zip(weights.tolist(), ends.tolist(), strict=True)), Fraction()
        )
    return total


def _outward(value: Fraction, sign: int) -> float:
    """The nearest float on the outer side of an exact value."""
    try:
        nearest = float(value)
    except OverflowError:
        return sign * np.inf
    if sign * (Fraction(nearest) - value) < 0:
        nearest = float(np.nextafter(nearest, sign * np.inf))
    return nearest


def post_bounds(lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds after the ReLU. NaN becomes the trivial bound."""
    return np.fmax(lower, 0.0), np.where(np.isnan(upper), np.inf, np.maximum(upper, 0.0))


def interval_layers(network: Network, box_lower: Array, box_upper: Array) -> list[tuple[Array, Array]]:
    """Bounds of every layer's pre-activations on a batch of boxes: per layer ``(lower, upper)``, (parts, n_k)."""
    lows, highs = [box_lower], [box_upper]
    result: list[tuple[Array, Array]] = []
    for layer in network.layers:
        result.append(affine_bounds(layer.affine, lows, highs))
        low, high = post_bounds(*result[-1])
        lows.append(low)
        highs.append(high)
    return result
