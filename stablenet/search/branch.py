"""Branch and bound over the phases of neurons, with optimised linear bounds for many nodes at once.

A node is a question together with phases that some neurons are held to. Its bound is a backward pass whose slopes and
multipliers are chosen by descent (`Descent`); a node whose rigorous bound has the refuting sign is closed, others are
divided at the neuron whose relaxation lifts the bound most (Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv 2103.06624;
Bunel et al., *Branch and Bound for Piecewise Linear Neural Network Verification*, JMLR 2020). A question is refuted
once all of its nodes are closed. The points at which the bounds are attained are tried as witnesses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stablenet.ledger import NEGATIVE, POSITIVE, SIDES, Array, Index, Mask
from stablenet.propagate.crown import Backward
from stablenet.propagate.descent import Descent, Outcome, Variables
from stablenet.search.base import Problem, Search

BATCH = 128
"""Nodes bounded together."""

FIRST_STEPS = 20
"""Steps of descent for a question as a whole."""

STEPS = 8
"""Steps of descent for a node, which starts from what its parent found."""

LAST_STEPS = 40
LAST_ROUNDS = 12
"""Descent for a node in which no undecided neuron is left to divide at, begun anew so many times with the first step
size: its bound is a linear program's, often without solution, and the multipliers that show so are large."""

TIE = 1e-6
"""A node whose bound misses the refuting sign by less than this share of the neuron's range is a tie: its question is
left to other searches."""

Phases = list[npt.NDArray[np.int8]]


class BranchSearch(Search):
    """Branching on phases with batched rigorous bounds."""

    name = "branch"
    title = "branch and bound over phases with optimised linear bounds"
    paper = "Wang et al. 2021 (arXiv 2103.06624)"
    needs_solver = False

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        for part in range(len(problem.domain.parts)):
            Brancher(problem, part).run()


class Brancher:
    """Branches for the pending questions of one part, layer by layer."""

    def __init__(self, problem: Problem, part: int, by: str = "branch") -> None:
        self.problem = problem
        self.part = part
        self.by = by

    def run(self, max_nodes: int | None = None) -> None:
        """Close questions; one that has used ``max_nodes`` nodes is left open."""
        for layer in range(len(self.problem.network.layers)):
            self.problem.deadline.check()
            pending = self.problem.ledger.pending(self.part)[:, self.problem.ledger.layer_slice(layer)]
            if pending.any():
                _Layer(self, layer, pending).run(max_nodes)


@dataclass(eq=False)
class _Nodes:
    """A batch of nodes: question of each (r,), phases (1, r, alive) per layer, and where descent starts."""

    question: Index
    phases: Phases
    start: Variables

    def take(self, rows: Index | Mask) -> _Nodes:
        return _Nodes(self.question[rows], [phase[:, rows] for phase in self.phases], self.start.take(rows))

    @classmethod
    def join(cls, batches: list[_Nodes]) -> _Nodes:
        """All nodes of some batches."""
        if len(batches) == 1:
            return batches[0]
        slopes = [np.concatenate(arrays, axis=1) for arrays in zip(*(b.start.slopes for b in batches), strict=True)]
        multipliers = [
            np.concatenate(arrays, axis=1) for arrays in zip(*(b.start.multipliers or [] for b in batches), strict=True)
        ]
        phases = [np.concatenate(arrays, axis=1) for arrays in zip(*(b.phases for b in batches), strict=True)]
        question = np.concatenate([batch.question for batch in batches])
        return cls(question, phases, Variables(slopes, multipliers))


class _Layer:
    """The questions of one layer and their nodes."""

    def __init__(self, owner: Brancher, layer: int, pending: Mask) -> None:
        self.owner = owner
        self.problem = owner.problem
        self.ledger = owner.problem.ledger
        self.layer = layer
        self.affine = self.problem.network.layers[layer].affine
        self.neuron = np.concatenate([np.flatnonzero(pending[POSITIVE]), np.flatnonzero(pending[NEGATIVE])])
        self.side = np.repeat([POSITIVE, NEGATIVE], np.count_nonzero(pending, axis=1)).astype(np.intp)
        self.sign = np.where(self.side == POSITIVE, 1.0, -1.0)
        self.flat = self.neuron + self.ledger.offsets[layer]
        self.leaves = np.ones(len(self.neuron), dtype=np.int64)
        self.nodes = np.zeros(len(self.neuron), dtype=np.int64)
        self.dead = np.zeros(len(self.neuron), dtype=bool)
        bounds = self.problem.bounds[owner.part].layers[layer]
        self.tie = TIE * (bounds.upper - bounds.lower)[self.neuron]
        self.backward, self.rigorous = self._push()
        self.descent = Descent(self.backward)
        self.stack = [self._roots()]

    def _push(self) -> tuple[Backward, bool]:
        """Bounds of the layers before, with phases that are rigorously refuted on the part."""
        part, ledger = self.problem.domain.parts[self.owner.part], self.ledger
        backward = Backward(self.problem.network, part.lower[None, :], part.upper[None, :])
        known = (ledger.part_by[self.owner.part] >= 0) & ledger.part_rigorous[self.owner.part]
        rigorous = True
        for k, layer in enumerate(self.problem.bounds[self.owner.part].layers[: self.layer]):
            inside = ledger.layer_slice(k)
            lower = np.where(known[NEGATIVE, inside], np.maximum(layer.lower, 0.0), layer.lower)
            upper = np.where(known[POSITIVE, inside], np.minimum(layer.upper, 0.0), layer.upper)
            # Both refuted: g is 0; bounds that cross by rounding must not.
            backward.push(np.minimum(lower, upper)[None, :], upper[None, :])
            rigorous &= bool(layer.lower_rigorous.all() and layer.upper_rigorous.all())
        return backward, rigorous

    def _roots(self) -> _Nodes:
        n = len(self.neuron)
        phases = [np.zeros((1, n, len(level.offset)), np.int8) for level in self.descent.levels]
        return _Nodes(np.arange(n), phases, self.descent.start(n, multipliers=True))

    def run(self, max_nodes: int | None) -> None:
        """Bound and divide until no node is left."""
        steps = FIRST_STEPS
        while self.stack:
            self.problem.deadline.check()
            nodes = self._next(self._live(max_nodes))
            if nodes is not None:
                self._work(nodes, steps)
            steps = STEPS

    def _next(self, live: Mask) -> _Nodes | None:
        """A batch from the top of the stack: depth first, so that the stack stays small."""
        picked: list[_Nodes] = []
        n = 0
        while self.stack and n < BATCH:
            nodes = self.stack.pop()
            keep = live[nodes.question]
            if not keep.any():
                continue
            picked.append(nodes if keep.all() else nodes.take(keep))
            n += len(picked[-1].question)
        if not picked:
            return None
        nodes = _Nodes.join(picked)
        if n > BATCH and self.nodes.any():  # the roots are bounded together, with more steps
            self.stack.append(nodes.take(np.arange(BATCH, n)))
            nodes = nodes.take(np.arange(BATCH))
        return nodes

    def _live(self, max_nodes: int | None) -> Mask:
        live = self.ledger.pending(self.owner.part)[self.side, self.flat] & ~self.dead
        return np.asarray(live if max_nodes is None else live & (self.nodes < max_nodes))

    def _work(self, nodes: _Nodes, steps: int) -> None:
        question = nodes.question
        rows, signs = self.neuron[question], self.sign[question]
        outcome = self.descent.run(
            self.affine, rows, signs, steps, start=nodes.start, phases=nodes.phases, multipliers=True
        )
        np.add.at(self.nodes, question, 1)
        near = (outcome.values[0] > 0) & (outcome.values[0] <= self.tie[question])
        self.dead[question[near]] = True
        self._witness(outcome.points[0].astype(np.float64), rows, signs)
        closed = self._closed(outcome, nodes.phases, rows, signs)
        np.subtract.at(self.leaves, question[closed], 1)
        self._divide(outcome, nodes, ~closed & self.ledger.pending(self.owner.part)[self.side, self.flat][question])
        self._refute(np.unique(question[closed]))

    def _closed(self, outcome: Outcome, phases: Phases, rows: Index, signs: Array) -> Mask:
        """Nodes that the rigorous pass, with the choices that descent found, closes."""
        likely = np.flatnonzero(outcome.values[0] < 0)
        closed = np.zeros(len(rows), dtype=bool)
        if len(likely):
            chosen = [phase[:, likely] for phase in phases]
            choices = self.descent.choices(outcome.variables.take(likely), chosen)
            bounds, _ = self.backward.upper_bounds(self.affine, rows[likely], signs[likely], choices)
            closed[likely[bounds[0] <= 0]] = True
        return closed

    def _witness(self, points: Array, rows: Index, signs: Array) -> None:
        part = self.problem.domain.parts[self.owner.part]
        points = part.clip(points)
        values = self.problem.network.pre_activations(points, self.layer + 1)[self.layer]
        shows = values[np.arange(len(rows)), rows] * signs > 0
        if shows.any():
            self.problem.falsifier.witnesser.offer(points[shows], self.owner.by)

    def _divide(self, outcome: Outcome, nodes: _Nodes, chosen: Mask) -> None:
        """Two children for each chosen node, at the neuron whose relaxation costs most."""
        scores = []
        for level, gap, phase in zip(self.descent.levels, outcome.gap, nodes.phases, strict=True):
            free = phase[0][:, level.open] == 0
            # Where no gap shows, the widest relaxation is as good a guess as any.
            scores.append(np.where(free, np.abs(gap[0]) + 1e-9 * level.up_offset[0][:, level.open], -1.0))
        score = np.concatenate([np.full((len(chosen), 1), -1.0), *scores], axis=1)
        best = score.argmax(axis=1) - 1
        able = best >= 0
        self._last(outcome, nodes, chosen & ~able)
        parents = np.flatnonzero(chosen & able)
        if not len(parents):
            return
        ends = np.cumsum([len(level.open) for level in self.descent.levels])
        layer = np.searchsorted(ends, best[parents], side="right")
        column = best[parents] - np.concatenate([[0], ends])[layer]
        kept = _Nodes(nodes.question, nodes.phases, outcome.variables).take(parents)
        np.add.at(self.leaves, kept.question, 1)
        for held in (1, -1):
            phases = [phase.copy() for phase in kept.phases]
            for k, level in enumerate(self.descent.levels):
                here = np.flatnonzero(layer == k)
                phases[k][0, here, level.open[column[here]]] = held
            self.stack.append(_Nodes(kept.question, phases, kept.start.copy()))

    def _last(self, outcome: Outcome, nodes: _Nodes, chosen: Mask) -> None:
        """Nodes with nothing left to divide: descend for longer; what that does not close is left to other searches."""
        rows = np.flatnonzero(chosen)
        question, phases = nodes.question[rows], [phase[:, rows] for phase in nodes.phases]
        start = outcome.variables.take(rows)
        points = np.zeros((0, self.problem.network.n_inputs))
        for _ in range(LAST_ROUNDS):
            if not len(question):
                return
            neurons, signs = self.neuron[question], self.sign[question]
            again = self.descent.run(
                self.affine, neurons, signs, LAST_STEPS, start=start, phases=phases, multipliers=True
            )
            closed = self._closed(again, phases, neurons, signs)
            np.subtract.at(self.leaves, question[closed], 1)
            self._refute(np.unique(question[closed]))
            question, phases = question[~closed], [phase[:, ~closed] for phase in phases]
            start = again.variables.take(~closed)
            points = again.points[0][~closed].astype(np.float64)
        part = self.owner.part
        points = self.problem.falsifier.pullers[part](points)
        neurons, signs = self.neuron[question], self.sign[question]
        self.problem.falsifier.climb(self.layer, part, points, neurons=neurons, signs=signs)
        self.dead[question] = True

    def _refute(self, questions: Index) -> None:
        done = questions[(self.leaves[questions] == 0) & ~self.dead[questions]]
        for side in SIDES:
            chosen = done[self.side[done] == side]
            self.ledger.refute(self.owner.part, side, self.flat[chosen], self.owner.by, rigorous=self.rigorous)
