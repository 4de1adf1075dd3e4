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

from typing import Any

import numpy as np
from stablenet.formulations.base import Encoding, ReluLayer
from stablenet.formulations.complementarity import Complementarity, split_parts


class BigMLoose(Complementarity):
    """Big-M with ``M = 2 max(bound, 1)`` for both sides."""

    name = "bigm-loose"
    title = "big-M of the paper's public code, M = 2 max(bound, 1)"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"
    equations = "supplement A1, (13)-(19), M as in the public code"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Three rows per neuron; widens the bounds of pre and post to M."""
        big = 2.0 * np.maximum(np.maximum(-layer.lower, layer.upper), layer.scale)
        for variables, low in ((layer.pre, -big), (layer.post, np.zeros(layer.size))):
            for variable, lower, upper in zip(variables, low.tolist(), big.tolist(), strict=True):
                variable.setlb(lower)
                variable.setub(upper)
        return split_parts(block, layer, big, big)
