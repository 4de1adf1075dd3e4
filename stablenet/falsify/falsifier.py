"""Falsifying: inputs that show what a neuron can do, sought by sampling and by gradient.

For all pending questions of a layer at once, one point per question climbs its pre-activation
(`stablenet.falsify.climb`). What is found is certified by `Witnesser`; nothing here decides anything by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.domain.regions import Domain, Part
from stablenet.falsify.climb import STEPS, climb, gradient
from stablenet.falsify.witness import Sharpen, Signs, Witnesser

POOL = 256
"""Random points of each kind per part."""

PROBES = 32
"""Random points and vertices, so many of each, that every solver's refutations on a part are held against."""

BATCH_BYTES = 128 * 2**20


def puller(part: Part) -> Callable[[Array], Array]:
    """A map that brings points, (batch, n_inputs), into a part: clipping to the box, and for a polytope
    moving along the line to an inner point until the rows hold with a little to spare.
    """
    if part.a is None or part.b is None:
        return part.clip
    from scipy.optimize import linprog  # takes as long to import as most of the rest; few domains need it

    rows, rhs = part.a, part.b
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # Chebyshev centre of the rows within the box: max r with a x + |a| r <= b.
    answer = linprog(
        np.append(np.zeros(part.n_inputs), -1.0),
        A_ub=np.hstack([rows, norms]),
        b_ub=rhs,
        bounds=[*zip(part.lower, part.upper, strict=True), (0.0, None)],
    )
    if answer.x is None:
        return part.clip
    inner = np.asarray(answer.x[:-1])
    room = rhs - rows @ inner

    def pull(points: Array) -> Array:
        points = part.clip(points)
        speed = (points - inner) @ rows.T
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(speed > room, room / speed, 1.0).min(axis=1, initial=1.0)
        share = np.where(share < 1.0, (1.0 - 1e-9) * np.maximum(share, 0.0), 1.0)
        return part.clip(inner + share[:, None] * (points - inner))

    return pull


def random_points(part: Part, n: int, rng: np.random.Generator) -> Array:
    """The centre of a part's box, n uniform points and n vertices: (2 n + 1, n_inputs)."""
    shape = (n, part.n_inputs)
    uniform = part.lower + (part.upper - part.lower) * rng.random(shape)
    vertices = np.where(rng.random(shape) < 0.5, part.lower, part.upper)
    centre = (0.5 * part.lower + 0.5 * part.upper)[None, :]
    return np.concatenate([centre, uniform, vertices])


@dataclass(frozen=True)
class Probe:
    """Points of a part with their certain signs, and the parts that hold them; see `Witnesser.confront`."""

    points: Array
    signs: Signs
    inside: Mask


class Falsifier:
    """Seeks witnesses for the pending questions of a ledger."""

    def __init__(
        self,
        network: Network,
        domain: Domain,
        ledger: Ledger,
        rng: np.random.Generator,
        stop: Callable[[], bool],
        *,
        sharpen: Sharpen | None = None,
    ) -> None:
        self.network = network
        self.domain = domain
        self.ledger = ledger
        self.rng = rng
        self.stop = stop
        self.witnesser = Witnesser(network, domain, ledger, sharpen)
        self.pullers = [puller(part) for part in domain.parts]
        per_point = 8 * 3 * (sum(network.source_sizes) + network.n_inputs)
        self.batch = max(16, BATCH_BYTES // per_point)
        self._probes: dict[int, Probe] = {}
        self._levels: list[Array] = []

    def level(self, layer: int) -> Array:
        """How large pre-activations of a layer should get before climbing ends, (n,): 0 in real arithmetic.

        In float32 twice the largest error bound at a few points of the domain: below it few signs are certain.
        """
        with self.ledger.lock:
            if not self._levels:
                sizes = [k.size for k in self.network.layers]
                self._levels = [np.zeros(size) for size in sizes]
                if self.network.arithmetic == "float32":
                    rng = np.random.default_rng(0)
                    points = np.concatenate([random_points(part, 4, rng) for part in self.domain.parts])
                    errors = self.network.evaluate(points).pre_error
                    self._levels = [2.0 * error.max(axis=0) for error in errors]
            return self._levels[layer]

    def samples(self, points: Array) -> int:
        """Use points that the user gave; those outside the domain are ignored. Returns how many were kept."""
        return self.witnesser.offer(points, "samples")

    def probe(self, part: int) -> Probe:
        """A few points of a part, always the same, against which proofs are held."""
        with self.ledger.lock:
            if part not in self._probes:
                drawn = random_points(self.domain.parts[part], PROBES, np.random.default_rng(0))
                points = self.pullers[part](drawn)
                self._probes[part] = Probe(points, self.witnesser.signs(points), self.witnesser.inside(points))
            return self._probes[part]

    def run(self, steps: Sequence[float] = STEPS) -> None:
        """Random points and vertices, then gradient steps for each layer, on every part."""
        pools = []
        for part, pull in zip(self.domain.parts, self.pullers, strict=True):
            pools.append(pull(random_points(part, POOL, self.rng)))
            self.witnesser.offer(pools[-1], "falsify")
        for k in range(len(self.network.layers)):
            for number, pool in enumerate(pools):
                self._climb_layer(k, number, pool, steps)
                if self.stop():
                    return

    def _climb_layer(self, layer: int, part: int, pool: Array, steps: Sequence[float]) -> None:
        pending = self.ledger.pending()[:, self.ledger.layer_slice(layer)]
        neurons = np.concatenate([np.flatnonzero(pending[POSITIVE]), np.flatnonzero(pending[NEGATIVE])])
        if not len(neurons):
            return
        signs = np.repeat([1.0, -1.0], np.count_nonzero(pending, axis=1))
        values = self.network.pre_activations(pool, layer + 1)[layer]
        best = (values[:, neurons] * signs).argmax(axis=0)
        for start in range(0, len(neurons), self.batch):
            chosen = slice(start, start + self.batch)
            self.climb(layer, part, pool[best[chosen]], neurons=neurons[chosen], signs=signs[chosen], steps=steps)

    def climb(
        self, layer: int, part: int, points: Array, *, neurons: Index, signs: Array, steps: Sequence[float] = STEPS
    ) -> None:
        """From ``points[i]`` of a part, raise ``signs[i] * g[neurons[i]]`` of a layer; offer what gets positive."""
        box = self.domain.parts[part]
        enough = self.level(layer)[neurons]

        def objective(at: Array, rows: Index) -> tuple[Array, Array]:
            return gradient(self.network, layer, neurons[rows], signs[rows], at)

        width, pull = box.upper - box.lower, self.pullers[part]
        found, values = climb(objective, points, pull, width, steps=steps, enough=enough, stop=self.stop)
        near = values > -enough  # in float32 it may be that nothing can refute what they nearly show
        if near.any():
            self.witnesser.offer(found[near], "falsify")
