"""Whether two networks are equal on a domain within a tolerance: proven, disproven, or not decided.

Counterexamples are certified points. Proofs go from cheap to dear: the joint system on the whole domain; the same on
boxes that the domain is cut into; a search for stable neurons of the first network, whose phases then hold in the joint
system; and a MILP of both networks at once. What rests on bounds alone is rigorous, what rests on a MILP holds within
solver tolerance, and the result says which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stablenet.api import find_stable
from stablenet.backends.base import Backend
from stablenet.backends.base import registry as backends
from stablenet.bounds.deviation import difference_deviation
from stablenet.core.arrays import Array
from stablenet.core.deadline import Deadline
from stablenet.core.errors import (
    ContradictionError,
    InputError,
    NetworkError,
    SolverError,
    UnknownNameError,
)
from stablenet.core.float32 import in_real
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import read_domain
from stablenet.equivalence import anytime
from stablenet.equivalence.counterexample import Seeker
from stablenet.equivalence.joint import Joint, Pairing, Sides, Treated
from stablenet.equivalence.merged import largest_difference, merged
from stablenet.equivalence.pairing import by_matching, with_scales
from stablenet.equivalence.provenance import SOURCE_KEY, by_provenance, off_domain, stated_tolerance
from stablenet.equivalence.verification import Outcome, Verification
from stablenet.find.prepare import read_network
from stablenet.report.evidence import Evidence, witnesses_of
from stablenet.report.report import Report

DEFAULT_TOLERANCE = 1e-5

MOST_SUSPECTS = 256
"""Neurons of a layer without an equal in the other network that the search for a counterexample wakes."""

MOST_FINDING = 60.0
"""Seconds for the search of stable neurons where no time limit is given."""

FINDING_SHARE = 0.6
"""Share of a time limit that is left to that search; the rest is the MILP's."""

SPLIT_SHARE = 0.7
"""Share of a time limit that is left to splitting where a MILP comes after it."""

STEPS = ("bounds", "gradient", "split", "stable", "milp")
"""What is tried, in this order, points being sampled first, and some boxes split before gradient steps: `verify`."""

RANGE_STEPS = ("bounds", "gradient", "split")
"""Those that serve a range."""


def verify(
    a: Network | str | Path,
    b: Network | str | Path,
    domain: Domain | str,
    *,
    tolerance: float | None = None,
    bound: bool = False,
    time_limit: float | None = None,
    solver: str = "highs",
    formulation: str = "bigm",
    threads: int = 1,
    seed: int = 0,
    steps: Sequence[str] = STEPS,
    report: Report | str | Path | None = None,
    arithmetic: str = "real",
) -> Verification:
    """Whether |A(x) - B(x)| <= tolerance for every output on the whole domain.

    ``steps`` are those of `STEPS` that are taken: the joint system's bounds, gradient steps, splitting of the domain,
    the search for stable neurons, the MILP. A ``report`` about the original takes the place of that search: what it
    calls refuted is believed, and what follows holds if it does (``by`` then names it). ``tolerance`` None means the
    bound that one of the files states about itself, if it was made from the other, else 1e-5; a difference that is
    found then gets a range by some splitting. ``bound`` asks for that range alone: the largest difference from both
    sides until the upper end is at most `anytime.RATIO` times the lower, or time (else `anytime.MOST_BOXES` boxes) is
    used up; no stable neurons are searched, no MILP is solved. With ``arithmetic`` "float32" A(x) and B(x) are any
    float32 evaluations, in whichever order they add, else what the files compute, also where the import rounded. Raises
    `InputError` where networks, domain or options do not fit, `ReportError` where the report does not.
    """
    first, second = (read_network(network, arithmetic) for network in (a, b))
    if (first.n_inputs, first.n_outputs) != (second.n_inputs, second.n_outputs):
        raise NetworkError(
            f"the first network has {first.n_inputs} inputs and {first.n_outputs} outputs, the second "
            f"{second.n_inputs} and {second.n_outputs}; networks of the same shapes are expected"
        )
    region = read_domain(domain, first.n_inputs)
    for step in steps:
        if step not in STEPS:
            raise UnknownNameError("step", step, STEPS)
    if tolerance is not None and not (np.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance {tolerance}; a finite number from 0 up is expected")
    if bound and tolerance is not None:
        raise InputError("a tolerance and a range (bound) exclude each other")
    if first.metadata.get(SOURCE_KEY) == second.identity:
        first, second = second, first  # the one that was compressed comes second: its neurons are the fewer
    limit = stated_tolerance(first, second, DEFAULT_TOLERANCE) if tolerance is None and not bound else tolerance
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
        steps=[step for step in steps if step in RANGE_STEPS] if bound else steps,
        asked=tolerance is not None,
        stated=stated,
        points=points,
        notes=off_domain(first, second, region),
    ).run()


@dataclass(eq=False)
class _Verifier:
    a: Network
    b: Network
    domain: Domain
    tolerance: float | None
    deadline: Deadline
    backend: Backend
    formulation: str
    threads: int
    seed: int
    steps: Sequence[str]
    asked: bool = True
    stated: Evidence | None = None
    points: Array = field(default_factory=lambda: np.zeros((0, 0)))
    seconds: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = self.domain.parts
        self.bounds, self.rigorous_bounds = (np.full(len(self.parts), np.inf) for _ in range(2))
        self.proofs = np.ones(len(self.parts), bool)
        self.searches: dict[int, anytime.DifferenceSearch] = {}
        self.arithmetic = self.a.arithmetic
        folded, deviation = difference_deviation(self.a, self.b, self.domain)
        self.seeker = Seeker(self.a, self.b, self.domain, self.seed, folded)
        self.deviation = float(deviation.max(initial=0.0))
        if self.tolerance is not None and not self.asked:  # a stated bound is of the networks as read, if they fold
            self.tolerance += float(folded.max(initial=0.0))
        self.limit = np.inf if self.tolerance is None else self.tolerance - self.deviation  # for proofs
        if self.limit < 0:
            what = "float32 rounding" if self.arithmetic == "float32" else "the import's rounding"
            self.notes.append(f"{what} may be up to {self.deviation:.3g}, more than the tolerance")
        self.a, self.b = in_real(self.a), in_real(self.b)
        self.treated, self.tops = list[Treated](), list[Array]()
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
            return self._different("samples")
        order: list[tuple[str, Callable[[], None]]] = [
            ("bounds", self._whole),
            ("split", self._first),
            ("gradient", self._gradient),
            ("split", self._split),
            ("stable", self._stable),
            ("milp", self._milp),
        ]
        if self.stated is not None:
            order.sort(key=lambda step: step[0] not in ("bounds", "stable"))  # a report costs no search
        for name, step in order:
            if name not in self.steps or (self.limit < 0 and name not in ("bounds", "gradient")):
                continue
            began = time.monotonic()
            step()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 4)
            if self._differs():
                return self._different(name)
            if not self._open():
                return self._result("bounded" if self.tolerance is None else "equal", name)
            if self.deadline.over:
                return self._result("undecided", "time limit")
        return self._result("undecided", "no step")

    def _open(self) -> list[int]:
        """Parts that are not proven, or whose bound is above the largest difference seen by too much."""
        goal = self.tolerance
        if goal is None:
            goal = 0.0 if self.seeker.best is None else anytime.RATIO * self.seeker.best.difference
        return [int(i) for i in np.flatnonzero(~(self.bounds <= goal))]

    def _prove(self, part: int, bound: float, *, rigorous: bool) -> None:
        bound = float(np.nextafter(bound + self.deviation, np.inf)) if self.deviation else bound
        if rigorous:
            self.rigorous_bounds[part] = min(self.rigorous_bounds[part], bound)
        if bound < self.bounds[part]:
            self.bounds[part], self.proofs[part] = bound, rigorous

    def _differs(self) -> bool:
        found, most = self.seeker.best, self.tolerance
        return found is not None and most is not None and found.difference > most

    def _stop(self) -> bool:
        return self._differs() or self.deadline.over

    def _different(self, by: str) -> Verification:
        """A difference was found; where no tolerance was asked for, its range is what says something."""
        if not self.asked and "split" in self.steps and not self.deadline.over:
            began = time.monotonic()
            self._search(None, anytime.RANGE_RATIO, anytime.RANGE_BOXES)
            self.seconds["range"] = round(time.monotonic() - began, 4)
        return self._result("different", by)

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
        if outcome == "equal" and self.tolerance is not None and not bound <= self.tolerance:
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
            self.arithmetic,
            self.deviation,
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
        if self.tolerance is None:
            self.seeker.scan(self._stop)
        self.seeker.climb(self._stop)
        if not self.treated:
            return  # without the step "bounds" it is not known which neurons to wake
        partners: dict[int, list[npt.NDArray[np.intp]]] = {}
        for layer, (partner, neurons) in enumerate(zip(self.pairing.layers, self.pairing.neurons, strict=True)):
            partners.setdefault(partner, []).append(neurons)
            suspects = np.concatenate([self.treated[layer].related, self.treated[layer].alone])
            if len(suspects) and not self._stop():
                self.seeker.wake(self.b, layer, suspects[:MOST_SUSPECTS], self._stop)
        for layer in range(len(self.a.layers)):
            can_fire = np.flatnonzero(self.tops[layer] > 0)
            lost = np.setdiff1d(can_fire, np.concatenate(partners.get(layer, [np.zeros(0, np.intp)])))
            if len(lost) and not self._stop():
                self.seeker.wake(self.a, layer, lost[:MOST_SUSPECTS], self._stop)

    def _first(self) -> None:
        """A few boxes: where they suffice, no counterexample needs to be sought."""
        self._search(None if self.tolerance is None else self.limit, anytime.RATIO, anytime.FIRST_BOXES)

    def _split(self) -> None:
        """Halve boxes, those with the largest bounds first, until each part is proven or it does not pay."""
        wanted = None if self.tolerance is None else self.limit
        self._search(wanted, anytime.RATIO, np.inf if self.deadline.end is not None else anytime.MOST_BOXES)

    def _search(self, tolerance: float | None, ratio: float, most_boxes: float) -> None:
        """Go on with the boxes of every open part until that many were bounded in all, by part."""
        share = 1.0 if "milp" not in self.steps or tolerance is None else SPLIT_SHARE
        deadline = self.deadline if self.deadline.left is None else Deadline(share * self.deadline.left)
        for part in self._open():
            box = self.parts[part]
            wide = int(np.count_nonzero(box.upper > box.lower)) > anytime.SPLIT_INPUTS
            if part not in self.searches:
                made = anytime.bounder_of(self.a, self.b, self.pairing, wide=wide)
                if made is None:
                    continue  # the step "bounds" has done all there is
                rest = (box, self.seeker, made[1], tolerance, ratio, self.threads)
                self.searches[part] = anytime.DifferenceSearch(made[0], *rest)
            search = self.searches[part]
            search.tolerance, search.ratio = tolerance, ratio
            search.run(deadline, 0 if wide else most_boxes, lambda: tolerance is not None and self._differs())
            self._prove(part, search.upper, rigorous=True)
            if self._differs() and tolerance is not None:
                return

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
            outputs = np.flatnonzero(~(bound <= self.limit))
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
            tolerance=self.limit,
            deadline=self.deadline,
            threads=self.threads,
            found=lambda point: self.seeker.offer(point[None]),
            known=lambda output, sign: self.seeker.known(part, output, sign),
            failed=lambda failure: self.notes.append(f"milp, part {part}: {failure.sentence}"),
        )
