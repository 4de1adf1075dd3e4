"""Replaying a proof: what each record claims is computed anew, and what comes out is all that is known.

Nothing in a proof can make a false bound: it only says which bounds to compute, over which of those already proven,
and with which free choices. A proof that says less, or says it wrongly, proves less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stablenet.check.arithmetic import Array
from stablenet.check.boxes import Cuts
from stablenet.check.duality import Boxes, Choices, Index, Map, exact_maps, layer_bounds
from stablenet.check.proof_file import ProofError, Record, read_records
from stablenet.core.network import Network
from stablenet.domain.regions import Domain, Part

LEAVES = 2**22
"""Numbers in the coefficients of the leaves that are bounded together, about."""


@dataclass(eq=False)
class Tree:
    """A bound in the making: its question, the phases of its leaves and the largest of their bounds."""

    layer: int
    row: int
    sign: int
    bound: float = -np.inf
    phases: list[dict[int, int]] = field(default_factory=list)


class PartState:
    """What is proven on one part: intervals of every pre-activation, (n_k,) per layer."""

    def __init__(self, maps: Sequence[Map], part: Part, number: int) -> None:
        self.maps, self.part, self.number = maps, part, number
        self.sizes = [owner.affine.size for owner in maps]
        self.offsets = np.cumsum([0, *self.sizes])
        self.lower = [np.full(n, -np.inf) for n in self.sizes]
        self.upper = [np.full(n, np.inf) for n in self.sizes]
        self.by: dict[tuple[int, int, int], str] = {}
        self.frame: list[tuple[Array, Array]] | None = None
        self.trees: dict[int, Tree] = {}
        self.cuts: Cuts | None = None
        self.n_cuttings = -1
        self.methods("interval")

    def boxes(self, layers: int) -> Boxes:
        """The part with the intervals of its first layers: those of the last frame where they are proven."""
        found = Boxes(self.maps, self.part.lower[None, :], self.part.upper[None, :], self.part)
        for k in range(layers):
            low, high = self.lower[k], self.upper[k]
            if self.frame is not None and k < len(self.frame):
                low, high = np.minimum(low, self.frame[k][0]), np.maximum(high, self.frame[k][1])
            found.push(low[None, :], high[None, :])
        return found

    def tighten(self, layer: int, lower: Array, upper: Array, by: str) -> None:
        """Intersect with proven bounds, (n,) each."""
        for side, zero in ((1, (upper <= 0) & (self.upper[layer] > 0)), (-1, (lower >= 0) & (self.lower[layer] < 0))):
            for neuron in np.flatnonzero(zero):
                self.by.setdefault((layer, int(neuron), side), by)
        self.lower[layer] = np.fmax(self.lower[layer], lower)
        self.upper[layer] = np.fmin(self.upper[layer], upper)

    def methods(self, method: str) -> None:
        """Bounds of all layers, in order."""
        found = Boxes(self.maps, self.part.lower[None, :], self.part.upper[None, :], self.part)
        for k in range(len(self.maps)):
            low, high = layer_bounds(found, k, intervals_only=method == "interval")
            self.tighten(k, low[0], high[0], method)
            found.push(self.lower[k][None, :], self.upper[k][None, :])

    def layer(self, record: Record) -> None:
        """Intervals and the usual backward bounds of one layer, over the frame's."""
        k = record.whole("layer", len(self.maps))
        undecided = np.flatnonzero((self.lower[k] < 0) & (self.upper[k] > 0))
        low, high = layer_bounds(self.boxes(k), k, undecided)
        self.tighten(k, low[0], high[0], str(record.values.get("by", "crown")))

    def take_frame(self, record: Record) -> None:
        """Intervals that the records after it rest on, as far as they are proven."""
        depth = record.whole("layer", len(self.maps) + 1)
        total = int(self.offsets[depth])
        lower, upper = record.numbers("lower", total), record.numbers("upper", total)
        ends = self.offsets[: depth + 1]
        self.frame = [(lower[a:b], upper[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def leaves(self, record: Record, wanted: set[int]) -> None:
        """Bound leaves of trees, and close trees whose leaves cover the part."""
        layer = record.whole("layer", len(self.maps))
        if self.frame is None or len(self.frame) < layer:
            raise record.fail("there is no frame before it")
        n = len(record.array("tree", -1))
        tree = record.indices("tree", n, 2**32)
        rows = record.indices("row", n, self.sizes[layer])
        signs = record.array("sign", n)
        if not np.isin(signs, (-1, 1)).all():
            raise record.fail("signs are 1 and -1")
        batch = _Batch(self, record, layer, n)
        use = np.flatnonzero(np.isin(tree, list(wanted)))
        widest = int(max([self.part.n_inputs, *self.sizes]))
        for some in np.array_split(use, -(-len(use) * widest // LEAVES)) if len(use) else ():
            bounds = self.boxes(layer).bound(layer, rows[some], signs[some].astype(np.float64), batch.choices(some))[0]
            for i, bound in zip(some.tolist(), bounds.tolist(), strict=True):
                known = self.trees.setdefault(int(tree[i]), Tree(layer, int(rows[i]), int(signs[i])))
                if (known.layer, known.row, known.sign) != (layer, rows[i], signs[i]):
                    raise record.fail(f"tree {tree[i]} asks two questions")
                known.phases.append(batch.phases_of(i))
                known.bound = max(known.bound, bound if bound == bound else np.inf)
        by = str(record.values.get("by", "branch"))
        for number in record.indices("closed", len(record.array("closed", -1)), 2**32).tolist():
            closed = self.trees.pop(number, None)
            if closed is not None and covers(closed.phases):
                self._close(closed, by)

    def _close(self, tree: Tree, by: str) -> None:
        lower, upper = np.full(self.sizes[tree.layer], -np.inf), np.full(self.sizes[tree.layer], np.inf)
        if tree.sign > 0:
            upper[tree.row] = tree.bound
        else:
            lower[tree.row] = -tree.bound
        self.tighten(tree.layer, lower, upper, by)

    def cut(self, record: Record, wanted: dict[int, set[int]]) -> None:
        """Records of a domain cut into boxes; see `Cuts`. ``wanted`` has, per cutting, the questions it refutes."""
        if record.kind == "split":
            n = len(record.array("question", -1))
            flat = record.indices("question", n, int(self.offsets[-1]))
            side = record.array("sign", n)
            if not np.isin(side, (-1, 1)).all():
                raise record.fail("signs are 1 and -1")
            self.n_cuttings += 1
            some = np.isin(np.arange(n), list(wanted.get(self.n_cuttings, ())))
            self.cuts = Cuts(self.maps, self.part, flat, side, some)
        elif self.cuts is None:
            raise record.fail("there is no record 'split' before it")
        elif record.kind == "boxes":
            self.cuts.add(record)
        else:
            n = len(record.array("done", -1))
            for q in self.cuts.proven(record.indices("done", n, len(self.cuts.flat))):
                layer = int(np.searchsorted(self.offsets, self.cuts.flat[q], side="right")) - 1
                neuron = int(self.cuts.flat[q] - self.offsets[layer])
                self._close(Tree(layer, neuron, int(self.cuts.sign[q]), 0.0), str(record.values.get("by", "split")))


class _Batch:
    """The choices of a record's leaves."""

    def __init__(self, state: PartState, record: Record, layer: int, n: int) -> None:
        self.n, self.layer = n, layer
        self.sizes, self.offsets = state.sizes, state.offsets
        total = int(self.offsets[layer])
        frame = (state.frame or [])[:layer]
        self.open = [np.flatnonzero((low < 0) & (high > 0)) for low, high in frame]
        width = sum(len(some) for some in self.open)
        self.slopes = np.clip(record.numbers("slopes", n, width), 0, 1) if "slopes" in record.arrays else None
        self.duals = None
        if "duals" in record.arrays and state.part.b is not None:
            self.duals = record.numbers("duals", n, len(state.part.b))
        self.shift_ends, self.shift_at = self._ragged(record, "shift", total)
        self.shift = record.numbers("shift", len(self.shift_at)) if "shift" in record.arrays else np.zeros(0)
        self.phase_ends, self.phase_at = self._ragged(record, "phase", total)
        self.phase = np.zeros(0, np.int64)
        if "phase" in record.arrays:
            self.phase = record.array("phase", len(self.phase_at))
            if not np.isin(self.phase, (-1, 1)).all():
                raise record.fail("phases are 1 and -1")

    def _ragged(self, record: Record, name: str, total: int) -> tuple[Index, Index]:
        """Where each leaf's entries end, and which neuron each is of."""
        if f"{name}_count" not in record.arrays:
            return np.zeros(self.n + 1, np.intp), np.zeros(0, np.intp)
        count = record.indices(f"{name}_count", self.n, 2**31)
        return np.cumsum([0, *count]), record.indices(f"{name}_at", int(count.sum()), total)

    def phases_of(self, leaf: int) -> dict[int, int]:
        """Neurons (flat) and their phases."""
        inside = slice(self.phase_ends[leaf], self.phase_ends[leaf + 1])
        return dict(zip(self.phase_at[inside].tolist(), self.phase[inside].tolist(), strict=True))

    def choices(self, leaves: Index) -> Choices:
        """Those of some leaves."""
        ends = self.offsets[: self.layer + 1]
        shift = self._dense(leaves, self.shift_ends, self.shift_at, self.shift)
        phase = self._dense(leaves, self.phase_ends, self.phase_at, self.phase.astype(np.float64))
        slopes: list[Array | None] = [None] * self.layer
        if self.slopes is not None:
            at = 0
            for k, some in enumerate(self.open):
                full = np.zeros((1, len(leaves), self.sizes[k]))
                full[0][:, some] = self.slopes[leaves, at : at + len(some)]
                slopes[k] = full
                at += len(some)
        return Choices(
            slopes,
            [None if shift is None else shift[None, :, a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)],
            [
                None if phase is None else phase[None, :, a:b].astype(np.int8)
                for a, b in zip(ends[:-1], ends[1:], strict=True)
            ],
            None if self.duals is None else self.duals[None, leaves],
        )

    def _dense(self, leaves: Index, ends: Index, at: Index, values: npt.NDArray[np.float64]) -> Array | None:
        if not len(values):
            return None
        full = np.zeros((len(leaves), int(self.offsets[self.layer])))
        for i, leaf in enumerate(leaves.tolist()):
            inside = slice(ends[leaf], ends[leaf + 1])
            full[i, at[inside]] = values[inside]
        return full


def covers(leaves: Sequence[dict[int, int]]) -> bool:
    """Whether leaves, each the set where some neurons have given phases, make up everything.

    True for the leaves of any tree in which a neuron with two phases was split at every fork: some neuron (that of the
    root) then is in all of them, and so on with those of each phase.
    """
    waiting: list[tuple[Sequence[dict[int, int]], frozenset[int]]] = [(leaves, frozenset())]
    while waiting:
        some, done = waiting.pop()
        if any(not leaf.keys() - done for leaf in some):
            continue
        common = set.intersection(*(leaf.keys() - done for leaf in some)) if some else set()
        if not common:
            return False
        neuron = min(common)
        for phase in (1, -1):
            waiting.append(([leaf for leaf in some if leaf[neuron] == phase], done | {neuron}))
    return True


def replay(path: str | Path | None, network: Network, domain: Domain) -> list[PartState]:
    """What a proof proves on each part of a domain; raises `ProofError` where the file is none, or another's."""
    maps = exact_maps(network)
    states = [PartState(maps, part, number) for number, part in enumerate(domain.parts)]
    if path is None:
        return states
    trees, questions = _scan(path)
    session = -1
    for record in read_records(path):
        if record.kind == "begin":
            session += 1
            for what, expected in (("network", network.sha256), ("domain", domain.digest)):
                if record.values.get(what) != expected:
                    raise ProofError(f"the proof is about another {what}")
            for state in states:
                state.frame, state.cuts, state.n_cuttings = None, None, -1
                state.trees.clear()
            continue
        if session < 0:
            raise record.fail("a record 'begin' is expected first")
        state = states[record.whole("part", len(states))]
        match record.kind:
            case "bounds":
                state.methods("interval" if record.values.get("method") == "interval" else "crown")
            case "layer":
                state.layer(record)
            case "frame":
                state.take_frame(record)
            case "leaves":
                state.leaves(record, trees.get((session, state.number), set()))
            case "split" | "boxes" | "cut":
                state.cut(record, questions.get((session, state.number), {}))
            case _:
                raise record.fail("there is no such kind of record")
    return states


Key = tuple[int, int]


def _scan(path: str | Path) -> tuple[dict[Key, set[int]], dict[Key, dict[int, set[int]]]]:
    """By session and part: the trees that are closed at some time, and the questions that each cutting refutes."""
    trees: dict[Key, set[int]] = {}
    questions: dict[Key, dict[int, set[int]]] = {}
    session = -1
    for record in read_records(path):
        session += record.kind == "begin"
        part = record.values.get("part")
        if not isinstance(part, int):
            continue
        key = (session, part)
        if record.kind == "leaves":
            trees.setdefault(key, set()).update(record.array("closed", -1).astype(int).tolist())
        if record.kind == "split":
            cuttings = questions.setdefault(key, {})
            cuttings[len(cuttings)] = set()
        if record.kind == "cut" and questions.get(key):
            questions[key][len(questions[key]) - 1].update(record.array("done", -1).astype(int).tolist())
    return trees, questions
