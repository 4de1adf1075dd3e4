"""The conformance suite of searches: this package's pass it, and broken ones of each kind do not."""

from __future__ import annotations

import time

import numpy as np
import pytest

from stablenet.core.questions import NEGATIVE, POSITIVE
from stablenet.search.base import Search, registry
from stablenet.search.neuron import NeuronSearch
from stablenet.testing import searches as suite
from stablenet.testing.suite import ConformanceError

SIDES = (POSITIVE, NEGATIVE)


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("search", ["off", "neuron", "network", "branch"])
def test_the_searches_that_come_along_pass(search: str, check) -> None:
    check(search)


@pytest.mark.long
@pytest.mark.parametrize("search", ["auto", "layer", "split"])
def test_the_others_pass(search: str) -> None:
    suite.run_all(search)


def test_closed_tells_a_search_from_none() -> None:
    assert suite.closed("off") == 0.0
    assert suite.closed("network", suite.tasks()[:3]) > 0.9
    assert {"off", "neuron", "network", "branch", "auto", "layer", "split"} == set(registry.names())


class Broken(Search):
    title = "broken on purpose"
    paper = "-"
    needs_solver = False


class All(Broken):
    """Refutes whatever is left: what a solver's silence after a time limit was once taken for."""

    name = "all"

    def run(self, problem):
        for part in range(len(problem.domain.parts)):
            for side in SIDES:
                found = np.flatnonzero(problem.ledger.pending(part)[side])
                problem.ledger.refute(part, side, found, self.name, rigorous=False)


class Sampler(Broken):
    """Refutes what no sample shows."""

    name = "sampler"

    def run(self, problem):
        rng = np.random.default_rng(0)
        for k, part in enumerate(problem.domain.parts):
            points = rng.uniform(part.lower, part.upper, size=(2000, part.n_inputs))
            pre = np.concatenate(problem.network.pre_activations(points[part.holds(points)]), axis=1)
            for side, unseen in ((POSITIVE, (pre <= 0).all(axis=0)), (NEGATIVE, (pre >= 0).all(axis=0))):
                found = np.flatnonzero(unseen & problem.ledger.pending(k)[side])
                problem.ledger.refute(k, side, found, self.name, rigorous=False)


class FirstPart(Broken):
    """Refutes on all parts what is refuted on the first."""

    name = "first-part"

    def run(self, problem):
        for side in SIDES:
            found = np.flatnonzero(problem.ledger.part_by[0, side] >= 0)
            for part in range(1, len(problem.domain.parts)):
                problem.ledger.refute(part, side, found, self.name, rigorous=True)


class Forger(Broken):
    """Enters points as witnesses that it has not looked at."""

    name = "forger"

    def run(self, problem):
        corner = problem.domain.parts[0].lower
        pending = problem.ledger.pending()
        closes = np.flatnonzero(pending[POSITIVE]), np.flatnonzero(pending[NEGATIVE])
        problem.ledger.add_witness(corner, closes, self.name, parts=[0])


class Deaf(Broken):
    """Does not look at the clock."""

    name = "deaf"

    def run(self, problem):
        time.sleep(3.0)


class Endless(Broken):
    """Waits for every question to be closed."""

    name = "endless"

    def run(self, problem):
        while problem.ledger.n_pending:
            problem.deadline.check()
            time.sleep(0.01)


class Believer(Broken):
    """Calls rigorous what a solver says."""

    name = "believer"

    def run(self, problem):
        refute = problem.ledger.refute
        problem.ledger.refute = lambda *given, **named: refute(*given, **{**named, "rigorous": True})
        NeuronSearch().run(problem)


class Fickle(Broken):
    name = "fickle"
    calls = 0

    def run(self, problem):
        self.calls += 1
        if self.calls % 2:
            NeuronSearch().run(problem)


FAULTS = {
    All: ("true_refutations", "and it gets to"),
    Sampler: ("true_refutations", "near one point only.* and it gets to"),
    FirstPart: ("parts_by_question", "is unstable"),
    Forger: ("true_witnesses", "or is outside"),
    Deaf: ("no_time", "with a deadline of 0.05 s"),
    Endless: ("it_ends", "just touch 0"),
    Believer: ("solvers_are_not_rigorous", "and it gets to"),
    Fickle: ("repeatable", "other verdicts"),
}


@pytest.mark.parametrize("broken", FAULTS, ids=lambda cls: cls.name)
def test_a_broken_search_is_found_by_the_check_for_it(broken: type[Search], monkeypatch) -> None:
    monkeypatch.setattr(suite, "slowness", lambda: 1.0)
    if broken is Endless:
        monkeypatch.setattr(suite, "SECONDS", 1.0)
    name, words = FAULTS[broken]
    check = getattr(suite, name)
    assert check in suite.CHECKS
    with pytest.raises(ConformanceError, match=words):
        check(broken())
