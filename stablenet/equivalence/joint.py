"""Two networks as one system: neurons that agree are shared, related ones are bounded by their difference.

Bounding each network alone and subtracting proves nothing; here the difference of two paired neurons is a quantity of
its own, ``h' - h`` in terms of ``g' - g``, and a neuron whose row is the other's over shared sources is that neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from stablenet.bounds.crown_layers import crown_layers
from stablenet.bounds.interval import post_bounds
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.network import AffineMap, Matrix, Network, Term
from stablenet.equivalence.backward import System
from stablenet.equivalence.difference_relaxation import by_difference
from stablenet.equivalence.scaling import lost, outward, times, times_columns, times_rows
from stablenet.onnx_io.exact_matrices import added

Sides = Sequence[tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Pairing:
    """For each layer of B its partner in A (-1: none), and for each neuron its partner there (-1: none).

    Partners of successive layers do not go back; no neuron of A has two partners. ``scales[k]``, (n_k,), are positive
    numbers: neuron i of B's layer k is taken as that multiple of its partner plus a difference (none: all 1).
    """

    layers: tuple[int, ...]
    neurons: tuple[Index, ...]
    scales: tuple[Array, ...] = ()

    def scale(self, layer: int) -> Array:
        """The multiples of B's layer, (n,)."""
        return self.scales[layer] if self.scales else np.ones(len(self.neurons[layer]))


@dataclass
class _Share:
    """Columns of one of B's sources that stand in a joint source: ``columns[i]`` is ``scale[i] * places[i]``."""

    source: int
    columns: Index
    places: Index
    scale: Array


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
        self.shares: list[list[_Share]] = [[_Share(0, n, n, np.ones(a.n_inputs))]]
        self.treated: list[Treated] = []
        self.order: list[tuple[str, int]] = []
        self.own: list[tuple[Array, Array]] = []
        if any((partners < 0).any() for partners in pairing.neurons):
            # What B's own structure proves, as that a stand-in is active, the joint system may be too loose to see.
            alone = System(low, high)
            self.own = [alone.take(layer.affine) for layer in b.layers]

    def run(self) -> tuple[Array, Array]:
        """Bounds of ``B(x) - A(x)``, (parts, n_outputs) each."""
        self.push()
        return self.system.bounds(*self.output_difference())

    def push(self) -> None:
        """Take all layers of both networks, in order."""
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

    def output_of_a(self) -> AffineMap:
        """A's output over the system's sources, once all layers are pushed."""
        return self._of_a(self.a.output)

    def output_difference(self) -> tuple[AffineMap, Array]:
        """``B(x) - A(x)`` over the system's sources, and what rounding may hide in it, (parts, n_outputs)."""
        rows = np.arange(self.a.n_outputs)
        return self._difference(self.b.output, rows, self.a.output, rows, np.ones(len(rows)))

    def _due(self, layer: int) -> int:
        """The layer of A after which a layer of B is taken."""
        return max(self.pairing.layers[: layer + 1])

    def _push_a(self, k: int) -> None:
        self.order.append(("a", k))
        lower, upper = self.known[k]
        affine = self._of_a(self.a.layers[k].affine)
        none = np.zeros_like(lower)
        self.place_a.append(self.system.push(affine, none, Relaxation.of(lower, upper), post_bounds(lower, upper)))

    def _of_a(self, affine: AffineMap) -> AffineMap:
        return AffineMap(affine.offset, tuple(Term(self.place_a[t.source], t.matrix) for t in affine.terms))

    def _push_b(self, layer: int) -> None:
        """Take a layer of B: shared neurons, differences, and those on their own."""
        self.order.append(("b", layer))
        partner, partners = self.pairing.layers[layer], self.pairing.neurons[layer]
        paired = np.flatnonzero(partners >= 0)
        none = np.zeros(0, np.intp)
        empty = (np.zeros((self.system.n_parts, 0)), np.zeros((self.system.n_parts, 0)))
        own = np.flatnonzero(partners < 0)
        self.treated.append(Treated(partner, none, none, none, none, empty, own, empty))
        shares: list[_Share] = []
        if len(paired):
            shares += self._related(layer, paired, partner, partners[paired])
        if len(own):
            shares.append(self._alone(layer, own))
        self.shares.append(shares)

    def _related(self, layer: int, rows: Index, partner: int, others: Index) -> list[_Share]:
        source, scale = self.place_a[partner + 1], self.pairing.scale(layer)[rows]
        affine, of_a = self.b.layers[layer].affine, self.a.layers[partner].affine
        difference, slack = self._difference(affine, rows, of_a, others, scale)
        differs = (slack > 0).any(axis=0) | (difference.offset != 0)
        for term in difference.terms:
            differs |= _live_rows(term.matrix)
        moved = np.flatnonzero(differs)
        treated = self.treated[-1]
        same = np.flatnonzero(~differs)
        treated.shared, treated.twins = rows[same], others[same]
        treated.related, treated.relatives = rows[moved], others[moved]
        shares = [_Share(source, rows, others, scale)]
        if len(moved):
            part = AffineMap(difference.offset[moved], tuple(Term(t.source, t.matrix[moved]) for t in difference.terms))
            lower, upper = treated.difference = self.system.bounds(part, slack[:, moved])
            known = self.known[partner]
            base = outward(known[0][:, others[moved]], known[1][:, others[moved]], scale[moved])
            place = self.system.push(part, slack[:, moved], *by_difference(lower, upper, base))
            shares.append(_Share(place, rows[moved], np.arange(len(moved)), np.ones(len(moved))))
        return shares

    def _alone(self, layer: int, rows: Index) -> _Share:
        offset, terms, slack = self._of_b(self.b.layers[layer].affine, rows)
        part = AffineMap(offset, tuple(Term(s, m) for s, found in sorted(terms.items()) for m in found))
        joint, own = self.system.bounds(part, slack), self.own[layer]
        lower, upper = np.fmax(joint[0], own[0][:, rows]), np.fmin(joint[1], own[1][:, rows])
        self.treated[-1].bounds = lower, upper
        place = self.system.push(part, slack, Relaxation.of(lower, upper), post_bounds(lower, upper))
        return _Share(place, rows, np.arange(len(rows)), np.ones(len(rows)))

    def _of_b(self, affine: AffineMap, rows: Index) -> tuple[Array, dict[int, list[Matrix]], Array]:
        """Rows of a map of B over joint sources, several matrices on one of them where they overlap, and a slack.

        Coefficients move, and are multiplied where they stand on a multiple: what that rounds is in the slack, (parts,
        rows). Adding up two that stand in one place would round more.
        """
        terms: dict[int, list[Matrix]] = {}
        slack = np.zeros((self.system.n_parts, len(rows)))
        for term in affine.terms:
            chosen = term.matrix[rows]
            own: dict[int, Matrix] = {}
            for share in self.shares[term.source]:
                size = self.system.lows[share.source].shape[1]
                scaled, error = times_columns(chosen[:, share.columns], share.scale)
                part = _scattered(scaled, share.places, size)
                if error is not None:
                    slack += lost(error, self.system.most(share.source)[:, share.places])
                # Shares of one term never meet: each column goes to one place.
                own[share.source] = own[share.source] + part if share.source in own else part
            for source, matrix in own.items():
                terms.setdefault(source, []).append(matrix)
        return affine.offset[rows], terms, slack

    def _difference(
        self, b: AffineMap, rows: Index, a: AffineMap, others: Index, scale: Array
    ) -> tuple[AffineMap, Array]:
        """Rows of B minus ``scale`` times rows of A over joint sources, and what rounding may hide, (parts, rows).

        Columns of neurons that are 0 on the whole domain are left out.
        """
        offset_b, parts, slack = self._of_b(b, rows)
        for term in self._of_a(a).terms:
            scaled, error = times_rows(-term.matrix[others], scale)
            parts.setdefault(term.source, []).append(scaled)
            if error is not None:
                slack += lost(error, self.system.most(term.source))
        offset_a, rounding = times(a.offset[others], scale)
        offset = offset_b - offset_a
        slack += rounding + np.abs(_residual(offset_b, -offset_a, offset))
        terms: list[Term] = []
        for source, matrices in sorted(parts.items()):
            most = self.system.most(source)
            alive = np.asarray((most > 0).any(axis=0))
            whole = _masked(matrices[0], alive)
            for matrix in matrices[1:]:
                one, two = whole, _masked(matrix, alive)
                whole, inexact = added(one, two)
                if inexact:
                    slack += 1.001 * (most @ np.abs(_lost(one, two, whole)).T)
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


def _scattered(matrix: Matrix, places: Index, size: int) -> Matrix:
    """The columns of a matrix put in their places among ``size`` columns."""
    if isinstance(matrix, np.ndarray):
        wide = np.zeros((len(matrix), size))
        wide[:, places] = matrix
        return wide
    move = sparse.csr_array((np.ones(len(places)), (np.arange(len(places)), places)), shape=(len(places), size))
    return sparse.csr_array(matrix @ move)
