"""The extended formulation of the convex hull: each input disaggregated over the two disjuncts.

E. Balas, *Disjunctive programming and a hierarchy of relaxations for discrete optimization problems*, SIAM J.
Algebraic Discrete Methods 6 (1985), applied to one neuron over a box as in R. Anderson, J. Huchette, C.
Tjandraatmadja, J. P. Vielma, *Strong mixed-integer programming formulations for trained neural networks* (IPCO
2019, arXiv 1811.08359), extended formulation of section 2. The rows stand in `stablenet.formulations.disjunction`,
each nonzero weight a group of its own: ``a_i`` is ``w_i`` times the copy of the input in the active disjunct, the
copy in the other one being substituted out.

Size for n neurons with c nonzero weights in all: n binaries, c continuous variables, 4 c + 4 n rows, at most
11 c + 9 n nonzeros. Needs nothing beyond linear rows and binaries. The variables are Pyomo objects, one per weight:
this is the one encoding (beside fine partitions) whose cost is of the order of Python's time per weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stablenet.formulations import disjunction
from stablenet.formulations.base import Encoding, Formulation, ReluLayer

from stablenet.core.arrays import Array


class Hull(Formulation):
    """Convex hull of each neuron over the box of its inputs."""

    name = "hull"
    title = "extended convex hull of each neuron"
    paper = "Balas 1985; Anderson, Huchette, Tjandraatmadja & Vielma 2019 (arXiv 1811.08359)"
    equations = "section 2, extended formulation"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One copy per nonzero weight."""
        return disjunction.encode(block, layer, disjunction.grouped(layer, None))

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The copies of an active neuron are its inputs, else 0."""
        return disjunction.assign(layer, disjunction.grouped(layer, None), inputs, pre)
