"""Big-M with one M per neuron and side.

With ``L <= g <= U``, ``h = max(g, 0)`` and a binary ``z`` that is 1 where the neuron is active::

    h >= g        h <= g - L (1 - z)        h <= U z        h >= 0

M. Fischetti, J. Jo, *Deep neural networks and mixed integer linear optimization*, Constraints 23 (2018), in
the form of V. Tjeng, K. Xiao, R. Tedrake, *Evaluating robustness of neural networks with mixed integer
programming*, ICLR 2019 (arXiv 1711.07356), section 4.1, eq. (6).

Size for n neurons: n binaries, 3 n rows, 7 n nonzeros. Needs nothing beyond linear rows and binaries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import numpy as np
from scipy import sparse
from stablenet.formulations.base import (
    Capability,
    Cuts,
    Encoding,
    Formulation,
    ReluLayer,
    add_binaries,
    block_matrix,
    phase_handles,
)

from stablenet.core.arrays import Array
from stablenet.core.errors import UnknownNameError
from stablenet.milp.matrices import Variables


class BigM(Formulation):
    """Big-M from the neuron's own bounds."""

    name = "bigm"
    title = "big-M, one M per neuron and side"
    paper = "Fischetti & Jo 2018; Tjeng, Xiao & Tedrake 2019 (arXiv 1711.07356)"
    equations = "Tjeng et al. section 4.1, eq. (6)"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Three rows per neuron."""
        from stablenet.milp.affine_rows import AffineRows

        active = add_binaries(block, "is_active", layer.neurons)
        block.relu = AffineRows(
            big_m_matrix(layer.lower, layer.upper),
            [*layer.pre, *layer.post, *active],
            -np.inf,
            np.concatenate([np.zeros(layer.size), -layer.lower, np.zeros(layer.size)]),
        )
        positive, negative = phase_handles(active)
        return Encoding({"active": active}, positive, negative)

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The binaries are 1 where the neuron is active."""
        del layer, inputs
        return {"active": (pre > 0).astype(np.float64)}


class BigMWithCuts(BigM):
    """Big-M with cuts, which are separated at the root (argument ``root``) or in the solver's tree too (``cuts``)."""

    def __init__(self, when: str = "root") -> None:
        cuts: dict[str, Literal["root", "tree"]] = {"root": "root", "cuts": "tree"}
        if when not in cuts:
            raise UnknownNameError("moment of separation", when, cuts)
        self.when = when
        self.cuts = cuts[when]
        self.requires = frozenset({Capability.CUTS} if when == "cuts" else ())

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``root`` (the default) or ``cuts``."""
        return cls() if argument is None else cls(argument)

    @property
    def spec(self) -> str:
        """The name with ``root`` or ``cuts``."""
        return f"{self.name}:{self.when}"

    @abstractmethod
    def separate(self, layer: ReluLayer, encoding: Encoding, value: Callable[[Variables], Array]) -> Cuts | None:
        """Cuts that the values violate; None without any."""


def big_m_matrix(lower: Array, upper: Array) -> sparse.csr_array:
    """Rows ``g - h <= 0``, ``h - g - L z <= -L``, ``h - U z <= 0`` over the columns g, h, z: (3 n, 3 n)."""
    return block_matrix(len(lower), [[1.0, -1.0, None], [-1.0, 1.0, -lower], [None, 1.0, -upper]])
