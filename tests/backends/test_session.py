"""What no solver's word can get past, shown without a solver."""

import threading
import time

import numpy as np
import pytest
from stablenet.backends.base import Callbacks, Limits, Status
from stablenet.backends.request import Request
from stablenet.backends.session import Answer, conclude, trivial_answer
from stablenet.backends.thread import SolverThread, Stopped

from stablenet.core.errors import SolverError
from stablenet.testing import models
from stablenet.testing.suite import slowness

MILP = models.model([[1, 1]], (-np.inf, 3), (0, 2), [1, 1], integer=True, constant=10.0, maximize=True)
BEST = np.array([1.0, 2.0])


def judged(status, x=None, bound=np.nan, *, milp=MILP, target=None, dual_stop=None):
    request = Request(Limits(), target, dual_stop, None, Callbacks())
    return conclude("Fake", milp, request, Answer(status, "words", x, bound), 1.0)


def test_honest_answers_pass():
    result = judged(Status.OPTIMAL, BEST, 13.0)
    assert (result.objective, result.dual_bound) == (13.0, 13.0)
    result = judged(Status.TIME, np.zeros(2), 14.0)
    assert (result.objective, result.dual_bound) == (10.0, 14.0)
    assert judged(Status.TARGET, BEST, target=13.0).dual_bound == np.inf
    assert judged(Status.DUAL_STOP, None, 12.5, dual_stop=12.5).dual_bound == 12.5


@pytest.mark.parametrize("status", [Status.OPTIMAL, Status.TARGET])
def test_success_without_a_solution(status):
    with pytest.raises(SolverError, match="no solution"):
        judged(status, None, 13.0)


@pytest.mark.parametrize("x", [[1.0, 2.1], [2.0, 2.0], [0.5, 0.5], [np.nan, 0.0], [1.0], [-1.0, 0.0]])
def test_points_that_are_no_solutions(x):
    with pytest.raises(SolverError, match="point"):
        judged(Status.TIME, np.array(x), 14.0)


def test_bound_that_excludes_the_solution():
    with pytest.raises(SolverError, match="excludes"):
        judged(Status.TIME, BEST, 12.9)


def test_optimal_with_a_gap_or_without_a_bound():
    for bound in (13.1, np.nan, np.inf):
        with pytest.raises(SolverError, match="with value 13 and dual bound"):
            judged(Status.OPTIMAL, BEST, bound)


def test_target_missed():
    with pytest.raises(SolverError, match="target"):
        judged(Status.TARGET, np.zeros(2), 14.0, target=13.0)


def test_dual_stop_missed():
    for bound in (12.6, np.nan):
        with pytest.raises(SolverError, match="short of"):
            judged(Status.DUAL_STOP, None, bound, dual_stop=12.5)


def test_rounding_is_taken_to_the_safe_side():
    # A bound a hair below the solution's value is raised to it.
    assert judged(Status.OPTIMAL, BEST, 13.0 - 1e-9).dual_bound == 13.0


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.UNBOUNDED])
def test_infeasible_and_unbounded_prove_no_bound(status):
    result = judged(status, BEST, -5.0)
    assert (result.x, result.objective, result.dual_bound) == (None, None, np.inf)
    least = models.model([[1, 1]], (1, np.inf), (0, 2), [1, 1])
    assert judged(status, None, 5.0, milp=least).dual_bound == -np.inf


def test_sides_are_those_of_a_minimisation():
    least = models.model([[1, 1]], (1, np.inf), (0, 2), [1, 1], integer=True)
    assert judged(Status.TIME, np.array([1.0, 0.0]), 0.5, milp=least).dual_bound == 0.5
    with pytest.raises(SolverError, match="excludes"):
        judged(Status.TIME, np.array([1.0, 0.0]), 1.5, milp=least)
    with pytest.raises(SolverError, match="short of"):
        judged(Status.DUAL_STOP, None, 0.5, milp=least, dual_stop=0.6)


def test_what_needs_no_solver():
    assert trivial_answer(MILP) is None
    for known in models.infeasible():
        answer = trivial_answer(known.milp)
        assert answer is None or answer.status is Status.INFEASIBLE
    assert sum(trivial_answer(known.milp) is not None for known in models.infeasible()) == 3


def test_callbacks_run_on_the_asking_thread_and_work_does_not():
    seen = []
    thread = SolverThread(lambda: None)

    def work():
        seen.append(threading.get_ident())
        return thread.call(lambda a, b: seen.append(threading.get_ident()) or a + b, 2, 3)

    assert thread.run(work) == 5
    assert seen[1] == threading.get_ident() != seen[0]


def test_exception_of_a_callback_stops_the_solver_and_comes_out():
    stop = threading.Event()
    thread = SolverThread(stop.set)

    def work():
        with pytest.raises(Stopped):
            thread.call(lambda: 1 / 0)
        assert stop.wait(5)
        return "finished"

    with pytest.raises(ZeroDivisionError):
        thread.run(work)


def test_exception_of_the_solver_comes_out():
    def work():
        raise SolverError("boom")

    with pytest.raises(SolverError, match="boom"):
        SolverThread(lambda: None).run(work)


def test_solver_that_overruns_is_told_to_stop():
    stop = threading.Event()
    thread = SolverThread(stop.set)
    began = time.monotonic()
    assert thread.run(lambda: stop.wait(600), time_limit=0.0)
    assert thread.overran
    assert time.monotonic() - began < 10 * slowness()


def test_interrupt_in_a_callback_abandons_a_deaf_solver():
    done = threading.Event()
    thread = SolverThread(lambda: None)

    def interrupted():
        raise KeyboardInterrupt

    def work():
        with pytest.raises(Stopped):
            thread.call(interrupted)
        with pytest.raises(Stopped):
            # Nobody listens any more.
            thread.call(lambda: None)
        done.wait(600)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        thread.run(work)
    assert thread.abandoned
    assert time.monotonic() - began < 10 * slowness()
    done.set()
