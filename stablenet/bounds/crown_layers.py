"""CROWN bounds of all layers in turn, or of some rows of one, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stablenet.bounds.crown import Backward
from stablenet.bounds.interval import affine_bounds, post_bounds
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, Network

MEMORY = 256 * 2**20
"""Bytes of coefficients that one backward pass may hold; more rows are passed in chunks."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """Rows of a layer that were carried back, each on one part: ``parts`` and ``rows``, (pairs,), by part; and the
    linear upper bounds of the rows and of their negatives: slopes (2, pairs, n_inputs) and values (2, pairs).
    """

    layer: int
    parts: Index
    rows: Index
    slopes: Array
    bounds: Array


def crown_layers(
    network: Network,
    box_lower: Array,
    box_upper: Array,
    *,
    known: Sequence[tuple[Array, Array]] | None = None,
    polytope: tuple[Array, Array] | None = None,
    up_to: int | None = None,
    last: npt.NDArray[np.bool_] | None = None,
    watch: Callable[[Bounded], None] | None = None,
) -> list[tuple[Array, Array]]:
    """Bounds of every layer's pre-activations on a batch of boxes: per layer ``(lower, upper)``, (parts, n_k).

    Rows that intervals (over bounds so far) decide are not carried back, and in the last layer none but ``last``,
    (parts, n): those decided on every box, or, where that spares much (`SHARE`), on each box those decided on it.
    ``known`` are bounds to intersect with, ``polytope`` are rows a and b of ``a @ x <= b`` that narrow every box,
    ``up_to`` is the number of layers wanted. ``watch`` is shown what is carried back.
    """
    backward = Backward(network, box_lower, box_upper, polytope)
    lows, highs = [box_lower], [box_upper]
    result: list[tuple[Array, Array]] = []
    layers = network.layers[:up_to]
    for k, layer in enumerate(layers):
        lower, upper = affine_bounds(layer.affine, lows, highs)
        if known is not None:
            lower, upper = np.fmax(lower, known[k][0]), np.fmin(upper, known[k][1])
        if k > 0 or polytope is not None:
            asked = ~((lower >= 0) | (upper <= 0))
            if last is not None and k == len(layers) - 1:
                asked &= last
            for found in _carried(backward, layer.affine, asked):
                at = (found.parts, found.rows)
                lower[at] = np.fmax(lower[at], -found.bounds[1])
                upper[at] = np.fmin(upper[at], found.bounds[0])
                if watch is not None:
                    watch(found)
        backward.push(lower, upper)
        low, high = post_bounds(lower, upper)
        lows.append(low)
        highs.append(high)
        result.append((lower, upper))
    return result


SHARE = 0.5
"""Rows are carried back on all boxes if more than this share of the boxes, on average, asks for them."""

PAIRS = 2048
"""Rows on single boxes that are carried back together: as many as the caches hold."""


def _carried(backward: Backward, affine: AffineMap, asked: npt.NDArray[np.bool_]) -> Iterator[Bounded]:
    """Carry back the rows asked for on some part, (parts, n): on all parts, or only where they are asked for."""
    layer, n_parts = len(backward.stages), len(asked)
    rows = np.flatnonzero(asked.any(axis=0))
    if np.count_nonzero(asked) > SHARE * n_parts * len(rows):
        for chunk in chunks(rows, backward):
            signs = np.repeat([1.0, -1.0], len(chunk))
            bounds, slopes = backward.upper_bounds(affine, np.concatenate([chunk, chunk]), signs)
            shape = (n_parts, 2, len(chunk))
            wide = np.broadcast_to(slopes, (n_parts, *slopes.shape[1:])).reshape(*shape, -1)
            yield Bounded(
                layer,
                np.repeat(np.arange(n_parts), len(chunk)),
                np.tile(chunk, n_parts),
                wide.swapaxes(0, 1).reshape(2, n_parts * len(chunk), -1),
                bounds.reshape(shape).swapaxes(0, 1).reshape(2, -1),
            )
        return
    parts, rows = np.nonzero(asked)
    width = max(backward.widths)
    step = max(1, min(PAIRS, MEMORY // (2 * 8 * 16 * width)))
    for start in range(0, len(rows), step):
        some, chunk = parts[start : start + step], rows[start : start + step]
        each = backward.at(some)
        found = [each.upper_bounds_each(affine, chunk, sign) for sign in (1.0, -1.0)]
        slopes = np.stack([np.broadcast_to(slope, (len(chunk), slope.shape[1])) for _, slope in found])
        yield Bounded(layer, some, chunk, slopes, np.stack([bound for bound, _ in found]))


def crown_rows(backward: Backward, affine: AffineMap, rows: Index) -> tuple[Array, Array]:
    """Bounds of an affine map on the first part, (size,) each; infinite but at the given rows."""
    lower, upper = np.full(affine.size, -np.inf), np.full(affine.size, np.inf)
    for chunk in chunks(rows, backward):
        signs = np.repeat([1.0, -1.0], len(chunk))
        bounds, _ = backward.upper_bounds(affine, np.concatenate([chunk, chunk]), signs)
        lower[chunk], upper[chunk] = -bounds[0, len(chunk) :], bounds[0, : len(chunk)]
    return lower, upper


def chunks(rows: Index, backward: Backward, *, copies: int = 4) -> list[Index]:
    """Rows in chunks such that `copies` arrays of coefficients for both sides fit in `MEMORY`."""
    if not len(rows):
        return []
    width = max(backward.widths)
    per_row = 2 * 8 * copies * width * backward.n_parts
    n_chunks = -(-len(rows) * per_row // MEMORY)
    return np.array_split(rows, min(n_chunks, len(rows)))
