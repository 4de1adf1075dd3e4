"""Bounds of ``A(x) - B(x)`` on a batch of boxes, by backward bounds of the two networks and of their difference.

Layer by layer three quantities are bounded for every pair of neurons: ``g_A``, ``g_B`` and ``d = g_A - g_B``. A row of
d is carried back as a linear bound in the post-activations' differences ``e = h_A - h_B`` and in ``h_B``, through the
relaxations of `DifferenceRelaxation`, to the inputs (as `stablenet.bounds.crown` does for one network; the difference
as a variable of its own is that of ReluDiff and NeuroDiff). It is proof against rounding by the same rule: computed
coefficients are choices, and what each step's rounding can make is added to the constant at that step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stablenet.bounds.crown import Backward
from stablenet.bounds.crown_layers import chunks
from stablenet.bounds.interval import affine_bounds, magnitude, post_bounds
from stablenet.bounds.linear import Block, LinearBounds, dot
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, Network, Term
from stablenet.core.rounding import UNIT, gamma, underflow
from stablenet.equivalence.aligned import Aligned, Change
from stablenet.equivalence.difference_relaxation import DifferenceRelaxation, DifferenceSlopes, Sides
from stablenet.equivalence.functionals import Functionals
from stablenet.equivalence.scaling import lost

DERIVED = 0.05
"""B's neurons get linear bounds of their own where those derived from A and d are wider than A's by more than this."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """A layer of pairs over those ``alive``, that is not inactive in both networks on every box.

    ``open`` lists those among the alive that are not active in both networks on every box; ``slopes``,
    ``relaxation_b``, ``most_a`` and ``most_b`` are over them. ``block_d`` gives d from e and h_B of the layers
    before, by W_A and W_A - W_B; ``block_b`` gives g_B from h_B, by W_B. Both are (alive, alive of the source).
    """

    open: Index
    slopes: DifferenceSlopes
    relaxation_b: Relaxation
    block_d: Block
    block_b: Block
    most_a: Array
    most_b: Array


@dataclass(frozen=True, eq=False)
class DifferenceBounds:
    """What one batch of boxes gave.

    ``upper`` and ``lower`` bound ``A(x) - B(x)``, (parts, n_outputs). ``slopes`` are the coefficients in the inputs of
    the linear upper bounds of ``A - B``, then of ``B - A``, (parts, 2 n_outputs, n_inputs). ``gain`` estimates how much
    of the worst output's gap each input's width makes, (parts, n_inputs).
    Slopes are None where they are not known.
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
    """The pair on a batch of boxes, (parts, n_inputs) each side: all layers are bounded, the outputs when asked."""

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
        self.pre_a = pair.a.pre_activations(self.centre)
        pre_b = pair.b.pre_activations(self.centre)
        with np.errstate(invalid="ignore", over="ignore"):
            for k in range(len(pair.a.layers)):
                self._layer(k, np.abs(self.pre_a[k] - pre_b[k]))

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
        for source, error in change.lost:
            slack = slack + lost(error, self.most[source])
        return slack

    def _push(self, k: int, a: Sides, b: Sides, d: Sides) -> None:
        for backward, sides, posts in ((self.of_a, a, self.posts_a), (self.of_b, b, self.posts_b)):
            backward.push(*sides)
            posts.append(post_bounds(*sides))
        alive = np.flatnonzero(~((a[1] <= 0) & (b[1] <= 0)).all(axis=0))
        both = np.asarray((a[0] >= 0) & (b[0] >= 0), bool)
        open_ = np.flatnonzero(~both[:, alive].all(axis=0))
        found = DifferenceRelaxation.of(*((low[:, alive[open_]], high[:, alive[open_]]) for low, high in (a, b, d)))
        change, slack = self.pair.changes[k].affine, self._slack(self.pair.changes[k])
        own = self.pair.b.layers[k].affine
        block_d = self._block(change, alive, {t.source: t.source for t in change.terms}, d, slack)
        block_b = self._block(own, alive, {t.source: 2 * t.source for t in own.terms}, b, None)
        places = alive[open_]
        most_a, most_b = found.of_a.most, block_b.reach[:, open_]
        self.stages.append(_Stage(open_, DifferenceSlopes.of(found), found.of_b, block_d, block_b, most_a, most_b))
        e = (np.zeros_like(slack), np.zeros_like(slack))
        for side, of_d, post in zip(e, d, found.post, strict=True):
            side[:, alive] = of_d[:, alive]  # right where both are active
            side[:, places] = post
        for sides in (e, post_bounds(*b)):
            self.posts.append(sides)
            self.most.append(magnitude(*sides))
        self.alive.append(alive)

    def _block(
        self, affine: AffineMap, rows: Index, places: dict[int, int], bounds: Sides, slack: Array | None
    ) -> Block:
        """Some rows of a map whose sources stand at ``places`` here, and whose values are within ``bounds``."""
        reach = np.abs(affine.offset) + underflow(affine.n_terms) + np.zeros_like(bounds[0])
        terms = []
        for term in affine.terms:
            place = places[term.source]
            reach = reach + self.most[place] @ np.abs(np.asarray(term.matrix)).T
            terms.append((place, np.asarray(term.matrix)[np.ix_(rows, self.alive[(place + 1) // 2])]))
        most = magnitude(*bounds)
        for met in (reach, most):
            self.largest = max(self.largest, float(met.max(initial=0.0, where=~np.isnan(met))))
        chosen = None if slack is None or not slack.any() else slack[:, rows]
        return Block(tuple(terms), affine.offset[rows], (reach + most)[:, rows], chosen)

    def _rows(self, change: Change, rows: Index, *, gaps: bool = False) -> tuple[Array, Rows]:
        """Upper bounds of ``+d`` and ``-d`` at the given rows, (parts, 2 rows), and the state that made them."""
        signs, both = np.repeat([1.0, -1.0], len(rows)), np.concatenate([rows, rows])
        state = Rows(self, signs * change.affine.offset[both], gaps=gaps)
        state.error = state.error + self._slack(change)[:, both]
        for term in change.affine.terms:
            alive = self.alive[(term.source + 1) // 2]
            state.begin(term.source, signs[:, None] * np.asarray(term.matrix)[np.ix_(both, alive)])
        return state.carried(), state

    def bounds(self) -> DifferenceBounds:
        """Bounds of ``A(x) - B(x)``: see `DifferenceBounds`."""
        change = self.pair.changes[-1]
        n = len(change.affine.offset)
        gain = np.zeros_like(self.low)
        with np.errstate(invalid="ignore", over="ignore"):
            lower, upper = self._interval(change)
            found, state = self._rows(change, np.arange(n), gaps=True)
            upper, lower = np.fmin(upper, found[:, :n]), np.fmax(lower, -found[:, n:])
            slopes = np.broadcast_to(state.slopes(), (len(self.low), 2 * n, self.low.shape[1]))
            if n:
                worst = np.nan_to_num(np.concatenate([upper, -lower], axis=1), nan=np.inf).argmax(axis=1)
                gain = self.gain(state, worst)
        lower, upper = np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper)
        return DifferenceBounds(lower, upper, slopes, gain)

    def forms(self, forms: Functionals, rows: Index, *, gaps: bool = False) -> tuple[Array, Array, Rows]:
        """Bounds of linear forms in x, A(x) and ``B(x) - A(x)``, (parts, rows) each, and the state that made them.

        The outputs count as one more layer, whose values are carried on as they are: a form is then one of x, of
        ``d = A - B`` with coefficients on A less those on the difference, and of B with those on A.
        """
        change, own = self.pair.changes[-1], self.pair.b.output
        n, m = len(rows), self.pair.a.n_outputs
        with np.errstate(invalid="ignore", over="ignore"):
            d, b = self._interval(change), affine_bounds(own, *_sides(self.posts_b))
            every = np.arange(m)
            block_d = self._block(change.affine, every, {t.source: t.source for t in change.affine.terms}, d, None)
            block_b = self._block(own, every, {t.source: 2 * t.source for t in own.terms}, b, None)
            block_d = replace(block_d, slack=self._slack(change))
            of_a, of_difference = forms.a[rows], forms.difference[rows]
            of_d = of_a - of_difference
            most_d, most_b = magnitude(*d), magnitude(*b)
            rounded = 2.0 * UNIT * np.abs(of_d) * ((of_a != 0) & (of_difference != 0))
            wrong = forms.a_error[rows] + forms.difference_error[rows] + rounded
            error = lost(wrong, most_d) + lost(forms.a_error[rows], most_b) + lost(forms.x_error[rows], self.most[0])
            state = Rows(self, np.zeros(2 * n), gaps=gaps)
            state.error = state.error + np.concatenate([error, error], axis=1)
            state.begin(0, np.concatenate([forms.x[rows], -forms.x[rows]]))
            for coefficients, block in ((of_d, block_d), (of_a, block_b)):
                both = np.concatenate([coefficients, -coefficients])
                state.live |= both.any(axis=1)
                state.substitute(None, both[None], block)
            found = state.carried()
            # Intervals are exact where nothing rounds, which decides ties.
            terms = ((0, forms.x[rows]), (1, of_a), (2, -of_difference))
            plain = AffineMap(np.zeros(n), tuple(Term(source, matrix) for source, matrix in terms if matrix.any()))
            a = affine_bounds(self.pair.a.output, *_sides(self.posts_a))
            sides = ((self.low, self.high), a, d)
            lower, upper = affine_bounds(plain, [low for low, _ in sides], [high for _, high in sides])
            error = error + lost(forms.a_error[rows], magnitude(*a))
            lower = np.where(error > 0, _down(lower - error), lower)
            upper = np.where(error > 0, _up(upper + error), upper)
        return np.fmax(lower, -found[:, n:]), np.fmin(upper, found[:, :n]), state

    def gain(self, state: Rows, worst: Index) -> Array:
        """The gaps of the relaxations met by one row of each box, ``worst``, shared out to the inputs that make their
        neurons undecided: by the slopes of pre-activations at the centre, undecided neurons before counting in part.
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
            gap = state.gaps.get(k + 1)
            if gap is not None:
                weight, reach = gap[parts, worst], (np.abs(slope[:, stage.open]) * width[:, None, :])
                share = reach / np.maximum(reach.sum(axis=2, keepdims=True), 1e-300)
                gain += np.nan_to_num(np.matmul(weight[:, None, :], share)[:, 0], nan=0.0, posinf=1e300)
            passed = (self.pre_a[k][:, self.alive[k + 1]] > 0).astype(np.float64)
            passed[:, stage.open] = np.where(stage.slopes.a_open, stage.slopes.a_up, passed[:, stage.open])
            slopes.append(np.nan_to_num(slope * np.nan_to_num(passed)[:, :, None]))
        return gain


def _sides(posts: list[Sides]) -> tuple[list[Array], list[Array]]:
    return [low for low, _ in posts], [high for _, high in posts]


def _down(values: Array) -> Array:
    return np.asarray(np.nextafter(values, -np.inf))


def _up(values: Array) -> Array:
    return np.asarray(np.nextafter(values, np.inf))


class Rows(LinearBounds):
    """Rows of differences on their way back: coefficients on e and h_B of layer k stand at 2 k + 1 and 2 k + 2."""

    def __init__(self, system: DifferenceSystem, constant: Array, *, gaps: bool) -> None:
        super().__init__(constant, len(system.low))
        self.system, self.keep = system, gaps
        self.gaps: dict[int, Array] = {}
        """By source layer, the gaps of the relaxations times their coefficients, (parts or 1, rows, alive)."""

    def most(self, source: int) -> Array:
        """See `LinearBounds`."""
        return self.system.most[source][:, self.system.alive[(source + 1) // 2]]

    def slopes(self) -> Array:
        """Coefficients on the inputs, (parts or 1, rows, n_inputs)."""
        return self.coefficients.get(0, np.zeros((1, self.error.shape[1], self.system.low.shape[1])))

    def carried(self) -> Array:
        """The largest values over the boxes, after all layers, (parts, rows)."""
        for layer in range(len(self.system.stages), 0, -1):
            self.through(layer)
        return self.concretise()

    def through(self, layer: int) -> None:
        """Replace coefficients on ``e`` and ``h_B`` of source ``layer`` by those on what the layer reads."""
        stage = self.system.stages[layer - 1]
        on_e = self.coefficients.pop(2 * layer - 1, None)
        on_h = self.coefficients.pop(2 * layer, None)
        n = len(stage.block_d.offset)
        if (on_e is None and on_h is None) or not n:
            return
        shape = (len(self.system.low), self.error.shape[1], n)
        on_d, on_b = (np.zeros(shape) if x is None else _own_copy(x, shape) for x in (on_e, on_h))
        # Where both are active on every box, e is d and h_B is g_B; what else there is goes through the relaxations.
        open_ = stage.open
        lifted: Array | None = None
        if len(open_):
            found = self._relaxed(layer, on_d[:, :, open_], on_b[:, :, open_])
            lifted, on_d[:, :, open_], on_b[:, :, open_] = found
        self.substitute(lifted, on_d, stage.block_d)
        # Where weights are the same and differences go by d, nothing is on g_B.
        if on_b.any():
            self.substitute(None, on_b, stage.block_b)

    def _relaxed(self, layer: int, on_e: Array, on_h: Array) -> tuple[Array, Array, Array]:
        """Constants, nonnegative sums, and coefficients on d and g_B for those on e and h_B of a layer's open pairs.

        ``c_e e + c_h h_B`` is taken as it is, or as ``c_e h_A + (c_h - c_e) h_B``, and ``g_A`` as ``d + g_B``.
        """
        stage = self.system.stages[layer - 1]
        slopes = stage.slopes
        positive = on_e > 0
        on_a = on_e * np.where(positive, slopes.apart_up, slopes.apart_low)  # exact: times 1 or 0
        on_b = on_h - on_a
        most_h = self.system.most[2 * layer][:, self.system.alive[layer][stage.open]]
        self.error = self.error + 2.0 * UNIT * dot(np.abs(on_b), most_h)
        if self.keep:
            self.gaps[layer] = (
                np.abs(on_e - on_a) * slopes.gap_d + np.abs(on_a) * slopes.gap_a + np.abs(on_b) * slopes.gap_b
            )
        lifted, by_b = self.relaxed(on_b, stage.relaxation_b)
        lifted = lifted + (on_e * np.where(positive, slopes.offset_up, slopes.offset_low)).sum(axis=-1)
        by_d = on_e * np.where(positive, slopes.up, slopes.low)
        by_a = by_d * (on_a != 0)
        # One rounding for each product, and one for the sum; |by_b| is at most |by_b + by_a| + |by_a|.
        reach = stage.most_a + 2.0 * stage.most_b
        self.error = self.error + gamma(8) * dot(np.abs(by_a), reach)
        return lifted, by_d, by_b + by_a

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up; exact where nothing could round."""
        owner = self.system.of_a
        value, error = self.maximum(owner.centre, owner.radius, self.system.largest)
        return np.where(self.live | (error > 0), np.nextafter(value + error, np.inf), value)


def _own_copy(values: Array, shape: tuple[int, ...]) -> Array:
    """The array itself where it has a row for each box, else a copy that has."""
    return values if values.shape == shape else np.broadcast_to(values, shape).copy()
