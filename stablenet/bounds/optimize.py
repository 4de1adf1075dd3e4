"""Choosing the free numbers of a backward pass by descent: lower slopes and multipliers.

The linear upper bound that `Backward` computes, maximised over the box, is a function of its choices
(`Choice`) that is to be made small. Its gradient needs no automatic differentiation. With ``x*`` the
maximiser in the box and ``G`` the values that the relaxations with these choices take when ``x*`` is passed
forward through them, the derivative after the lower slope of a neuron with coefficient A on its post-activation
is ``min(A, 0) G``, after its multiplier t ``u - G`` for t > 0 and ``l - G`` for t < 0: so one pass back and one
forward make a step. Steps are those of Adam, projected (Kingma & Ba, arXiv 1412.6980; Xu et al., *Fast and
Complete: Enabling Complete Verification with Massively Parallel Incomplete Verifiers*, ICLR 2021, arXiv
2011.13824, for the slopes; Wang et al., *Beta-CROWN*, NeurIPS 2021, arXiv 2103.06624, for the multipliers).

All this is in float32 and proves nothing: what it finds is handed to `Backward`, to which any choice is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stablenet.bounds.adam import Adam, Variables
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.linear import to_dense
from stablenet.bounds.single_precision import Level
from stablenet.core.arrays import Array, Index, Single
from stablenet.core.network import AffineMap

Phases = npt.NDArray[np.int8]


@dataclass(eq=False)
class Optimised:
    """What descent found: values (rows,), not rigorous, their variables, and where the relaxation is loose.

    ``gap`` (rows, undecided neurons of all layers) is by how much the relaxation of each lifts the bound, on average
    over the maximisers of the later steps; the last of these are ``points`` (rows, n_inputs), where the rows
    themselves are ``seen`` (rows,). ``negative`` are the negative parts of the coefficients on the undecided neurons'
    post-activations, as of the last step.
    """

    values: Single
    variables: Variables
    gap: Single
    negative: Single
    points: Single
    seen: Single


class BoundOptimizer:
    """Descends on the choices of a `Backward` on one part; layers pushed to it later are seen."""

    def __init__(self, backward: Backward) -> None:
        self.backward = backward
        self.centre = backward.centre[0].astype(np.float32)
        self.radius = backward.radius[0].astype(np.float32)
        self._levels: list[Level] = []

    @property
    def levels(self) -> list[Level]:
        """Single-precision copies of the stages."""
        stages = self.backward.all_stages
        if len(self._levels) < len(stages):
            # Rows of a polytope stand last, whatever is pushed.
            kept = self._levels if self.backward.rows is None else self._levels[:-1]
            with np.errstate(over="ignore"):
                self._levels = kept + [Level.of(stage) for stage in stages[len(kept) :]]
        return self._levels

    @property
    def alive(self) -> Index:
        """Where each layer's alive neurons begin among those of all layers, and where the last ones end."""
        return np.cumsum([0, *(len(level.offset) for level in self.levels)])

    @property
    def open(self) -> Index:
        """The same for undecided neurons."""
        return np.cumsum([0, *(len(level.open) for level in self.levels)])

    @property
    def place(self) -> Index:
        """Where the undecided neurons of all layers stand among the alive ones of all layers."""
        starts = self.alive.tolist()
        return np.concatenate([np.zeros(0, np.intp), *(level.open + starts[k] for k, level in enumerate(self.levels))])

    def start(self, n_rows: int, *, multipliers: bool) -> Variables:
        """The slopes of least area and no multipliers."""
        slopes = np.concatenate([np.zeros(0, np.float32), *(level.low_slope[level.open] for level in self.levels)])
        zeros = np.zeros((n_rows, int(self.alive[-1])), np.float32)
        return Variables(np.repeat(slopes[None, :], n_rows, axis=0), zeros if multipliers else None)

    def choices(self, variables: Variables, phases: Phases | None = None) -> list[Choice]:
        """As `Backward.upper_bounds` takes them; ``phases`` are (rows, alive neurons of all layers)."""
        found = []
        alive, open_ = self.alive.tolist(), self.open.tolist()
        for k, level in enumerate(self.levels):
            mine = slice(alive[k], alive[k + 1])
            low = np.zeros((1, len(variables.slopes), len(level.offset)))
            low[0][:, level.open] = variables.slopes[:, open_[k] : open_[k + 1]]
            shift = None if variables.multipliers is None else variables.multipliers[None, :, mine].astype(np.float64)
            found.append(Choice(low, None if phases is None else phases[None, :, mine], shift))
        return found

    def run(
        self,
        affine: AffineMap,
        rows: Index,
        signs: Array,
        steps: int,
        *,
        start: Variables | None = None,
        phases: Phases | None = None,
        multipliers: bool = False,
    ) -> Optimised:
        """Lower the upper bounds of ``signs * affine`` at the given rows in so many steps.

        ``phases``, (rows, alive neurons of all layers), restrict row by row, as `Choice.phase` does. ``start`` is used
        up.
        """
        with np.errstate(all="ignore"):
            multipliers = multipliers or self.backward.rows is not None
            variables = start or self.start(len(rows), multipliers=multipliers)
            return _Run(self, affine, rows, signs, phases).descend(variables, steps)

    def values(self, affine: AffineMap, rows: Index, signs: Array, start: Variables, phases: Phases) -> Single:
        """The upper bounds that some choices give, (rows,), without descent; ``start`` is used up."""
        with np.errstate(all="ignore"):
            run = _Run(self, affine, rows, signs, phases)
            run.fix(start)
            return run.back(start).value


@dataclass(eq=False)
class _Pass:
    """One pass back: values (rows,), and per layer what the pass forward and the gradient need, None where nothing is
    read: coefficients on post-activations, slopes and offsets of the relaxations that they choose, and the bounds that
    multipliers are felt through.
    """

    value: Single
    post: list[Single | None]
    slope: list[Single | None]
    offset: list[Single | None]
    bound: list[Single | None]
    chosen: list[Single | None]
    inputs: Single


@dataclass(eq=False)
class _Held:
    """Bounds and upper relaxations of a layer under given phases, (alive,) or (rows, alive), and its lower slopes."""

    lower: Single
    upper: Single
    up_slope: Single
    up_offset: Single
    low_slope: Single

    @classmethod
    def of(cls, level: Level, phases: Phases | None) -> _Held:
        """A layer's, where ``phases``, (rows, alive), hold."""
        if phases is None or not phases.any():
            return cls(level.lower, level.upper, level.up_slope, level.up_offset, level.low_slope)
        on, off, free = phases > 0, phases < 0, phases == 0
        slope = on.astype(np.float32)
        return cls(
            np.where(on, np.maximum(level.lower, 0), level.lower),
            np.where(off, np.minimum(level.upper, 0), level.upper),
            np.where(free, level.up_slope, slope),
            free * level.up_offset,
            np.where(free, level.low_slope, slope),
        )


class _Run:
    """Descent for a fixed set of rows."""

    def __init__(
        self, owner: BoundOptimizer, affine: AffineMap, rows: Index, signs: Array, phases: Phases | None
    ) -> None:
        self.owner, self.levels = owner, owner.levels
        backward = owner.backward
        self.first: dict[int, Single] = {}
        for term in affine.terms:
            matrix = to_dense(backward.restrict(term.matrix, rows, term.source))
            signed = (signs[:, None] * matrix).astype(np.float32)
            self.first[term.source] = self.first[term.source] + signed if term.source in self.first else signed
        self.constant = (signs * affine.offset[rows]).astype(np.float32)
        self.alive = [slice(*ends) for ends in pairwise(owner.alive.tolist())]
        self.open = [slice(*ends) for ends in pairwise(owner.open.tolist())]
        self.held = [
            _Held.of(level, None if phases is None else phases[:, mine])
            for level, mine in zip(self.levels, self.alive, strict=True)
        ]
        # Slopes of neurons that are held to a phase are no choice.
        phase = None if phases is None else phases[:, owner.place]
        self.fixed = None if phase is None or not phase.any() else (phase != 0, (phase > 0).astype(np.float32))

    def fix(self, variables: Variables) -> None:
        """Set the slopes that are no choice."""
        if self.fixed is not None:
            np.copyto(variables.slopes, self.fixed[1], where=self.fixed[0])

    def _low(self, variables: Variables, k: int) -> Single:
        """The lower slopes of all alive neurons of a layer."""
        slopes = variables.slopes[:, self.open[k]]
        level = self.levels[k]
        if level.whole or not len(level.open):
            return slopes if level.whole else level.low_slope
        low = np.repeat(level.low_slope[None, :], len(slopes), axis=0)
        low[:, level.open] = slopes
        return low

    def back(self, variables: Variables) -> _Pass:
        """The bounds for these choices."""
        n = len(self.levels)
        coefficients = dict(self.first)
        value = self.constant.copy()
        found = _Pass(value, [None] * n, [None] * n, [None] * n, [None] * n, [None] * n, value)
        for k in range(n - 1, -1, -1):
            level, held = self.levels[k], self.held[k]
            post = coefficients.pop(k + 1, None)
            shift = None if variables.multipliers is None else variables.multipliers[:, self.alive[k]]
            if not len(level.offset) or (post is None and shift is None):
                continue
            if post is None:
                chosen = np.zeros((len(value), len(level.offset)), np.float32)
            else:
                rising = post > 0
                slope = np.where(rising, held.up_slope, self._low(variables, k))
                offset = rising * held.up_offset
                value += _products(post, offset)
                chosen = post * slope
                found.post[k], found.slope[k], found.offset[k], found.chosen[k] = post, slope, offset, chosen
            if shift is not None and shift.any():
                bound = np.where(shift > 0, held.upper, held.lower)
                value += _products(shift, bound)
                found.bound[k] = bound
                chosen = chosen - shift
            value += chosen @ level.offset
            for source, matrix in level.terms:
                more = matrix.back(chosen)
                coefficients[source] = coefficients[source] + more if source in coefficients else more
        inputs = coefficients.get(0)
        if inputs is None:
            inputs = np.zeros((len(value), len(self.owner.centre)), np.float32)
        value += inputs @ self.owner.centre + np.abs(inputs) @ self.owner.radius
        found.inputs = inputs
        return found

    def scales(self, back: _Pass) -> Single:
        """The largest coefficient on each layer's pre-activations, (rows, alive neurons of all layers)."""
        found = []
        for chosen, level in zip(back.chosen, self.levels, strict=True):
            if chosen is not None:
                size = np.abs(chosen).max(axis=1, initial=0)
            else:  # rows of a polytope, or a layer that nothing reads: its multipliers act on the inputs
                size = np.abs(back.inputs).max(axis=1, initial=0) / np.float32(level.largest or 1.0)
            found.append(np.repeat(size[:, None], len(level.offset), axis=1))
        return np.concatenate(found, axis=1) if found else np.zeros((len(back.value), 0), np.float32)

    def forward(self, back: _Pass) -> tuple[Single, list[Single], list[Single]]:
        """The maximisers, (rows, n_inputs), and per layer the pre- and post-activations that relaxations give there."""
        point: Single = self.owner.centre + np.copysign(self.owner.radius, back.inputs)
        posts: list[Single] = [point]
        pres: list[Single] = []
        for k, level in enumerate(self.levels):
            pre = _affine(level, posts)
            pres.append(pre)
            slope, offset = back.slope[k], back.offset[k]
            # What no bound reads may be anything.
            posts.append(pre if slope is None or offset is None else slope * pre + offset)
        return point, pres, posts[1:]

    def gradient(self, variables: Variables, back: _Pass, pres: list[Single]) -> list[Single]:
        """Derivatives after all variables, in the order of `Variables.arrays`."""
        slopes = np.zeros_like(variables.slopes)
        for k, level in enumerate(self.levels):
            post = back.post[k]
            if post is None or not len(level.open):
                continue
            pre = pres[k]
            if not level.whole:
                post, pre = post[:, level.open], pre[:, level.open]
            np.multiply(np.minimum(post, 0), pre, out=slopes[:, self.open[k]])
        if self.fixed is not None:
            slopes *= ~self.fixed[0]
        if variables.multipliers is None:
            return [slopes]
        moves = np.empty_like(variables.multipliers)
        for k, (pre, held) in enumerate(zip(pres, self.held, strict=True)):
            mine = moves[:, self.alive[k]]
            # A multiplier that is zero is drawn to the side on which the bounds are violated.
            np.minimum(np.maximum(pre, held.lower), held.upper, out=mine)
            bound = back.bound[k]
            if bound is not None:
                np.copyto(mine, bound, where=variables.multipliers[:, self.alive[k]] != 0)
            mine -= pre
        return [slopes, moves]

    def descend(self, variables: Variables, steps: int) -> Optimised:
        """Adam, projected; the best seen is kept row by row."""
        self.fix(variables)
        values = np.full(len(self.constant), np.inf, np.float32)
        best = variables.copy()
        adam: Adam | None = None
        gap = np.zeros_like(variables.slopes)
        for step in range(steps + 1):
            back = self.back(variables)
            better = back.value < values
            values = np.where(better, back.value, values)
            if step:
                rows = slice(None) if better.all() else np.flatnonzero(better)
                for kept, array in zip(best.arrays(), variables.arrays(), strict=True):
                    kept[rows] = array[rows]
            point, pres, posts = self.forward(back)
            if 2 * step >= steps:
                self._add_gaps(gap, back, pres, posts)
            if step < steps:
                adam = adam or Adam(variables, None if variables.multipliers is None else self.scales(back))
                adam.step(variables, self.gradient(variables, back, pres))
        negative = np.zeros_like(gap)
        for k, level in enumerate(self.levels):
            post = back.post[k]
            if post is not None:
                negative[:, self.open[k]] = np.minimum(post[:, level.open], 0)
        return Optimised(values, best, gap, negative, point, self._seen(point, pres))

    def _add_gaps(self, gap: Single, back: _Pass, pres: list[Single], posts: list[Single]) -> None:
        """Add by how much each undecided neuron's relaxation lifts the bound at the maximiser."""
        for k, level in enumerate(self.levels):
            coefficient, pre, post = back.post[k], pres[k], posts[k]
            if coefficient is None or not len(level.open):
                continue
            if not level.whole:
                coefficient, pre, post = coefficient[:, level.open], pre[:, level.open], post[:, level.open]
            lifted = post - np.maximum(pre, 0)
            lifted *= coefficient
            gap[:, self.open[k]] += lifted

    def _seen(self, point: Single, pres: list[Single]) -> Single:
        """What the rows are at the points; ``pres`` tells it of layers that read nothing but the inputs."""
        posts = [point]
        for k, level in enumerate(self.levels[: len(self.owner.backward.stages)]):
            plain = all(source == 0 for source, _ in level.terms)
            posts.append(np.maximum(pres[k] if plain else _affine(level, posts), 0))
        value = self.constant.copy()
        for source, matrix in self.first.items():
            value += _products(matrix, posts[source])
        return value


def _affine(level: Level, posts: Sequence[Single]) -> Single:
    """Pre-activations of a layer, (rows, alive)."""
    pre: Single | None = None
    for source, matrix in level.terms:
        more = matrix.forward(posts[source])
        pre = more if pre is None else pre + more
    if pre is None:
        return np.repeat(level.offset[None, :], len(posts[0]), axis=0)
    pre += level.offset
    return pre


def _products(a: Single, b: Single) -> Single:
    """Scalar products of rows, (rows, n) each: (rows,)."""
    return np.asarray(np.einsum("ij,ij->i", a, b))
