"""Trees over phases: leaves, questions, and where the numbers of leaves are kept."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from stablenet.bounds.adam import Variables
from stablenet.bounds.optimize import Phases
from stablenet.core.arrays import Index


class Cut(NamedTuple):
    """A ``neuron`` (alive) to split at; ``inactive`` and ``active`` are what its multiplier gains where it gets that
    phase, so that a child starts from its parent's linear bound, or from a better one.
    """

    neuron: int
    inactive: float
    active: float


@dataclass(eq=False)
class Leaf:
    """One leaf; its slopes, multipliers and phases stand in row ``at`` of the branching's `Store`.

    ``cuts`` are neurons to split at, the most promising first; none if no undecided one is left. ``value`` is its bound
    in single precision, or a rigorous one once it is ``checked``.
    """

    value: float
    at: int
    cuts: list[Cut]
    checked: bool = False
    closed: bool = False

    def __lt__(self, other: Leaf) -> bool:
        """Heaps have the worst bound first."""
        return self.value > other.value


@dataclass(eq=False)
class Tree:
    """One question. A leaf whose bound is ``goal`` or less needs no more work; up to ``goal + tie`` it is a tie.

    ``open`` are leaves that can be split (a heap where the worst is split first), ``stuck`` those that can't.
    ``closed`` is the largest bound of the leaves that are closed, ``n_nodes`` counts leaves and what they came from,
    ``n_ties`` the ties met, ``seen_goal`` is the goal that open leaves were last held against. With ``keep``, ``kept``
    are closed leaves that the proof does not have yet; it knows the tree by its ``number``.
    """

    row: int
    sign: float
    tie: float
    goal: float = 0.0
    open: list[Leaf] = field(default_factory=list)
    stuck: list[Leaf] = field(default_factory=list)
    closed: float = -np.inf
    n_nodes: int = 0
    n_ties: int = 0
    seen_goal: float = 0.0
    keep: bool = False
    kept: list[Leaf] = field(default_factory=list)
    number: int | None = None
    given_up: bool = False

    def take(self, n: int, *, worst: bool) -> list[Leaf]:
        """Removes up to n leaves: the worst, or those that came last, which keeps the list short."""
        if worst:
            return [heapq.heappop(self.open) for _ in range(min(n, len(self.open)))]
        taken = self.open[-n:]
        del self.open[-n:]
        return taken

    def put(self, leaf: Leaf, *, worst: bool) -> None:
        """Add a leaf."""
        if not leaf.cuts:
            self.stuck.append(leaf)
        elif worst:
            heapq.heappush(self.open, leaf)
        else:
            self.open.append(leaf)

    def near(self, leaf: Leaf) -> bool:
        """Whether a leaf's bound is worth certifying; one that was in vain is not repeated."""
        return not leaf.cuts or leaf.value <= self.goal + (0.0 if leaf.checked else self.tie)

    def take_reached(self) -> list[Leaf]:
        """Removes leaves that a risen goal may have made needless."""
        if self.goal <= self.seen_goal:
            return []
        self.seen_goal = self.goal
        reached = [leaf for leaf in self.open if self.near(leaf)]
        if reached:
            gone = {id(leaf) for leaf in reached}
            self.open = [leaf for leaf in self.open if id(leaf) not in gone]
            heapq.heapify(self.open)
        return reached


class Store:
    """Numbers of many leaves, a row each, over all pushed layers side by side: slopes (undecided neurons), multipliers
    and phases (alive ones).
    """

    def __init__(self, n_open: int, n_alive: int) -> None:
        self.slopes = np.zeros((0, n_open), np.float32)
        self.multipliers = np.zeros((0, n_alive), np.float32)
        self.phases = np.zeros((0, n_alive), np.int8)
        self._free: list[int] = []

    def add(self, variables: Variables, phases: Phases) -> Index:
        """Keep rows; where they stand."""
        short = len(phases) - len(self._free)
        if short > 0:
            old = len(self.slopes)
            more = max(short, old // 2)
            self.slopes, self.multipliers, self.phases = (
                np.concatenate([a, np.zeros((more, a.shape[1]), a.dtype)])
                for a in (self.slopes, self.multipliers, self.phases)
            )
            self._free += range(old + more - 1, old - 1, -1)
        at = np.array(self._free[len(self._free) - len(phases) :], np.intp)
        del self._free[len(self._free) - len(phases) :]
        self.slopes[at], self.phases[at] = variables.slopes, phases
        self.multipliers[at] = 0.0 if variables.multipliers is None else variables.multipliers
        return at

    def take(self, leaves: Sequence[Leaf]) -> tuple[Variables, Phases]:
        """Copies of what leaves have."""
        at = np.array([leaf.at for leaf in leaves], np.intp)
        return Variables(self.slopes[at], self.multipliers[at]), self.phases[at]

    def put(self, leaves: Sequence[Leaf], variables: Variables) -> None:
        """Change slopes and multipliers."""
        at = np.array([leaf.at for leaf in leaves], np.intp)
        self.slopes[at] = variables.slopes
        if variables.multipliers is not None:
            self.multipliers[at] = variables.multipliers

    def drop(self, leaves: Iterable[Leaf]) -> None:
        """Rows that are needed no more."""
        self._free += [leaf.at for leaf in leaves]
