"""``crown-alpha``: CROWN with slopes chosen question by question.

For every undecided neuron and side the slopes of all lower relaxations before it are chosen by `BoundOptimizer` so that
this one bound is small. The best possible choice gives the optimum of the triangle relaxation's linear program (Salman
et al., *A Convex Relaxation Barrier to Tight Robustness Verification*, NeurIPS 2019), which a few steps come close to.
Layers are taken in order, and bounds already improved serve the layers after.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from stablenet.bounds.base import whole_number
from stablenet.bounds.certificates import Rows, record_rows
from stablenet.bounds.crown import chunks
from stablenet.bounds.layerwise import LayerwiseState, Tightening
from stablenet.bounds.optimize import BoundOptimizer, Optimised
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap
from stablenet.core.proofs import PartProof

STEPS = 15
"""Steps of gradient descent: nearly all of what 200 steps gain, on the networks tried."""


class CrownAlpha(Tightening):
    """CROWN with optimised lower slopes."""

    name = "crown-alpha"
    title = "CROWN with optimised slopes (argument: steps of gradient descent)"
    paper = "Xu et al. 2021 (arXiv 2011.13824)"
    rigorous = True

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``crown-alpha`` or ``crown-alpha:STEPS``."""
        return cls(STEPS if argument is None else whole_number(cls.name, argument))

    def work(self, state: LayerwiseState) -> None:
        """See `Tightening`."""
        rows = state.undecided()
        affine = state.network.layers[state.layer].affine
        lower, upper = np.full(affine.size, -np.inf), np.full(affine.size, np.inf)
        optimizer = BoundOptimizer(state.backward)
        done = 0
        with state.cost(self.name, 2 * len(rows)) as row:
            for chunk in chunks(rows, state.backward, copies=COPIES):
                if state.context.deadline.over:
                    break
                below, above = alpha_bounds(optimizer, affine, chunk, self.steps, state.context.proof)
                lower[chunk], upper[chunk] = below, above
                done += 2 * len(chunk)
                state.context.progress(f"{self.name}, layer {state.layer}", done, 2 * len(rows))
            row["tightened"] = state.tighten(self.name, lower, upper, rigorous=True)


COPIES = 12
"""Arrays of all coefficients that gradient descent holds at a time, in units of what a backward pass does."""


def alpha_bounds(
    optimizer: BoundOptimizer, affine: AffineMap, rows: Index, steps: int, proof: PartProof | None = None
) -> tuple[Array, Array]:
    """Rigorous lower and upper bounds of an affine map at the given rows on the only part, (rows,) each."""
    both, signs = np.concatenate([rows, rows]), np.repeat([1.0, -1.0], len(rows))
    found = optimizer.run(affine, both, signs, steps)
    bounds = certified(optimizer, affine, both, signs, found)
    record_rows(proof, CrownAlpha.name, Rows(optimizer.backward, both, signs, optimizer.choices(found.variables)))
    return -bounds[len(rows) :], bounds[: len(rows)]


def certified(optimizer: BoundOptimizer, affine: AffineMap, rows: Index, signs: Array, found: Optimised) -> Array:
    """Rigorous upper bounds with the choices that descent found, on the only part, (rows,)."""
    choices = optimizer.choices(found.variables)
    bounds, _ = optimizer.backward.upper_bounds(affine, rows, signs, choices)
    return np.asarray(bounds[0])
