"""Bounds of ``A(x) - B(x)`` on a batch of boxes, by backward bounds of the two networks and of their difference.

Layer by layer three quantities are bounded for every pair of neurons: ``g_A``, ``g_B`` and ``d = g_A - g_B``. A row of
d is carried back as a linear bound in the post-activations' differences ``e = h_A - h_B`` and in ``h_B``, through the
relaxations of `DifferenceRelaxation`, to the inputs (as `stablenet.bounds.crown` does for one network; the difference
as a variable of its own is that of ReluDiff and NeuroDiff). It is proof against rounding by the same rule: computed
coefficients are choices, and what each step's rounding can make is added to the constant at that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stablenet.bounds.crown import Backward, chunks
from stablenet.bounds.interval import affine_bounds, magnitude, post_bounds
from stablenet.bounds.linear import LinearBounds, dot
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, Network
from stablenet.core.rounding import SAFETY, UNIT, gamma, underflow
from stablenet.equivalence.aligned import Aligned, Change
from stablenet.equivalence.difference_relaxation import DifferenceRelaxation, Sides

DERIVED = 0.05
"""B's neurons get linear bounds of their own where those derived from A and d are wider than A's by more than this."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """A layer of pairs over those ``alive``, that is not inactive in both networks on every box.

    ``matrices`` are, by source layer, triples of W_A (on e), W_A - W_B (on h_B) and W_B (on h_B), (alive, alive of the
    source); source 0 is the input. The magnitudes ``reach_d`` and ``reach_b`` bound the sums of absolute terms of d and
    g_B, ``slack`` what the subtraction of the weights may hide in d: (parts, alive).
    """

    relaxation: DifferenceRelaxation
    matrices: tuple[tuple[int, Array | None, Array, Array], ...]
    offset_d: Array
    offset_b: Array
    reach_d: Array
    reach_b: Array
    slack: Array


@dataclass(frozen=True, eq=False)
class DifferenceBounds:
    """What one batch of boxes gave.

    ``upper`` and ``lower`` bound ``A(x) - B(x)``, (parts, n_outputs). ``slopes`` are the coefficients in the inputs of
    the linear upper bounds of ``A - B``, then of ``B - A``, (parts, 2 n_outputs, n_inputs). ``gain`` estimates how much
    of the worst output's gap each input's width makes, (parts, n_inputs). Slopes are None where they are not known.
    """

    lower: Array
    upper: Array
    slopes: Array | None
    gain: Array

    @property
    def worst(self) -> Array:
        """The largest ``|A(x) - B(x)|`` by box, (parts,)."""
        return np.asarray(np.maximum(np.abs(self.lower), np.abs(self.upper)).max(axis=1, initial=0.0))


class DifferenceSystem:
    """The pair on a batch of boxes, (parts, n_inputs) each side; `bounds` does all the work."""

    def __init__(self, pair: Aligned, low: Array, high: Array) -> None:
        self.pair = pair
        self.low, self.high = low, high
        self.of_a, self.of_b = Backward(pair.a, low, high), Backward(pair.b, low, high)
        self.posts_a: list[Sides] = [(low, high)]
        self.posts_b: list[Sides] = [(low, high)]
        self.posts: list[Sides] = [(low, high)]
        """Bounds of the sources of `Change.affine`: x, then e and h_B of each layer."""
        self.most: list[Array] = [magnitude(low, high)]
        self.stages: list[_Stage] = []
        self.alive: list[Index] = [np.arange(low.shape[1])]
        self.centre = np.clip(0.5 * low + 0.5 * high, low, high)
        self.largest = float(self.most[0].max(initial=0.0))

    def bounds(self) -> DifferenceBounds:
        """Bounds of ``A(x) - B(x)``: see `DifferenceBounds`."""
        pre_a, pre_b = (network.pre_activations(self.centre) for network in (self.pair.a, self.pair.b))
        with np.errstate(invalid="ignore", over="ignore"):
            for k in range(len(self.pair.a.layers)):
                self._layer(k, np.abs(pre_a[k] - pre_b[k]))
            return self._output(pre_a)

    def _layer(self, k: int, seen: Array) -> None:
        """Bound a layer's pairs and make a stage of them; ``seen`` are differences at the boxes' centres."""
        a = self._own(self.of_a, self.pair.a, k, self.posts_a, None)
        interval_b = affine_bounds(self.pair.b.layers[k].affine, *_sides(self.posts_b))
        change = self.pair.changes[k]
        lower, upper = self._interval(change)
        apart = a[0] - interval_b[1], a[1] - interval_b[0]
        lower, upper = np.fmax(lower, _down(apart[0])), np.fmin(upper, _up(apart[1]))
        undecided = ~((a[0] >= 0) & (interval_b[0] >= 0)) & ~((a[1] <= 0) & (interval_b[1] <= 0))
        # Where the networks differ at the centre by more than a neuron's range, no bound of d is of use.
        wanted = undecided & (upper > lower) & (seen < 0.5 * (a[1] - a[0] + interval_b[1] - interval_b[0]))
        rows = np.flatnonzero(wanted.any(axis=0))
        if k and len(rows):
            for chunk in chunks(rows, self.of_a, copies=12):
                found, _ = self._rows(change, chunk)
                n = len(chunk)
                upper[:, chunk] = np.fmin(upper[:, chunk], found[:, :n])
                lower[:, chunk] = np.fmax(lower[:, chunk], -found[:, n:])
        b = (
            np.fmax(interval_b[0], _down(a[0] - upper)),
            np.fmin(interval_b[1], _up(a[1] - lower)),
        )
        b = self._own(self.of_b, self.pair.b, k, self.posts_b, (b, a))
        lower, upper = np.fmax(lower, _down(a[0] - b[1])), np.fmin(upper, _up(a[1] - b[0]))
        self._push(k, a, b, (lower, upper))

    def _own(
        self, backward: Backward, network: Network, k: int, posts: list[Sides], known: tuple[Sides, Sides] | None
    ) -> Sides:
        """Bounds of a layer of one network; ``known`` are bounds to start from, and those of its partners."""
        affine = network.layers[k].affine
        if known is None:
            lower, upper = affine_bounds(affine, *_sides(posts))
            wanted = ~((lower >= 0) | (upper <= 0))
        else:
            (lower, upper), (low, high) = known
            width = high - low
            wanted = ~((lower >= 0) | (upper <= 0)) & ~(upper - lower <= (1.0 + DERIVED) * width)
        rows = np.flatnonzero(wanted.any(axis=0))
        if k and len(rows):
            for chunk in chunks(rows, backward):
                signs = np.repeat([1.0, -1.0], len(chunk))
                found, _ = backward.upper_bounds(affine, np.concatenate([chunk, chunk]), signs)
                lower[:, chunk] = np.fmax(lower[:, chunk], -found[:, len(chunk) :])
                upper[:, chunk] = np.fmin(upper[:, chunk], found[:, : len(chunk)])
        return lower, upper

    def _interval(self, change: Change) -> Sides:
        lower, upper = affine_bounds(change.affine, *_sides(self.posts))
        slack = self._slack(change)
        return (
            np.where(slack > 0, np.nextafter(lower - slack, -np.inf), lower),
            np.where(slack > 0, np.nextafter(upper + slack, np.inf), upper),
        )

    def _slack(self, change: Change) -> Array:
        """What the rounded subtraction of the weights may hide in d, (parts, n)."""
        slack = np.broadcast_to(change.offset_lost, (len(self.low), len(change.offset_lost)))
        for source, lost in change.lost:
            rows = np.where(lost.any(axis=1), underflow(lost.shape[1]), 0.0)
            slack = slack + SAFETY * (self.most[source] @ lost.T) + rows
        return slack

    def _push(self, k: int, a: Sides, b: Sides, d: Sides) -> None:
        for backward, sides, posts in ((self.of_a, a, self.posts_a), (self.of_b, b, self.posts_b)):
            backward.push(*sides)
            posts.append(post_bounds(*sides))
        alive = np.flatnonzero(~((a[1] <= 0) & (b[1] <= 0)).all(axis=0))
        relaxation = DifferenceRelaxation.of(*((low[:, alive], high[:, alive]) for low, high in (a, b, d)))
        change, slack = self.pair.changes[k], self._slack(self.pair.changes[k])
        offset_b = self.pair.b.layers[k].affine
        reach_d = np.abs(change.affine.offset) + underflow(change.affine.n_terms) + np.zeros_like(slack)
        for term in change.affine.terms:
            reach_d = reach_d + self.most[term.source] @ np.abs(np.asarray(term.matrix)).T
        reach_b = np.abs(offset_b.offset) + underflow(offset_b.n_terms) + np.zeros_like(slack)
        for term in offset_b.terms:
            reach_b = reach_b + self.most[2 * term.source] @ np.abs(np.asarray(term.matrix)).T
        self.stages.append(
            _Stage(
                relaxation,
                self._matrices(k, alive),
                change.affine.offset[alive],
                offset_b.offset[alive],
                reach_d[:, alive],
                reach_b[:, alive],
                slack[:, alive],
            )
        )
        for met in (reach_d, reach_b, relaxation.most_d):
            self.largest = max(self.largest, float(met.max(initial=0.0, where=~np.isnan(met))))
        e = (np.zeros_like(slack), np.zeros_like(slack))
        for side, found in zip(e, relaxation.post, strict=True):
            side[:, alive] = found
        for sides in (e, post_bounds(*b)):
            self.posts.append(sides)
            self.most.append(magnitude(*sides))
        self.alive.append(alive)

    def _matrices(self, k: int, rows: Index) -> tuple[tuple[int, Array | None, Array, Array], ...]:
        """See `_Stage.matrices`."""
        change = {term.source: np.asarray(term.matrix) for term in self.pair.changes[k].affine.terms}
        own = {t.source: np.asarray(t.matrix) for t in _map(self.pair.b, k).terms}
        found = []
        for source in range(k + 1):
            on_e, moved, on_b = change.get(2 * source - 1), change.get(2 * source), own.get(source)
            if on_e is None and moved is None and on_b is None:
                continue
            at = np.ix_(rows, self.alive[source])
            zero = np.zeros((len(rows), len(self.alive[source])))
            found.append(
                (
                    source,
                    None if not source else zero if on_e is None else on_e[at],
                    zero if moved is None else moved[at],
                    zero if on_b is None else on_b[at],
                )
            )
        return tuple(found)

    def _rows(self, change: Change, rows: Index, *, gaps: bool = False) -> tuple[Array, _Rows]:
        """Upper bounds of ``+d`` and ``-d`` at the given rows, (parts, 2 rows), and the state that made them."""
        state = _Rows(self, change, rows, gaps=gaps)
        for source in range(len(self.stages), 0, -1):
            state.through(source)
        return state.concretise(), state

    def _output(self, pre_a: list[Array]) -> DifferenceBounds:
        change = self.pair.changes[-1]
        lower, upper = self._interval(change)
        n = len(change.affine.offset)
        gain = np.zeros_like(self.low)
        found, state = self._rows(change, np.arange(n), gaps=True)
        upper, lower = np.fmin(upper, found[:, :n]), np.fmax(lower, -found[:, n:])
        slopes = np.broadcast_to(state.slopes(), (len(self.low), 2 * n, self.low.shape[1]))
        if n:
            worst = np.nan_to_num(np.concatenate([upper, -lower], axis=1), nan=np.inf).argmax(axis=1)
            gain = self._gain(state, worst, pre_a)
        lower, upper = np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper)
        return DifferenceBounds(lower, upper, slopes, gain)

    def _gain(self, state: _Rows, worst: Index, pre_a: list[Array]) -> Array:
        """The gaps of the relaxations met by each box's worst row, shared out to the inputs that make their neurons
        undecided: by the slopes of their pre-activations at the centre, undecided neurons before counting in part.
        """
        width = np.minimum(self.high - self.low, 1e300)
        parts = np.arange(len(worst))
        gain = np.zeros_like(width)
        slopes: list[Array] = [np.broadcast_to(np.eye(width.shape[1]), (len(width), width.shape[1], width.shape[1]))]
        for k, stage in enumerate(self.stages):
            slope = np.zeros((len(width), len(self.alive[k + 1]), width.shape[1]))
            for term in self.pair.a.layers[k].affine.terms:
                at = np.ix_(self.alive[k + 1], self.alive[term.source])
                slope = slope + np.asarray(term.matrix)[at] @ slopes[term.source]
            reach = np.abs(slope) * width[:, None, :]
            gap = state.gaps.get(k + 1)
            if gap is not None:
                weight = gap[parts if len(gap) > 1 else 0, worst]
                share = reach / np.maximum(reach.sum(axis=2, keepdims=True), 1e-300)
                gain += np.nan_to_num(np.matmul(weight[:, None, :], share)[:, 0], nan=0.0, posinf=1e300)
            relaxation = stage.relaxation.of_a
            passed = np.where(relaxation.open, relaxation.up_slope, pre_a[k][:, self.alive[k + 1]] > 0)
            slopes.append(np.nan_to_num(slope * np.nan_to_num(passed)[:, :, None]))
        return gain


def _map(network: Network, k: int) -> AffineMap:
    return network.layers[k].affine if k < len(network.layers) else network.output


def _sides(posts: list[Sides]) -> tuple[list[Array], list[Array]]:
    return [low for low, _ in posts], [high for _, high in posts]


def _down(values: Array) -> Array:
    return np.asarray(np.nextafter(values, -np.inf))


def _up(values: Array) -> Array:
    return np.asarray(np.nextafter(values, np.inf))


class _Rows(LinearBounds):
    """Rows of differences on their way back: coefficients on e and h_B of layer k stand at 2 k + 1 and 2 k + 2."""

    def __init__(self, system: DifferenceSystem, change: Change, rows: Index, *, gaps: bool) -> None:
        signs = np.repeat([1.0, -1.0], len(rows))
        both = np.concatenate([rows, rows])
        super().__init__(signs * change.affine.offset[both], len(system.low))
        self.system, self.keep = system, gaps
        self.gaps: dict[int, Array] = {}
        """By source layer, the gaps of the relaxations times their coefficients, (parts or 1, 2 rows, alive)."""
        self.error = self.error + system._slack(change)[:, both]  # noqa: SLF001 - its own rows
        for term in change.affine.terms:
            alive = system.alive[(term.source + 1) // 2]
            self.begin(term.source, signs[:, None] * np.asarray(term.matrix)[np.ix_(both, alive)])

    def most(self, source: int) -> Array:
        """See `LinearBounds`."""
        return self.system.most[source][:, self.system.alive[(source + 1) // 2]]

    def slopes(self) -> Array:
        """Coefficients on the inputs, (parts or 1, 2 rows, n_inputs)."""
        return self.coefficients.get(0, np.zeros((1, self.error.shape[1], self.system.low.shape[1])))

    def through(self, layer: int) -> None:
        """Replace coefficients on ``e`` and ``h_B`` of source ``layer`` by those on what the layer reads."""
        stage = self.system.stages[layer - 1]
        width = len(stage.offset_d)
        zero = np.zeros((1, self.error.shape[1], width))
        on_e = self.coefficients.pop(2 * layer - 1, None)
        on_h = self.coefficients.pop(2 * layer, None)
        if (on_e is None and on_h is None) or not width:
            return
        on_e, on_h = zero if on_e is None else on_e, zero if on_h is None else on_h
        relaxation = stage.relaxation
        positive = on_e > 0
        by_difference = np.where(positive, relaxation.by_up[:, None, :], relaxation.by_low[:, None, :])
        whole = np.where(by_difference, on_e, 0.0)
        on_a = on_e - whole  # exact: all or nothing
        on_b = on_h - on_a
        self.error = self.error + 2.0 * UNIT * dot(np.abs(on_b), self.most(2 * layer))
        if self.keep:
            self.gaps[layer] = (
                np.abs(whole) * relaxation.gap_d[:, None, :]
                + np.abs(on_a) * relaxation.gap_a[:, None, :]
                + np.abs(on_b) * relaxation.gap_b[:, None, :]
            )
        positive_d, negative_d = np.maximum(whole, 0.0), np.minimum(whole, 0.0)
        positive_a, negative_a = np.maximum(on_a, 0.0), np.minimum(on_a, 0.0)
        positive_b, negative_b = np.maximum(on_b, 0.0), np.minimum(on_b, 0.0)
        a, b = relaxation.of_a, relaxation.of_b
        lifted = dot(positive_d, relaxation.up_offset) - dot(negative_d, relaxation.low_offset)
        lifted = lifted + dot(positive_a, a.up_offset) + dot(positive_b, b.up_offset)
        by_d = positive_d * relaxation.up_slope[:, None, :] + negative_d * relaxation.low_slope[:, None, :]
        by_a = positive_a * a.up_slope[:, None, :] + negative_a * a.low_slope[:, None, :]
        by_b = positive_b * b.up_slope[:, None, :] + negative_b * b.low_slope[:, None, :]
        # g_A = d + g_B; one of by_d and by_a is 0, so that the first sum is exact.
        self._replace(stage, lifted, (by_d + by_a, by_b + by_a), (np.abs(by_a), np.abs(by_b) + np.abs(by_a)))

    def _replace(self, stage: _Stage, lifted: Array, chosen: tuple[Array, Array], sizes: tuple[Array, Array]) -> None:
        """Go through the affine maps with coefficients on d and g_B; ``sizes`` bound what these were made of."""
        on_d, on_b = chosen
        size_a, size_b = sizes
        relaxation = stage.relaxation
        factor = gamma(2 * len(stage.offset_d) + 16)
        rounded = 2.0 * lifted + dot(np.abs(on_d), stage.reach_d + relaxation.most_d)
        rounded = rounded + dot(size_b, stage.reach_b + relaxation.of_b.most) + dot(size_a, relaxation.of_a.most)
        self.error = self.error + factor * rounded + dot(np.abs(on_d), stage.slack)
        self.add_constant(lifted)
        self.add_constant(on_d @ stage.offset_d)
        self.add_constant(on_b @ stage.offset_b)
        for source, on_e, moved, own in stage.matrices:
            if on_e is not None:
                self.accumulate(2 * source - 1, on_d @ on_e)
            self.accumulate(2 * source, on_d @ moved)
            self.accumulate(2 * source, on_b @ own)

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up; exact where nothing could round."""
        owner = self.system.of_a
        value, error = self.maximum(owner.centre, owner.radius, self.system.largest)
        return np.where(self.live | (error > 0), np.nextafter(value + error, np.inf), value)
