"""Replaying a proof: the bounds that each record names are computed anew, and only the results count.

Nothing in a proof can make a false bound: it only says which bounds to compute, over which of those already proven,
and with which free choices. A proof that says less, or says it wrongly, proves less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.check.arithmetic import Array, Index
from stablenet.check.boxes import DEPTH, Cuts
from stablenet.check.duality import Boxes, Choices, Map, layer_bounds
from stablenet.core.network import Network
from stablenet.core.proof_records import ProofError, Record, read_records
from stablenet.domain.regions import Domain, Part

ENTRIES = 2**22  # numbers in the coefficients of the leaves that are bounded together, about

Phases = dict[int, float]
Tree = tuple[tuple[int, int, float], list[Phases], list[float]]  # layer, row and sign; phases and bounds of leaves


class PartState:
    """What is proven on one part: intervals of every pre-activation, (n_k,) per layer, and of signs by what."""

    def __init__(self, maps: Sequence[Map], part: Part, number: int) -> None:
        self.maps, self.part, self.number = maps, part, number
        self.sizes = [owner.size for owner in maps]
        self.offsets = np.cumsum([0, *self.sizes])
        self.lower = [np.full(n, -np.inf) for n in self.sizes]
        self.upper = [np.full(n, np.inf) for n in self.sizes]
        self.by: dict[tuple[int, int, int], str] = {}
        self.depth = DEPTH
        self.begin()
        self.bound_all("interval")

    def begin(self) -> None:
        """Forget the objects that a run's records refer to; what they proved is kept."""
        self.frame: list[tuple[Array, Array]] = []
        self.trees: dict[int, Tree] = {}
        self.cuts: Cuts | None = None
        self.n_cuttings = 0

    def boxes(self, layers: int) -> Boxes:
        """The part with the intervals of its first layers: those of the last frame, where they are proven."""
        found = Boxes(self.maps, self.part.lower[None, :], self.part.upper[None, :], self.part)
        for k in range(layers):
            low, high = self.frame[k] if k < len(self.frame) else (self.lower[k], self.upper[k])
            found.ends.append((np.minimum(low, self.lower[k])[None, :], np.maximum(high, self.upper[k])[None, :]))
        return found

    def tighten(self, layer: int, lower: Array, upper: Array, by: str) -> None:
        """Intersect with proven bounds, (n,) each; NaN tightens nothing."""
        before = self.lower[layer] >= 0, self.upper[layer] <= 0
        self.lower[layer] = np.fmax(self.lower[layer], lower)
        self.upper[layer] = np.fmin(self.upper[layer], upper)
        for side, old, new in ((-1, before[0], self.lower[layer] >= 0), (1, before[1], self.upper[layer] <= 0)):
            self.by |= {(layer, neuron, side): by for neuron in np.flatnonzero(new & ~old).tolist()}

    def bound_one(self, layer: int, row: int, sign: float, bound: float, by: str) -> None:
        """Tighten one side of one neuron by a bound of ``sign`` times it."""
        lower, upper = (np.full(self.sizes[layer], np.nan) for _ in range(2))
        (upper if sign > 0 else lower)[row] = sign * bound
        self.tighten(layer, lower, upper, by)

    def bound_all(self, method: str) -> None:
        """Bounds of all layers, in order, by ``interval`` or ``crown``."""
        found = self.boxes(0)
        for k in range(len(self.maps)):
            low, high = layer_bounds(found, k, intervals_only=method == "interval")
            self.tighten(k, low[0], high[0], method)
            found.ends.append((self.lower[k][None, :], self.upper[k][None, :]))

    def take(self, record: Record, trees: set[int], questions: list[set[int]]) -> None:
        """One record. ``trees`` are closed at some time, ``questions`` refuted by each cutting."""
        by = str(record.values.get("by", record.kind))
        match record.kind:
            case "bounds":
                self.bound_all("interval" if record.values.get("method") == "interval" else "crown")
            case "layer":
                k = record.whole("layer", len(self.maps))
                undecided = np.flatnonzero((self.lower[k] < 0) & (self.upper[k] > 0))
                low, high = layer_bounds(self.boxes(k), k, undecided)
                self.tighten(k, low[0], high[0], by)
            case "frame":
                ends = self.offsets[: record.whole("layer", len(self.maps) + 1) + 1]
                lower, upper = record.numbers("lower", ends[-1]), record.numbers("upper", ends[-1])
                self.frame = [(lower[a:b], upper[a:b]) for a, b in pairwise(ends)]
            case "leaves":
                self._leaves(record, trees, by)
            case "split":
                flat = record.indices("question", None, int(self.offsets[-1]))
                wanted = np.isin(np.arange(len(flat)), list(questions[self.n_cuttings]))
                asked = flat, record.signs("sign", len(flat)), wanted
                self.cuts = Cuts(self.maps, self.part, (self.lower, self.upper), asked, self.depth)
                self.n_cuttings += 1
            case "boxes" if self.cuts is not None:
                self.cuts.add(record)
            case "cut" if self.cuts is not None:
                for q in self.cuts.proven(record.indices("done", None, len(self.cuts.flat))).tolist():
                    layer = int(np.searchsorted(self.offsets, self.cuts.flat[q], side="right")) - 1
                    row = int(self.cuts.flat[q] - self.offsets[layer])
                    self.bound_one(layer, row, self.cuts.sign[q], 0.0, by)
            case _:
                raise record.fail("there is no such kind of record, or not here")

    def _leaves(self, record: Record, wanted: set[int], by: str) -> None:
        """Bound leaves of trees, and close trees whose leaves cover the part."""
        layer = record.whole("layer", len(self.maps))
        tree = record.indices("tree", None, 2**32)
        rows, signs = record.indices("row", len(tree), self.sizes[layer]), record.signs("sign", len(tree))
        leaves = _Leaves(self, record, layer, len(tree))
        use = np.flatnonzero(np.isin(tree, list(wanted)))
        size = len(use) * max([self.part.n_inputs, *self.sizes])
        for some in np.array_split(use, -(-size // ENTRIES)) if size else ():
            try:
                bounds = self.boxes(layer).bound(layer, rows[some], signs[some], leaves.choices(some))[0].tolist()
            except OverflowError:
                bounds = [np.inf] * len(some)
            for i, bound in zip(some.tolist(), bounds, strict=True):
                question = (layer, int(rows[i]), float(signs[i]))
                known = self.trees.setdefault(int(tree[i]), (question, [], []))
                if known[0] != question:
                    raise record.fail(f"tree {tree[i]} asks two questions")
                known[1].append(leaves.phases(i))
                known[2].append(bound)
        for number in record.indices("closed", None, 2**32).tolist():
            closed = self.trees.pop(number, None)
            if closed is not None and covers(closed[1]):
                self.bound_one(*closed[0], float(np.max(closed[2])), by)


class _Leaves:
    """The choices of a record's leaves, over the layers before theirs."""

    def __init__(self, state: PartState, record: Record, layer: int, n: int) -> None:
        self.record, self.n = record, n
        self.ends = state.offsets[: layer + 1]
        self.slopes = self.duals = None
        if "slopes" in record.arrays:
            if len(state.frame) < layer:
                raise record.fail("there is no frame before it")
            open_ = [np.flatnonzero((low < 0) & (high > 0)) + at for at, (low, high) in zip(self.ends, state.frame)]  # noqa: B905
            self.open = np.concatenate([np.zeros(0, np.intp), *open_[:layer]])
            self.slopes = np.clip(record.numbers("slopes", n, len(self.open)), 0.0, 1.0)
        if "duals" in record.arrays and state.part.b is not None:
            self.duals = record.numbers("duals", n, len(state.part.b))
        self.shift_at, self.shift_ends = self._places("shift")
        self.shift = record.numbers("shift", len(self.shift_at)) if len(self.shift_at) else np.zeros(0)
        self.phase_at, self.phase_ends = self._places("phase")
        self.phase = record.signs("phase", len(self.phase_at)) if len(self.phase_at) else np.zeros(0)

    def _places(self, name: str) -> tuple[Index, Index]:
        """Which neurons the entries of an array are of, and where each leaf's end."""
        if f"{name}_count" not in self.record.arrays:
            return np.zeros(0, np.intp), np.zeros(self.n + 1, np.intp)
        ends = np.cumsum([0, *self.record.indices(f"{name}_count", self.n, 2**31)])
        return self.record.indices(f"{name}_at", int(ends[-1]), int(self.ends[-1])), ends

    def phases(self, leaf: int) -> Phases:
        """Neurons and their phases."""
        inside = slice(self.phase_ends[leaf], self.phase_ends[leaf + 1])
        found = dict(zip(self.phase_at[inside].tolist(), self.phase[inside].tolist(), strict=True))
        if len(found) < len(self.phase_at[inside]):
            raise self.record.fail("a leaf has two phases of one neuron")
        return found

    def choices(self, some: Index) -> Choices:
        """Those of some leaves."""
        slopes = np.zeros((len(some), int(self.ends[-1])))
        if self.slopes is not None:
            slopes[:, self.open] = self.slopes[some]
        shifts = self._dense(some, self.shift_at, self.shift_ends, self.shift)
        phases = self._dense(some, self.phase_at, self.phase_ends, self.phase)
        found = (None if self.slopes is None else slopes, shifts, phases)
        layers = [[None if of is None else of[:, a:b] for of in found] for a, b in pairwise(self.ends)]
        return Choices(layers, None if self.duals is None else self.duals[some])

    def _dense(self, some: Index, at: Index, ends: Index, values: Array) -> Array | None:
        full = np.zeros((len(some), int(self.ends[-1])))
        for i, leaf in enumerate(some.tolist()):
            full[i, at[ends[leaf] : ends[leaf + 1]]] = values[ends[leaf] : ends[leaf + 1]]
        return full if len(values) else None


def covers(leaves: Sequence[Phases]) -> bool:
    """Whether leaves, each the set where some neurons have given phases, make up everything.

    True for the leaves of any tree in which a neuron with two phases was split at every fork: some neuron (that of the
    root) then is in all of them, and so on with those of each phase.
    """
    waiting: list[tuple[Sequence[Phases], frozenset[int]]] = [(leaves, frozenset())]
    while waiting:
        some, done = waiting.pop()
        left = [leaf.keys() - done for leaf in some]
        if not all(left):
            continue
        common = set.intersection(*left) if left else set()
        if not common:
            return False
        neuron = min(common)
        waiting += [([leaf for leaf in some if leaf[neuron] == phase], done | {neuron}) for phase in (1.0, -1.0)]
    return True


def replay(path: str | Path, network: Network, domain: Domain, *, beside: str = "") -> list[PartState]:
    """What a proof proves on each part of a domain; raises `ProofError` where the file is none, or another's. What runs
    on a network of the identity ``beside`` have written is left out.
    """
    maps = [Map.of(layer.affine) for layer in network.layers]
    states = [PartState(maps, part, number) for number, part in enumerate(domain.parts)]
    replay_into(states, path, network.identity, domain.digest, beside=beside)
    return states


def replay_into(
    states: list[PartState],
    path: str | Path,
    identity: str,
    domain: str,
    *,
    beside: str,
    over: Callable[[], bool] = bool,
) -> None:
    """Replay what a file holds about the network and the domain of these digests, until time is ``over``."""
    trees: dict[tuple[int, Any], set[int]] = {}
    questions: dict[tuple[int, Any], list[set[int]]] = {}
    for second in (False, True):  # at first only what is closed at some time: work on other leaves would be in vain
        session, ours = -1, False
        for record in read_records(path):
            if over():
                raise ProofError("the time for checking the proof is over")
            if record.kind == "begin":
                session, ours = session + 1, record.values.get("network") == identity
                if not ours and record.values.get("network") != beside:
                    raise ProofError("the proof is about another network")
                if record.values.get("domain") != domain:
                    raise ProofError("the proof is about another domain")
                for state in states:
                    state.begin()
                continue
            if session < 0:
                raise record.fail("a record 'begin' is expected first")
            if not ours or record.kind == "pairing":
                continue
            key = (session, record.whole("part", len(states)))
            if second:
                states[key[1]].take(record, trees.get(key, set()), questions.get(key, []))
            elif record.kind == "leaves":
                trees.setdefault(key, set()).update(record.indices("closed", None, 2**32).tolist())
            elif record.kind == "split":
                questions.setdefault(key, []).append(set())
            elif record.kind == "cut" and key in questions:
                questions[key][-1].update(record.indices("done", None, 2**32).tolist())
