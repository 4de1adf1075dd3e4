"""Binaries only where the question needs them: big-M, and the epigraph where ReLU is pushed down.

The objective of one question is a pre-activation, ``max w . h + b`` over the last layer's ``h = max(g, 0)``. Where a
larger h_i can only harm it (``w_i < 0``), the two sides of ReLU from below are enough::

    h_i >= g_i        h_i >= 0

At any input the forward pass satisfies all rows and has an objective at least as large as any other point's: so the
optimum is the same, and these neurons need no binary. Where ``w_i > 0``, and wherever readers differ, a neuron gets
the rows of big-M. With the signs of the weights evenly mixed half the binaries of the last layer before the question
are saved. In earlier layers a neuron has readers of both kinds, as a rule; where all agree (through the monotone
ReLUs between), it is saved too.

J. Xu, M. Zhang, B. Du, *SART: sign-absolute reformulation theory for binary variable reduction in neural network
verification*, OOPSLA 2026 (doi 10.1145/3798237), whose abstract and public code this follows: fewer binaries than
unstable neurons in the last layer (half, where the signs are balanced), none saved in general in those before, and
each layer treated as the last one in turn, as a question about a layer does here. The saving by sign is proven above
without recourse to the paper, whose text was not available; what else it may hold (its derivation by ``h = (g + |g|)
/ 2``, its abstraction) is not in here.

Two questions of one neuron, and two neurons, differ in their signs: so each question gets a model of its own, which
costs a build and a load, and questions of one layer are asked one after the other whatever the threads. In a model of
several questions (the single MILP) and in models for users, whose objective is not known, it is big-M.

Size for n neurons of which d are pushed down: n - d binaries, 3 n - 2 d rows, 7 n - 5 d nonzeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from stablenet.formulations.base import Encoding, Formulation, ReluLayer, add_binaries, phase_handles
from stablenet.formulations.bigm import big_m_matrix

from stablenet.core.arrays import Array, Index


class Sart(Formulation):
    """Big-M without the binaries of neurons that a question pushes down."""

    name = "sart"
    title = "big-M, no binary where the question pushes a neuron down"
    paper = "Xu, Zhang & Du 2026 (doi 10.1145/3798237)"
    equations = "binaries by the signs of the last layer's weights"
    directed = True

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Three rows and a binary per neuron; one row and none where it is pushed down."""
        from stablenet.milp.affine_rows import AffineRows

        n, free = layer.size, _needs_binary(layer)
        active = add_binaries(block, "is_active", layer.neurons[free])
        rows = np.concatenate([np.arange(n), n + free, 2 * n + free])
        columns = np.concatenate([np.arange(2 * n), 2 * n + free])
        matrix = sparse.csr_array(big_m_matrix(layer.lower, layer.upper)[rows][:, columns])
        sides = np.concatenate([np.zeros(n), -layer.lower[free], np.zeros(len(free))])
        block.relu = AffineRows(matrix, [*layer.pre, *layer.post, *active], -np.inf, sides)
        handles = phase_handles(active) if len(free) == n else ((), ())
        return Encoding({"active": active}, *handles)

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The binaries are 1 where the neuron is active."""
        del inputs
        return {"active": (pre[:, _needs_binary(layer)] > 0).astype(np.float64)}


def _needs_binary(layer: ReluLayer) -> Index:
    """The neurons that are not only pushed down."""
    return np.arange(layer.size) if layer.sense is None else np.flatnonzero(layer.sense >= 0)
