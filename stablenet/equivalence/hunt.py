"""The hunt for an input that violates a property: sampling and gradient steps, judged in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.network import Network
from stablenet.domain.regions import Part
from stablenet.equivalence.exact_outputs import exact_outputs
from stablenet.equivalence.functionals import Functionals
from stablenet.equivalence.specification import Violation
from stablenet.falsify.climb import climb, pull_back
from stablenet.falsify.falsifier import puller, random_points

TARGETS = 40
"""Conjunctions that are climbed; those that hold most nearly on samples come first."""

STARTS = 24
"""Points that climb for each of them."""

CHUNK = 256

NEAR = 1e-9
"""A conjunction whose rows miss by no more than this share of their size is judged in exact arithmetic."""

MOST_JUDGED = 300
"""Points that are judged in exact arithmetic for one part in all."""


@dataclass(frozen=True, eq=False)
class Witness:
    """A point of the domain, (n_inputs,), at which the property is violated, and both outputs there, exactly."""

    point: Array
    a: list[Fraction]
    b: list[Fraction]


class Hunter:
    """Seeks a violation of a property, whose forms are ``forms`` (None for a norm), on one part."""

    def __init__(
        self, networks: tuple[Network, Network], violation: Violation, forms: Functionals | None, part: Part, seed: int
    ) -> None:
        (self.a, self.b), self.violation, self.forms, self.part = networks, violation, forms, part
        self.rng = np.random.default_rng(seed)
        self.pull = puller(part)
        self.found: Witness | None = None
        self.judged = 0
        self.targets = np.zeros(0, np.intp)

    def offer(self, points: Array) -> None:
        """Judge those of the points, (batch, n_inputs), that nearly violate the property."""
        points = points[self.part.holds(points)] if len(points) else points
        for start in range(0, len(points), CHUNK):
            if self.found is not None:
                return
            batch = points[start : start + CHUNK]
            score, size = self._score(batch)
            order = np.argsort(-score, kind="stable")[:3]
            for i in order[score[order] >= -NEAR * size[order]].tolist():
                self._judge(batch[i])

    def _judge(self, point: Array) -> None:
        if self.found is not None or self.judged >= MOST_JUDGED:
            return
        self.judged += 1
        a, b = exact_outputs(self.a, point), exact_outputs(self.b, point)
        if self.violation.holds_at([Fraction(v) for v in point.tolist()], a, b):
            self.found = Witness(point.copy(), a, b)

    def _score(self, points: Array) -> tuple[Array, Array]:
        """How nearly each point violates the property (above 0: it does), and the size of the numbers in that."""
        a, b = self.a.forward(points), self.b.forward(points)
        with np.errstate(over="ignore", invalid="ignore"):
            size = 1.0 + np.abs(a).max(axis=1, initial=0.0) + np.abs(b).max(axis=1, initial=0.0)
            values = self._values(points, a, b)
        score = values.max(axis=1)
        return np.where(np.isnan(score), -np.inf, score), np.where(np.isfinite(size), size, 1.0)

    def _values(self, x: Array, a: Array, b: Array) -> Array:
        """(batch, conjunctions): the least of the rows."""
        if self.forms is not None:
            return self.forms.least(self.forms.values(x, a, b))
        gap = np.abs(b - a)
        norm = gap.sum(axis=1) if self.violation.norm == "l1" else np.sqrt((gap * gap).sum(axis=1))
        return np.asarray(norm - float(self.violation.radius))[:, None]

    def sample(self, count: int) -> Array:
        """Offer random points and vertices; the conjunctions that nearly hold become targets. Returns the points."""
        points = self.pull(random_points(self.part, count, self.rng))
        self.offer(points)
        best = self._values(points, self.a.forward(points), self.b.forward(points)).max(axis=0)
        self.targets = np.argsort(-np.nan_to_num(best, nan=-np.inf), kind="stable")[:TARGETS]
        return points

    def climb(self, stop: Callable[[], bool]) -> None:
        """Gradient steps, for each target from the points where it holds most nearly."""
        pool = self.pull(random_points(self.part, 128, self.rng))
        values = self._values(pool, self.a.forward(pool), self.b.forward(pool))
        width = max(CHUNK // STARTS, 1)
        for start in range(0, len(self.targets), width):
            chosen = self.targets[start : start + width]
            order = np.argsort(-values[:, chosen], axis=0, kind="stable")[:STARTS]
            points = pool[order.T.reshape(-1)]
            self.raise_from(points, np.repeat(chosen, len(order)), stop)
            if self.found is not None or stop():
                return

    def raise_from(self, points: Array, targets: Index, stop: Callable[[], bool]) -> None:
        """From ``points[i]`` take steps that raise the least row of conjunction ``targets[i]``."""

        def objective(at: Array, rows: Index) -> tuple[Array, Array]:
            return self._slopes(at, targets[rows])

        self.offer(climb(objective, points, self.pull, self.part.upper - self.part.lower, stop=stop)[0])

    def _slopes(self, points: Array, targets: Index) -> tuple[Array, Array]:
        """The least row of each point's target, and its gradient in the inputs: (batch,), (batch, n_inputs)."""
        pre_a, pre_b = self.a.pre_activations(points), self.b.pre_activations(points)
        a, b = _output(self.a, points, pre_a), _output(self.b, points, pre_b)
        rows = np.arange(len(points))
        if self.forms is None:
            gap = b - a
            norm = np.sqrt((gap * gap).sum(axis=1, keepdims=True))
            of_b = np.sign(gap) if self.violation.norm == "l1" else gap / np.maximum(norm, 1e-300)
            values, of_a, of_x = self._values(points, a, b)[:, 0], -of_b, np.zeros_like(points)
        else:
            forms = self.forms
            all_values = forms.values(points, a, b)
            weakest = forms.weakest(all_values, targets)
            values = all_values[rows, weakest]
            sign, form = forms.sign[weakest][:, None], forms.form[weakest]
            of_b = sign * forms.difference[form]
            of_a, of_x = sign * forms.a[form] - of_b, sign * forms.x[form]
        slopes = of_x + pull_back(self.a, pre_a, of_a) + pull_back(self.b, pre_b, of_b)
        return values, slopes


def _output(network: Network, points: Array, pre: list[Array]) -> Array:
    return network.output([points, *(np.maximum(g, 0.0) for g in pre)])
