"""Proving anew, without a solver, what a solver refuted.

A solver works with tolerances and is sometimes wrong, so its refutations are claims. Here each claim becomes a
question of a second ledger that holds only rigorous results, and the steps of `RigorousPart` work on it: boxes where
inputs are few, and trees over phases whose leaves are closed by rigorous linear bounds. What is refuted there is
`rigorous` in the ledger of the run, with a certificate. Points at which leaves' bounds are attained are tried as
witnesses, so a false refutation ends as a witness and a contradiction. A leaf that descent does not close gets its
choices from a linear program (`stablenet.search.leaf_programs`); its solver need not be correct. Claims for which time
does not suffice stay claims.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stablenet.backends.base import Backend, Capability
from stablenet.backends.base import registry as backends
from stablenet.bounds import Context
from stablenet.bounds import run as run_bounds
from stablenet.core.arrays import Mask
from stablenet.core.bounds import Bounds
from stablenet.core.certificates import CERTIFIER, Certificate
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.events import Event, decode_array
from stablenet.core.ledger import Ledger
from stablenet.core.questions import SIDES, State
from stablenet.falsify.falsifier import Falsifier
from stablenet.search.base import Problem
from stablenet.search.branch import Brancher
from stablenet.search.rigorous import RigorousPart
from stablenet.search.split import Splitter

LEAST_SECONDS = 2.0
"""The least time for certifying, in seconds, where the solver took less."""

FIRST_NODES = 16
"""Nodes that branching may use for a claim at first."""

LAST_NODES = 524_288
"""Nodes that branching may use for a claim before boxes are tried without a limit."""


def claims_of(ledger: Ledger) -> Mask:
    """Refutations that are not rigorous, (n_parts, 2, n), of questions that are refuted on every part."""
    return np.asarray((ledger.states == State.REFUTED) & ~ledger.part_rigorous)


class _Claims(Ledger):
    """A ledger in which only some claims, (n_parts, 2, n), are pending."""

    asked: Mask

    def pending(self, part: int | None = None) -> Mask:
        """See `Ledger`; a verdict that a neuron has otherwise does not matter."""
        open_ = self.asked & (self.part_by < 0) & (self.witness < 0)
        return np.asarray(open_.any(axis=0) if part is None else open_[part])


class Certifier:
    """Proves the claims of a problem's ledger within so many seconds, and within its deadline."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        self.given = problem
        self.ledger = problem.ledger
        left = problem.deadline.left
        self.deadline = Deadline(seconds if left is None else min(seconds, left))
        self.claims = self._claims()
        self.last = time.monotonic()

    def _claims(self) -> _Claims:
        """A ledger with all that is rigorous in the run's, and its claims as open questions."""
        ledger = self.ledger
        claims = _Claims(ledger.sizes, ledger.n_parts)
        claims.asked = claims_of(ledger)
        for part in range(ledger.n_parts):
            for side in SIDES:
                codes = np.where(ledger.part_rigorous[part, side], ledger.part_by[part, side], -1)
                for code in np.unique(codes[codes >= 0]):
                    claims.refute(part, side, np.flatnonzero(codes == code), ledger.sources[code], rigorous=True)
        return claims

    def run(self) -> None:
        """Work on the claims, part by part, until all are proven or time is over."""
        if not self.claims.n_pending or self.deadline.over:
            return
        self.claims.emit = self._hear
        problem = self._problem()
        problem.falsifier.run()
        for part in range(self.claims.n_parts):
            self._part(problem, part)

    def _problem(self) -> Problem:
        """The problem of the claims."""
        given, claims = self.given, self.claims
        rng = np.random.default_rng([given.options.seed, 1])  # other points than those that the run has tried
        self.problem = Problem(
            network=given.network,
            domain=given.domain,
            ledger=claims,
            found=[self._bounds(part) for part in range(claims.n_parts)],
            formulation=given.formulation,
            backend=given.backend,
            options=replace(given.options, decide_by_bounds=True, tighten=True),
            falsifier=Falsifier(
                *(given.network, given.domain, claims, rng, lambda: self.deadline.over),
                sharpen=given.falsifier.witnesser.sharpen,
            ),
            rng=rng,
            deadline=self.deadline,
            proof=given.proof,
            leaf_solver=_solver_of_duals(given.backend),
            failures=given.failures,
        )
        return self.problem

    def _bounds(self, part: int) -> Bounds:
        """Rigorous bounds of a part: the best of the run's, or `crown`."""
        known = self.given.bounds.rigorous(part)
        if known is not None:
            return known
        context = Context(proof=self.given.proof_of(part))
        return run_bounds("crown", self.given.network, self.given.domain.parts[part], context)

    def _part(self, problem: Problem, part: int) -> None:
        self.claims.refute_by_bounds(part, problem.bounds[part])
        steps = RigorousPart(problem, part)
        try:
            # First a few nodes for each claim: they close easy ones in little time, whatever the number of inputs.
            Brancher(problem, part).run(FIRST_NODES)
            if steps.pending.any():
                steps.run()
                Brancher(problem, part).run(LAST_NODES)
            if steps.few_inputs:
                Splitter(problem, part).run()
        except SearchStoppedError:
            return

    def _hear(self, event: Event) -> None:
        """Copy proofs, and witnesses that disprove a claim, from the second ledger."""
        if event["event"] == "refute":
            self._prove(event)
        elif event["event"] == "solver_failure":
            self.given.ledger.log.add_solver_failure(event["row"])
        elif event["event"] == "witness":
            self.given.falsifier.witnesser.offer(decode_array(event["point"])[None, :], CERTIFIER)

    def _prove(self, event: Mapping[str, Any]) -> None:
        """Enter certificates; the time since the last ones is divided evenly among them."""
        part, side = event["part"], event["side"]
        neurons = np.array(event["neurons"], np.intp)[np.array(event["rigorous"], bool)]
        neurons = neurons[self.claims.asked[part, side, neurons]]
        if not len(neurons):
            return
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        leaves = np.maximum(1, self.problem.leaves[side, neurons])
        found = Certificate(leaves, np.full(len(neurons), seconds / len(neurons)))
        self.ledger.refute(part, SIDES[side], neurons, CERTIFIER, rigorous=True, certificate=found)


def _solver_of_duals(preferred: Backend) -> Backend | None:
    """A solver that gives dual solutions, which may be wrong: the preferred one or HiGHS; None if neither can."""
    for backend in (preferred, backends.get("highs")):
        if backend.supports(Capability.DUALS) and backend.available().installed:
            return backend
    return None


def certify(problem: Problem, seconds: float) -> None:
    """Prove the refutations of the problem's ledger that are not rigorous, for at most ``seconds``.

    What is proven becomes rigorous in the ledger; an input that shows what was refuted is a contradiction there.
    """
    Certifier(problem, seconds).run()
