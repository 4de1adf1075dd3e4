"""Whether a property of two networks holds on a domain: proven, violated at an input, or not decided.

Proofs are by linear bounds, on the whole part first, then on boxes that it is cut into, then with the phases of neurons
that a search has proven: all are rigorous. A violation is an input whose outputs violate the property in exact
arithmetic. What neither decides stays undecided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stablenet.api import find_stable
from stablenet.core.deadline import Deadline
from stablenet.core.errors import ContradictionError, DomainError, NetworkError, SolverError, UnknownNameError
from stablenet.core.network import Network
from stablenet.domain.halving import guided, halves, middle
from stablenet.domain.regions import Part, Union
from stablenet.equivalence.anytime import SPLIT_INPUTS
from stablenet.equivalence.form_bounds import FormBounds, outside
from stablenet.equivalence.hunt import Hunter, Witness
from stablenet.equivalence.joint import Sides
from stablenet.equivalence.pairing import by_matching, with_scales
from stablenet.equivalence.provenance import by_provenance
from stablenet.equivalence.specification import Violation
from stablenet.equivalence.stable_neurons import FINDING_SHARE, MOST_FINDING
from stablenet.falsify.falsifier import random_points
from stablenet.report.evidence import Evidence, witnesses_of
from stablenet.report.report import network_to_json
from stablenet.report.words import folded_words

Verdict = Literal["holds", "violated", "undecided"]

STEPS = ("bounds", "gradient", "split", "stable")
"""What is tried, in this order, points being sampled first: see `decide`."""

MOST_BOXES = 100_000
"""Boxes that are bounded where no time limit is given."""

SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Case:
    """A part of the domain and what would violate the property there."""

    part: Part
    violation: Violation


@dataclass(frozen=True, eq=False)
class Decision:
    """The answer. ``words`` say what was asked, ``by`` the step that decided; proofs are rigorous.

    ``witness`` violates the property in exact arithmetic. ``boxes`` counts boxes that were bounded, ``left`` those of
    them that are not decided (of the parts, where nothing was cut). ``function`` is "folded" where an import rounded:
    then all this speaks of the networks as folded, not of the files' real functions.
    """

    verdict: Verdict
    words: str
    by: str
    witness: Witness | None = None
    boxes: int = 0
    left: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    function: str = "file"

    def to_json(self) -> dict[str, Any]:
        """Plain values; outputs are rounded to float64."""
        found = self.witness
        return {
            "outcome": self.verdict,
            "property": self.words,
            "rigorous": self.verdict != "undecided",
            "by": self.by,
            "boxes": self.boxes,
            "boxes_left": self.left,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "function": self.function,
            "counterexample": None
            if found is None
            else {
                "input": found.point.tolist(),
                "output_a": [float(v) for v in found.a],
                "output_b": [float(v) for v in found.b],
            },
        }


def decide(
    a: Network,
    b: Network,
    cases: Sequence[Case],
    *,
    words: str | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    steps: Sequence[str] = STEPS,
) -> Decision:
    """Whether what the cases say is violated nowhere on their parts.

    Networks that can be laid side by side are bounded by their differences (`stablenet.equivalence.difference`).
    ``steps`` are those of `STEPS` that are taken: bounds on each whole part, gradient steps for a violation, splitting,
    and bounds with the phases of A's neurons that a search finds stable on rigorous evidence.
    Raises `InputError` where networks, parts and properties do not fit.
    """
    if (a.n_inputs, a.n_outputs) != (b.n_inputs, b.n_outputs):
        raise NetworkError(
            f"the first network has {a.n_inputs} inputs and {a.n_outputs} outputs, the second "
            f"{b.n_inputs} and {b.n_outputs}; networks of the same shapes are expected"
        )
    for case in cases:
        if (case.part.n_inputs, case.violation.n_inputs, case.violation.n_outputs) != (
            a.n_inputs,
            a.n_inputs,
            a.n_outputs,
        ):
            raise DomainError(f"the domain has {case.part.n_inputs} inputs, the networks {a.n_inputs}")
    for name in steps:
        if name not in STEPS:
            raise UnknownNameError("step", name, STEPS)
    words = words or cases[0].violation.words
    deadline, seconds = Deadline(time_limit), dict[str, float]()
    work = _Decider((a, b), cases, deadline, seed)
    order = {"samples": work.samples, "bounds": work.whole, "gradient": work.gradient, "split": work.split}
    order["stable"] = work.stable
    by = "no step"
    for name, step in order.items():
        if name != "samples" and name not in steps:
            continue
        began = time.monotonic()
        step()
        seconds[name] = round(time.monotonic() - began, 4)
        if work.witness is not None or not work.open():
            by = name
            break
        if deadline.over:
            by = "time limit"
            break
    verdict: Verdict = "violated" if work.witness is not None else "undecided" if work.open() else "holds"
    left = 0 if verdict == "holds" else work.left or len(work.open())
    function = "file" if a.exact and b.exact else "folded"
    folded = dict.fromkeys(folded_words(network_to_json(one)) for one in (a, b) if not one.exact)
    notes = (*folded, *work.notes)
    return Decision(verdict, words, by, work.witness, work.boxes, left, seconds, notes, function)


class _Decider:
    """The work on one question."""

    def __init__(self, networks: tuple[Network, Network], cases: Sequence[Case], deadline: Deadline, seed: int) -> None:
        self.networks, self.cases, self.deadline, self.seed = networks, cases, deadline, seed
        self.boxes, self.left = 0, 0
        self.notes: list[str] = []
        rng = np.random.default_rng(seed)
        points = np.concatenate([random_points(case.part, 16, rng) for case in cases[:8]])
        pairing = by_provenance(*networks) or by_matching(*networks, points)
        pairing = with_scales(pairing, *networks, points)
        made: dict[int, FormBounds] = {}
        for case in cases:
            if id(case.violation) not in made:
                made[id(case.violation)] = FormBounds(*networks, pairing, case.violation)
        self.bounds = [made[id(case.violation)] for case in cases]
        self.hunters = [
            Hunter(networks, case.violation, bounds.forms, case.part, seed)
            for case, bounds in zip(cases, self.bounds, strict=True)
        ]
        self.refuted = [np.zeros((1, bounds.n_conjunctions), dtype=bool) for bounds in self.bounds]

    @property
    def witness(self) -> Witness | None:
        """An input that violates the property, if one was found."""
        return next((hunter.found for hunter in self.hunters if hunter.found is not None), None)

    def stop(self) -> bool:
        """Whether there is nothing more to do: an input was found, or time is over."""
        return self.deadline.over or self.witness is not None

    def open(self) -> list[int]:
        """Numbers of the cases that are not excluded."""
        return [number for number, refuted in enumerate(self.refuted) if not refuted.all()]

    def samples(self) -> None:
        """Random points and vertices of every part."""
        for hunter in self.hunters:
            hunter.sample(max(SAMPLES // len(self.hunters), 8))
            if self.stop():
                return

    def stable(self) -> None:
        """Bounds over whole parts, with the phases of A's neurons that are stable on the whole domain."""
        a = self.networks[0]
        if not a.n_neurons:
            return
        parts = [case.part for case in self.cases]
        domain = parts[0] if len(parts) == 1 else Union(parts)
        left = self.deadline.left
        budget = MOST_FINDING if left is None else max(FINDING_SHARE * left, 0.1)
        try:
            report = find_stable(a, domain, threads=1, seed=self.seed, time_limit=budget)
        except (ContradictionError, SolverError) as error:
            self.notes.append(f"stable: nothing of that search is used: {error}")
            return
        if report.data["stopped_by"] == "interrupt":  # it ends this too
            raise KeyboardInterrupt
        for hunter in self.hunters:
            hunter.offer(witnesses_of(report, a))
        if not self.stop():
            self.whole(Evidence.of(report, a, domain).only_rigorous().trusted())

    def whole(self, trusted: Sides | None = None) -> None:
        """Bounds over each whole part; ``trusted`` are proven bounds of A's pre-activations."""
        for number in self.open():
            part = self.cases[number].part
            self.refuted[number], _ = self.bounds[number].refute(
                part.lower[None], part.upper[None], self.refuted[number], trusted
            )
            self.boxes += 1
            if self.stop():
                return

    def gradient(self) -> None:
        """Gradient steps on the parts that are open."""
        for number in self.open():
            self.hunters[number].climb(self.stop)
            if self.stop():
                return

    def split(self) -> None:
        """Cut parts that are open into boxes until each box is excluded, or it does not pay."""
        for number in self.open():
            part = self.cases[number].part
            free = np.count_nonzero(part.upper > part.lower)
            if free > SPLIT_INPUTS:
                self.notes.append(f"split: {free} inputs of positive width; up to {SPLIT_INPUTS} are cut")
                continue
            left = self._cut(number)
            self.left += left
            if not left:
                self.refuted[number][:] = True
            if self.stop():
                return

    def _cut(self, number: int) -> int:
        """How many boxes of a part are left undecided."""
        part, bounds, hunter = self.cases[number].part, self.bounds[number], self.hunters[number]
        low, high, refuted = part.lower[None], part.upper[None], self.refuted[number]
        batch = bounds.batch
        while len(low):
            chosen = slice(0, batch)
            found, gain = bounds.refute(low[chosen], high[chosen], refuted[chosen])
            self.boxes += len(found)
            open_ = ~(found.all(axis=1) | outside(low[chosen], high[chosen], part.a, part.b))
            hunter.offer(middle(low[chosen][open_], high[chosen][open_]))
            rest = int(np.count_nonzero(open_)) + max(len(low) - batch, 0)
            if self.stop() or (self.deadline.end is None and self.boxes > MOST_BOXES):
                return rest
            if not open_.any():
                low, high, refuted = low[batch:], high[batch:], refuted[batch:]
                continue
            first, last = low[chosen][open_], high[chosen][open_]
            cut = guided(first, last, gain[open_])
            if (cut < 0).any():
                return rest
            # Depth first: what is cut comes before what waits, so that the list stays short.
            left, right = halves(first, last, cut)
            low, high = np.concatenate([first, right, low[batch:]]), np.concatenate([left, last, high[batch:]])
            refuted = np.concatenate([found[open_], found[open_], refuted[batch:]])
        return 0
