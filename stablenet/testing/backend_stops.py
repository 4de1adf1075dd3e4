"""Cases on solves that end early, and on their answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stablenet.backends.base import Backend, Callbacks, Capability, Limits, SolveResult, Status
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.testing import models
from stablenet.testing.models import Hard, Known
from stablenet.testing.suite import (
    PLENTY,
    VALUE,
    ConformanceError,
    check_answer,
    check_point,
    check_stop,
    demand,
    slowness,
)

SLACK = 2.0
"""Seconds that a solver may overrun its limit, on an idle machine."""


def _both() -> tuple[Hard, Hard]:
    return models.hard(maximize=True), models.hard(maximize=False)


def time_limit(backend: Backend) -> None:
    """The time limit is kept, each solve of a session gets all of it, and the answer is true."""
    for hard in _both():
        with backend.open(hard.milp) as session:
            for k in range(2 if hard.milp.maximize else 1):
                given = 0.5 * slowness()
                began = time.perf_counter()
                result = session.solve(Limits(time=given))
                seconds = time.perf_counter() - began
                what = f"solve {k} with {given:.1f} s"
                demand(seconds < given + SLACK * slowness(), f"{what} took {seconds:.1f} s")
                demand(seconds > 0.6 * given, f"{what} was given up after {seconds:.1f} s")
                demand(result.status is Status.TIME, f"{what} ended as {result.status.value}")
                check_stop(what, hard.milp, hard.value, result)


def no_time(backend: Backend) -> None:
    """A limit of 0 seconds is a limit."""
    hard = models.hard()
    with backend.open(hard.milp) as session:
        began = time.perf_counter()
        result = session.solve(Limits(time=0.0))
        demand(time.perf_counter() - began < SLACK * slowness(), "a limit of 0 s was overrun")
        demand(result.status is Status.TIME, f"a limit of 0 s ended as {result.status.value}")
        check_stop("a limit of 0 s", hard.milp, hard.value, result)


def node_limit(backend: Backend) -> None:
    """The node limit stops the solve, and the next solve may have more nodes."""
    for hard in _both():
        with backend.open(hard.milp) as session:
            for nodes in (1, 8):
                what = f"{nodes} nodes"
                result = session.solve(Limits(time=60.0 * slowness(), nodes=nodes))
                demand(result.status is Status.NODES, f"{what}: ended as {result.status.value}")
                demand(result.nodes is None or result.nodes <= nodes + 50, f"{what}: {result.nodes} were processed")
                check_stop(what, hard.milp, hard.value, result)


def memory_limit(backend: Backend) -> None:
    """The memory limit stops the solve with a true answer."""
    hard = models.hard()
    with backend.open(hard.milp) as session:
        result = session.solve(Limits(time=20.0 * slowness(), memory=1.0))
        demand(result.status is Status.MEMORY, f"1 MB: ended as {result.status.value}")
        check_stop("1 MB", hard.milp, hard.value, result)


def target(backend: Backend) -> None:
    """The solve ends with the first solution that is good enough, also for a target met exactly."""
    for hard in _both():
        with backend.open(hard.milp) as session:
            began = time.perf_counter()
            result = session.solve(Limits(time=60.0 * slowness()), target=hard.value)
            demand(time.perf_counter() - began < 20 * slowness(), "the target did not end the solve")
            _check_target("target", hard, hard.value, result)
    milp = models.knapsack(20)
    best = models.enumerate_optimum(milp)
    with backend.open(milp) as session:
        result = session.solve(PLENTY, target=best)
        demand(result.status in {Status.TARGET, Status.OPTIMAL}, f"target at the optimum: {result.status.value}")
        check_stop("target at the optimum", milp, best, result)
        beyond = session.solve(PLENTY, target=best + 1)
        check_answer("target out of reach", Known("", milp, Status.OPTIMAL, best), beyond)
        check_answer("no target", Known("", milp, Status.OPTIMAL, best), session.solve(PLENTY))


def _check_target(what: str, hard: Hard, wanted: float, result: SolveResult) -> None:
    sign = 1.0 if hard.milp.maximize else -1.0
    demand(result.status is Status.TARGET, f"{what}: ended as {result.status.value}")
    check_stop(what, hard.milp, hard.value, result)
    good = result.objective is not None and sign * (result.objective - wanted) >= -VALUE * abs(wanted)
    demand(good, f"{what}: 'reached' {wanted} with {result.objective}")


def dual_stop(backend: Backend) -> None:
    """The solve ends once the dual bound is tight enough, and the bound in the answer is that tight and true."""
    for hard in _both():
        sign = 1.0 if hard.milp.maximize else -1.0
        # The LP bound is within a tenth of a good solution, and 5 % more is reached at the root.
        stop = hard.value + sign * 0.15 * abs(hard.value)
        with backend.open(hard.milp) as session:
            began = time.perf_counter()
            result = session.solve(Limits(time=60.0 * slowness()), dual_stop=stop)
            demand(time.perf_counter() - began < 20 * slowness(), "the dual bound did not end the solve")
            demand(result.status is Status.DUAL_STOP, f"dual stop: ended as {result.status.value}")
            demand(sign * (result.dual_bound - stop) <= 0, f"dual stop at {stop}: bound {result.dual_bound}")
            check_stop("dual stop", hard.milp, hard.value, result)
    for seed in range(20, 24):
        milp = models.knapsack(seed, maximize=seed % 2 == 0)
        best = models.enumerate_optimum(milp)
        sign = 1.0 if milp.maximize else -1.0
        with backend.open(milp) as session:
            # Above the optimum: reached by any proof. Below it: never, so the solve runs to its end.
            for stop in (best + 0.5 * sign, best - 0.5 * sign):
                result = session.solve(PLENTY, dual_stop=stop)
                what = f"dual stop {stop} with optimum {best}"
                check_stop(what, milp, best, result)
                reached = sign * (stop - best) > 0
                allowed = {Status.OPTIMAL, Status.DUAL_STOP} if reached else {Status.OPTIMAL}
                demand(result.status in allowed, f"{what}: ended as {result.status.value}")
            check_answer("no dual stop", Known("", milp, Status.OPTIMAL, best), session.solve(PLENTY))


def start(backend: Backend) -> None:
    """The answer is at least as good as the start."""
    for hard in _both():
        with backend.open(hard.milp) as session:
            result = session.solve(Limits(time=0.5 * slowness()), start=hard.x)
            check_stop("start", hard.milp, hard.value, result)
            sign = 1.0 if hard.milp.maximize else -1.0
            kept = result.objective is not None and sign * (result.objective - hard.value) >= -VALUE
            demand(kept, f"a start of value {hard.value} was offered, {result.objective} came out")


def bad_start(backend: Backend) -> None:
    """A start that breaks rows, bounds or integrality changes nothing; one that is no vector is refused."""
    milp = models.knapsack(21, n=6)
    known = Known("", milp, Status.OPTIMAL, models.enumerate_optimum(milp))
    with backend.open(milp) as session:
        for what, x in (
            ("breaks the rows", milp.upper),
            ("breaks the bounds", np.full(6, 50.0)),
            ("is not integer", np.full(6, 0.37)),
        ):
            check_answer(f"a start that {what}", known, session.solve(PLENTY, start=x))
        for what, x in (("is too short", np.zeros(5)), ("has a NaN", np.full(6, np.nan))):
            try:
                session.solve(PLENTY, start=x)
            except InputError:
                continue
            raise ConformanceError(f"a start that {what} was accepted")
        check_answer("after bad starts", known, session.solve(PLENTY))


def undeclared_calls(backend: Backend) -> None:
    """A feature that the backend does not declare is refused, not ignored."""
    milp = models.knapsack(22)
    x = np.zeros(milp.n_columns)
    calls: dict[Capability, Callable[[], object]] = {}
    with backend.open(milp) as session:
        calls[Capability.TARGET] = lambda: session.solve(PLENTY, target=0.0)
        calls[Capability.DUAL_STOP] = lambda: session.solve(PLENTY, dual_stop=0.0)
        calls[Capability.START] = lambda: session.solve(PLENTY, start=x)
        calls[Capability.NODE_LIMIT] = lambda: session.solve(replace(PLENTY, nodes=5))
        calls[Capability.MEMORY_LIMIT] = lambda: session.solve(replace(PLENTY, memory=500.0))
        calls[Capability.THREADS] = lambda: session.solve(replace(PLENTY, threads=2))
        calls[Capability.SEED] = lambda: session.solve(replace(PLENTY, seed=3))
        calls[Capability.DUALS] = lambda: session.relax(PLENTY)
        for capability, callbacks in (
            (Capability.INCUMBENT, Callbacks(on_incumbent=lambda _x, _value: False)),
            (Capability.PROPOSE, Callbacks(propose=lambda _point: None)),
            (Capability.CUTS, Callbacks(separate=lambda _point: None)),
            (Capability.LAZY, Callbacks(lazy=lambda _x: None)),
        ):
            calls[capability] = lambda callbacks=callbacks: session.solve(PLENTY, callbacks=callbacks)  # type: ignore[misc]
        for capability, call in calls.items():
            if capability in backend.capabilities:
                continue
            try:
                call()
            except UnsupportedError:
                continue
            raise ConformanceError(f"{capability.value} was accepted, though it is not declared")
        check_point("solve after refusals", milp, session.solve(PLENTY))


def root_bound(backend: Backend) -> None:
    """The bound at the root is reported, true, and no tighter than the final one."""
    for hard in _both():
        with backend.open(hard.milp) as session:
            result = session.solve(Limits(time=0.6 * slowness()))
        root = result.root_bound
        if root is None:
            raise ConformanceError("no root bound")
        check_stop("root bound", hard.milp, hard.value, replace(result, x=None, dual_bound=root))
        sign = 1.0 if hard.milp.maximize else -1.0
        ordered = sign * (root - result.dual_bound) >= -VALUE * abs(hard.value)
        demand(ordered, f"root bound {root} is tighter than the final {result.dual_bound}")
