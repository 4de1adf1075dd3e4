"""``crown-alpha``: CROWN with slopes chosen question by question.

For every undecided neuron and side the slopes of all lower relaxations before it are chosen by `Descent` so that
this one bound is small. The best possible choice gives the optimum of the triangle relaxation's linear program (Salman
et al., *A Convex Relaxation Barrier to Tight Robustness Verification*, NeurIPS 2019), which a few steps come close to.
Layers are taken in order, and bounds already improved serve the layers after.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from stablenet.bounds.base import whole_number
from stablenet.bounds.certificates import Rows, record_rows
from stablenet.bounds.crown import Index
from stablenet.bounds.crown_layers import chunks
from stablenet.bounds.layerwise import Sweep, Tightening
from stablenet.bounds.optimize import Descent, Outcome
from stablenet.core.bounds import Array
from stablenet.core.network import AffineMap
from stablenet.core.proofs import PartProof

STEPS = 15
"""Steps of descent: nearly all of what 200 steps gain, on the networks tried."""


class CrownAlpha(Tightening):
    """CROWN with optimised lower slopes."""

    name = "crown-alpha"
    title = "CROWN with optimised slopes (argument: steps of descent)"
    paper = "Xu et al. 2021 (arXiv 2011.13824)"
    rigorous = True

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``crown-alpha`` or ``crown-alpha:STEPS``."""
        return cls(STEPS if argument is None else whole_number(cls.name, argument))

    def work(self, sweep: Sweep) -> None:
        """See `Tightening`."""
        rows = sweep.undecided()
        affine = sweep.network.layers[sweep.layer].affine
        lower, upper = np.full(affine.size, -np.inf), np.full(affine.size, np.inf)
        descent = Descent(sweep.backward)
        done = 0
        with sweep.cost(self.name, 2 * len(rows)) as row:
            for chunk in chunks(rows, sweep.backward, copies=COPIES):
                if sweep.context.deadline.over:
                    break
                below, above = alpha_bounds(descent, affine, chunk, self.steps, sweep.context.proof)
                lower[chunk], upper[chunk] = below, above
                done += 2 * len(chunk)
                sweep.context.progress(f"{self.name}, layer {sweep.layer}", done, 2 * len(rows))
            row["tightened"] = sweep.tighten(self.name, lower, upper, rigorous=True)


COPIES = 12
"""Arrays of all coefficients that descent holds at a time, in units of what a backward pass does."""


def alpha_bounds(
    descent: Descent, affine: AffineMap, rows: Index, steps: int, proof: PartProof | None = None
) -> tuple[Array, Array]:
    """Rigorous lower and upper bounds of an affine map at the given rows on the only part, (rows,) each."""
    both, signs = np.concatenate([rows, rows]), np.repeat([1.0, -1.0], len(rows))
    found = descent.run(affine, both, signs, steps)
    bounds = certified(descent, affine, both, signs, found)
    record_rows(proof, CrownAlpha.name, Rows(descent.backward, both, signs, descent.choices(found.variables)))
    return -bounds[len(rows) :], bounds[: len(rows)]


def certified(descent: Descent, affine: AffineMap, rows: Index, signs: Array, found: Outcome) -> Array:
    """Rigorous upper bounds with the choices that descent found, on the only part, (rows,)."""
    choices = descent.choices(found.variables)
    bounds, _ = descent.backward.upper_bounds(affine, rows, signs, choices)
    return np.asarray(bounds[0])
