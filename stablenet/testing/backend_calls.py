"""Cases on callbacks, Ctrl-C, and output."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np

from stablenet.backends.base import Backend, Callbacks, Capability, Limits, Settings, Status
from stablenet.core.arrays import Array
from stablenet.milp.arrays import MILP, Rows
from stablenet.testing import models
from stablenet.testing.models import INF, Known
from stablenet.testing.suite import PLENTY, VALUE, ConformanceError, check_answer, check_stop, close, demand, slowness

PROMPT = 1.5
"""Seconds from Ctrl-C to `KeyboardInterrupt`, on an idle machine."""


class _Deliberate(Exception):  # noqa: N818 - it is no error
    """Raised by the callbacks of these cases."""


def incumbents(backend: Backend) -> None:
    """Each is a solution of the value given, better than the one before; the last is the result."""
    hard = models.hard()
    seen: list[float] = []
    asking = threading.get_ident()

    def told(x: Array, value: float) -> bool:
        demand(threading.get_ident() == asking, "the callback ran on another thread than the caller's")
        demand(hard.milp.violation(x) <= 1e-6, "an incumbent is no solution")
        demand(close(value, hard.milp.value(x)), f"an incumbent has not the value {value}")
        demand(not seen or value > seen[-1], f"incumbent {value} follows {seen[-1:]}")
        seen.append(value)
        return False

    with backend.open(hard.milp) as session:
        result = session.solve(Limits(time=0.6 * slowness()), callbacks=Callbacks(on_incumbent=told))
    check_stop("incumbents", hard.milp, hard.value, result)
    demand(seen, "no incumbent was reported")
    demand(result.objective is not None and close(result.objective, seen[-1]), "the last incumbent did not come out")
    small = models.knapsack(23)
    best = models.enumerate_optimum(small)
    values: list[float] = []

    def noted(_x: Array, value: float) -> bool:
        values.append(value)
        return False

    with backend.open(small) as session:
        session.solve(PLENTY, callbacks=Callbacks(on_incumbent=noted))
    demand(values and close(values[-1], best), f"the optimum {best} was not among the incumbents {values}")


def stop_by_incumbent(backend: Backend) -> None:
    """A callback that returns True stops the solve, and its incumbent is the result."""
    hard = models.hard()
    with backend.open(hard.milp) as session:
        began = time.perf_counter()
        result = session.solve(
            Limits(time=30.0 * slowness()), callbacks=Callbacks(on_incumbent=lambda _x, _value: True)
        )
        demand(time.perf_counter() - began < 10 * slowness(), "the callback did not stop the solve")
    demand(result.status is Status.INTERRUPTED, f"stopped by callback, ended as {result.status.value}")
    demand(result.x is not None, "stopped at an incumbent, but none came out")
    check_stop("stopped by callback", hard.milp, hard.value, result)


def proposals(backend: Backend) -> None:
    """A proposed solution is used, a proposed point that is none is not; the LP point, where declared, satisfies the
    rows.
    """
    hard = models.hard()
    points: list[Array | None] = []
    answers: list[Array | None] = [np.full(hard.milp.n_columns, 1.0), hard.x]

    def propose(point: Array | None) -> Array | None:
        points.append(point)
        return answers[len(points) % 2]

    with backend.open(hard.milp) as session:
        result = session.solve(Limits(time=1.0 * slowness()), callbacks=Callbacks(propose=propose))
    check_stop("proposals", hard.milp, hard.value, result)
    demand(points, "nothing was asked")
    good = result.objective is not None and result.objective >= hard.value - VALUE
    demand(good, f"a solution of value {hard.value} was proposed, {result.objective} came out")
    if backend.supports(Capability.LP_POINT):
        _check_lp_points(points, hard.milp.rows, hard.milp.lower, hard.milp.upper)


def _check_lp_points(points: list[Array | None], rows: Rows, lower: Array, upper: Array) -> None:
    demand(any(point is not None for point in points), "no LP point was given")
    for point in points:
        if point is None:
            continue
        inside = np.all((point >= lower - 1e-6) & (point <= upper + 1e-6))
        demand(inside, "an LP point breaks the bounds")
        activity = rows.matrix @ point
        scale = 1e-6 * max(1.0, float(np.abs(rows.upper[np.isfinite(rows.upper)]).max(initial=1.0)))
        demand(np.all((activity >= rows.lower - scale) & (activity <= rows.upper + scale)), "an LP point breaks rows")


def cuts(backend: Backend) -> None:
    """Valid cuts do not change the optimum, and `separate` is called with LP points."""
    small = models.knapsack(24, n=8, m=3)
    known = Known("", small, Status.OPTIMAL, models.enumerate_optimum(small))
    hard = models.hard()
    points: list[Array | None] = []

    def separate(point: Array) -> Rows | None:
        # The sum of two rows is valid, though it cuts off nothing.
        rows = (hard.milp if len(point) == hard.milp.n_columns else small).rows
        points.append(point)
        if len(points) > 5:
            return None
        return models.rows(rows.matrix.toarray()[:2].sum(axis=0, keepdims=True), -INF, float(rows.upper[:2].sum()))

    callbacks = Callbacks(separate=separate)
    with backend.open(small) as session:
        check_answer("with cuts", known, session.solve(PLENTY, callbacks=callbacks))
        check_answer("without cuts again", known, session.solve(PLENTY))
    points.clear()
    with backend.open(hard.milp) as session:
        check_stop(
            "with cuts", hard.milp, hard.value, session.solve(Limits(time=0.6 * slowness()), callbacks=callbacks)
        )
    _check_lp_points(points, hard.milp.rows, hard.milp.lower, hard.milp.upper)


def lazy_rows(backend: Backend) -> None:
    """Rows given for candidates hold from then on: as if they had been rows of the model; later solves are free."""
    milp = models.knapsack(25, n=7, m=2)
    hidden = models.rows(models.integers(26, 1, 9, (3, 7)), -INF, [12.0, 15.0, 18.0])
    whole = models.rows(
        np.concatenate([milp.rows.matrix.toarray(), hidden.matrix.toarray()]),
        np.concatenate([milp.rows.lower, hidden.lower]),
        np.concatenate([milp.rows.upper, hidden.upper]),
    )
    best = models.enumerate_optimum(replace(milp, rows=whole))
    free = models.enumerate_optimum(milp)
    demand(best < free, "the case is void: the hidden rows change nothing")
    given = []

    def lazy(x: Array) -> Rows | None:
        broken = np.flatnonzero(hidden.matrix @ x > hidden.upper + 1e-6)
        given.extend(broken.tolist())
        return models.rows(hidden.matrix.toarray()[broken], -INF, hidden.upper[broken]) if len(broken) else None

    with backend.open(milp) as session:
        result = session.solve(PLENTY, callbacks=Callbacks(lazy=lazy))
        check_answer("lazy rows", Known("", milp, Status.OPTIMAL, best), result)
        demand(given, "no candidate was shown")
        check_answer("without them again", Known("", milp, Status.OPTIMAL, free), session.solve(PLENTY))


def exceptions(backend: Backend) -> None:
    """An error raised in a callback stops the solve and is raised again."""
    hard = models.hard()

    def fail(*_arguments: object) -> bool:
        raise _Deliberate

    # For mypy: each of these callbacks has another signature, and `fail` accepts all.
    either: dict[Capability, Callbacks] = {
        Capability.INCUMBENT: Callbacks(on_incumbent=fail),
        Capability.PROPOSE: Callbacks(propose=fail),  # type: ignore[arg-type]
        Capability.CUTS: Callbacks(separate=fail),  # type: ignore[arg-type]
        Capability.LAZY: Callbacks(lazy=fail),  # type: ignore[arg-type]
    }
    for capability, callbacks in either.items():
        if capability not in backend.capabilities:
            continue
        began = time.perf_counter()
        with backend.open(hard.milp) as session:
            try:
                session.solve(Limits(time=20.0 * slowness()), callbacks=callbacks)
            except _Deliberate:
                demand(
                    time.perf_counter() - began < 5 * slowness(),
                    f"{capability.value}: an exception did not stop the solve",
                )
                continue
        raise ConformanceError(f"an exception was swallowed ({capability.value})")


@contextmanager
def _ctrl_c(after: float) -> Iterator[None]:
    """Ctrl-C for this process, once, after some seconds; only from the main thread."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, previous)


def interrupt(backend: Backend) -> None:
    """Ctrl-C is raised as `KeyboardInterrupt` within a second or so, early and late in a solve."""
    demand(threading.current_thread() is threading.main_thread(), "to be run in the main thread: it sends Ctrl-C")
    for after in (0.05, 0.4):
        hard = models.hard()
        began = time.perf_counter()
        try:
            with backend.open(hard.milp) as session, _ctrl_c(after + time.perf_counter() - began):
                began = time.perf_counter()
                session.solve(Limits(time=20.0 * slowness()))
        except KeyboardInterrupt:
            waited = time.perf_counter() - began - after
            demand(waited < PROMPT * slowness(), f"Ctrl-C after {after} s was heard {waited:.1f} s later")
            continue
        raise ConformanceError(f"Ctrl-C after {after} s did not come out")


def silence(backend: Backend) -> None:
    """The solver prints nothing to the terminal, and its log goes to the log file."""
    milp = models.knapsack(27)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "solver.log"
        said = _output(lambda: _use(backend, milp, Settings()), Path(folder))
        demand(not said.strip(), f"printed: {said.strip()[:200]!r}")
        said = _output(lambda: _use(backend, milp, Settings(log=log)), Path(folder))
        demand(not said.strip(), f"printed with a log file: {said.strip()[:200]!r}")
        demand(log.is_file() and log.stat().st_size > 0, "a log was asked for, its file is missing or empty")


def _use(backend: Backend, milp: MILP, settings: Settings) -> None:
    with backend.open(milp, settings) as session:
        check_answer(
            "silent solve", Known("", milp, Status.OPTIMAL, models.enumerate_optimum(milp)), session.solve(PLENTY)
        )
        if backend.supports(Capability.DUALS):
            session.relax(PLENTY)


def _output(do: Callable[[], None], folder: Path) -> str:
    """The output at file descriptors 1 and 2 within the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    path = folder / "output.txt"
    with path.open("wb") as sink:
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            # Where Python's own streams do not lead to the descriptors, as under pytest.
            with path.open("a") as text, redirect_stdout(text), redirect_stderr(text):
                do()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
    return path.read_text(errors="replace")
