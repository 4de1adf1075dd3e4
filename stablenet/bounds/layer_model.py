"""The model over which one layer's pre-activations are bounded: all layers before it, encoded and loaded once.

A pre-activation of the layer is an objective over the columns of the layers before; the layer itself needs no rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stablenet.backends.base import Backend, Limits, Settings
from stablenet.backends.base import registry as backends
from stablenet.backends.own_points import RELAXATIONS, SOLVES, CheckedSession, SolverFailedError, SolverFailure
from stablenet.bounds.base import Context
from stablenet.bounds.linear import to_dense
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import NotInstalledError, SolverError
from stablenet.core.network import AffineMap, Network
from stablenet.domain.regions import Part
from stablenet.formulations.base import Encoding, Formulation, ReluLayer
from stablenet.milp.arrays import MILP
from stablenet.milp.compiler import compile_model
from stablenet.pyomo_model.network_model import (
    LayerPlan,
    assemble,
    power_of_two,
    row_deviations,
    source_magnitudes,
)

T = TypeVar("T")

OWN_POINTS = 64
"""Random points whose forward passes are held against answers, where the context has none."""

PATIENCE = 0.5
"""Seconds that solvers may overrun the deadline before their answers are no longer waited for."""


class LayerModel:
    """The layers before ``depth`` on a part, with these bounds. Columns and rows are scaled by powers of two."""

    def __init__(
        self, network: Network, part: Part, bounds: Bounds, depth: int, *, formulation: Formulation, margin: float
    ) -> None:
        self.plans = [_plan(known.lower, known.upper, known.phase) for known in bounds.layers[:depth]]
        self._most = source_magnitudes(part, bounds)
        self._assembled = assemble(
            *(network, part, self.plans, formulation),
            margin=margin,
            scaled=True,
            complete=False,
            deviations=row_deviations(network, part, bounds),
        )
        compiled = compile_model(self._assembled.model)
        self.milp = compiled.milp
        self._columns = [compiled.columns(source.variables) for source in self._assembled.sources]

    def objective(self, affine: AffineMap, row: int, sign: float) -> tuple[Array, float]:
        """Coefficients (n_columns,) and constant of ``sign`` times one row of an affine map over these layers.

        In the constant is what float32 evaluations of the row may add, if they count: what bounds the objective from
        above bounds all of them.
        """
        objective = np.zeros(self.milp.n_columns)
        for term in affine.terms:
            source = self._assembled.sources[term.source]
            weights = to_dense(term.matrix[[row]])[0][source.neurons]
            # Added, since two terms may read the same source.
            objective[self._columns[term.source]] += sign * weights / source.scale
        deviation = affine.deviation(self._most)
        if deviation is None:
            return objective, sign * float(affine.offset[row])
        return objective, float(np.nextafter(sign * affine.offset[row] + deviation[row], np.inf))

    def row_multipliers(self, row_duals: Array, part: Part) -> Array:
        """The multipliers that a dual solution puts on a polytope's rows, unscaled, (m,), not negative."""
        if part.a is None:
            return np.zeros(0)
        first = self.milp.row_names.index("domain[0]")
        scale = power_of_two(np.abs(part.a / self._assembled.inputs.scale).max(axis=1, initial=0.0))
        return np.asarray(np.maximum(row_duals[first : first + len(part.a)] * scale, 0.0))

    @cached_property
    def _first_rows(self) -> list[int]:
        """Where each layer's affine rows begin; they stand in the order of the kept neurons."""
        places = {name: i for i, name in enumerate(self.milp.row_names) if name.endswith(".affine[0]")}
        return [places[f"layer[{k}].affine[0]"] if len(p.neurons) else 0 for k, p in enumerate(self.plans)]

    @property
    def linear(self) -> MILP:
        """The linear relaxation, which any LP solver takes."""
        return replace(self.milp, integer=np.zeros_like(self.milp.integer), sos1=(), indicators=None)

    def multipliers(self, row_duals: Array) -> list[Array]:
        """Per layer and kept neuron, the coefficient that a dual solution puts on the pre-activation, unscaled."""
        found = []
        for plan, first in zip(self.plans, self._first_rows, strict=True):
            # Rows are ``W h - g = -b``: raising the right-hand side by one lowers g by one.
            found.append(-row_duals[first : first + len(plan.neurons)] * plan.scale)
        return found


def _plan(lower: Array, upper: Array, phase: npt.NDArray[np.int8]) -> LayerPlan:
    keep = np.flatnonzero(phase >= 0)
    low, high = lower[keep], upper[keep]
    return LayerPlan(keep, phase[keep], low, high, power_of_two(np.maximum(np.abs(low), np.abs(high))))


class ByLayer(Formulation):
    """One formulation up to a layer, another from there on: for rolling horizons. Not registered; it has no name."""

    def __init__(self, before: Formulation, after: Formulation, first: int) -> None:
        self._before = before
        self._after = after
        self._first = first
        self.requires = before.requires | after.requires

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """See `Formulation`; the block's index is the layer's number."""
        return (self._after if block.index() >= self._first else self._before).encode(block, layer)

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """Not offered: the model is only bounded."""
        raise NotImplementedError


def solver_of(context: Context) -> Backend:
    """The context's backend, or HiGHS; raises `NotInstalledError` if it is missing."""
    backend = context.backend or backends.get("highs")
    available = backend.available()
    if not available.installed:
        raise NotInstalledError(f"solver {backend.name!r} is not installed; {available.install}")
    return backend


def settings_of(context: Context) -> Settings:
    """The context's settings, or the solver's own tolerances."""
    own = solver_of(context).tolerance
    return context.settings or Settings(feasibility=own.feasibility, integrality=own.integrality)


def own_extremes(context: Context, network: Network, part: Part, layer: int) -> tuple[Array, Array]:
    """Smallest and largest pre-activations of a layer, (n,) each, among forward passes at points of the part.

    The points are the context's, or random ones of the box that lie in the part; without any, infinities that say
    nothing.
    """
    points = context.points()
    if not len(points):
        rng = np.random.default_rng(0)
        points = part.lower + (part.upper - part.lower) * rng.random((OWN_POINTS, part.n_inputs))
        points = part.clip(points)
    points = points[part.holds(points)]
    if not len(points):
        size = network.layers[layer].size
        return np.full(size, np.inf), np.full(size, -np.inf)
    values = network.pre_activations(points, layer + 1)[layer]
    return np.asarray(values.min(axis=0)), np.asarray(values.max(axis=0))


def limits_of(context: Context, *, seconds: float | None = None, nodes: int | None = None) -> Limits:
    """What is left of the run's limits, or less. One thread: parallel are the questions."""
    left = context.deadline.left
    times = [value for value in (left, seconds) if value is not None]
    return Limits(time=min(times, default=None), nodes=nodes, seed=context.seed)


def ask_all(
    context: Context, milp: MILP, questions: Sequence[T], ask: Callable[[CheckedSession, T], Any], by: str
) -> Iterator[tuple[T, Any]]:
    """``ask(session, question)`` for every question until the deadline, on `Context.threads` sessions.

    Yields pairs as they come. A question on which the solver fails comes with the `SolverError`, and the session
    is opened anew; any other error ends the work and is raised. Solvers that overrun the deadline are left alone, and
    one that is given up (`Context.failures`) is asked nothing more.
    ``ask`` sets ``session.own``, against which answers are held; what that disproves the context hears of, as ``by``'s.
    """
    backend, todo = solver_of(context), SimpleQueue[T]()
    for question in questions:
        todo.put(question)
    answers: SimpleQueue[tuple[T, Any] | SolverFailure | BaseException | None] = SimpleQueue()
    settings = settings_of(context)
    stop = threading.Event()

    def given_up() -> bool:
        return any(context.failures.given_up(backend.title, what) for what in (SOLVES, RELAXATIONS))

    def work(put: Callable[[tuple[T, Any]], None]) -> None:
        session: CheckedSession | None = None
        try:
            while not (stop.is_set() or context.deadline.over or given_up()):
                try:
                    question = todo.get_nowait()
                except Empty:
                    return
                try:
                    session = session or CheckedSession(
                        *(backend, milp, settings), own=lambda _: None, failed=answers.put, failures=context.failures
                    )
                    put((question, ask(session, question)))
                except SolverError as error:
                    session = None
                    put((question, error))
        finally:
            if session is not None:
                session.close()

    def worker() -> None:
        try:
            work(answers.put)
        except BaseException as error:
            answers.put(error)
        finally:
            answers.put(None)

    n = max(1, min(context.threads, len(questions)))
    threads = [threading.Thread(target=worker, name="stablenet-bounds", daemon=True) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        while n:
            left = context.deadline.left
            try:
                answer = answers.get(timeout=None if left is None else max(left, 0.0) + PATIENCE)
            except Empty:
                return
            if answer is None:
                n -= 1
            elif isinstance(answer, SolverFailure):
                context.failed(answer.to_json(by))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                if isinstance(answer[1], SolverFailedError) and not answer[1].told:
                    context.failed(answer[1].failure.to_json(by))
                yield answer
    finally:
        stop.set()
