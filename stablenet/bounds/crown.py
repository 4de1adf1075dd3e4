"""CROWN / DeepPoly backward bounds, proof against rounding, for a batch of boxes at once.

To bound ``g_k`` its row is carried back layer by layer: through a ReLU by its upper or lower linear
relaxation, through an affine map by a matrix product, and at the input it is maximised over the box
(Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions*,
NeurIPS 2018; Singh et al., *An Abstract Domain for Certifying Neural Networks*, POPL 2019).

Soundness in floating point: computed coefficients are *choices*. Whatever the exact coefficients of a step would have
been, the ones in hand are used from there on, and what the difference can make over the bounds of the quantities it
multiplies is added to the constant at that very step. Bounding only the final coefficients is not enough: terms may
cancel in floating point and not in truth. What float32 evaluations may add to a layer's affine map
(`AffineMap.deviation`) is added in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from stablenet.bounds.interval import affine_bounds, centre_radius, magnitude, post_bounds
from stablenet.bounds.linear import Block, LinearBounds, dot, to_dense
from stablenet.bounds.polytope_duals import row_multipliers
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array, Index
from stablenet.core.network import AffineMap, Matrix, Network, Term, apply
from stablenet.core.rounding import UNIT, gamma, underflow
from stablenet.domain.regions import Part

DENSE = 0.85
"""Neurons known to be inactive are left out of the matrices if no more than this share is alive."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What may be chosen, row by row, where a backward pass goes through a layer; any choice gives a valid bound.

    All arrays are (parts or 1, rows, alive), over the neurons that `Stage.alive` lists. ``low_slope`` are the slopes of
    the lower relaxation of undecided neurons, clipped to [0, 1]. ``phase`` (int8) restricts the bound to inputs where
    the neuron has that phase: +1, -1, or 0 for no restriction. ``multiplier`` t > 0 adds ``t (u - g) >= 0``, and
    t < 0 adds ``-t (g - l) >= 0``, with u, l the neuron's bounds, or 0 where its phase says so.
    """

    low_slope: Array
    phase: npt.NDArray[np.int8] | None = None
    multiplier: Array | None = None


@dataclass(frozen=True, eq=False)
class Stage(Block):
    """A pushed layer, over its neurons that can be active: ``alive`` lists them (None: all).

    Matrices are (alive, alive of the source). ``slack`` is by how much float32 may be off the affine map (None: only
    the real one counts). ``post_most``, (parts, alive), bounds the post-activations.
    """

    alive: Index | None
    relaxation: Relaxation
    post_most: Array

    def at(self, parts: Index, *, bounds: bool) -> Stage:
        """The stage on some of the parts, each as often as it is named; without ``bounds`` these are NaN."""
        slack = None if self.slack is None else self.slack[parts]
        own = self.alive, self.relaxation.at(parts, bounds=bounds), self.post_most[parts]
        return Stage(self.terms, self.offset, self.reach[parts], slack, *own)


class Backward:
    """Carries linear bounds back through a network over a batch of boxes.

    Layers are pushed in order, each with the bounds of its pre-activations, (parts, n_k); then the rows of
    any affine map that reads only pushed layers can be bounded. ``box_lower`` and ``box_upper`` are
    (parts, n_inputs). ``rows`` are a and b of ``a @ x <= b``, (m, n_inputs) and (m,): they count as a stage after all
    pushed ones whose post-activations nothing reads, and act on a bound through their multipliers.
    """

    def __init__(
        self, network: Network, box_lower: Array, box_upper: Array, rows: tuple[Array, Array] | None = None
    ) -> None:
        self.network = network
        self.n_parts = box_lower.shape[0]
        self.centre, self.radius = centre_radius(box_lower, box_upper)
        self.stages: list[Stage] = []
        self.pushed: list[tuple[Array, Array]] = []
        self.source_most: list[Array] = [magnitude(box_lower, box_upper)]
        self.largest = float(self.source_most[0].max(initial=0.0))
        self.rows = None if rows is None else _row_stage(*rows, box_lower, box_upper)

    @classmethod
    def on(cls, network: Network, part: Part) -> Self:
        """For one part of a domain, with its rows if it is a polytope."""
        rows = None if part.a is None or part.b is None else (part.a, part.b)
        return cls(network, part.lower[None, :], part.upper[None, :], rows)

    @property
    def all_stages(self) -> list[Stage]:
        """The pushed layers, and the rows of a polytope: what `Choice` can be made of."""
        return self.stages if self.rows is None else [*self.stages, self.rows]

    def push(self, lower: Array, upper: Array, keep: Index | None = None) -> None:
        """Fix the bounds of the next layer. Neurons in ``keep`` stay in play even if inactive (for multipliers)."""
        affine = self.network.layers[len(self.stages)].affine
        deviation = affine.deviation(self.source_most)
        self.pushed.append((lower[0], upper[0]))
        most = np.abs(affine.offset)[None, :] + underflow(affine.n_terms)
        for term in affine.terms:
            most = most + apply(term.absolute, self.source_most[term.source])
        # NaN bounds, which make all that reads them NaN, are no magnitudes.
        for met in (most, magnitude(lower, upper)):
            self.largest = max(self.largest, float(met.max(initial=0.0, where=~np.isnan(met))))
        self.source_most.append(post_bounds(lower, upper)[1])
        kept = np.array(~(upper <= 0).all(axis=0))
        if keep is not None:
            kept[keep] = True
        alive = None if kept.mean() > DENSE else np.flatnonzero(kept)
        rows = slice(None) if alive is None else alive
        self.stages.append(
            Stage(
                tuple((term.source, self.restrict(term.matrix, alive, term.source)) for term in affine.terms),
                affine.offset[rows],
                (most + magnitude(lower, upper))[:, rows],
                None if deviation is None else deviation[:, rows],
                alive,
                Relaxation.of(lower[:, rows], upper[:, rows]),
                self.source_most[-1][:, rows],
            )
        )

    @property
    def widths(self) -> list[int]:
        """Numbers of alive entries of the sources that rows may read."""
        return [self.network.n_inputs, *(len(stage.offset) for stage in self.stages)]

    def restrict(self, matrix: Matrix, rows: Index | None, source: int) -> Matrix:
        """Some rows (None: all) of a matrix over the alive entries of a source."""
        columns = self.stages[source - 1].alive if source else None
        chosen = matrix if rows is None else matrix[rows]
        return chosen if columns is None else chosen[:, columns]

    def upper_bounds(
        self, affine: AffineMap, rows: Index, signs: Array, choices: Sequence[Choice] | None = None
    ) -> tuple[Array, Array]:
        """Upper bounds of ``signs * affine`` at the given rows, (parts, rows), and their slopes in the inputs.

        ``choices`` are those for each of `all_stages`; without, the relaxations of least area are taken, and
        multipliers for a polytope's rows that suit the slopes in the inputs. The slopes, (parts or 1, rows, n_inputs),
        are those of the linear upper bounds, for guiding searches.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            state = _State(self, affine, rows, signs)
            for source in range(len(self.stages), 0, -1):
                state.through_layer(source, None if choices is None else choices[source - 1])
            if self.rows is not None:
                choice = self._row_choice(self.rows, state.slopes()) if choices is None else choices[-1]
                state.through_layer(len(self.all_stages), choice)
            return state.concretise(), state.slopes()

    def at(self, parts: Index) -> Backward:
        """The same pass over some of the parts, each as often as it is named, for `upper_bounds_each`."""
        found = Backward.__new__(Backward)
        found.network, found.n_parts = self.network, len(parts)
        found.centre, found.radius = self.centre[parts], self.radius[parts]
        found.stages = [stage.at(parts, bounds=False) for stage in self.stages]
        found.pushed, found.largest = self.pushed, self.largest
        found.source_most = [most[parts] for most in self.source_most]
        found.rows = None if self.rows is None else self.rows.at(parts, bounds=True)
        return found

    def upper_bounds_each(self, affine: AffineMap, rows: Index, sign: float) -> tuple[Array, Array]:
        """Upper bounds of ``sign`` times one row on each part, ``rows`` (parts,), and their slopes in the inputs.

        They are (parts,) and (parts or 1, n_inputs); choices are those of `upper_bounds` without any.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            state = _EachState(self, affine, rows, np.full(len(rows), sign))
            for source in range(len(self.stages), 0, -1):
                state.through_layer(source, None)
            if self.rows is not None:
                state.through_layer(len(self.all_stages), self._row_choice(self.rows, state.slopes()))
            return state.concretise()[:, 0], state.slopes()[:, 0]

    def _row_choice(self, rows: Stage, slopes: Array) -> Choice:
        """Multipliers of a polytope's rows for linear upper bounds with these slopes."""
        matrix = to_dense(rows.terms[0][1])
        shift = row_multipliers(slopes, self.centre, self.radius, matrix, rows.relaxation.upper[0])
        return Choice(np.zeros((1, 1, shift.shape[-1])), None, shift)


def _row_stage(a: Array, b: Array, box_lower: Array, box_upper: Array) -> Stage:
    """Rows ``a @ x <= b`` as a stage without post-activations."""
    matrix, upper = np.asarray(a), np.repeat(b[None, :], len(box_lower), axis=0)
    low, high = affine_bounds(AffineMap(np.zeros(len(b)), (Term(0, matrix),)), [box_lower], [box_upper])
    none = np.zeros_like(upper)
    most = magnitude(box_lower, box_upper) @ np.abs(matrix).T + underflow(matrix.shape[1])
    relaxation = Relaxation(low, upper, none.astype(bool), none, none, none, magnitude(low, high))
    return Stage(((0, matrix),), np.zeros(len(b)), most + relaxation.most, None, None, relaxation, none)


class _State(LinearBounds):
    """Rows of an affine map on their way back through the stages of a `Backward`."""

    def __init__(self, owner: Backward, affine: AffineMap, rows: Index, signs: Array) -> None:
        super().__init__(signs * affine.offset[rows], owner.n_parts)
        self.owner = owner
        deviation = affine.deviation(owner.source_most)
        if deviation is not None:
            self.error = self.error + deviation[:, rows]
        for term in affine.terms:
            self.begin(term.source, signs[:, None] * to_dense(owner.restrict(term.matrix, rows, term.source)))

    def most(self, source: int) -> Array:
        """See `LinearBounds`."""
        return self.owner.stages[source - 1].post_most if source else self.owner.source_most[0]

    def through_layer(self, source: int, choice: Choice | None) -> None:
        """Replace coefficients on post-activations by coefficients on what their layer's affine map reads."""
        coefficients = self.coefficients.pop(source, None)
        stage = self.owner.all_stages[source - 1]
        if choice is not None and choice.multiplier is not None:
            self.live |= (choice.multiplier != 0).any(axis=(0, 2))
            if coefficients is None:
                coefficients = np.zeros((1, self.error.shape[1], len(stage.offset)))
        if coefficients is None or not len(stage.offset):
            return
        if choice is None:
            lifted, chosen = self.relaxed(coefficients, stage.relaxation)
        else:
            lifted, chosen = self._chosen(coefficients, stage, choice)
        self.substitute(lifted, chosen, stage)

    def _chosen(self, coefficients: Array, stage: Stage, choice: Choice) -> tuple[Array, Array]:
        """Constants (nonnegative sums) and coefficients on the pre-activations, by a choice made row by row."""
        relaxation = stage.relaxation
        positive = np.maximum(coefficients, 0.0)
        negative = coefficients - positive  # exact
        low, up, offset = (
            np.where(
                relaxation.open[:, None, :], np.clip(choice.low_slope, 0.0, 1.0), relaxation.low_slope[:, None, :]
            ),
            relaxation.up_slope[:, None, :],
            relaxation.up_offset[:, None, :],
        )
        phase = choice.phase
        if phase is not None:
            low, up = (np.where(phase == 0, slope, (phase > 0).astype(np.float64)) for slope in (low, up))
            offset = np.where(phase == 0, offset, 0.0)
        lifted = np.asarray((positive * offset).sum(axis=-1))
        chosen = negative * low
        chosen += positive * up
        shift = choice.multiplier
        if shift is None:
            return lifted, chosen
        lower, upper = relaxation.lower[:, None, :], relaxation.upper[:, None, :]
        if phase is not None:
            lower = np.where(phase > 0, np.maximum(lower, 0.0), lower)
            upper = np.where(phase < 0, np.minimum(upper, 0.0), upper)
        added = np.where(shift == 0, 0.0, shift * np.where(shift > 0, upper, lower))
        total, size = added.sum(axis=-1), np.abs(added).sum(axis=-1)
        # The multipliers are exact; rounded are the sum of what they add, and the coefficients that they change.
        self.error = self.error + gamma(added.shape[-1] + 4) * size + 4.0 * UNIT * dot(np.abs(chosen), relaxation.most)
        self.add_constant(total)
        return lifted, chosen - shift

    def slopes(self) -> Array:
        """Coefficients on the inputs, (parts or 1, rows, n_inputs)."""
        zero = np.zeros((1, self.error.shape[1], self.owner.network.n_inputs))
        return self.coefficients.get(0, zero)

    def concretise(self) -> Array:
        """The largest values over the boxes, rounded up."""
        value, error = self.maximum(self.owner.centre, self.owner.radius, self.owner.largest)
        return np.nextafter(value + error, np.inf)  # NaN where a number on the way was


class _EachState(_State):
    """One row on each part of a `Backward`, on their way back."""

    def __init__(self, owner: Backward, affine: AffineMap, rows: Index, signs: Array) -> None:
        LinearBounds.__init__(self, np.zeros(1), owner.n_parts)
        self.owner = owner
        self.constant = (signs * affine.offset[rows])[:, None]
        self.constant_size = np.abs(self.constant)
        self.live = np.zeros((len(rows), 1), dtype=bool)
        for term in affine.terms:
            matrix = signs[:, None] * to_dense(owner.restrict(term.matrix, rows, term.source))
            self.live |= (matrix != 0).any(axis=1, keepdims=True)
            self.accumulate(term.source, matrix[:, None, :])
        deviation = affine.deviation(owner.source_most)
        if deviation is not None:
            self.error = self.error + deviation[np.arange(len(rows)), rows][:, None]
