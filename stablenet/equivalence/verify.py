"""Whether two networks are equal on a domain within a tolerance: proven, disproven, or not decided.

Counterexamples are certified points. Proofs go from cheap to dear: the joint system on the whole domain; the same on
boxes that the domain is cut into; a search for stable neurons of the first network, whose phases then hold in the joint
system; and a MILP of both networks at once. What rests on bounds alone is rigorous, what rests on a MILP holds within
solver tolerance, and the result says which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stablenet.api import find_stable
from stablenet.backends.base import Backend
from stablenet.backends.base import registry as backends
from stablenet.core.deadline import Deadline
from stablenet.core.errors import (
    ContradictionError,
    DomainError,
    InputError,
    NetworkError,
    SolverError,
    UnknownNameError,
)
from stablenet.core.network import Network
from stablenet.domain.regions import Domain, Part
from stablenet.domain.spec import parse_domain
from stablenet.equivalence.counterexample import Seeker
from stablenet.equivalence.joint import Joint, Pairing, Sides, Treated
from stablenet.equivalence.merged import largest_difference, merged
from stablenet.equivalence.pairing import by_matching, with_scales
from stablenet.equivalence.provenance import SOURCE_KEY, bound_of, by_provenance, outside_stated_domain
from stablenet.equivalence.verification import Outcome, Verification
from stablenet.onnx_io.reader import load_onnx
from stablenet.report.evidence import Evidence, witnesses_of
from stablenet.report.report import Report

Array = npt.NDArray[np.float64]

DEFAULT_TOLERANCE = 1e-5

SPLIT_INPUTS = 24
"""More inputs of positive width than this are not cut: the number of boxes would explode."""

MOST_BOXES = 20_000
"""Boxes that are bounded before a MILP is asked."""

MOST_SUSPECTS = 256
"""Neurons of a layer without an equal in the other network that the search for a counterexample wakes."""

MOST_FINDING = 60.0
"""Seconds for the search of stable neurons where no time limit is given."""

FINDING_SHARE = 0.6
"""Share of a time limit that is left to that search; the rest is the MILP's."""

BATCH_BYTES = 96 * 2**20

STEPS = ("bounds", "gradient", "split", "stable", "milp")
"""What is tried, in this order, points being sampled first: see `verify`."""


def verify(
    a: Network | str | Path,
    b: Network | str | Path,
    domain: Domain | str,
    *,
    tolerance: float | None = None,
    time_limit: float | None = None,
    solver: str = "highs",
    formulation: str = "bigm",
    threads: int = 1,
    seed: int = 0,
    steps: Sequence[str] = STEPS,
    report: Report | str | Path | None = None,
) -> Verification:
    """Whether |A(x) - B(x)| <= tolerance for every output on the whole domain.

    ``steps`` are those of `STEPS` that are taken: the joint system's bounds, gradient steps, splitting of the domain,
    the search for stable neurons, the MILP. A ``report`` about the original takes the place of that search: what it
    calls refuted is believed, and what follows holds if it does (``by`` then names it). ``tolerance`` None means the
    bound that one of the files states about itself, if it was made from the other, else 1e-5. Raises `InputError` where
    the networks' inputs or outputs, or the domain, do not fit, and `ReportError` where the report does not.
    """
    first = a if isinstance(a, Network) else load_onnx(a)
    second = b if isinstance(b, Network) else load_onnx(b)
    if (first.n_inputs, first.n_outputs) != (second.n_inputs, second.n_outputs):
        raise NetworkError(
            f"the first network has {first.n_inputs} inputs and {first.n_outputs} outputs, the second "
            f"{second.n_inputs} and {second.n_outputs}; networks of the same shapes are expected"
        )
    region = parse_domain(domain, first.n_inputs) if isinstance(domain, str) else domain
    if region.n_inputs != first.n_inputs:
        raise DomainError(f"the domain has {region.n_inputs} inputs, the networks {first.n_inputs}")
    for step in steps:
        if step not in STEPS:
            raise UnknownNameError("step", step, STEPS)
    if tolerance is not None and not (np.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance {tolerance}; a finite number from 0 up is expected")
    if first.metadata.get(SOURCE_KEY) == second.identity:
        first, second = second, first  # the one that was compressed comes second: its neurons are the fewer
    limit = _tolerance(first, second) if tolerance is None else tolerance
    told = [outside_stated_domain(network, region) for network in (first, second)]
    notes = [note for note in told if note is not None]
    stated, points = None, np.zeros((0, first.n_inputs))
    if report is not None:
        found = report if isinstance(report, Report) else Report.read(report)
        if found.data["network"].get("sha256") == second.identity:
            first, second = second, first
        stated = Evidence.of(found, first, region)
        points = witnesses_of(found, first)
    return _Verifier(
        first,
        second,
        region,
        tolerance=limit,
        deadline=Deadline(time_limit),
        backend=backends.get(solver),
        formulation=formulation,
        threads=threads,
        seed=seed,
        steps=steps,
        stated=stated,
        points=points,
        notes=notes,
    ).run()


def _tolerance(a: Network, b: Network) -> float:
    stated = bound_of(b) if b.metadata.get(SOURCE_KEY) == a.identity else None
    return DEFAULT_TOLERANCE if stated is None else stated


@dataclass(eq=False)
class _Verifier:
    a: Network
    b: Network
    domain: Domain
    tolerance: float
    deadline: Deadline
    backend: Backend
    formulation: str
    threads: int
    seed: int
    steps: Sequence[str]
    stated: Evidence | None = None
    points: Array = field(default_factory=lambda: np.zeros((0, 0)))
    seconds: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = self.domain.parts
        self.bounds = np.full(len(self.parts), np.inf)
        self.proofs = np.ones(len(self.parts), bool)
        self.rigorous_bounds = np.full(len(self.parts), np.inf)
        self.seeker = Seeker(self.a, self.b, self.domain, self.seed)
        self.treated: list[Treated] = []
        self.tops: list[Array] = []
        self.phases: Sides | None = None
        self.believed = False

    def run(self) -> Verification:
        """Every step in turn, until the question is decided."""
        began = time.monotonic()
        points = self.seeker.sample(512)
        self.seeker.offer(self.points)
        pairing = by_provenance(self.a, self.b) or by_matching(self.a, self.b, points[:64])
        self.pairing: Pairing = with_scales(pairing, self.a, self.b, points[:64])
        self.seconds["samples"] = round(time.monotonic() - began, 4)
        if self._differs():
            return self._result("different", "samples")
        known = (self._whole, self._gradient, self._split, self._stable, self._milp)
        order = list(zip(STEPS, known, strict=True))
        if self.stated is not None:
            order.sort(key=lambda step: step[0] not in ("bounds", "stable"))  # a report costs no search
        for name, step in order:
            if name not in self.steps:
                continue
            began = time.monotonic()
            step()
            self.seconds[name] = round(time.monotonic() - began, 4)
            if self._differs():
                return self._result("different", name)
            if not self._open():
                return self._result("equal", name)
            if self.deadline.over:
                return self._result("undecided", "time limit")
        return self._result("undecided", "no step")

    def _open(self) -> list[int]:
        """Parts that are not proven."""
        return [int(i) for i in np.flatnonzero(~(self.bounds <= self.tolerance))]

    def _prove(self, part: int, bound: float, *, rigorous: bool) -> None:
        if rigorous:
            self.rigorous_bounds[part] = min(self.rigorous_bounds[part], bound)
        if bound < self.bounds[part]:
            self.bounds[part], self.proofs[part] = bound, rigorous

    def _differs(self) -> bool:
        return self.seeker.best is not None and self.seeker.best.difference > self.tolerance

    def _result(self, outcome: Outcome, by: str) -> Verification:
        """The answer; beside a difference that was seen stands no bound below it."""
        if outcome == "different" and not self.deadline.over:
            for part in np.flatnonzero(~np.isfinite(self.rigorous_bounds)).tolist():
                self._prove(part, float(self._on_part(part)[1].max(initial=0.0)), rigorous=True)
        seen = 0.0 if self.seeker.best is None else self.seeker.best.difference
        if outcome == "different" or float(self.bounds.max()) < seen:
            # A proof that rests on a solver or on what was believed may be what the point disproves.
            self.bounds, self.proofs = self.rigorous_bounds.copy(), np.ones(len(self.parts), bool)
        bound, rigorous = float(self.bounds.max()), bool(self.proofs.all())
        if bound < seen:
            raise ContradictionError(f"a rigorous bound of {bound!r} stands beside a difference of {seen!r}: a bug")
        if outcome == "equal" and not bound <= self.tolerance:
            outcome = "undecided"
        if self.believed:
            by += ", report"
        return Verification(
            outcome,
            self.tolerance,
            bound,
            rigorous,
            self.seeker.best,
            by,
            self.neurons,
            self.seconds,
            tuple(self.notes),
        )

    def _joint(self, low: Array, high: Array, trusted: Sides | None = None) -> tuple[Joint, Array]:
        """The joint system on boxes, and bounds of |B - A| by box and output."""
        joint = Joint(self.a, self.b, self.pairing, low=low, high=high, trusted=trusted)
        lower, upper = joint.run()
        worst = np.maximum(np.abs(lower), np.abs(upper))
        return joint, np.where(np.isnan(worst), np.inf, worst)

    def _on_part(self, part: int, trusted: Sides | None = None) -> tuple[Joint, Array]:
        box = self.parts[part]
        joint, bound = self._joint(box.lower[None], box.upper[None], trusted)
        return joint, bound[0]

    def _whole(self) -> None:
        """The joint system on each whole part."""
        for part in self._open():
            joint, bound = self._on_part(part)
            self.treated = joint.treated
            self.tops = [upper.max(axis=0) for _, upper in joint.known]
            self.neurons = {
                "shared": sum(len(t.shared) for t in joint.treated),
                "related": sum(len(t.related) for t in joint.treated),
                "alone": sum(len(t.alone) for t in joint.treated),
            }
            self._prove(part, float(bound.max(initial=0.0)), rigorous=True)

    def _gradient(self) -> None:
        def stop() -> bool:
            return self._differs() or self.deadline.over

        self.seeker.climb(stop)
        if not self.treated:
            return  # without the step "bounds" it is not known which neurons to wake
        partners: dict[int, list[npt.NDArray[np.intp]]] = {}
        for layer, (partner, neurons) in enumerate(zip(self.pairing.layers, self.pairing.neurons, strict=True)):
            partners.setdefault(partner, []).append(neurons)
            suspects = np.concatenate([self.treated[layer].related, self.treated[layer].alone])
            if len(suspects) and not stop():
                self.seeker.wake(self.b, layer, suspects[:MOST_SUSPECTS], stop)
        for layer in range(len(self.a.layers)):
            can_fire = np.flatnonzero(self.tops[layer] > 0)
            lost = np.setdiff1d(can_fire, np.concatenate(partners.get(layer, [np.zeros(0, np.intp)])))
            if len(lost) and not stop():
                self.seeker.wake(self.a, layer, lost[:MOST_SUSPECTS], stop)

    def _split(self) -> None:
        """Cut parts into boxes until the joint system proves each, or it does not pay."""
        budget = MOST_BOXES
        for part in self._open():
            box = self.parts[part]
            if np.count_nonzero(box.upper > box.lower) <= SPLIT_INPUTS:
                bound, used = self._cut(box, budget)
                budget -= used
                self._prove(part, bound, rigorous=True)
                if self._differs():
                    return

    def _cut(self, part: Part, budget: int) -> tuple[float, int]:
        """The proven bound on one part (infinite if boxes are left), and how many boxes that took."""
        low, high = part.lower[None], part.upper[None]
        per_box = 8 * 12 * (sum(self.a.source_sizes) + sum(self.b.source_sizes)) * max(self.a.n_outputs, 50)
        batch = int(np.clip(BATCH_BYTES // per_box, 8, 512))
        proven, used = 0.0, 0
        while len(low):
            chosen = slice(0, batch)
            joint, bound = self._joint(low[chosen], high[chosen])
            used += len(bound)
            worst = bound.max(axis=1, initial=0.0)
            open_ = worst > self.tolerance
            proven = max(proven, float(worst[~open_].max(initial=0.0)))
            self.seeker.offer(0.5 * low[chosen] + 0.5 * high[chosen])
            if self._differs() or used > budget or self.deadline.over:
                return np.inf, used
            halves = _halves(low[chosen][open_], high[chosen][open_], joint.system.influence[open_])
            if halves is None:
                return np.inf, used
            # Depth first: what is cut comes before what waits, so that the list stays short.
            low, high = (np.concatenate([new, old[batch:]]) for new, old in zip(halves, (low, high), strict=True))
        return proven, used

    def _stable(self) -> None:
        """Find stable neurons of the first network by search; their phases then hold in the joint system."""
        evidence = self._searched() if self.stated is None else self.stated
        if evidence is None:
            return
        self.phases, self.believed = evidence.trusted(), self.stated is not None
        for known, rigorous in ((evidence.only_rigorous(), True), (evidence, False)):
            trusted = known.trusted()
            for part in self._open():
                _, bound = self._on_part(part, trusted)
                self._prove(part, float(bound.max(initial=0.0)), rigorous=rigorous)

    def _searched(self) -> Evidence | None:
        if not self.a.n_neurons:
            return None
        left = self.deadline.left
        budget = MOST_FINDING if left is None else max(FINDING_SHARE * left, 0.1)
        try:
            report = find_stable(self.a, self.domain, threads=self.threads, seed=self.seed, time_limit=budget)
        except (ContradictionError, SolverError) as error:
            self.notes.append(f"stable: nothing of that search is used: {error}")
            return None
        if report.data["stopped_by"] == "interrupt":  # it ends this too
            raise KeyboardInterrupt
        self.seeker.offer(witnesses_of(report, self.a))
        return Evidence.of(report, self.a, self.domain)

    def _milp(self) -> None:
        """One MILP of both networks per part and output that is left, phases fixed as far as they were proven."""
        for part in self._open():
            joint, bound = self._on_part(part, self.phases)
            outputs = np.flatnonzero(~(bound <= self.tolerance))
            rest = float(np.delete(bound, outputs).max(initial=0.0))
            try:
                limits = self._largest(joint, part, outputs, bound[outputs])
            except (SolverError, InputError) as error:
                self.notes.append(f"milp, part {part}: {error}")
                continue
            self._prove(part, max(rest, float(limits.max(initial=0.0))), rigorous=False)
            if self._differs() or self.deadline.over:
                return

    def _largest(self, joint: Joint, part: int, outputs: npt.NDArray[np.intp], most: Array) -> Array:
        return largest_difference(
            merged(joint),
            self.parts[part],
            outputs,
            most=most,
            formulation=self.formulation,
            backend=self.backend,
            tolerance=self.tolerance,
            deadline=self.deadline,
            threads=self.threads,
            found=lambda point: self.seeker.offer(point[None]),
            known=lambda output, sign: self.seeker.known(part, output, sign),
            failed=lambda failure: self.notes.append(f"milp, part {part}: {failure.sentence}"),
        )


def _halves(low: Array, high: Array, influence: Array) -> tuple[Array, Array] | None:
    """Boxes cut at the middle of the input that matters most; None where one cannot be cut any more."""
    width = high - low
    # Slopes of the difference guide; the width itself keeps inputs that they miss from being left for ever.
    score = width * (influence / np.maximum(influence.max(axis=1, keepdims=True), 1e-300) + 0.05)
    axis = np.argmax(score, axis=1)
    rows = np.arange(len(low))
    middle = 0.5 * low[rows, axis] + 0.5 * high[rows, axis]
    if ((middle <= low[rows, axis]) | (middle >= high[rows, axis])).any():
        return None
    left_high, right_low = high.copy(), low.copy()
    left_high[rows, axis] = middle
    right_low[rows, axis] = middle
    return np.concatenate([low, right_low]), np.concatenate([left_high, high])
