"""Which violations of a property are excluded on boxes: bounds of its linear forms over the joint system."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stablenet.bounds.crown_layers import chunks
from stablenet.bounds.relaxation import Relaxation
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.network import AffineMap, Network, Term
from stablenet.core.rounding import SAFETY, UNIT, gamma, underflow
from stablenet.domain.halving import width
from stablenet.equivalence.aligned import Aligned, aligned, batch_of
from stablenet.equivalence.backward import System
from stablenet.equivalence.difference import DifferenceSystem
from stablenet.equivalence.functionals import Functionals, below, functionals
from stablenet.equivalence.joint import Joint, Pairing, Sides
from stablenet.equivalence.scaling import lost
from stablenet.equivalence.specification import Violation

BY_SLOPE = 0.25
"""What the variation of a linear bound over a box counts beside the gaps of relaxations, in choosing where to cut."""

BATCH_BYTES = 96 * 2**20
"""What the bounds of a batch of boxes may hold, for networks of any structure."""

Outputs = tuple[tuple[AffineMap, Array], tuple[AffineMap, Array]]


class FormBounds:
    """Bounds, rigorous, of one property's forms for two networks on batches of boxes."""

    def __init__(self, a: Network, b: Network, pairing: Pairing, violation: Violation) -> None:
        self.a, self.b, self.pairing, self.violation = a, b, pairing, violation
        self.forms: Functionals | None = None if violation.norm is not None else functionals(violation)
        self.pair = None if a is b else aligned(a, b, pairing)

    @property
    def batch(self) -> int:
        """How many boxes to give `refute` at once."""
        size = sum(sum(network.source_sizes) for network in (self.a, self.b))
        n_rows = max(50, self.n_conjunctions, self.a.n_outputs)
        most = int(np.clip(BATCH_BYTES // (8 * 12 * size * n_rows), 4, 512))
        return most if self.pair is None else min(most, batch_of(self.pair))

    @property
    def n_conjunctions(self) -> int:
        """What is refuted one by one: conjunctions, or the norm as the only one."""
        return 1 if self.forms is None else self.forms.n_conjunctions

    def refute(self, low: Array, high: Array, refuted: Mask, trusted: Sides | None = None) -> tuple[Mask, Array]:
        """Which conjunctions cannot hold on boxes, (parts, n_inputs) each side, and what cutting an input may gain.

        ``refuted``, (parts, conjunctions), are those known not to hold; the result has them too. ``trusted`` are proven
        bounds of A's pre-activations, see `Joint`. The gain, (parts, n_inputs), is for comparing the inputs of a box.
        """
        if self.pair is not None and trusted is None:
            refuted, gain = self._aligned(self.pair, low, high, refuted)
            open_ = np.flatnonzero(~refuted.all(axis=1))
            if len(open_):
                # Forms of one output alone, which differences only blur, are bounded better by each network itself.
                refuted = refuted.copy()
                refuted[open_], influence = self._joint(low[open_], high[open_], refuted[open_], None)
                gain[open_] = width(low[open_], high[open_]) * influence
            return refuted, gain
        refuted, influence = self._joint(low, high, refuted, trusted)
        return refuted, width(low, high) * influence

    def _aligned(self, pair: Aligned, low: Array, high: Array, refuted: Mask) -> tuple[Mask, Array]:
        """`refute` for networks side by side, by bounds of their difference."""
        system = DifferenceSystem(pair, low, high)
        if self.forms is None:
            found = system.bounds()
            most = np.maximum(np.abs(found.lower), np.abs(found.upper))
            return refuted | self._norm_below(most)[:, None], found.gain
        wanted = self.forms.needed(np.asarray(~refuted.all(axis=0)))
        if not len(wanted):
            return refuted, width(low, high)
        lower, upper = np.full((2, len(low), self.forms.size), np.nan)
        for rows in chunks(wanted, system.of_a, copies=12):
            lower[:, rows], upper[:, rows], _ = system.forms(self.forms, rows)
        refuted = refuted | self.forms.refuted(lower, upper)
        if refuted.all():
            return refuted, width(low, high)
        form, sign = self.forms.hardest(lower, upper, ~refuted)
        rows, place = np.unique(form, return_inverse=True)
        state = system.forms(self.forms, rows, gaps=True)[2]
        worst = place + np.where(sign > 0, 0, len(rows))
        slopes = np.broadcast_to(state.slopes(), (len(low), 2 * len(rows), low.shape[1]))[np.arange(len(low)), worst]
        # A bound that is linear on a box still varies over it: parts with rows, and other conjunctions, need that cut.
        return refuted, system.gain(state, worst) + BY_SLOPE * np.abs(np.nan_to_num(slopes)) * width(low, high)

    def _joint(self, low: Array, high: Array, refuted: Mask, trusted: Sides | None) -> tuple[Mask, Array]:
        """`refute` for networks of any structure; and the largest slopes of the linear bounds, (parts, n_inputs)."""
        joint = Joint(self.a, self.b, self.pairing, low=low, high=high, trusted=trusted)
        joint.push()
        difference, slack = joint.output_difference()
        none = np.zeros_like(slack)
        outputs = (joint.output_of_a(), none), (difference, slack)
        refuted, influence = self._with(joint.system, outputs, refuted, apart=False)
        open_ = np.flatnonzero(~refuted.all(axis=1))
        if len(open_) and self.a is not self.b:
            # A difference may be bounded badly however small the box; of each network alone the bounds converge.
            system, outputs = self._apart(low[open_], high[open_])
            refuted[open_], slopes = self._with(system, outputs, refuted[open_], apart=True)
            influence[open_] = np.maximum(influence[open_], slopes)
        return refuted, influence

    def _apart(self, low: Array, high: Array) -> tuple[System, Outputs]:
        """Both networks side by side, nothing shared: the system and the outputs of each."""
        system = System(low, high)
        outputs = []
        for network in (self.a, self.b):
            shift = len(system.nodes)
            for layer in network.layers:
                system.take(_moved(layer.affine, shift))
            outputs.append((_moved(network.output, shift), np.zeros((len(low), network.n_outputs))))
        return system, (outputs[0], outputs[1])

    def _with(self, system: System, outputs: Outputs, refuted: Mask, *, apart: bool) -> tuple[Mask, Array]:
        """`refute` with a system whose outputs are A(x) and ``B(x) - A(x)``, or, ``apart``, A(x) and B(x)."""
        influence = np.zeros_like(system.lows[0])
        bounds, places = [], []
        for affine, slack in outputs:
            bounds.append(system.bounds(affine, slack))
            influence = np.maximum(influence, system.influence)
            places.append(system.push(affine, slack, Relaxation.identity(*bounds[-1]), bounds[-1]))
        if self.forms is None:
            if apart:
                lower, upper = (np.nextafter(bounds[1][i] - bounds[0][1 - i], (-np.inf, np.inf)[i]) for i in (0, 1))
            else:
                lower, upper = bounds[1]
            return refuted | self._norm_below(np.maximum(np.abs(lower), np.abs(upper)))[:, None], influence
        for rows in (np.zeros(0, np.intp), None):  # intervals, then linear bounds
            wanted = self.forms.needed(np.asarray(~refuted.all(axis=0)))
            if not len(wanted):
                break
            affine, slack = self._affine(system, wanted, places, apart=apart)
            lower, upper = np.full((2, system.n_parts, self.forms.size), np.nan)
            lower[:, wanted], upper[:, wanted] = system.bounds(affine, slack, rows)
            refuted = refuted | self.forms.refuted(lower, upper)
            influence = np.maximum(influence, system.influence)
        return refuted, influence

    def _affine(self, system: System, wanted: Index, places: Sequence[int], *, apart: bool) -> tuple[AffineMap, Array]:
        """The wanted forms as a map over a system, and what rounding their coefficients may hide."""
        forms = self.forms
        assert forms is not None  # noqa: S101 - for the type checker
        second, second_error = forms.difference[wanted], forms.difference_error[wanted]
        first, first_error = forms.a[wanted], forms.a_error[wanted]
        if apart:  # c_A A + c_D (B - A) = (c_A - c_D) A + c_D B
            gap = first - second
            first_error = first_error + second_error + np.where(gap != 0, 2.0 * UNIT * np.abs(gap), 0.0)
            first = gap
        terms = []
        slack = np.zeros((system.n_parts, len(wanted)))
        for place, matrix, error in (
            (0, forms.x[wanted], forms.x_error[wanted]),
            (places[0], first, first_error),
            (places[1], second, second_error),
        ):
            if matrix.any():
                terms.append(Term(place, matrix))
            if error.any():
                slack += lost(error, system.most(place))
        return AffineMap(np.zeros(len(wanted)), tuple(terms)), slack

    def _norm_below(self, most: Array) -> Mask:
        """Whether differences up to ``most``, (parts, n_outputs), keep their norm within the radius."""
        count = most.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            if self.violation.norm == "l1":
                total, limit = most.sum(axis=1), below(self.violation.radius)
            else:
                total, limit = (most * most).sum(axis=1), below(self.violation.radius**2)
            rounded = np.nextafter(total * (1.0 + SAFETY * gamma(2 * count + 4)) + underflow(count), np.inf)
            return np.asarray(np.where((most == 0).all(axis=1), 0.0, rounded) <= limit)


def _moved(affine: AffineMap, shift: int) -> AffineMap:
    """A map of a network whose layers stand behind others of a system."""
    return AffineMap(affine.offset, tuple(Term(t.source + shift if t.source else 0, t.matrix) for t in affine.terms))


def outside(low: Array, high: Array, a: Array | None, b: Array | None) -> Mask:
    """Which boxes, (parts, n), hold no point with ``a @ x <= b``, surely."""
    if a is None or b is None:
        return np.zeros(len(low), dtype=bool)
    positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        least = low @ positive.T + high @ negative.T
        size = np.maximum(np.abs(low), np.abs(high)) @ np.abs(a).T + np.abs(b)
        error = SAFETY * gamma(2 * a.shape[1] + 8) * size + underflow(2 * a.shape[1] + 4)
        return np.asarray((least - error > b).any(axis=1))
