"""From the choices of backward passes to the certificates of a proof file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.bounds.crown import Backward, Choice
from stablenet.core.arrays import Array, Index
from stablenet.core.proofs import PartProof, ragged
from stablenet.domain.halving import middle

Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of the layer after those pushed, (rows,), their signs, and choices of backward passes, (1, rows, …)."""

    backward: Backward
    rows: Index
    signs: Array
    choices: Sequence[Choice]


def record_rows(proof: PartProof | None, by: str, found: Rows) -> None:
    """Bounds of rows, each by one backward pass."""
    if proof is not None and len(found.rows):
        trees = proof.new_trees(len(found.rows))
        record_leaves(proof, by, found, trees, closed=trees)


def record_leaves(proof: PartProof, by: str, found: Rows, trees: Numbers, *, closed: Numbers) -> None:
    """Leaves of trees, a row each, with the numbers of their trees, and of the trees that are complete."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "tree": trees,
        "row": found.rows.astype("<u4"),
        "sign": found.signs.astype("<i1"),
        "closed": closed,
    }
    if len(found.rows):
        arrays |= _choices(found.backward, found.choices, len(found.rows))
    proof.leaves(found.backward.pushed, by, arrays)


def _choices(backward: Backward, choices: Sequence[Choice], n_rows: int) -> dict[str, npt.NDArray[Any]]:
    """Slopes of undecided neurons, and the multipliers and phases that are not zero."""
    sizes = [len(low) for low, _ in backward.pushed]
    total = np.cumsum([0, *sizes])
    slopes: list[Array] = []
    shifts: list[Array] = []
    phases: list[npt.NDArray[np.int8]] = []
    places: list[Index] = []
    for k, (start, _) in enumerate(pairwise(total.tolist())):
        stage, choice = backward.stages[k], choices[k]
        alive = np.arange(sizes[k]) if stage.alive is None else stage.alive
        places.append(alive + start)
        open_ = stage.relaxation.open[0]
        shape = (n_rows, len(alive))
        slopes.append(np.broadcast_to(choice.low_slope[0], shape)[:, open_])
        shifts.append(np.zeros(shape) if choice.multiplier is None else np.broadcast_to(choice.multiplier[0], shape))
        phases.append(np.zeros(shape, np.int8) if choice.phase is None else np.broadcast_to(choice.phase[0], shape))
    found: dict[str, npt.NDArray[Any]] = {}
    if places:
        at = np.concatenate(places)
        found["slopes"] = _least(np.concatenate(slopes, axis=1))
        found |= _some(np.concatenate(shifts, axis=1), at, "shift")
        found |= _some(np.concatenate(phases, axis=1), at, "phase")
    if backward.rows is not None and choices[-1].multiplier is not None:
        found["duals"] = np.maximum(choices[-1].multiplier[0], 0.0).astype("<f8")
    return found


def _some(dense: npt.NDArray[Any], places: Index, name: str) -> dict[str, npt.NDArray[Any]]:
    if not dense.any():
        return {}
    return ragged(dense, places, name, "<i1" if dense.dtype.kind == "i" else _least(dense).dtype.str)


def _least(values: Array) -> npt.NDArray[Any]:
    """The same numbers in float32 if it holds them."""
    single = values.astype("<f4")
    return single if np.array_equal(single, values) else values.astype("<f8")


NONE = 2**32 - 1
"""Stands for no input, and no box."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Boxes of a cutting that were bounded together: their numbers and corners, (boxes, n_inputs) twice; what is
    refuted on each, (boxes, questions); the input at whose middle it is cut, -1 for none; and the neurons that were
    carried back to the inputs, (n_neurons,).
    """

    numbers: Numbers
    corners: tuple[Array, Array]
    refuted: npt.NDArray[np.bool_]
    cut: Index
    carried: npt.NDArray[np.bool_]


def record_boxes(proof: PartProof, batch: Batch, *, first: int) -> None:
    """Boxes; their halves are numbered from ``first``: all the lower ones, then all the upper ones."""
    (lower, upper), cut = batch.corners, batch.cut
    halved = np.flatnonzero(cut >= 0)
    at = np.zeros(len(cut))
    low, high = lower[halved, cut[halved]], upper[halved, cut[halved]]
    at[halved] = middle(low, high)
    left, right = np.full(len(cut), NONE), np.full(len(cut), NONE)
    left[halved] = first + np.arange(len(halved))
    right[halved] = left[halved] + len(halved)
    proof.write(
        "boxes",
        {},
        {
            "box": batch.numbers,
            "axis": np.where(cut >= 0, cut, NONE).astype("<u4"),
            "at": at.astype("<f8"),
            "left": left.astype("<u4"),
            "right": right.astype("<u4"),
            "refuted": np.packbits(batch.refuted, axis=1).reshape(-1),
            "carried": np.packbits(batch.carried),
        },
    )
