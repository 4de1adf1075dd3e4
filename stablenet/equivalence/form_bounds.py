"""Which violations of a property are excluded on boxes: bounds of its linear forms over the joint system."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stablenet.core.network import AffineMap, Network, Term
from stablenet.core.rounding import SAFETY, gamma, underflow
from stablenet.equivalence.backward import Relaxation
from stablenet.equivalence.functionals import Functionals, below, functionals
from stablenet.equivalence.joint import Joint, Pairing
from stablenet.equivalence.scaling import lost
from stablenet.equivalence.specification import Violation

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


class FormBounds:
    """Bounds, rigorous, of one property's forms for two networks on batches of boxes."""

    def __init__(self, a: Network, b: Network, pairing: Pairing, violation: Violation) -> None:
        self.a, self.b, self.pairing, self.violation = a, b, pairing, violation
        self.forms: Functionals | None = None if violation.norm is not None else functionals(violation)

    @property
    def n_conjunctions(self) -> int:
        """What is refuted one by one: conjunctions, or the norm as the only one."""
        return 1 if self.forms is None else self.forms.n_conjunctions

    def refute(self, low: Array, high: Array, refuted: Mask) -> tuple[Mask, Array]:
        """Which conjunctions cannot hold on boxes, (parts, n_inputs) each side, and how the inputs matter.

        ``refuted``, (parts, conjunctions), are those known not to hold; the result has them too. The influence of the
        inputs, (parts, n_inputs), are the largest slopes of the linear bounds.
        """
        joint = Joint(self.a, self.b, self.pairing, low=low, high=high)
        joint.push()
        system = joint.system
        none = np.zeros((len(low), self.a.n_outputs))
        difference, slack = joint.output_difference()
        if self.forms is None:
            lower, upper = system.bounds(difference, slack)
            return refuted | self._norm_below(np.maximum(np.abs(lower), np.abs(upper)))[:, None], system.influence
        bounds = system.bounds(difference, slack)
        influence = system.influence
        place_d = system.push(difference, slack, bounds, Relaxation.identity(*bounds))
        of_a = joint.output_of_a()
        bounds = system.bounds(of_a, none)
        place_a = system.push(of_a, none, bounds, Relaxation.identity(*bounds))
        for linear in (False, True):
            wanted = self.forms.needed(~refuted.all(axis=0))
            if not len(wanted):
                break
            affine, slack = self._affine(joint, wanted, (0, place_a, place_d))
            rows = None if linear else np.zeros(0, np.intp)
            lower, upper = np.full((2, len(low), self.forms.size), np.nan)
            lower[:, wanted], upper[:, wanted] = system.bounds(affine, slack, rows)
            refuted = refuted | self.forms.refuted(lower, upper)
            if linear:
                influence = system.influence
        return refuted, influence

    def _affine(self, joint: Joint, wanted: Index, places: tuple[int, int, int]) -> tuple[AffineMap, Array]:
        """The wanted forms as a map over the system, and what rounding their coefficients may hide."""
        forms = self.forms
        assert forms is not None  # noqa: S101 - for the type checker
        terms = []
        slack = np.zeros((joint.system.n_parts, len(wanted)))
        for place, matrix, error in zip(
            places,
            (forms.x, forms.a, forms.difference),
            (forms.x_error, forms.a_error, forms.difference_error),
            strict=True,
        ):
            chosen = matrix[wanted]
            if chosen.any():
                terms.append(Term(place, chosen))
            if error[wanted].any():
                slack += lost(error[wanted], joint.system.most(place))
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
