"""Cases on plain answers: models with known optima, LP relaxations, changes between solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stablenet.backends.base import Backend, Capability, Limits, Session, Status
from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, SolverError, UnsupportedError
from stablenet.milp.arrays import MILP
from stablenet.testing import models
from stablenet.testing.models import INF, Known
from stablenet.testing.suite import PLENTY, ConformanceError, check_answer, check_point, close, demand


def _answers(backend: Backend, known: list[Known], *, may_refuse: tuple[type[Exception], ...] = ()) -> None:
    """Each model gets its known answer. A refusal passes only where the backend declares that it lacks something."""
    answered = 0
    for one in known:
        try:
            with backend.open(one.milp) as session:
                result = session.solve(PLENTY)
        except may_refuse:
            continue
        check_answer(one.name, one, result)
        answered += 1
    demand(answered, "every model was refused")


def feasible(backend: Backend) -> None:
    """Models of both senses with a constant have the optimum that enumeration finds."""
    _answers(backend, models.feasible())


def infeasible(backend: Backend) -> None:
    """Infeasible models are not called unbounded, and no bound is reported for them."""
    _answers(backend, models.infeasible())


def unbounded(backend: Backend) -> None:
    """Unbounded models are not called infeasible; a solver that cannot tell the two apart may fail."""
    _answers(backend, models.unbounded(), may_refuse=(SolverError,))


def empty(backend: Backend) -> None:
    """No columns, no rows, no coefficients."""
    _answers(backend, models.empty())


def special_numbers(backend: Backend) -> None:
    """Equations, free columns, large and small coefficients, near ties, no relative gap."""
    _answers(backend, models.special_numbers())


def many_equal_columns(backend: Backend) -> None:
    """A feasible model that a presolve with tight tolerances calls infeasible."""
    _answers(backend, [models.many_equal_columns()])


def tiny_coefficients(backend: Backend) -> None:
    """Coefficients that the solver would delete are refused, or else count."""
    known = models.tiny_coefficients()
    try:
        session = backend.open(known.milp)
    except (InputError, SolverError):
        return
    with session:
        check_answer(known.name, known, session.solve(PLENTY))


def bad_numbers(backend: Backend) -> None:
    """NaN, and finite numbers that solvers take for infinite, are refused."""
    good = models.knapsack(30)
    one_nan = np.where(np.arange(good.n_columns) == 2, np.nan, 1.0)
    wide = np.where(np.arange(good.n_columns) == 2, 1e25, 1.0)
    bad = {
        "a NaN cost": replace(good, objective=one_nan),
        "a NaN bound": replace(good, upper=one_nan),
        "a bound of 1e25": replace(good, upper=wide),
        "a row side of -1e25": replace(good, rows=replace(good.rows, lower=np.full(good.n_rows, -1e25))),
        "a constant that is infinite": replace(good, constant=np.inf),
    }
    for what, milp in bad.items():
        try:
            with backend.open(milp):
                pass
        except InputError:
            continue
        raise ConformanceError(f"{what} was accepted")


def big_m(backend: Backend) -> None:
    """ReLUs by big-M have the optimum of the best vertex, with and without a start that is no optimum."""
    for known, start in models.big_m():
        with backend.open(known.milp) as session:
            check_answer(known.name, known, session.solve(PLENTY))
        if backend.supports(Capability.START):
            with backend.open(known.milp) as session:
                check_answer(f"{known.name}, started", known, session.solve(PLENTY, start=start))


def sos1(backend: Backend) -> None:
    """SOS1 sets hold, also in relation to integers."""
    _answers(backend, models.sos1())


def indicators(backend: Backend) -> None:
    """Indicators hold, both ways, with two sides; over unbounded columns they may be refused."""
    _answers(backend, models.indicators(), may_refuse=(UnsupportedError,))


def undeclared(backend: Backend) -> None:
    """Models with components that the backend does not declare are refused."""
    for missing, known in (("SOS1", models.sos1()[0]), ("INDICATOR", models.indicators()[0])):
        if any(capability.name == missing for capability in backend.capabilities):
            continue
        try:
            backend.open(known.milp).close()
        except UnsupportedError:
            continue
        raise ConformanceError(f"{known.name} was accepted, though {missing} is not declared")


def _same_as_fresh(what: str, backend: Backend, session: Session, milp: MILP) -> None:
    optimum = models.enumerate_optimum(milp)
    status = Status.INFEASIBLE if np.isnan(optimum) else Status.OPTIMAL
    known = Known(what, milp, status, optimum)
    check_answer(f"{what}, changed", known, session.solve(PLENTY))
    with backend.open(milp) as fresh:
        check_answer(f"{what}, loaded anew", known, fresh.solve(PLENTY))


def changed_bounds(backend: Backend) -> None:
    """Columns fixed, freed, widened, made infeasible: the answer is that of a model loaded so."""
    milp = models.knapsack(31, n=6)
    milp = replace(milp, upper=np.array([1.0, 1, 2, 2, 2, 2]))
    changes: list[tuple[list[int], list[float], list[float]]] = [
        ([0, 3], [0, 0], [0, 0]),
        ([0, 1], [1, 1], [1, 1]),
        ([0, 1, 3], [0, 0, 0], [3, 2, 2]),
        ([2, 4], [-1, 2], [-1, 2]),
        (list(range(6)), [2] * 6, [3] * 6),
        (list(range(6)), [0] * 6, [1] * 6),
    ]
    with backend.open(milp) as session:
        session.solve(PLENTY)
        for k, (columns, lower, upper) in enumerate(changes):
            low, high = milp.lower.copy(), milp.upper.copy()
            low[columns], high[columns] = lower, upper
            milp = replace(milp, lower=low, upper=high)
            session.change_bounds(np.array(columns, dtype=np.intp), np.array(lower, float), np.array(upper, float))
            _same_as_fresh(f"bounds, change {k}", backend, session, milp)


def changed_objective(backend: Backend) -> None:
    """A new objective, constant and sense: the answer is that of a model loaded so."""
    milp = models.knapsack(32, n=6)
    weights = models.integers(33, -20, 20, (3, 6))
    with backend.open(milp) as session:
        session.solve(PLENTY)
        for k, (cost, constant, sense) in enumerate(
            ((weights[0], 0.0, None), (weights[1], -4.5, False), (np.zeros(6), 1.0, None), (weights[2], 2.0, True))
        ):
            maximize = milp.maximize if sense is None else sense
            milp = replace(milp, objective=cost, constant=constant, maximize=maximize)
            session.change_objective(cost, constant, maximize=sense)
            _same_as_fresh(f"objective, change {k}", backend, session, milp)


def added_rows(backend: Backend) -> None:
    """New rows, along with other changes: the answer is that of a model loaded so."""
    milp = models.knapsack(34, n=6)
    with backend.open(milp) as session:
        session.solve(PLENTY)
        for k in range(3):
            more = models.rows(models.integers(35 + k, 0, 9, (2, 6)), [-INF, 1.0], [20.0 - 4 * k, 60.0])
            stacked = models.rows(
                np.concatenate([milp.rows.matrix.toarray(), more.matrix.toarray()]),
                np.concatenate([milp.rows.lower, more.lower]),
                np.concatenate([milp.rows.upper, more.upper]),
            )
            milp = replace(milp, rows=stacked, objective=milp.objective[::-1].copy())
            session.add_rows(more)
            session.change_objective(milp.objective, milp.constant)
            _same_as_fresh(f"rows, change {k}", backend, session, milp)


def relaxation(backend: Backend) -> None:
    """The LP relaxation has its optimum, and duals that prove it, in both senses; the MILP stays."""
    for seed, maximize in ((36, True), (37, False)):
        milp = models.knapsack(seed, maximize=maximize)
        best = models.enumerate_optimum(milp)
        with backend.open(milp) as session:
            _check_relaxation(f"knapsack {seed}", session, milp)
            check_answer("MILP after its LP", Known("", milp, Status.OPTIMAL, best), session.solve(PLENTY))
            fixed = replace(milp, lower=np.full(milp.n_columns, 1.0), upper=np.full(milp.n_columns, 2.0))
            if maximize:
                fixed = replace(milp, upper=np.full(milp.n_columns, 1.0))
            session.change_bounds(np.arange(milp.n_columns), fixed.lower, fixed.upper)
            _check_relaxation(f"knapsack {seed}, other bounds", session, fixed)
    free = models.free_row()
    with backend.open(free.milp) as session:
        _check_relaxation(free.name, session, free.milp)


def _check_relaxation(what: str, session: Session, milp: MILP) -> None:
    answer = session.relax(Limits())
    demand(answer.status is Status.OPTIMAL, f"{what}: LP relaxation is {answer.status.value}")
    x, y, z = answer.x, answer.row_duals, answer.reduced_costs
    if x is None or y is None or z is None:
        raise ConformanceError(f"{what}: LP relaxation without point or duals, though duals are declared")
    relaxed = replace(milp, integer=np.zeros(milp.n_columns, dtype=bool))
    demand(relaxed.violation(x) <= 1e-6, f"{what}: LP point violates the rows by {relaxed.violation(x)}")
    demand(close(answer.objective, milp.value(x)), f"{what}: LP value {answer.objective} is not that of its point")
    gradient = milp.rows.matrix.T @ y + z
    demand(np.abs(gradient - milp.objective).max() <= 1e-6, f"{what}: the duals do not add up to the objective")
    # In the sense of the MILP, a positive dual needs a finite upper side when maximising, a lower when minimising.
    sign = 1.0 if milp.maximize else -1.0
    bound = _priced(sign * y, milp.rows.lower, milp.rows.upper) + _priced(sign * z, milp.lower, milp.upper)
    demand(close(sign * bound + milp.constant, milp.value(x)), f"{what}: the duals prove {bound}, not {milp.value(x)}")


def _priced(dual: Array, lower: Array, upper: Array) -> float:
    """The largest value of ``dual @ activity`` over activities between the sides."""
    dual = np.where(np.abs(dual) < 1e-9, 0.0, dual)
    side = np.where(dual > 0, upper, lower)
    return float(np.sum(np.where(dual == 0, 0.0, dual * np.where(dual == 0, 0.0, side))))


def seeds(backend: Backend) -> None:
    """Other seeds give the same answer; the same one the same number of nodes."""
    milp = models.knapsack(38, n=8, m=4)
    known = Known("", milp, Status.OPTIMAL, models.enumerate_optimum(milp))
    counts = []
    for seed in (0, 1, 1, 2_000_000_000):
        with backend.open(milp) as session:
            result = session.solve(replace(PLENTY, seed=seed))
        check_answer(f"seed {seed}", known, result)
        counts.append(result.nodes)
    demand(counts[1] == counts[2], f"the same seed gave {counts[1]} and {counts[2]} nodes")


def threads(backend: Backend) -> None:
    """The number of threads may change from solve to solve and session to session."""
    milp = models.knapsack(39, n=8, m=4)
    known = Known("", milp, Status.OPTIMAL, models.enumerate_optimum(milp))
    for _ in range(2):
        with backend.open(milp) as session:
            for count in (1, 2, 1):
                check_answer(f"{count} threads", known, session.solve(replace(PLENTY, threads=count)))


def bad_limits(backend: Backend) -> None:
    """Limits that make no sense are refused."""
    with backend.open(models.knapsack(30)) as session:
        for what, limits in (
            ("a negative time", Limits(time=-1.0)),
            ("a time of NaN", Limits(time=float("nan"))),
            ("no threads", Limits(threads=0)),
            ("a negative seed", Limits(seed=-1)),
        ):
            _refused(f"{what} was accepted", (InputError,), lambda limits=limits: session.solve(limits))  # type: ignore[misc]
        check_point("solve after refusals", models.knapsack(30), session.solve(PLENTY))


def _refused(complaint: str, errors: tuple[type[Exception], ...], do: Callable[[], object]) -> None:
    try:
        do()
    except errors:
        return
    raise ConformanceError(complaint)
