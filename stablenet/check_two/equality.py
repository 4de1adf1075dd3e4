"""Whether a proof shows that two networks are equal within a tolerance: both side by side, as one network.

Its layers hold the neurons of a layer of A, then those of a layer of B, then what pairs of them differ by. A neuron of
B that is a neuron of A, times a power of two, is not there twice. The file may hold a proof about A alone, whose bounds
then hold here too. The last rows are ``A - B - T`` and ``B - A - T``: the networks are equal within T where none of
them can be positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from stablenet.check.arithmetic import Array, Index, Mask
from stablenet.check.duality import Block, Map
from stablenet.check.replay import PartState, replay, replay_into
from stablenet.check_two.paired import PairedMap, Pairs
from stablenet.core.errors import InputError
from stablenet.core.network import AffineMap, Network
from stablenet.core.proof_records import Record, read_records
from stablenet.domain.regions import Domain

NONE = 2**32 - 1  # no layer, no partner
FEW, FEW_DEPTH = 24, 10  # on so few inputs, times that a box is halved on which bounds fail; on more inputs never
Parts = list[tuple[int, sparse.csr_array]]  # matrices over joint sources, by their numbers
Side = tuple[Parts, Array]  # with an offset


@dataclass
class Equality:
    """What a proof shows: for each part of the domain the largest ``|A_j - B_j| - T`` that it leaves; ``problems``
    names the parts on which that is above 0.
    """

    tolerance: float
    excess: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_equality(
    a: Network,
    b: Network,
    domain: Domain,
    proof: str | Path,
    tolerance: float,
    *,
    over: Callable[[], bool] = bool,
) -> Equality:
    """Check a proof that two networks are equal on a domain within a tolerance, in whichever order it names them.

    Ends with a `ProofError` once time is ``over``.

    Raises `ProofError` where the file is malformed or about something else.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance {tolerance}; a finite number from 0 up is expected")
    if (a.n_inputs, a.n_outputs) != (b.n_inputs, b.n_outputs) or domain.n_inputs != a.n_inputs:
        raise InputError("the networks' inputs and outputs, and the domain's, differ in number")
    pairing = next((record for record in read_records(proof) if record.kind == "pairing"), None)
    if pairing is None:
        raise InputError(f"{proof}: not a proof about two networks")
    if pairing.values.get("first") == b.identity:
        a, b = b, a
    both = f"{a.identity} {b.identity}"
    alone = replay(proof, a, domain, beside=both)
    dead = [np.all([state.upper[k] <= 0 for state in alone], axis=0) for k in range(len(a.layers))]
    joint = SideBySide(a, b, pairing, dead)
    maps = joint.finished(tolerance)
    states = [PartState(maps, part, number) for number, part in enumerate(domain.parts)]
    for state, known in zip(states, alone, strict=True):
        state.depth = FEW_DEPTH if np.count_nonzero(state.part.upper > state.part.lower) <= FEW else 0
        for k, layer in joint.of_a.items():
            for mine, theirs in ((state.lower[k], known.lower[layer]), (state.upper[k], known.upper[layer])):
                mine[: len(theirs)] = theirs
    replay_into(states, proof, both, domain.digest, beside=a.identity, over=over)
    result = Equality(tolerance)
    for state in states:
        result.excess.append(float(state.upper[-1].max(initial=-np.inf)))
        if not result.excess[-1] <= 0:
            output = int(state.upper[-1].argmax()) % a.n_outputs
            words = f"output {output}: a difference of more than {tolerance!r} is not excluded on part {state.number}"
            result.problems.append(f"{words} (bound {tolerance + result.excess[-1]:.6g})")
    return result


class SideBySide:
    """Two networks as one, their layers paired as a record says: ``maps`` of its layers but the last.

    Which of A's neurons are known to be 0 on the domain is told by ``dead``, by layer. A layer has n_A + 2 n_B rows:
    those that it has no use for stay 0.
    """

    def __init__(self, a: Network, b: Network, record: Record, dead: list[Mask]) -> None:
        self.networks, self.record, self.dead = (a, b), record, dead
        self.starts = [np.cumsum([0, *(layer.size for layer in network.layers)]) for network in (a, b)]
        of = record.indices("of_a", None, NONE + 1), record.indices("of_b", None, NONE + 1)
        for known, network in zip(of, self.networks, strict=True):
            if known[known < NONE].tolist() != list(range(len(network.layers))):
                raise record.fail("each layer of both networks has to be there once, in order")
        self.partner = record.indices("partner", int(self.starts[1][-1]), NONE + 1)
        self.scale = record.numbers("scale", len(self.partner))
        used = self.partner[self.partner < NONE]
        if len(np.unique(used)) < len(used) or not ((self.scale > 1e-30) & (self.scale < 1e30)).all():
            raise record.fail("partners have to be different neurons, and scales positive")
        if (self.scale != 1).any() and not all(map(_of_usual_size, self.networks)):
            raise record.fail("weights are too small to be multiplied by scales without loss")
        self.of_a = {k: layer for k, layer in enumerate(of[0].tolist()) if layer < NONE}
        same = sparse.csr_array(sparse.eye_array(a.n_inputs))
        self.places: list[Parts] = [[(0, same)], [(0, same)]]
        self.maps: list[Map] = []
        for pair in zip(*(known.tolist() for known in of), strict=True):
            self._layer(*(None if layer == NONE else layer for layer in pair))

    def _parts(self, which: int, affine: AffineMap | None) -> tuple[Parts, Array]:
        """A map of one of the networks over joint sources, and its offset."""
        if affine is None:
            return [], np.zeros(0)
        places = [(self.places[which][term.source], term.matrix) for term in affine.terms]
        return [(source, sparse.csr_array(sparse.csr_array(w) @ moved)) for (source, moved), w in places], affine.offset

    def _layer(self, layer_a: int | None, layer_b: int | None) -> None:
        """Add a joint layer: neurons of A, those of B that are not A's, and what the related ones differ by."""
        layers = [
            None if k is None else n.layers[k].affine for k, n in zip((layer_a, layer_b), self.networks, strict=True)
        ]
        a, b = (self._parts(which, affine) for which, affine in enumerate(layers))
        n_a, n_b = len(a[1]), len(b[1])
        twin, scale = np.full(n_b, -1), np.ones(n_b)
        if layer_a is not None and layer_b is not None:
            mine = slice(*self.starts[1][layer_b : layer_b + 2])
            twin, scale = self.partner[mine] - int(self.starts[0][layer_a]), self.scale[mine]
        paired = (twin >= 0) & (twin < n_a)
        shared = paired & (np.frexp(scale)[0] == 0.5)
        shared[shared] = self._alike(a, b, twin[shared], np.flatnonzero(shared), scale[shared])
        own, related = np.flatnonzero(~shared), np.flatnonzero(paired & ~shared)
        place = np.where(shared, twin, n_a + np.cumsum(~shared) - 1)
        third = n_a + len(own)
        blocks = self._blocks(a, np.arange(n_a), 0, np.ones(n_a)) + self._blocks(b, own, n_a, np.ones(len(own)))
        blocks += self._blocks(a, twin[related], third, scale[related])
        blocks += self._blocks(b, related, third, np.full(len(related), -1.0))
        size = n_a + 2 * n_b
        pairs = Pairs(twin[related], place[related], third + np.arange(len(related)), scale[related])
        self.maps.append(PairedMap(size, blocks, pairs) if len(related) else Map(size, blocks))
        self.maps[-1].read[third:] = False
        alive = np.ones(0) if layer_a is None else 1.0 - self.dead[layer_a]
        factors = alive, np.where(shared, scale * np.append(alive, 1.0)[np.where(shared, twin, -1)], 1.0)
        for known, layer, factor, at in zip(self.places, layers, factors, (np.arange(n_a), place), strict=True):
            if layer is not None:
                moved = sparse.csr_array((factor, (np.arange(len(at)), at)), shape=(len(at), size))
                known.append((len(self.maps), moved))

    def _alike(self, a: Side, b: Side, twins: Index, rows: Index, scale: Array) -> Mask:
        """Which rows of B are ``scale`` times rows of A over the same joint sources."""
        differs = b[1][rows] != scale * a[1][twins]
        times = sparse.csr_array(sparse.diags_array(scale))
        for source in {source for source, _ in a[0] + b[0]}:
            one, two = ([w[some] for at, w in side[0] if at == source] for side, some in ((a, twins), (b, rows)))
            if max(len(one), len(two)) > 1:
                return np.zeros(len(rows), bool)  # sums of two matrices would round
            apart: Any = times @ one[0] if one else two[0]
            if one and two:
                apart = apart != two[0]
            differs = differs | (np.asarray(apart.astype(bool).sum(axis=1)).reshape(-1) > 0)
        return np.asarray(~differs)

    def _blocks(self, side: Side, rows: Index, first: int, factor: Array) -> list[Block]:
        """Blocks that add ``factor`` times rows of a map, exactly, to joint rows from ``first`` on."""
        found = []
        parts, offset = side
        for number, (source, matrix) in enumerate(parts or [(0, sparse.csr_array((len(offset), 0)))]):
            column = sparse.csr_array(offset[:, None] * (number == 0))
            whole = sparse.csr_array(sparse.csr_array(sparse.hstack([matrix, column], format="csr"))[rows])
            each = np.repeat(factor, np.diff(whole.indptr))
            exact = (np.frexp(factor)[0] == 0.5) | (np.frexp(factor)[0] == -0.5)
            choices = [(whole.data, each)] if exact.all() else product(_halves(whole.data), _halves(each))
            for data, times in choices:
                values = data * times
                if values.any():
                    entries = sparse.csr_array((values, whole.indices, whole.indptr), shape=whole.shape)
                    found.append(_trimmed(source, first, entries))
        return found

    def finished(self, tolerance: float) -> list[Map]:
        """All maps, the last ``A - B - T``, then ``B - A - T``."""
        a, b = (self._parts(which, network.output) for which, network in enumerate(self.networks))
        n = len(a[1])
        rows, blocks = np.arange(n), []
        for first, sign in ((0, 1.0), (n, -1.0)):
            blocks += self._blocks(a, rows, first, np.full(n, sign)) + self._blocks(b, rows, first, np.full(n, -sign))
            blocks.append(Block(0, first, sparse.csr_array((n, 0)), np.full(n, -tolerance)))
        return [*self.maps, Map(2 * n, blocks)]


def _of_usual_size(network: Network) -> bool:
    """Whether no weight, times a scale, underflows."""
    maps = [*(layer.affine for layer in network.layers), network.output]
    values = [affine.offset for affine in maps]
    values += [sparse.csr_array(term.matrix).data for affine in maps for term in affine.terms]
    return all(bool(((np.abs(x) > 1e-250) | (x == 0)).all()) for x in values)


def _halves(values: Array) -> tuple[Array, Array]:
    """Numbers of 26 bits that add up to float64 numbers (Dekker): products of two such are exact."""
    large = values * (2.0**27 + 1.0)
    high = large - (large - values)
    return high, values - high


def _trimmed(source: int, row: int, whole: sparse.csr_array) -> Block:
    """A block without the columns before the first and after the last that is used; the last column is the offset."""
    n = whole.shape[1] - 1
    used = np.unique(whole.indices[whole.indices < n])
    first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    matrix = sparse.csr_array(whole[:, first:stop])
    dense = matrix.nnz > 0.1 * max(1, matrix.shape[0] * matrix.shape[1])
    return Block(source, row, matrix.toarray() if dense else matrix, whole[:, [n]].toarray()[:, 0], first)
