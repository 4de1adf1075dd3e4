"""Complementarity of positive and negative part, as a MILP: one binary says which of the two is 0.

The pre-activation is the difference of two nonnegative parts of which one is 0, ``0 <= h  complementary to  k >= 0``.
With ``L <= g <= U`` and a binary ``z`` that is 1 where the neuron is active::

    g = h - k        h <= U z        k <= -L (1 - z)        h >= 0        k >= 0

The equation and the two products are those of T. Serra, C. Tjandraatmadja, S. Ramalingam, *Bounding and counting
linear regions of deep neural networks*, ICML 2018 (arXiv 1711.02114); a complementarity condition written with one
binary and two bounds is due to J. Fortuny-Amat, B. McCarl, *A representation and economic interpretation of a
two-level programming problem*, J. Operational Research Society 32 (1981). As a nonlinear program the condition is ``h
k = 0`` (``ReLUQuadratic`` of MathOptAI); over the box of h and k its McCormick relaxation is ``h / U + k / (-L) <=
1``, which is what is left of the rows above without integrality, and the triangle in the plane of g and h. So the
relaxation is as strong as that of big-M; what differs is what a solver sees: k is a column, and branching fixes one
of two columns at 0. `stablenet.formulations.sos1` says the same by SOS1 sets, without the constants.

Size for n neurons: n binaries, n continuous variables, 3 n rows, 7 n nonzeros. Needs nothing beyond linear rows and
binaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stablenet.formulations.base import (
    Encoding,
    Formulation,
    ReluLayer,
    add_binaries,
    add_variables,
    block_matrix,
    phase_handles,
)

from stablenet.core.arrays import Array


class Complementarity(Formulation):
    """Two parts, of which a binary lets only one be nonzero."""

    name = "complementarity"
    title = "complementary positive and negative part, by one binary"
    paper = "Serra, Tjandraatmadja & Ramalingam 2018 (arXiv 1711.02114); Fortuny-Amat & McCarl 1981"
    equations = "Serra et al., mixed-integer form of a neuron"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One more variable and three rows per neuron."""
        return split_parts(block, layer, -layer.lower, layer.upper)

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The binary is 1 where the neuron is active, the negative part is what ReLU cuts off."""
        del layer, inputs
        return {"active": (pre > 0).astype(np.float64), "negative": np.maximum(-pre, 0.0)}


def split_parts(block: Any, layer: ReluLayer, off: Array, on: Array) -> Encoding:
    """The two parts of each pre-activation, ``h <= on z`` and ``k <= off (1 - z)``; ``off`` and ``on`` are (n,)."""
    from stablenet.milp.affine_rows import AffineRows

    n = layer.size
    active = add_binaries(block, "is_active", layer.neurons)
    negative = add_variables(block, "negative_part", layer.neurons, 0.0, off)
    rows: list[list[Array | float | None]] = [
        [1.0, -1.0, 1.0, None],  # g - h + k = 0
        [None, 1.0, None, -on],  # h - on z <= 0
        [None, None, 1.0, off],  # k + off z <= off
    ]
    block.split = AffineRows(
        block_matrix(n, rows),
        [*layer.pre, *layer.post, *negative, *active],
        np.concatenate([np.zeros(n), np.full(2 * n, -np.inf)]),
        np.concatenate([np.zeros(2 * n), off]),
    )
    return Encoding({"active": active, "negative": negative}, *phase_handles(active))
