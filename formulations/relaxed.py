"""The triangle relaxation: the convex hull of ``h = max(g, 0)`` in the plane of g and h.

With ``L <= g <= U``, ``L <= 0 <= U``::

    h >= g        h >= 0        h <= s g + c        s = U / (U - L),  c = max(-s L, U - s U)

R. Ehlers, *Formal verification of piece-wise linear feed-forward neural networks*, ATVA 2017 (arXiv 1705.01320),
section 3, for the exact slope. Any slope in [0, 1] with this intercept is valid, so rounding of the slope costs
nothing; the intercept is rounded up.

Size for n neurons: no binaries, 2 n rows, 4 n nonzeros. A linear program: it refutes, and cannot witness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stablenet.formulations.base import Encoding, Formulation, ReluLayer, block_matrix

from stablenet.core.arrays import Array


class Relaxed(Formulation):
    """Linear relaxation without binaries."""

    name = "relaxed"
    title = "triangle relaxation (refutes only)"
    paper = "Ehlers 2017 (arXiv 1705.01320)"
    equations = "section 3"
    exact = False

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Two rows per neuron."""
        from stablenet.milp.affine_rows import AffineRows

        width = layer.upper - layer.lower
        slope = np.divide(layer.upper, width, out=np.zeros_like(width), where=width > 0)
        intercept = np.nextafter(np.maximum(-slope * layer.lower, layer.upper - slope * layer.upper), np.inf)
        block.triangle = AffineRows(
            block_matrix(layer.size, [[1.0, -1.0], [-slope, 1.0]]),
            [*layer.pre, *layer.post],
            -np.inf,
            np.concatenate([np.zeros(layer.size), intercept]),
        )
        return Encoding()

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """It has no variables of its own."""
        del layer, inputs, pre
        return {}
