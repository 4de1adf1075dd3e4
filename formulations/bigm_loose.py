"""Big-M as the paper of the single MILP published it: one generous M, used for both sides.

With ``M = 2 max(B, 1)``, ``B`` a bound on ``|g|`` in the network's own units, the negative part ``k`` and a binary
``z``::

    g = h - k        h <= M z        k <= M (1 - z)        h >= 0        k >= 0

T. Serra, X. Yu, A. Kumar, S. Ramalingam, *Scaling up exact neural network compression by ReLU stability*, NeurIPS
2021 (arXiv 2102.07804), supplement A1, equations (13)-(19), with the M of its public code for both of the paper's
constants (there B is the interval bound: ask for ``interval`` bounds; the code takes upper bounds only, which is
invalid where inputs can be negative, so B is here the larger of both sides). The bounds of g and h themselves are M
as well, so that nothing tightens the relaxation on the side.

Size for n neurons: n binaries, n continuous variables, 3 n rows, 7 n nonzeros. An ablation: `bigm` is never looser.
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


class BigMLoose(Formulation):
    """Big-M with ``M = 2 max(bound, 1)`` for both sides."""

    name = "bigm-loose"
    title = "big-M of the paper's public code, M = 2 max(bound, 1)"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"
    equations = "supplement A1, (13)-(19), M as in the public code"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Three rows per neuron; widens the bounds of pre and post to M."""
        from stablenet.milp.affine_rows import AffineRows

        n = layer.size
        big = 2.0 * np.maximum(np.maximum(-layer.lower, layer.upper), layer.scale)
        for variables, low in ((layer.pre, -big), (layer.post, np.zeros(n))):
            for variable, lower, upper in zip(variables, low.tolist(), big.tolist(), strict=True):
                variable.setlb(lower)
                variable.setub(upper)
        active = add_binaries(block, "is_active", layer.neurons)
        negative = add_variables(block, "negative_part", layer.neurons, 0.0, big)
        rows = block_matrix(n, [[1.0, -1.0, 1.0, None], [None, 1.0, None, -big], [None, None, 1.0, big]])
        zeros = np.zeros(n)
        block.split = AffineRows(
            rows,
            [*layer.pre, *layer.post, *negative, *active],
            np.concatenate([zeros, np.full(2 * n, -np.inf)]),
            np.concatenate([zeros, zeros, big]),
        )
        return Encoding({"active": active, "negative": negative}, *phase_handles(active))

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The binaries are 1 where the neuron is active; the negative part is what ReLU cuts off."""
        del layer, inputs
        return {"active": (pre > 0).astype(np.float64), "negative": np.maximum(-pre, 0.0)}
