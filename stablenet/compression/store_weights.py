"""From a draft to a network: weights rounded to the type that is stored, stand-ins shifted above zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from scipy import sparse

from stablenet.compression.working_network import Draft, WorkingMap, dense
from stablenet.core.arrays import Array, Index
from stablenet.core.errors import InputError
from stablenet.core.network import AffineMap, Layer, Matrix, Network, Term
from stablenet.domain.regions import Domain
from stablenet.equivalence.backward import System
from stablenet.equivalence.provenance import Provenance

Stored: TypeAlias = Literal["float32", "float64"]


@dataclass(frozen=True, eq=False)
class Settled:
    """The finished network, where its neurons come from, and which of its maps hold new numbers.

    ``maps[k]`` is the number that map k (the output last) had before; ``changed[k]`` whether a coefficient, an
    offset or a row of it is not one that was given.
    """

    network: Network
    provenance: Provenance
    maps: tuple[int, ...]
    changed: tuple[bool, ...]


def settle(draft: Draft, domain: Domain, stored: Stored) -> Settled:
    """The network of a draft, every number of a free map one that ``stored`` holds.

    Each stand-in is shifted by a rigorous lower bound of its row *as stored*, so that it is active on the domain,
    and its consumers take the shift back. Raises `InputError` where a number overflows the type.
    """
    return _Settling(draft, domain, stored).run()


class _Settling:
    def __init__(self, draft: Draft, domain: Domain, stored: Stored) -> None:
        self.draft = draft
        self.kind = np.dtype(stored)
        parts = domain.parts
        self.system = System(np.stack([part.lower for part in parts]), np.stack([part.upper for part in parts]))
        self.place = {0: 0}
        self.layers: list[Layer] = []
        self.maps: list[int] = []
        self.changed: list[bool] = []
        self.shifts: dict[int, Array] = {}
        last = max((k for k, b in enumerate(draft.blocks) if b.stand_in.any()), default=-1)
        self.last_stand_in = last

    def run(self) -> Settled:
        draft = self.draft
        for k, block in enumerate(draft.blocks[:-1]):
            if block.size:
                self._layer(k, block)
        output, changed = self._affine(draft.blocks[-1])
        old = draft.network
        network = replace(
            old,
            layers=tuple(self.layers),
            output=replace(output, nodes=old.output.nodes),
            exact=True,
            import_error=0.0,
            file="",
            sha256="",
        )
        kept = [draft.blocks[k] for k in self.maps]
        provenance = Provenance(tuple(self.maps), tuple(block.neurons for block in kept))
        return Settled(network, provenance, (*self.maps, draft.n_layers), (*self.changed, changed))

    def _layer(self, k: int, block: WorkingMap) -> None:
        affine, changed = self._affine(block)
        if k <= self.last_stand_in:
            affine = self._shifted(k, block, affine)
        old = self.draft.network.layers[k]
        self.layers.append(
            replace(old, affine=replace(affine, nodes=old.affine.nodes), shape=self._shape(old, block.size))
        )
        self.maps.append(k)
        self.changed.append(changed)
        self.place[k + 1] = len(self.layers)
        if k <= self.last_stand_in:
            self.system.take(affine)  # bounds for stand-ins of later layers

    @staticmethod
    def _shape(old: Layer, size: int) -> tuple[int, ...]:
        """The shape with fewer channels; a vector's length."""
        if size == old.size:
            return old.shape
        if old.channel_axis is None or len(old.shape) < 2:
            return (size,)
        axis = old.channel_axis
        rest = old.size // old.shape[axis]
        return (*old.shape[:axis], size // rest, *old.shape[axis + 1 :]) if size % rest == 0 else (size,)

    def _affine(self, block: WorkingMap) -> tuple[AffineMap, bool]:
        """A block over the sources as they are numbered now, rounded; and whether it holds new numbers."""
        changed = block.changed
        terms: list[Term] = []
        offset = block.offset
        for source, matrix in sorted(block.terms.items()):
            found = self._round(matrix) if block.free else matrix
            changed |= found is not matrix
            shift = self.shifts.get(source)
            if shift is not None and shift.any():
                offset = offset - found @ shift
                changed = True
            terms.append(Term(self.place[source], found))
        if block.free and (changed or not self._splits(offset)):
            rounded = self._round(offset)
            changed |= rounded is not offset
            offset = np.asarray(rounded)
        return AffineMap(offset, tuple(terms)), bool(changed)

    def _splits(self, offset: Array) -> bool:
        """Whether an offset is the sum of two numbers of the stored type, to be written as two biases."""
        with np.errstate(over="ignore", invalid="ignore"):
            high = offset.astype(self.kind).astype(np.float64)
            low = (offset - high).astype(self.kind).astype(np.float64)
            return bool((high + low == offset).all())

    def _round(self, values: Matrix) -> Matrix:
        """Values as stored; the same object where nothing is lost."""
        if isinstance(values, sparse.csr_array):
            data = self._round(values.data)
            if data is values.data:
                return values
            return sparse.csr_array((dense(data), values.indices, values.indptr), shape=values.shape)
        with np.errstate(over="ignore"):
            rounded = values.astype(self.kind).astype(np.float64)
        if not np.isfinite(rounded).all():
            raise InputError(f"a weight of the compressed network overflows {self.kind.name}; float64 holds it")
        return values if (rounded == values).all() else rounded

    def _shifted(self, k: int, block: WorkingMap, affine: AffineMap) -> AffineMap:
        """Lift the stand-ins of a layer above zero."""
        rows = np.flatnonzero(block.stand_in)
        if not len(rows):
            return affine
        offset = affine.offset.copy()
        for _ in range(60):
            lower = self._lower(AffineMap(offset, affine.terms), rows)
            low = np.flatnonzero(lower < 0)
            if not len(low):
                break
            # Rounded up in the stored type; the next round proves it with the new offset.
            target = (offset[rows[low]] - lower[low] * (1.0 + 1e-6)).astype(self.kind)
            offset[rows[low]] = np.nextafter(target, self.kind.type(np.inf)).astype(np.float64)
        else:
            raise InputError(f"layer {k}: a merged neuron cannot be kept active on the domain in {self.kind.name}")
        before = block.offset
        for source, term in zip(sorted(block.terms), affine.terms, strict=True):
            if source in self.shifts:
                before = before - term.matrix @ self.shifts[source]
        self.shifts[k + 1] = np.where(block.stand_in, offset - before, 0.0)
        return AffineMap(offset, affine.terms)

    def _lower(self, affine: AffineMap, rows: Index) -> Array:
        """Rigorous lower bounds of rows over all parts of the domain."""
        part = AffineMap(affine.offset[rows], tuple(Term(t.source, t.matrix[rows]) for t in affine.terms))
        lower, _ = self.system.bounds(part, self._no_slack(part))
        return np.asarray(lower.min(axis=0))

    def _no_slack(self, affine: AffineMap) -> Array:
        return np.zeros((self.system.n_parts, affine.size))
