"""Two networks as one system: neurons that agree are shared, related ones are bounded by their difference.

Bounding each network alone and subtracting proves nothing; here the difference of two paired neurons is a quantity of
its own, ``h' - h`` in terms of ``g' - g``, and a neuron whose row is the other's over shared sources is that neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.bounds.crown import crown_layers
from stablenet.core.network import AffineMap, Matrix, Network, Term
from stablenet.equivalence.backward import Relaxation, System
from stablenet.onnx_io.exact_matrices import added

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Sides = Sequence[tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Pairing:
    """For each layer of B its partner in A (-1: none), and for each neuron its partner there (-1: none).

    Partners of successive layers do not go back; no neuron of A has two partners.
    """

    layers: tuple[int, ...]
    neurons: tuple[Index, ...]


@dataclass
class _Share:
    """Columns of one of B's sources that stand in a joint source: ``columns[i]`` is ``places[i]`` there."""

    source: int
    columns: Index
    places: Index


@dataclass(eq=False)
class Treated:
    """How a layer of B was taken: rows that are a neuron of A (``twins`` there), rows related to one, and the rest.

    ``difference`` bounds ``g_B - g_A`` of the related rows, ``bounds`` g_B of the rest; (parts, rows) each.
    """

    partner: int
    shared: Index
    twins: Index
    related: Index
    relatives: Index
    difference: tuple[Array, Array]
    alone: Index
    bounds: tuple[Array, Array]


class Joint:
    """A and B over a batch of boxes, (parts, n_inputs) each side.

    ``trusted`` are further bounds of A's pre-activations, per layer (lower, upper), (n_k,), which are believed. `run`
    leaves in ``treated`` how each layer of B was taken, and in ``order`` which layer of which came when.
    """

    def __init__(
        self,
        a: Network,
        b: Network,
        pairing: Pairing,
        *,
        low: Array,
        high: Array,
        trusted: Sides | None = None,
    ) -> None:
        self.a, self.b, self.pairing = a, b, pairing
        self.system = System(low, high)
        known = crown_layers(a, low, high)
        if trusted is not None:
            known = [
                (np.maximum(lower, t[0]), np.minimum(upper, t[1]))
                for (lower, upper), t in zip(known, trusted, strict=True)
            ]
        self.known = known
        self.place_a: list[int] = [0]
        n = np.arange(a.n_inputs)
        self.shares: list[list[_Share]] = [[_Share(0, n, n)]]
        self.treated: list[Treated] = []
        self.order: list[tuple[str, int]] = []
        self.own: list[tuple[Array, Array]] = []
        if any((partners < 0).any() for partners in pairing.neurons):
            # What B's own structure proves, as that a stand-in is active, the joint system may be too loose to see.
            alone = System(low, high)
            self.own = [alone.take(layer.affine) for layer in b.layers]

    def run(self) -> tuple[Array, Array]:
        """Bounds of ``B(x) - A(x)``, (parts, n_outputs) each."""
        waiting = 0
        for k in range(len(self.a.layers) + 1):
            while waiting < len(self.b.layers) and self._due(waiting) < k:
                self._push_b(waiting)
                waiting += 1
            if k < len(self.a.layers):
                self._push_a(k)
        while waiting < len(self.b.layers):
            self._push_b(waiting)
            waiting += 1
        rows = np.arange(self.a.n_outputs)
        affine, slack = self._difference(self.b.output, rows, self.a.output, rows)
        return self.system.bounds(affine, slack)

    def _due(self, layer: int) -> int:
        """The layer of A after which a layer of B is taken."""
        return max(self.pairing.layers[: layer + 1])

    def _push_a(self, k: int) -> None:
        self.order.append(("a", k))
        lower, upper = self.known[k]
        affine = self._of_a(self.a.layers[k].affine)
        none = np.zeros_like(lower)
        self.place_a.append(self.system.push(affine, none, (lower, upper), Relaxation.relu(lower, upper)))

    def _of_a(self, affine: AffineMap) -> AffineMap:
        return AffineMap(affine.offset, tuple(Term(self.place_a[t.source], t.matrix) for t in affine.terms))

    def _push_b(self, layer: int) -> None:
        """Take a layer of B: shared neurons, differences, and those on their own."""
        self.order.append(("b", layer))
        affine = self.b.layers[layer].affine
        partner, partners = self.pairing.layers[layer], self.pairing.neurons[layer]
        paired = np.flatnonzero(partners >= 0)
        none = np.zeros(0, np.intp)
        empty = (np.zeros((self.system.n_parts, 0)), np.zeros((self.system.n_parts, 0)))
        own = np.flatnonzero(partners < 0)
        self.treated.append(Treated(partner, none, none, none, none, empty, own, empty))
        shares: list[_Share] = []
        if len(paired):
            shares += self._related(affine, paired, partner, partners[paired])
        if len(own):
            shares.append(self._alone(layer, own))
        self.shares.append(shares)

    def _related(self, affine: AffineMap, rows: Index, partner: int, others: Index) -> list[_Share]:
        source = self.place_a[partner + 1]
        difference, slack = self._difference(affine, rows, self.a.layers[partner].affine, others)
        differs = (slack > 0).any(axis=0) | (difference.offset != 0)
        for term in difference.terms:
            differs |= _live_rows(term.matrix)
        moved = np.flatnonzero(differs)
        treated = self.treated[-1]
        same = np.flatnonzero(~differs)
        treated.shared, treated.twins = rows[same], others[same]
        treated.related, treated.relatives = rows[moved], others[moved]
        shares = [_Share(source, rows, others)]
        if len(moved):
            part = AffineMap(difference.offset[moved], tuple(Term(t.source, t.matrix[moved]) for t in difference.terms))
            lower, upper = treated.difference = self.system.bounds(part, slack[:, moved])
            base = tuple(side[:, others[moved]] for side in self.known[partner])
            relaxation = Relaxation.difference(lower, upper, (base[0], base[1]))
            place = self.system.push(part, slack[:, moved], (lower, upper), relaxation)
            shares.append(_Share(place, rows[moved], np.arange(len(moved))))
        return shares

    def _alone(self, layer: int, rows: Index) -> _Share:
        offset, terms = self._of_b(self.b.layers[layer].affine, rows)
        part = AffineMap(offset, tuple(Term(s, m) for s, m in sorted(terms.items())))
        none = np.zeros((self.system.n_parts, len(rows)))
        joint, own = self.system.bounds(part, none), self.own[layer]
        lower, upper = np.fmax(joint[0], own[0][:, rows]), np.fmin(joint[1], own[1][:, rows])
        self.treated[-1].bounds = lower, upper
        place = self.system.push(part, none, (lower, upper), Relaxation.relu(lower, upper))
        return _Share(place, rows, np.arange(len(rows)))

    def _of_b(self, affine: AffineMap, rows: Index) -> tuple[Array, dict[int, Matrix]]:
        """Rows of a map of B over joint sources; coefficients only move."""
        terms: dict[int, Matrix] = {}
        for term in affine.terms:
            chosen = term.matrix[rows]
            for share in self.shares[term.source]:
                size = self.system.lows[share.source].shape[1]
                part = _scattered(chosen, share.columns, share.places, size)
                # Shares of one source never meet: each column goes to one place.
                terms[share.source] = terms[share.source] + part if share.source in terms else part
        return affine.offset[rows], terms

    def _difference(self, b: AffineMap, rows: Index, a: AffineMap, others: Index) -> tuple[AffineMap, Array]:
        """Rows of B minus rows of A over joint sources, and what rounding the differences may hide, (parts, rows).

        Columns of neurons that are 0 on the whole domain are left out.
        """
        offset_b, minuend = self._of_b(b, rows)
        subtrahend = {t.source: t.matrix[others] for t in self._of_a(a).terms}
        terms: list[Term] = []
        offset = offset_b - a.offset[others]
        rounding = np.abs(_residual(offset_b, -a.offset[others], offset))
        slack = np.broadcast_to(rounding, (self.system.n_parts, len(rows))).copy()
        for source in sorted(minuend.keys() | subtrahend.keys()):
            most = self.system.most(source)
            alive = np.asarray((most > 0).any(axis=0))
            parts = []
            if source in minuend:
                parts.append(_masked(minuend[source], alive))
            if source in subtrahend:
                parts.append(-_masked(subtrahend[source], alive))
            whole = parts[0]
            if len(parts) == 2:
                whole, inexact = added(parts[0], parts[1])
                if inexact:
                    slack += 1.001 * (most @ np.abs(_lost(parts[0], parts[1], whole)).T)
            if _live_rows(whole).any():
                terms.append(Term(source, whole))
        return AffineMap(offset, tuple(terms)), slack


def _residual(a: Array, b: Array, total: Array) -> Array:
    """What the rounded sum ``total`` of a and b lacks (Knuth's two-sum)."""
    virtual = total - a
    return np.asarray((a - (total - virtual)) + (b - virtual))


def _lost(a: Matrix, b: Matrix, total: Matrix) -> Array:
    return _residual(*(m if isinstance(m, np.ndarray) else m.toarray() for m in (a, b, total)))


def _live_rows(matrix: Matrix) -> Mask:
    """Which rows have a nonzero coefficient."""
    if isinstance(matrix, np.ndarray):
        return np.asarray((matrix != 0).any(axis=1))
    return np.asarray(np.bincount(matrix.nonzero()[0], minlength=matrix.shape[0]) > 0)


def _masked(matrix: Matrix, alive: Mask) -> Matrix:
    if alive.all():
        return matrix
    if isinstance(matrix, np.ndarray):
        return np.where(alive, matrix, 0.0)
    cleared = sparse.csr_array(matrix @ sparse.diags_array(alive.astype(np.float64)))
    cleared.eliminate_zeros()
    return cleared


def _scattered(matrix: Matrix, columns: Index, places: Index, size: int) -> Matrix:
    """The chosen columns of a matrix put in their places among ``size`` columns."""
    if isinstance(matrix, np.ndarray):
        wide = np.zeros((len(matrix), size))
        wide[:, places] = matrix[:, columns]
        return wide
    move = sparse.csr_array((np.ones(len(columns)), (columns, places)), shape=(matrix.shape[1], size))
    return sparse.csr_array(matrix @ move)
