"""The epigraph of ReLU: the two sides from below, none from above.

::

    h >= g        h >= 0

``ReLUEpigraph`` of R. Parker, O. Dowson, N. LoGiudice, M. Garcia, R. Bent, *Formulations and scalability of neural
network surrogates in nonlinear optimization problems*, 2024 (arXiv 2412.11403) and of their package MathOptAI. It is
exact only where the objective and all that reads h want h to be small (an input-convex network that is minimised),
and a relaxation elsewhere: h may be anything between ``max(g, 0)`` and the bound U of its column. So this is one
here: it refutes, and cannot witness. It contains the triangle (`stablenet.formulations.relaxed`), whose row from
above it lacks, and is never stronger. `stablenet.formulations.sart` uses it where it is exact.

Size for n neurons: no binaries, n rows, 2 n nonzeros (``h >= 0`` and ``h <= U`` are bounds of the column).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stablenet.formulations.base import Encoding, Formulation, ReluLayer, block_matrix

from stablenet.core.arrays import Array


class Epigraph(Formulation):
    """Linear relaxation from below alone."""

    name = "epigraph"
    title = "epigraph: the sides of ReLU from below (refutes only)"
    paper = "Parker, Dowson, LoGiudice, Garcia & Bent 2024 (arXiv 2412.11403)"
    equations = "ReLUEpigraph"
    exact = False

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One row per neuron."""
        from stablenet.milp.affine_rows import AffineRows

        rows = block_matrix(layer.size, [[1.0, -1.0]])
        block.epigraph = AffineRows(rows, [*layer.pre, *layer.post], -np.inf, 0.0)
        return Encoding()

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """It has no variables of its own."""
        del layer, inputs, pre
        return {}
