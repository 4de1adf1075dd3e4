"""P-split: the inputs of each neuron in P groups, between big-M (P = 1) and the hull (P = number of inputs).

C. Tsay, J. Kronqvist, A. Thebelt, R. Misener, *Partition-based formulations for mixed-integer optimization of
trained ReLU neural networks*, NeurIPS 2021 (arXiv 2102.04373), section 3, which also has the strategies by
which the groups are chosen. The rows stand in `stablenet.formulations.disjunction`; our ``z`` is the paper's
``1 - sigma``. By the weights of each neuron:

``equal-size``   sorted weights cut into P runs of equal length (the default);
``equal-range``  weights by P intervals of equal width between their least and greatest; empty groups vanish;
``random``       dealt at random, with a fixed seed;
``by-weight``    sorted by magnitude and dealt to and fro, so that each group gets large and small ones
                 (*uneven magnitudes*).

With ``equal-size`` the groups for P are unions of those for 2 P. Size for n neurons with c nonzero weights: n
binaries, 2 P n continuous variables, (5 P + 4) n rows, at most c + (12 P + 9) n nonzeros. Needs nothing beyond
linear rows and binaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from stablenet.formulations import disjunction
from stablenet.formulations.base import Encoding, Formulation, ReluLayer

from stablenet.core.arrays import Array, Index
from stablenet.core.errors import InputError, UnknownNameError
from stablenet.milp.matrices import to_csr


def _rank(neuron: Index, key: Array) -> tuple[Index, Index]:
    """Position of each nonzero among its neuron's by increasing key, and how many the neuron has."""
    order = np.lexsort((key, neuron))
    counts = np.bincount(neuron)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    rank = np.empty(len(neuron), dtype=np.intp)
    rank[order] = np.arange(len(neuron)) - starts[neuron[order]]
    return rank, counts[neuron]


def _equal_size(neuron: Index, weight: Array, parts: int) -> Index:
    rank, count = _rank(neuron, weight)
    return np.asarray(rank * parts // count)


def _equal_range(neuron: Index, weight: Array, parts: int) -> Index:
    starts = np.flatnonzero(np.diff(neuron, prepend=-1))
    low, high = np.minimum.reduceat(weight, starts), np.maximum.reduceat(weight, starts)
    which = np.cumsum(np.diff(neuron, prepend=-1) != 0) - 1
    width = np.where(high > low, high - low, 1.0)
    place = (weight - low[which]) / width[which] * parts
    return np.asarray(np.minimum(place.astype(np.intp), parts - 1))


def _random(neuron: Index, weight: Array, parts: int) -> Index:
    return _equal_size(neuron, np.random.default_rng(0).random(len(weight)), parts)


def _by_weight(neuron: Index, weight: Array, parts: int) -> Index:
    rank, _ = _rank(neuron, -np.abs(weight))
    turn, place = np.divmod(rank, parts)
    return np.where(turn % 2 == 0, place, parts - 1 - place)


STRATEGIES: dict[str, Callable[[Index, Array, int], Index]] = {
    "equal-size": _equal_size,
    "equal-range": _equal_range,
    "random": _random,
    "by-weight": _by_weight,
}


class Partition(Formulation):
    """Disaggregation by groups of inputs."""

    name = "partition"
    title = "P-split over groups of inputs, partition:P[:strategy]"
    paper = "Tsay, Kronqvist, Thebelt & Misener 2021 (arXiv 2102.04373)"
    equations = "section 3"
    variants = ("partition:2", "partition:4:equal-range", "partition:4:random", "partition:4:by-weight")

    def __init__(self, parts: int = 2, strategy: str = "equal-size") -> None:
        if parts < 1:
            raise InputError(f"partition:{parts}: at least one group is expected")
        if strategy not in STRATEGIES:
            raise UnknownNameError("partition strategy", strategy, STRATEGIES)
        self.parts = parts
        self.strategy = strategy

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``P[:strategy]``; without argument two groups of equal size."""
        if argument is None:
            return cls()
        number, _, strategy = argument.partition(":")
        if not number.isdecimal():
            raise InputError(f"partition:{argument}: partition:P[:strategy] with a number P is expected")
        return cls(int(number), strategy or "equal-size")

    @property
    def spec(self) -> str:
        """``partition:P:strategy``."""
        return f"{self.name}:{self.parts}:{self.strategy}"

    def groups(self, layer: ReluLayer) -> disjunction.Groups:
        """The groups of a layer."""
        weights = to_csr(layer.matrix)
        neuron = np.repeat(np.arange(layer.size), np.diff(weights.indptr))
        if not len(neuron):
            return disjunction.grouped(layer, None)
        return disjunction.grouped(layer, STRATEGIES[self.strategy](neuron, weights.data, self.parts))

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """Two variables per group."""
        return disjunction.encode(block, layer, self.groups(layer))

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """The groups of an active neuron are all in the active disjunct."""
        return disjunction.assign(layer, self.groups(layer), inputs, pre)
