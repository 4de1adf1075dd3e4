"""The suite catches backends that lie, each by the case that is meant to."""

from dataclasses import replace

import numpy as np
import pytest
from stablenet.backends.base import Backend, Session, Status, registry

from stablenet.core.errors import SolverError
from stablenet.testing.backend_stops import SLACK
from stablenet.testing.backends import backend_cases, check_backend
from stablenet.testing.suite import ConformanceError, slowness

CASES = {case.name: case for case in backend_cases()}


class Liar(Session):
    """HiGHS, but for what a subclass tells otherwise."""

    def __init__(self, milp, settings):
        self.milp = milp
        self.true = registry.get("highs").open(milp, settings)

    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        return self.tell(self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks))

    def tell(self, result):
        return result

    def relax(self, limits):
        return self.true.relax(limits)

    def change_bounds(self, columns, lower, upper):
        self.true.change_bounds(columns, lower, upper)

    def change_objective(self, objective, constant=0.0, *, maximize=None):
        self.true.change_objective(objective, constant, maximize=maximize)

    def add_rows(self, rows):
        self.true.add_rows(rows)

    def close(self):
        self.true.close()


class WrongOptimum(Liar):
    def tell(self, result):
        if result.objective is None:
            return result
        return replace(result, objective=result.objective + 1, dual_bound=result.dual_bound + 1)


class PoorPoint(Liar):
    """Optimal at the origin."""

    def tell(self, result):
        if result.status is not Status.OPTIMAL:
            return result
        x = np.zeros_like(result.x)
        return replace(result, x=x, objective=self.milp.value(x), dual_bound=self.milp.value(x))


class OptimalAtTheLimit(Liar):
    def tell(self, result):
        if result.status is not Status.TIME:
            return result
        x = np.zeros(self.milp.n_columns) if result.x is None else result.x
        return replace(result, status=Status.OPTIMAL, x=x, objective=self.milp.value(x), dual_bound=self.milp.value(x))


class InvalidBound(Liar):
    """The incumbent's value as bound, as if nothing better could exist."""

    def tell(self, result):
        if result.status in {Status.OPTIMAL, Status.INFEASIBLE, Status.UNBOUNDED}:
            return result
        sign = 1 if self.milp.maximize else -1
        return replace(result, x=None, objective=None, dual_bound=-1e9 * sign)


class NoBoundAtAll(Liar):
    """Stops at the dual stop without a bound to show for it."""

    def tell(self, result):
        return replace(result, dual_bound=np.inf if self.milp.maximize else -np.inf)


class InfeasibleForUnbounded(Liar):
    def tell(self, result):
        return replace(result, status=Status.INFEASIBLE) if result.status is Status.UNBOUNDED else result


class BoundIgnored(Liar):
    def change_bounds(self, columns, lower, upper):
        pass


class ObjectiveIgnored(Liar):
    def change_objective(self, objective, constant=0.0, *, maximize=None):
        pass


class RowsIgnored(Liar):
    def add_rows(self, rows):
        pass


class StartIgnored(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        result = self.true.solve(limits, target=target, dual_stop=dual_stop, callbacks=callbacks)
        return replace(result, x=None, objective=None) if result.status is Status.TIME else result


class StartTaken(Liar):
    """Returns a bad start as the optimum."""

    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        result = self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)
        if start is None or result.status is not Status.OPTIMAL:
            return result
        value = self.milp.value(start)
        return replace(result, x=start, objective=value, dual_bound=value)


class LimitIgnored(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        longer = None if limits.time is None else limits.time + 2 * SLACK * slowness()
        limits = replace(limits, time=longer)
        return self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)


class NodesIgnored(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        limits = replace(limits, nodes=None, time=1.0)
        return self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)


class TargetIgnored(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        limits = replace(limits, time=1.0)
        result = self.true.solve(limits, dual_stop=dual_stop, start=start, callbacks=callbacks)
        return result if target is None else replace(result, status=Status.TARGET, x=None, objective=None)


class ExceptionSwallowed(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        try:
            return self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)
        except Exception:
            return registry.get("highs").open(self.milp).solve(replace(limits, time=0.1))


class InterruptSwallowed(Liar):
    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        try:
            return self.true.solve(limits, target=target, dual_stop=dual_stop, start=start, callbacks=callbacks)
        except KeyboardInterrupt:
            return registry.get("highs").open(self.milp).solve(replace(limits, time=0.1))


class StopsIgnored(Liar):
    """Takes no heed of what callbacks return."""

    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        result = self.true.solve(replace(limits, time=0.3))
        return replace(result, status=Status.TIME)


class Chatty(Liar):
    def tell(self, result):
        print("Solved!")
        return result


class WrongDuals(Liar):
    def relax(self, limits):
        answer = self.true.relax(limits)
        return replace(answer, row_duals=-answer.row_duals)


class SeedCounts(Liar):
    """Node counts that never repeat."""

    count = 0

    def tell(self, result):
        SeedCounts.count += 1
        return replace(result, nodes=SeedCounts.count)


class DropsTiny(Liar):
    """Deletes what is small, and says nothing."""

    def __init__(self, milp, settings):
        matrix = milp.rows.matrix.copy()
        matrix.data[np.abs(matrix.data) <= 1e-9] = 0.0
        matrix.eliminate_zeros()
        super().__init__(replace(milp, rows=replace(milp.rows, matrix=matrix)), settings)


class TakesAnything(Liar):
    """Loads SOS1 sets and indicators by leaving them out."""

    def __init__(self, milp, settings):
        super().__init__(replace(milp, sos1=(), indicators=None), settings)


class CallsIgnored(Liar):
    """Takes what is not declared by leaving it out."""

    def solve(self, limits, *, target=None, dual_stop=None, start=None, callbacks=None):
        return self.true.solve(replace(limits, memory=None))


LIARS = [
    (WrongOptimum, "feasible"),
    (PoorPoint, "feasible"),
    (OptimalAtTheLimit, "time_limit"),
    (InvalidBound, "time_limit"),
    (InvalidBound, "node_limit"),
    (InvalidBound, "dual_stop"),
    (NoBoundAtAll, "dual_stop"),
    (NoBoundAtAll, "feasible"),
    (InfeasibleForUnbounded, "unbounded"),
    (BoundIgnored, "changed_bounds"),
    (ObjectiveIgnored, "changed_objective"),
    (RowsIgnored, "added_rows"),
    (StartIgnored, "start"),
    (StartTaken, "bad_start"),
    (LimitIgnored, "time_limit"),
    (NodesIgnored, "node_limit"),
    (TargetIgnored, "target"),
    (ExceptionSwallowed, "exceptions"),
    (InterruptSwallowed, "interrupt"),
    (StopsIgnored, "stop_by_incumbent"),
    (StopsIgnored, "incumbents"),
    (StopsIgnored, "proposals"),
    (Chatty, "silence"),
    (WrongDuals, "relaxation"),
    (SeedCounts, "seeds"),
    (DropsTiny, "tiny_coefficients"),
    (TakesAnything, "undeclared"),
    (CallsIgnored, "undeclared_calls"),
]


def lying(session):
    class Lying(Backend):
        name = "lying"
        title = "Lying"
        capabilities = registry.get("highs").capabilities

        def available(self):
            return registry.get("highs").available()

        def open(self, milp, settings=None):
            from stablenet.backends.base import Settings

            return session(milp, settings or Settings())

    return Lying()


@pytest.mark.backend("highs")
@pytest.mark.parametrize(("session", "case"), LIARS, ids=[f"{liar.__name__}-{case}" for liar, case in LIARS])
def test_liar_is_caught(session, case):
    with pytest.raises(ConformanceError):
        CASES[case].check(lying(session))


@pytest.mark.backend("highs")
def test_honest_wrapper_passes():
    # The liars fail for their lies, and not for being wrappers.
    fast = {"feasible", "infeasible", "changed_bounds", "relaxation", "silence", "bad_start"}
    outcome = check_backend(lying(Liar), exclude=[name for name in CASES if name not in fast])
    assert set(outcome.passed) == fast


@pytest.mark.backend("highs")
def test_every_complaint_is_listed():
    keep = {"feasible", "changed_objective", "sos1", "infeasible"}
    with pytest.raises(ConformanceError, match="failed 2 cases") as caught:
        check_backend(lying(WrongOptimum), exclude=[name for name in CASES if name not in keep])
    assert "feasible: " in str(caught.value)
    assert "changed_objective: " in str(caught.value)


@pytest.mark.backend("highs")
def test_crash_of_a_backend_is_a_complaint():
    class Crashing(Liar):
        def tell(self, result):
            raise SolverError("boom")

    with pytest.raises(ConformanceError, match="boom"):
        check_backend(lying(Crashing), exclude=[name for name in CASES if name != "feasible"])
