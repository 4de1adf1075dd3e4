"""A network under change: affine maps whose rows and columns come and go.

Maps are numbered as the layers that were given, the output last; source s is the output of layer s - 1, as in
`Network`. Nothing is renumbered until the end, so that steps can name layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.network import AffineMap, Matrix, Network


@dataclass
class WorkingMap:
    """An affine map: ``offset`` (n,) and a matrix per source; ``noise`` (n,) bounds what rounding did to each row.

    ``neurons`` are the numbers that its rows had, -1 for a stand-in: a neuron that is linear, read as
    ``row @ sources + offset`` even where that is negative, until `settle` shifts it above 0. ``changed`` says that a
    row or a coefficient is no longer the one that was given; ``most`` (n,) bounds the magnitudes after the ReLU.
    """

    offset: Array
    terms: dict[int, Matrix]
    neurons: Index
    active: Mask
    inactive: Mask
    noise: Array
    most: Array
    free: bool
    changed: bool = False

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.offset)

    @property
    def stand_in(self) -> Mask:
        """Which rows are stand-ins."""
        return np.asarray(self.neurons < 0)

    @property
    def connections(self) -> int:
        """Number of nonzero coefficients."""
        return sum(count(matrix) for matrix in self.terms.values())

    def keep_rows(self, keep: Mask) -> None:
        """Drop the other rows."""
        self.terms = {source: take_rows(matrix, np.flatnonzero(keep)) for source, matrix in self.terms.items()}
        for name in ("offset", "neurons", "active", "inactive", "noise", "most"):
            setattr(self, name, getattr(self, name)[keep])

    def stacked(self, rows: Index, sources: Sequence[int]) -> Array:
        """The chosen rows over the given sources side by side, dense."""
        return np.hstack([dense(take_rows(self.terms[s], rows)) for s in sources])

    @classmethod
    def of(cls, affine: AffineMap, *, active: Mask, inactive: Mask, most: Array, free: bool) -> Self:
        """A copy of a map; terms on one source are added up. Free ones are dense."""
        terms: dict[int, Matrix] = {}
        for term in affine.terms:
            matrix = dense(term.matrix) if free else term.matrix
            terms[term.source] = add(terms[term.source], matrix) if term.source in terms else matrix
        n = affine.size
        return cls(
            affine.offset.copy(), terms, np.arange(n), active.copy(), inactive.copy(), np.zeros(n), most.copy(), free
        )


class Draft:
    """All maps of a network; ``input_most`` (n_inputs,) are the largest magnitudes of the inputs."""

    def __init__(self, network: Network, blocks: list[WorkingMap], input_most: Array) -> None:
        self.network = network
        self.blocks = blocks
        self.input_most = input_most

    @property
    def n_layers(self) -> int:
        """Number of layers, empty ones included."""
        return len(self.blocks) - 1

    @property
    def connections(self) -> int:
        """Number of nonzero coefficients."""
        return sum(block.connections for block in self.blocks)

    def consumers(self, layer: int) -> list[WorkingMap]:
        """The maps that read a layer."""
        return [block for block in self.blocks[layer + 1 :] if layer + 1 in block.terms]

    def magnitude(self, source: int) -> Array:
        """Largest magnitudes of a source's entries, (n,)."""
        return self.input_most if source == 0 else self.blocks[source - 1].most

    def remove(self, layer: int, gone: Mask) -> int:
        """Drop neurons of a layer and their columns; returns how many connections that saved."""
        before = self.connections
        keep = np.flatnonzero(~gone)
        for block in self.consumers(layer):
            if len(keep):
                block.terms[layer + 1] = take_columns(block.terms[layer + 1], keep)
            else:
                del block.terms[layer + 1]
        self.blocks[layer].keep_rows(~gone)
        return before - self.connections

    def order(self, layer: int) -> None:
        """Put a layer's rows in the order that they had, stand-ins last; empty terms go."""
        block = self.blocks[layer]
        order = np.argsort(np.where(block.stand_in, np.iinfo(np.intp).max, block.neurons), kind="stable")
        for consumer in self.consumers(layer):
            consumer.terms[layer + 1] = take_columns(consumer.terms[layer + 1], order)
        block.terms = {source: take_rows(matrix, order) for source, matrix in block.terms.items()}
        for name in ("offset", "neurons", "active", "inactive", "noise", "most"):
            setattr(block, name, getattr(block, name)[order])
        for each in (block, *self.consumers(layer)):
            each.terms = {source: matrix for source, matrix in each.terms.items() if count(matrix)}

    def unread(self, layer: int) -> Mask:
        """Neurons of a layer that no map has a nonzero coefficient on, (n,)."""
        read = np.zeros(self.blocks[layer].size, bool)
        for block in self.consumers(layer):
            read |= nonzero_columns(block.terms[layer + 1])
        return ~read


def dense(matrix: Matrix) -> Array:
    """As a NumPy array."""
    return np.asarray(matrix.toarray()) if isinstance(matrix, sparse.csr_array) else matrix


def count(matrix: Matrix) -> int:
    """Number of nonzero entries."""
    return int(matrix.count_nonzero()) if isinstance(matrix, sparse.csr_array) else int(np.count_nonzero(matrix))


def add(left: Matrix, right: Matrix) -> Matrix:
    """The sum of two matrices."""
    if isinstance(left, sparse.csr_array) and isinstance(right, sparse.csr_array):
        return sparse.csr_array(left + right)
    return dense(left) + dense(right)


def take_rows(matrix: Matrix, rows: Index) -> Matrix:
    """The chosen rows."""
    return sparse.csr_array(matrix[rows]) if isinstance(matrix, sparse.csr_array) else matrix[rows]


def take_columns(matrix: Matrix, columns: Index) -> Matrix:
    """The chosen columns."""
    if isinstance(matrix, sparse.csr_array):
        return sparse.csr_array(matrix[:, columns])
    return np.ascontiguousarray(matrix[:, columns])


def nonzero_columns(matrix: Matrix) -> Mask:
    """Which columns have a nonzero entry."""
    if isinstance(matrix, sparse.csr_array):
        found = np.zeros(matrix.shape[1], bool)
        found[matrix.indices[matrix.data != 0]] = True
        return found
    return np.asarray((matrix != 0).any(axis=0))
