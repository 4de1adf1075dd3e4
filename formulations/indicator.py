"""Indicator constraints: no M at all.

With a binary ``z`` that is 1 where the neuron is active::

    h >= g        h >= 0        z = 1 implies h <= g        z = 0 implies h <= 0

The implications of T. Serra, C. Tjandraatmadja, S. Ramalingam, *Bounding and counting linear regions of deep neural
networks*, ICML 2018 (arXiv 1711.02114), section on the mixed-integer representation, given to the solver as they
are.

Size for n neurons: n binaries, n rows, 2 n nonzeros, 2 n indicator rows. Needs indicator constraints; the solver
makes its own M of the variables' bounds, or branches without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stablenet.formulations.base import (
    Capability,
    Encoding,
    Formulation,
    ReluLayer,
    add_binaries,
    block_matrix,
    phase_handles,
)

from stablenet.core.arrays import Array


class Indicator(Formulation):
    """The solver's own implications."""

    name = "indicator"
    title = "indicator constraints"
    paper = "Serra, Tjandraatmadja & Ramalingam 2018 (arXiv 1711.02114)"
    equations = "mixed-integer representation"
    requires = frozenset({Capability.INDICATOR})

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One row and two implications per neuron."""
        from stablenet.milp.affine_rows import AffineRows, IndicatorRows

        n = layer.size
        active = add_binaries(block, "is_active", layer.neurons)
        difference = block_matrix(n, [[1.0, -1.0]])
        block.above = AffineRows(difference, [*layer.pre, *layer.post], -np.inf, 0.0)
        block.on = IndicatorRows(difference, [*layer.post, *layer.pre], -np.inf, 0.0, binary=active, value=True)
        block.off = IndicatorRows(block_matrix(n, [[1.0]]), layer.post, -np.inf, 0.0, binary=active, value=False)
        return Encoding({"active": active}, *phase_handles(active))

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The binaries are 1 where the neuron is active."""
        del layer, inputs
        return {"active": (pre > 0).astype(np.float64)}
