"""Choosing the free numbers of a backward pass by gradient descent: lower slopes and multipliers.

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

import numpy as np
import numpy.typing as npt

from stablenet.bounds.adam import Adam, Variables
from stablenet.bounds.crown import Backward, Choice
from stablenet.bounds.linear import to_dense
from stablenet.bounds.single_precision import Level
from stablenet.core.arrays import Array, Index, Single
from stablenet.core.network import AffineMap


@dataclass(eq=False)
class Optimised:
    """What descent found: values (parts, rows), not rigorous, their variables, and where the relaxation is loose.

    ``gap[k]`` (parts, rows, open) is by how much the relaxation of each undecided neuron of layer k lifts the bound, on
    average over the maximisers of the later steps; the last of these are ``points`` (parts, rows, n_inputs).
    ``negative`` are the negative parts of the coefficients on the neurons' post-activations, as of the last step.
    """

    values: Single
    variables: Variables
    gap: list[Single]
    negative: list[Single]
    points: Single


class BoundOptimizer:
    """Descends on the choices of a `Backward`; layers pushed to it later are seen."""

    def __init__(self, backward: Backward) -> None:
        self.backward = backward
        self.centre = backward.centre[:, None, :].astype(np.float32)
        self.radius = backward.radius[:, None, :].astype(np.float32)
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

    def start(self, n_rows: int, *, multipliers: bool) -> Variables:
        """The slopes of least area and no multipliers."""
        parts = self.backward.n_parts
        slopes = [np.repeat(level.low_slope[..., level.open], n_rows, axis=1) for level in self.levels]
        zeros = [np.zeros((parts, n_rows, len(level.offset)), np.float32) for level in self.levels]
        return Variables(slopes, zeros if multipliers else None)

    def choices(self, variables: Variables, phases: Sequence[npt.NDArray[np.int8]] | None = None) -> list[Choice]:
        """As `Backward.upper_bounds` takes them."""
        found = []
        for k, level in enumerate(self.levels):
            slopes = variables.slopes[k]
            low = np.zeros((*slopes.shape[:2], len(level.offset)))
            low[..., level.open] = slopes
            shift = None if variables.multipliers is None else variables.multipliers[k].astype(np.float64)
            found.append(Choice(low, None if phases is None else phases[k], shift))
        return found

    def run(
        self,
        affine: AffineMap,
        rows: Index,
        signs: Array,
        steps: int,
        *,
        start: Variables | None = None,
        phases: Sequence[npt.NDArray[np.int8]] | None = None,
        multipliers: bool = False,
    ) -> Optimised:
        """Lower the upper bounds of ``signs * affine`` at the given rows in so many steps.

        ``phases[k]``, (parts, rows, alive), restrict row by row, as `Choice.phase` does.
        """
        with np.errstate(all="ignore"):
            multipliers = multipliers or self.backward.rows is not None
            return _Run(self, affine, rows, signs, phases).descend(
                start or self.start(len(rows), multipliers=multipliers), steps
            )


@dataclass(eq=False)
class _Pass:
    """One pass back: values, and what the pass forward needs."""

    value: Single
    positive: list[Single | None]  # coefficients on open post-activations, per layer
    negative: list[Single | None]
    size: list[Single]  # largest coefficient on a pre-activation, (parts, rows, 1) per layer
    inputs: Single


class _Run:
    """BoundOptimizer for a fixed set of rows."""

    def __init__(
        self,
        owner: BoundOptimizer,
        affine: AffineMap,
        rows: Index,
        signs: Array,
        phases: Sequence[npt.NDArray[np.int8]] | None,
    ) -> None:
        self.owner = owner
        backward = owner.backward
        self.first: dict[int, Single] = {}
        for term in affine.terms:
            matrix = to_dense(backward.restrict(term.matrix, rows, term.source))
            signed = (signs[:, None] * matrix).astype(np.float32)[None]
            self.first[term.source] = self.first.get(term.source, np.float32(0)) + signed
        self.constant = (signs * affine.offset[rows]).astype(np.float32)[None]
        self.lower: list[Single] = []
        self.upper: list[Single] = []
        self.up_slope: list[Single] = []
        self.up_offset: list[Single] = []
        self.fixed: list[Single | None] = []
        for k, level in enumerate(owner.levels):
            self._restrict(level, None if phases is None else phases[k])

    def _restrict(self, level: Level, phase: npt.NDArray[np.int8] | None) -> None:
        """Bounds and upper relaxations of a layer under given phases; NaN in ``fixed`` where the slope is free."""
        up_slope, up_offset = level.up_slope[..., level.open], level.up_offset[..., level.open]
        if phase is None:
            self.lower.append(level.lower)
            self.upper.append(level.upper)
            self.fixed.append(None)
        else:
            self.lower.append(np.where(phase > 0, np.maximum(level.lower, 0), level.lower))
            self.upper.append(np.where(phase < 0, np.minimum(level.upper, 0), level.upper))
            here = phase[..., level.open]
            slope = np.where(here > 0, np.float32(1), np.float32(0))
            up_slope = np.where(here == 0, up_slope, slope)
            up_offset = np.where(here == 0, up_offset, np.float32(0))
            self.fixed.append(np.where(here == 0, np.float32(np.nan), slope))
        self.up_slope.append(up_slope)
        self.up_offset.append(up_offset)

    def _low(self, variables: Variables, k: int) -> Single:
        fixed = self.fixed[k]
        return variables.slopes[k] if fixed is None else np.where(np.isnan(fixed), variables.slopes[k], fixed)

    def back(self, variables: Variables) -> _Pass:
        """The bounds for these choices."""
        n = len(self.owner.levels)
        coefficients = dict(self.first)
        value = self.constant
        found = _Pass(value, [None] * n, [None] * n, [np.zeros((1, 1, 1), np.float32)] * n, value)
        for k in range(n - 1, -1, -1):
            level = self.owner.levels[k]
            post = coefficients.pop(k + 1, None)
            shift = None if variables.multipliers is None else variables.multipliers[k]
            if not len(level.offset) or (post is None and shift is None):
                continue
            if post is None:
                chosen = np.zeros((1, self.constant.shape[1], len(level.offset)), np.float32)
            else:
                mine = post[..., level.open]
                positive = np.maximum(mine, 0)
                negative = mine - positive
                found.positive[k], found.negative[k] = positive, negative
                chosen = np.repeat(post, len(self.owner.centre), axis=0) if len(post) == 1 else post.copy()
                if level.through is not None:
                    chosen *= level.through
                chosen[..., level.open] = positive * self.up_slope[k] + negative * self._low(variables, k)
                value = value + _sum(positive, self.up_offset[k])
            found.size[k] = np.abs(chosen).max(axis=-1, keepdims=True)
            if shift is not None:
                value = value + (shift * np.where(shift > 0, self.upper[k], self.lower[k])).sum(axis=-1)
                chosen = chosen - shift
            value = value + chosen @ level.offset
            for source, matrix in level.terms:
                more = matrix.back(chosen)
                coefficients[source] = coefficients[source] + more if source in coefficients else more
        inputs = coefficients.get(0)
        if inputs is None:
            inputs = np.zeros((1, self.constant.shape[1], self.owner.centre.shape[-1]), np.float32)
        for k, level in enumerate(self.owner.levels):
            # A pushed neuron that nothing reads still acts on the inputs through its multipliers.
            if found.positive[k] is None and level.largest > 0:
                found.size[k] = np.abs(inputs).max(axis=-1, keepdims=True) / np.float32(level.largest)
        found.value = value + _sum(inputs, self.owner.centre) + _sum(np.abs(inputs), self.owner.radius)
        found.inputs = inputs
        return found

    def forward(self, variables: Variables, back: _Pass) -> tuple[Single, list[Single]]:
        """The maximisers, (parts, rows, n_inputs), and the pre-activations that the relaxations give there."""
        point: Single = np.asarray(self.owner.centre + np.sign(back.inputs) * self.owner.radius, np.float32)
        posts: list[Single] = [point]
        pres: list[Single] = []
        for k, level in enumerate(self.owner.levels):
            pre: Single = np.broadcast_to(level.offset, (*point.shape[:2], len(level.offset)))
            for source, matrix in level.terms:
                pre = pre + matrix.forward(posts[source])
            pres.append(pre)
            positive = back.positive[k]
            post = np.array(pre) if level.through is None else pre * level.through
            if positive is not None and len(level.open):
                mine = pre[..., level.open]
                raised = self.up_slope[k] * mine + self.up_offset[k]
                post[..., level.open] = np.where(positive > 0, raised, self._low(variables, k) * mine)
            posts.append(post)
        return point, pres

    def gradient(self, variables: Variables, back: _Pass, pres: list[Single]) -> list[Single]:
        """Derivatives after all variables, in the order of `Variables.arrays`."""
        found: list[Single] = []
        for k, level in enumerate(self.owner.levels):
            negative = back.negative[k]
            if negative is None:
                found.append(np.zeros_like(variables.slopes[k]))
            else:
                move = negative * pres[k][..., level.open]
                fixed = self.fixed[k]
                found.append(move if fixed is None else np.where(np.isnan(fixed), move, np.float32(0)))
        for k, shift in enumerate(variables.multipliers or []):
            above, below = self.upper[k] - pres[k], self.lower[k] - pres[k]
            still = np.where(above < 0, above, np.maximum(below, 0))
            found.append(np.where(shift > 0, above, np.where(shift < 0, below, still)))
        return found

    def descend(self, variables: Variables, steps: int) -> Optimised:
        """Adam, projected; the best seen is kept row by row."""
        shape = (len(self.owner.centre), self.constant.shape[1])
        values = np.full(shape, np.inf, np.float32)
        best = variables.copy()
        adam: Adam | None = None
        gaps: list[Single] = []
        for step in range(steps + 1):
            back = self.back(variables)
            better = back.value < values
            values = np.where(better, back.value, values)
            for kept, array in zip(best.arrays(), variables.arrays(), strict=True):
                np.copyto(kept, array, where=better[..., None])
            point, pres = self.forward(variables, back)
            if 2 * step >= steps:
                found = self._gaps(variables, back, pres)
                gaps = [a + b for a, b in zip(gaps, found, strict=True)] if gaps else found
            if step < steps:
                adam = adam or Adam(variables, back.size)
                adam.step(variables, self.gradient(variables, back, pres))
        zeros = [np.zeros_like(gap) for gap in gaps]
        negative = [zero if a is None else a for a, zero in zip(back.negative, zeros, strict=True)]
        return Optimised(values, best, gaps, negative, point)

    def _gaps(self, variables: Variables, back: _Pass, pres: list[Single]) -> list[Single]:
        found = []
        for k, level in enumerate(self.owner.levels):
            positive, negative = back.positive[k], back.negative[k]
            mine = pres[k][..., level.open]
            if positive is None or negative is None:
                found.append(np.zeros_like(mine))
                continue
            post = np.maximum(mine, 0)
            gap = positive * (self.up_slope[k] * mine + self.up_offset[k] - post)
            found.append(gap + negative * (self._low(variables, k) * mine - post))
        return found


def _sum(rows: Single, vectors: Single) -> Single:
    """Scalar products of (parts, rows, n) with (parts, 1 or rows, n): (parts, rows)."""
    if vectors.shape[1] > 1:
        return np.asarray((rows * vectors).sum(axis=-1))
    return np.asarray(np.matmul(rows, vectors[:, 0, :, None])[..., 0])
