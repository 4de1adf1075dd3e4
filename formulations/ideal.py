"""The ideal formulation: big-M with its exponentially many facets, separated in linear time.

Over a box ``l <= x <= u``, with ``lo_i = l_i`` where ``w_i >= 0`` and ``u_i`` elsewhere, ``up_i`` the other one,
every set I of inputs gives::

    h <= sum_{i in I} w_i (x_i - lo_i (1 - z)) + (b + sum_{i not in I} w_i up_i) z

R. Anderson, J. Huchette, W. Ma, C. Tjandraatmadja, J. P. Vielma, *Strong mixed-integer programming formulations for
trained neural networks*, Mathematical Programming 183 (2020) (arXiv 1811.01988), the ReLU formulation over a box;
the most violated set for an LP point takes each i by itself: ``I = {i : w_i (x_i - lo_i (1 - z)) < w_i up_i z}``.
The big-M rows stay, since bounds better than interval bounds are not implied. In a model with margin d the
right-hand side is larger by d, as g itself is.

Size for n neurons: n binaries, 3 n rows, 7 n nonzeros, as big-M; each round adds at most n rows. ``ideal:root`` is
separated in rounds on the root relaxation, ``ideal:cuts`` also in the solver's tree and needs a solver that takes
cuts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from stablenet.formulations.base import Cuts, Encoding, ReluLayer, block_matrix
from stablenet.formulations.bigm import BigMWithCuts

from stablenet.core.arrays import Array
from stablenet.milp.matrices import Variables, to_csr

VIOLATED = 1e-6
"""Cuts violated by less (in the model's units, where pre-activations are below 1) are not added."""


class Ideal(BigMWithCuts):
    """Big-M and the facets of the hull, as cuts."""

    name = "ideal"
    title = "ideal form: big-M with separated facets, ideal:root|cuts"
    paper = "Anderson, Huchette, Ma, Tjandraatmadja & Vielma 2020 (arXiv 1811.01988)"
    equations = "ReLU over a box, separation in linear time"
    variants = ("ideal:root", "ideal:cuts")

    def separate(self, layer: ReluLayer, encoding: Encoding, value: Callable[[Variables], Array]) -> Cuts | None:
        """The most violated facet of each neuron, where it is violated."""
        weights = to_csr(layer.matrix)
        x, h, z = value(layer.inputs), value(layer.post), value(encoding.variables["active"])
        neuron = np.repeat(np.arange(layer.size), np.diff(weights.indptr))
        w, column = weights.data, weights.indices
        low = np.where(w >= 0, layer.input_lower[column], layer.input_upper[column]) * w
        high = np.where(w >= 0, layer.input_upper[column], layer.input_lower[column]) * w
        inside = w * x[column] - low * (1.0 - z[neuron]) < high * z[neuron]

        def summed(values: Array) -> Array:
            return np.asarray(np.bincount(neuron, weights=values, minlength=layer.size), dtype=np.float64)

        slack = layer.slack + (np.diff(weights.indptr) + 8) * 2.0**-50 * summed(np.maximum(np.abs(low), np.abs(high)))
        constant = slack - summed(np.where(inside, low, 0.0))
        slope = layer.offset + summed(np.where(inside, low, high))
        side = summed(np.where(inside, w * x[column], 0.0)) + slope * z + constant
        chosen = np.flatnonzero(h > side + VIOLATED)
        if not chosen.size:
            return None
        kept = sparse.csr_array((np.where(inside, w, 0.0), column, weights.indptr), shape=weights.shape)[chosen]
        kept.eliminate_zeros()
        variables = [*layer.inputs]
        for group in (layer.post, encoding.variables["active"]):
            variables += [group[i] for i in chosen.tolist()]
        matrix = block_matrix(len(chosen), [[-kept, 1.0, -slope[chosen]]])
        return Cuts(matrix, variables, np.full(len(chosen), -np.inf), constant[chosen])
