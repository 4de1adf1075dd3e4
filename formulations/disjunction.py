"""What `hull` and `partition` share: big-M rows with the inputs disaggregated group by group.

The nonzero weights of each neuron are put into groups, ``s_j = sum over group j of w_i x_i`` with ``l_j <= s_j <=
u_j`` from the inputs' bounds. With ``a_j`` the part of ``s_j`` that belongs to the active disjunct::

    l_j z <= a_j <= u_j z        l_j (1 - z) <= s_j - a_j <= u_j (1 - z)        h = sum_j a_j + b z

and the rows of big-M, which put ``L <= g <= U`` into each disjunct: ``h <= U z`` and ``g - h >= L (1 - z)``.
Without these, bounds better than interval bounds would leave the hull looser than big-M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from stablenet.formulations.base import Encoding, ReluLayer, add_binaries, add_variables, block_matrix, phase_handles
from stablenet.formulations.bigm import big_m_matrix

from stablenet.core.arrays import Array, Index
from stablenet.milp.matrices import Matrix, Variables, to_csr


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of a layer's nonzero weights: ``s = matrix @ inputs``, csr (G, m); ``owner`` (G,) is the neuron."""

    matrix: sparse.csr_array
    owner: Index
    lower: Array
    upper: Array

    @property
    def size(self) -> int:
        """Number of groups."""
        return len(self.owner)


def grouped(layer: ReluLayer, label: Index | None) -> Groups:
    """The groups by ``label``, one number per nonzero of the layer's csr matrix, counted anew in each neuron.

    None puts each nonzero into a group of its own. Bounds are rounded outward.
    """
    weights = to_csr(layer.matrix)
    neuron = np.repeat(np.arange(layer.size), np.diff(weights.indptr))
    if label is None:
        group = np.arange(weights.nnz)
        owner = neuron
    else:
        keys, group = np.unique(neuron * (int(label.max(initial=0)) + 1) + label, return_inverse=True)
        owner = keys // (int(label.max(initial=0)) + 1)
    matrix = sparse.csr_array((weights.data, (group, weights.indices)), shape=(len(owner), weights.shape[1]))
    positive, negative = matrix.maximum(0.0), matrix.minimum(0.0)
    lower = positive @ layer.input_lower + negative @ layer.input_upper
    upper = positive @ layer.input_upper + negative @ layer.input_lower
    reach = abs(matrix) @ np.maximum(np.abs(layer.input_lower), np.abs(layer.input_upper))
    slack = (np.diff(matrix.indptr) + 4) * 2.0**-52 * reach
    return Groups(matrix, owner, lower - slack, upper + slack)


def encode(block: Any, layer: ReluLayer, groups: Groups) -> Encoding:
    """Add the disjunction over the groups; single inputs need no variable for their ``s``."""
    from stablenet.milp.affine_rows import AffineRows

    n, size = layer.size, groups.size
    active = add_binaries(block, "is_active", layer.neurons)
    block.relu = AffineRows(
        big_m_matrix(layer.lower, layer.upper),
        [*layer.pre, *layer.post, *active],
        -np.inf,
        np.concatenate([np.zeros(n), -layer.lower, np.zeros(n)]),
    )
    flat = np.arange(size)
    single = bool((np.diff(groups.matrix.indptr) == 1).all())
    # Groups are the formulation's own: their rows need the least margin that there is, which is the solver's.
    own_margin = float(layer.slack.min(initial=layer.margin))
    wide = 0.0 if single else own_margin
    low, high = groups.lower - wide, groups.upper + wide
    parts = add_variables(block, "part", flat, np.minimum(low, 0.0), np.maximum(high, 0.0))
    own = {"active": active, "part": parts}
    if single:
        sums: Variables = layer.inputs
        unit: Matrix | float = groups.matrix
    else:
        sums = add_variables(block, "group", flat, low, high)
        unit = 1.0
        block.grouping = AffineRows(
            block_matrix(size, [[groups.matrix, -1.0]]),
            [*layer.inputs, *sums],
            -own_margin,
            own_margin,
        )
        own["group"] = sums
    owner = (flat, groups.owner)
    low_z = sparse.csr_array((low, owner), shape=(size, n))
    high_z = sparse.csr_array((high, owner), shape=(size, n))
    rows: list[list[Matrix | float | None]] = [
        [1.0, -high_z, None],  # a <= u z
        [-1.0, low_z, None],  # l z <= a
        [-1.0, high_z, unit],  # s - a <= u (1 - z)
        [1.0, -low_z, -unit],  # l (1 - z) <= s - a
    ]
    block.disaggregated = AffineRows(
        block_matrix(size, rows),
        [*parts, *active, *sums],
        -np.inf,
        np.concatenate([np.zeros(2 * size), high, -low]),
    )
    total = sparse.csr_array((np.ones(size), owner[::-1]), shape=(n, size))
    block.total = AffineRows(
        block_matrix(n, [[total, layer.offset, -1.0]]), [*parts, *active, *layer.post], -layer.slack, layer.slack
    )
    return Encoding(own, *phase_handles(active))


def assign(layer: ReluLayer, groups: Groups, inputs: Array, pre: Array) -> dict[str, Array]:
    """All groups belong to the active disjunct where the neuron is active, else none."""
    del layer
    active = (pre > 0).astype(np.float64)
    sums = np.ascontiguousarray((groups.matrix @ inputs.T).T)
    values = {"active": active, "part": sums * active[:, groups.owner]}
    if not (np.diff(groups.matrix.indptr) == 1).all():
        values["group"] = sums
    return values
