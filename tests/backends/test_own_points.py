"""What feasible points of ours disprove, and what a session does then; without a solver."""

from dataclasses import replace

import numpy as np
import pytest
from stablenet.backends.base import Backend, Capability, Limits, Session, SolveResult, Status
from stablenet.backends.own_points import CheckedSession, SolverFailedError, best_value, disproof

from stablenet.core.errors import SolverError
from stablenet.testing import models

MILP = models.model([[1, 1]], (-np.inf, 3), (0, 2), [1, 1], integer=True, constant=10.0, maximize=True)
BEST = np.array([1.0, 2.0])


def answer(status=Status.OPTIMAL, x=BEST, objective=13.0, bound=13.0):
    return SolveResult(status, "words", objective, None if x is None else np.asarray(x, float), bound, 0.0)


def nothing(status, bound=np.inf):
    return answer(status, None, None, bound)


def judged(result, ours, *, milp=MILP, slack=1e-6, cutoff=None):
    return disproof("Fake", milp, result, ours, slack=slack, cutoff=cutoff)


def test_the_best_solution_counts_and_what_is_none_does_not():
    points = np.array([[2.0, 2.0], [0.5, 2.0], [1.0, 1.0], [1.0, 2.0], [0.0, np.nan]])
    assert best_value(MILP, points) == 13.0
    assert best_value(MILP, points[:2]) is None
    assert best_value(MILP, np.zeros((0, 2))) is None
    assert best_value(replace(MILP, maximize=False), points) == 12.0


def test_points_follow_columns_that_were_fixed():
    fixed = replace(MILP, upper=np.array([2.0, 0.0]))
    assert best_value(fixed, BEST[None, :]) == 11.0


def test_violations_of_many_points_are_those_of_each():
    rng = np.random.default_rng(1)
    points = rng.uniform(-1, 3, (20, 2))
    assert MILP.violations(points).tolist() == [MILP.violation(x) for x in points]
    assert MILP.violation(np.array([np.inf, 0.0])) == np.inf


@pytest.mark.parametrize("ours", [None, 12.0, 13.0, 13.0 + 1e-7])
def test_honest_answers_stand(ours):
    assert judged(answer(), ours) is None
    assert judged(nothing(Status.DUAL_STOP, 13.0), ours) is None
    assert judged(nothing(Status.TIME), ours) is None


@pytest.mark.parametrize(
    ("result", "ours", "words"),
    [
        (nothing(Status.INFEASIBLE), 11.0, "is a solution"),
        (nothing(Status.UNBOUNDED), None, "columns are bounded"),
        (nothing(Status.DUAL_STOP, 12.5), 13.0, "a feasible point has value 13"),
        (nothing(Status.TIME, 12.5), 13.0, "a feasible point has value 13"),
        (nothing(Status.DUAL_STOP, -np.inf), 10.0, "a feasible point"),
        (nothing(Status.TIME, np.nan), 10.0, "not a number"),
        (answer(x=[1, 1], objective=12.0, bound=12.0), 13.0, "a feasible point has value 13"),
        (answer(x=[2, 2], objective=14.0, bound=14.0), None, "point"),
        (answer(objective=12.0), None, "states the value 12"),
        (answer(bound=12.0), None, "beside its own point"),
        (answer(x=[1.0]), None, "point"),
    ],
)
def test_what_is_disproved(result, ours, words):
    found = judged(result, ours)
    assert found is not None
    assert words in found.sentence
    assert found.status == "words"
    assert found.to_json("network")["by"] == "network"


def test_senses_mirror_each_other():
    small = replace(MILP, maximize=False)
    assert judged(nothing(Status.DUAL_STOP, 10.5), 10.0, milp=small) is not None
    assert judged(nothing(Status.DUAL_STOP, 10.0), 10.5, milp=small) is None


def test_infeasible_beyond_a_cutoff_is_disproved_by_what_is_beyond_it():
    assert judged(nothing(Status.INFEASIBLE), 12.0, cutoff=12.5) is None
    assert judged(nothing(Status.INFEASIBLE), 13.0, cutoff=12.5) is not None


class Told(Session):
    """Gives the answers of a list, one a solve; errors are raised."""

    def __init__(self, answers, milp, settings):
        self.answers, self.milp, self.settings = answers, milp, settings

    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        said = self.answers.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said

    def relax(self, limits):
        raise SolverError("no relaxation")

    def change_bounds(self, columns, lower, upper):
        pass

    def change_objective(self, objective, constant=0.0, *, maximize=None):
        pass

    def add_rows(self, rows):
        pass


class Teller(Backend):
    name, title, capabilities = "teller", "Teller", frozenset(Capability)

    def __init__(self, *answers):
        self.answers, self.opened = list(answers), []

    def available(self):
        raise NotImplementedError

    def open(self, milp, settings=None):
        self.opened.append(Told(self.answers, milp, settings))
        return self.opened[-1]


def checked(backend, failures):
    from stablenet.backends.base import Settings

    return CheckedSession(
        backend, MILP, Settings(), own=lambda milp: best_value(milp, BEST[None, :]), failed=failures.append
    )


def test_a_second_attempt_is_made_with_safer_settings_and_the_model_as_it_stands():
    lie = nothing(Status.DUAL_STOP, 10.5)
    backend, failures = Teller(lie, nothing(Status.DUAL_STOP, 11.0), nothing(Status.DUAL_STOP, 11.5)), []
    with checked(backend, failures) as session:
        session.change_bounds(np.array([1]), np.array([0.0]), np.array([0.0]))
        assert session.solve(Limits()).dual_bound == 11.0
        assert session.solve(Limits()).dual_bound == 11.5
    assert [failure.ours for failure in failures] == [11.0]
    first, second, third = backend.opened
    assert second.milp.upper.tolist() == [2.0, 0.0]
    assert (second.settings.presolve, second.settings.feasibility) == (False, 1e-6)
    assert third.settings == first.settings


def test_a_solver_that_fails_twice_gives_no_answer_and_may_be_asked_again():
    backend, failures = Teller(SolverError("boom"), nothing(Status.INFEASIBLE), answer()), []
    with checked(backend, failures) as session:
        with pytest.raises(SolverFailedError) as caught:
            session.solve(Limits())
        assert caught.value.failure.ours == 13.0
        assert session.solve(Limits()).objective == 13.0
    assert [failure.sentence for failure in failures] == ["boom"]


def test_other_errors_are_raised_at_once():
    backend = Teller(KeyboardInterrupt(), answer())
    with checked(backend, []) as session, pytest.raises(KeyboardInterrupt):
        session.solve(Limits())
