"""Search for an input on which two networks differ: sampling and batched gradient steps.

What is found is certified in float64 with both forward passes' rounding bounds; nothing here proves equality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.float32 import in_real
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Domain, Part
from stablenet.falsify.climb import climb, gradient, roam
from stablenet.falsify.falsifier import puller, random_points

STARTS = 24
"""Points that climb for each output and sign."""

TARGETS = 40
"""Outputs, with sign, that are climbed at once; those that differ most on samples come first."""

CHUNK = 256

SCANS, SCANNED = 40, 512
"""Rounds of random points of a part, and points of each, for the range of the largest difference."""

ROAMERS, ROUNDS, CLIMBERS = 128, 200, 64
"""The best of these points that move at random, how many times, and those that climb by gradient steps."""


def difference_network(a: Network, b: Network) -> Network:
    """``B(x) - A(x)`` as one network: A's layers, then B's, and the difference as one more layer, never rectified."""
    shift = len(a.layers)
    layers = list(in_real(a).layers)
    for layer in b.layers:
        moved = tuple(Term(t.source + shift if t.source else 0, t.matrix) for t in layer.affine.terms)
        layers.append(replace(layer, affine=replace(layer.affine, terms=moved, roundoff=None)))
    minus = tuple(Term(t.source, -t.matrix) for t in a.output.terms)
    plus = tuple(Term(t.source + shift if t.source else 0, t.matrix) for t in b.output.terms)
    out = AffineMap(b.output.offset - a.output.offset, (*plus, *minus))
    layers.append(Layer(out, "difference", (out.size,)))
    nothing = AffineMap(np.zeros(out.size), ())
    return replace(a, layers=tuple(layers), output=nothing)


@dataclass(frozen=True, eq=False)
class Found:
    """A point of the domain, (n_inputs,), an output, and how much the networks surely differ there."""

    point: Array
    output: int
    difference: float


class Seeker:
    """Seeks the largest certified difference of two networks on a domain: of any two evaluations of them in float32, if
    they are networks of float32 arithmetic.

    ``rounded`` (n_outputs,) is how far ``B - A`` may be from that of the files, of which what is found holds.
    """

    def __init__(self, a: Network, b: Network, domain: Domain, seed: int, rounded: Array | None = None) -> None:
        self.a, self.b, self.domain = a, b, domain
        self.rounded = np.zeros(b.n_outputs) if rounded is None else rounded
        self.rng = np.random.default_rng(seed)
        self.pullers = [puller(part) for part in domain.parts]
        self.joint = difference_network(a, b)
        self.best: Found | None = None
        self.extremes = np.full((2, len(domain.parts), b.n_outputs), -np.inf)
        """By sign (+, -), part and output, the largest ``sign * (B - A)`` that is certain at a point of the part."""

    def offer(self, points: Array) -> None:
        """Certify points, (batch, n_inputs); the one with the largest sure difference is kept."""
        points = points[self.domain.contains(points)] if len(points) else points
        for start in range(0, len(points), CHUNK):
            batch = points[start : start + CHUNK]
            one, two = self.a.evaluate(batch), self.b.evaluate(batch)
            error = one.output_error + two.output_error + self.rounded
            self._note(batch, two.output - one.output, error)
            sure = np.abs(one.output - two.output) * (1.0 - 2.0**-50) - error
            if not sure.size or np.isnan(sure).all():
                continue
            row, column = np.unravel_index(np.nanargmax(sure), sure.shape)
            value = float(sure[row, column])
            if value > 0 and (self.best is None or value > self.best.difference):
                self.best = Found(batch[row].copy(), int(column), value)

    def _note(self, points: Array, difference: Array, error: Array) -> None:
        """Keep the extremes that are certain, part by part."""
        least = [sign * difference - np.abs(difference) * 2.0**-50 - error for sign in (1.0, -1.0)]
        values = np.stack(least)
        values = np.where(np.isnan(values), -np.inf, values)
        for number, part in enumerate(self.domain.parts):
            inside = part.holds(points)
            if inside.any():
                np.maximum(self.extremes[:, number], values[:, inside].max(axis=1), out=self.extremes[:, number])

    def known(self, part: int, output: int, sign: float) -> float | None:
        """The largest ``sign * (B - A)`` of an output that is certain on a part; None if no point of it was seen."""
        value = float(self.extremes[0 if sign > 0 else 1, part, output])
        return value if np.isfinite(value) else None

    def sample(self, count: int) -> Array:
        """Offer random points and vertices of every part; returns them."""
        share = max(count // (2 * len(self.domain.parts)), 1)
        points = np.concatenate(
            [
                pull(random_points(part, share, self.rng))
                for part, pull in zip(self.domain.parts, self.pullers, strict=True)
            ]
        )
        self.offer(points)
        return points

    def climb(self, stop: Callable[[], bool]) -> None:
        """Gradient steps from the points where the networks differ most, for each output and sign."""
        last = len(self.joint.layers) - 1
        for number, (part, pull) in enumerate(zip(self.domain.parts, self.pullers, strict=True)):
            pool = pull(random_points(part, 128, self.rng))
            values = self.joint.pre_activations(pool)[last]
            both = np.concatenate([values, -values], axis=1)
            targets = np.argsort(-np.abs(both).max(axis=0), kind="stable")[:TARGETS]
            for start in range(0, len(targets), max(CHUNK // STARTS, 1)):
                chosen = targets[start : start + max(CHUNK // STARTS, 1)]
                starts = np.argsort(-both[:, chosen], axis=0, kind="stable")[:STARTS]
                points = pool[starts.T.reshape(-1)]
                target = np.repeat(chosen, len(starts))
                neurons = target % values.shape[1]
                signs = np.where(target < values.shape[1], 1.0, -1.0)
                self.offer(self._raise(self.joint, last, (neurons, signs), points, number))
                if stop():
                    return

    def scan(self, stop: Callable[[], bool]) -> None:
        """Move at random, and climb, from the best of many random points of every part."""
        for part, pull in zip(self.domain.parts, self.pullers, strict=True):
            kept, best = np.zeros((0, part.n_inputs)), np.zeros(0)
            for _ in range(SCANS):
                points = pull(random_points(part, SCANNED, self.rng))
                kept, best = np.concatenate([kept, points]), np.concatenate([best, self._size(points)])
                order = np.argsort(-best, kind="stable")[:ROAMERS]
                kept, best = kept[order], best[order]
                if stop():
                    break
            self.climb_from(kept[:CLIMBERS], part)
            self.roam_from(kept, part)
            if stop():
                return

    def roam_from(self, points: Array, part: Part, rounds: int = ROUNDS) -> None:
        """Random moves from given points of a part, (batch, n_inputs), that raise the largest difference."""
        pull = self.pullers[self.domain.parts.index(part)]
        self.offer(roam(self._size, points, pull, part.upper - part.lower, rounds=rounds, rng=self.rng))

    def _size(self, points: Array) -> Array:
        """The largest difference of an output at points, (batch,), rounded."""
        difference = self.b.forward(points) - self.a.forward(points)
        return np.asarray(np.nan_to_num(np.abs(difference).max(axis=1, initial=0.0)))

    def climb_from(self, points: Array, part: Part) -> None:
        """Gradient steps from given points of a part, (batch, n_inputs), for the output that differs most at each."""
        if not len(points):
            return
        last = len(self.joint.layers) - 1
        target = _largest(self.joint.pre_activations(points)[last])
        self.offer(self._raise(self.joint, last, target, points, self.domain.parts.index(part)))

    def _raise(self, network: Network, layer: int, target: tuple[Index, Array], points: Array, part: int) -> Array:
        """Where steps lead that raise ``signs * g[neurons]`` of a layer, the two in ``target``, a point for each."""
        neurons, signs = target
        box = self.domain.parts[part]

        def objective(at: Array, rows: Index) -> tuple[Array, Array]:
            return gradient(network, layer, neurons[rows], signs[rows], at)

        return climb(objective, points, self.pullers[part], box.upper - box.lower)[0]

    def wake(self, which: Network, layer: int, neurons: Index, stop: Callable[[], bool]) -> None:
        """Seek points where given neurons of A or B fire most, and climb the difference from there.

        Where networks differ in a neuron that is off nearly everywhere, the difference itself shows no way to it.
        """
        last = len(self.joint.layers) - 1
        for number, (part, pull) in enumerate(zip(self.domain.parts, self.pullers, strict=True)):
            pool = pull(random_points(part, 64, self.rng))
            values = which.pre_activations(pool, layer + 1)[layer]
            for start in range(0, len(neurons), CHUNK):
                chosen = neurons[start : start + CHUNK]
                points = pool[values[:, chosen].argmax(axis=0)]
                points = self._raise(which, layer, (chosen, np.ones(len(chosen))), points, number)
                self.offer(points)
                target = _largest(self.joint.pre_activations(points)[last])
                self.offer(self._raise(self.joint, last, target, points, number))
                if stop():
                    return


def _largest(differences: Array) -> tuple[Index, Array]:
    """Of each point the output that differs most, and the sign of its difference, (batch,) each."""
    output = np.abs(differences).argmax(axis=1)
    return output, np.where(differences[np.arange(len(differences)), output] < 0, -1.0, 1.0)
