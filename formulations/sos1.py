"""Complementarity of positive and negative part, as SOS1 sets: no M and no binary.

With the negative part ``k``, bounded by ``-L``::

    g = h - k        h >= 0        k >= 0        at most one of h, k is nonzero

M. Turner, A. Chmiela, T. Koch, M. Winkler, *PySCIPOpt-ML: embedding trained machine learning models into
mixed-integer programs*, 2023 (arXiv 2312.08074), where it is the default for ReLU. A question's witness value
stands in one more SOS1 set: *g can be positive* with k, *g can be negative* with h.

Size for n neurons: n continuous variables, n rows, 3 n nonzeros, n SOS1 sets. Needs SOS1 sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from stablenet.formulations.base import (
    Capability,
    Encoding,
    Formulation,
    ReluLayer,
    SosHandle,
    add_variables,
    block_matrix,
)

from stablenet.core.arrays import Array


def _pair(pairs: Sequence[tuple[Any, Any]], _: Any, i: int) -> list[Any]:
    """The members of set i; a function of the module, so that models can be pickled."""
    return list(pairs[i])


class Sos1(Formulation):
    """SOS1 sets of positive and negative part."""

    name = "sos1"
    title = "SOS1 sets of positive and negative part"
    paper = "Turner, Chmiela, Koch & Winkler 2023 (arXiv 2312.08074)"
    equations = "ReLU by SOS1"
    requires = frozenset({Capability.SOS1})

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One row and one set per neuron."""
        import pyomo.environ as pyo

        from stablenet.milp.affine_rows import AffineRows

        negative = add_variables(block, "negative_part", layer.neurons, 0.0, -layer.lower)
        rows = block_matrix(layer.size, [[1.0, -1.0, 1.0]])
        block.split = AffineRows(rows, [*layer.pre, *layer.post, *negative], 0.0, 0.0)
        pairs = list(zip(layer.post, negative, strict=True))
        block.complementary = pyo.SOSConstraint(range(layer.size), rule=partial(_pair, pairs), sos=1)
        return Encoding({"negative": negative}, [SosHandle(k) for k in negative], [SosHandle(h) for h in layer.post])

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The negative part is what ReLU cuts off."""
        del layer, inputs
        return {"negative": np.maximum(-pre, 0.0)}
