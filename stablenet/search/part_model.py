"""The model of one part of the domain, and what every search does with its solutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stablenet.backends.base import Backend, SolveResult, Status
from stablenet.backends.own_points import FEASIBLE as FORWARD
from stablenet.backends.own_points import SolverFailedError, SolverFailure, best_value
from stablenet.bounds.crown import Backward
from stablenet.bounds.crown_layers import crown_rows
from stablenet.core.arrays import Array, Index, Mask
from stablenet.core.errors import SolverError
from stablenet.core.questions import NEGATIVE, POSITIVE, Side
from stablenet.milp.arrays import MILP
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.search.base import Problem, SearchStoppedError

OWN_POINTS = 300
"""The number of newest witnesses whose columns a model keeps for checking answers, where memory allows."""

OWN_BYTES = 64 * 2**20
"""Bytes for these columns."""

FEASIBLE = 1e-6
"""Largest violation at which a forward pass counts as a point of the compiled model."""

PROOFS = frozenset({Status.OPTIMAL, Status.DUAL_STOP})
"""Statuses under which a dual bound closes questions. After a limit no bound is used."""

STOPS = {Status.TIME: "time", Status.MEMORY: "memory", Status.INTERRUPTED: "interrupt", Status.NODES: "search"}
"""Stop reasons for solves that ended without proof."""


class OwnPoints:
    """Columns of forward passes for one model: the start, the part's probe, and its witnesses as they come."""

    def __init__(self, problem: Problem, part: int, model: SearchModel, start: Array) -> None:
        self.problem = problem
        self.part = part
        self.model = model
        self.seen = 0
        self.most = int(np.clip(OWN_BYTES // (8 * max(1, model.milp.n_columns)), 8, OWN_POINTS))
        probe = problem.falsifier.probe(part)
        inside = probe.points[probe.inside[part]][: self.most]
        self.fixed = np.concatenate([start[None, :], model.points(inside)]) if len(inside) else start[None, :]
        self.columns = self.fixed[:0]

    def best(self, milp: MILP, *, without: Index | None = None) -> float | None:
        """The best value among them for the model as it stands; columns ``without`` count as 0."""
        with self.problem.ledger.lock:
            found = self.problem.ledger.inside(self.part, self.seen)[-self.most :]
            self.seen = len(self.problem.ledger.points)
            if len(found):
                self.columns = np.concatenate([self.columns, self.model.points(found)])[-self.most :]
            points = np.concatenate([self.fixed, self.columns])
        if without is not None:
            points[:, without] = 0.0
        return best_value(milp, points, feasible=max(FORWARD, 0.1 * self.problem.margin))


class PartModel:
    """Builds the search models of one part."""

    def __init__(self, problem: Problem, part: int) -> None:
        self.problem = problem
        self.part = part
        self.since = problem.ledger.withdrawals

    @property
    def stale(self) -> bool:
        """Whether a source has been withdrawn since the last model was built, which may rest on its refutations."""
        return self.since != self.problem.ledger.withdrawals

    def build(self, mask: Mask, *, witness: bool = True) -> SearchModel:
        """The model that asks the questions of a mask, (2, n); without ``witness`` they are asked one at a time.

        Phases are fixed by what is refuted on the part, except for neurons that are asked.
        """
        problem, ledger = self.problem, self.problem.ledger
        self.since = ledger.withdrawals
        bounds = problem.bounds[self.part]
        inside = [ledger.layer_slice(k) for k in range(len(ledger.sizes))]
        phase = np.zeros(ledger.n_neurons, dtype=np.int8)
        if problem.options.decide_by_bounds:
            phase = np.concatenate([layer.phase for layer in bounds.layers])
            refuted = problem.refuted(self.part)
            phase[refuted[NEGATIVE]] = 1
            phase[refuted[POSITIVE]] = -1
            phase[mask.any(axis=0)] = 0
        model = build_search_model(
            problem.network,
            problem.domain.parts[self.part],
            bounds,
            problem.formulation,
            positive=[np.flatnonzero(mask[POSITIVE, part]) for part in inside],
            negative=[np.flatnonzero(mask[NEGATIVE, part]) for part in inside],
            margin=problem.margin,
            decide=problem.options.decide_by_bounds,
            phases=[phase[part] for part in inside],
            witness=witness,
        )
        model.permutation = problem.options.permute
        return model

    def tighten(self, layer: int, by: str) -> None:
        """Bound a layer anew by CROWN, over what was refuted in the layers before; refute what the bounds exclude.

        They are rigorous if all that they rest on is. Does nothing where nothing before the layer has changed.
        """
        problem, bounds = self.problem, self.problem.bounds[self.part]
        rows = np.flatnonzero(bounds.layers[layer].phase == 0)
        if not (problem.options.tighten and problem.options.decide_by_bounds and len(rows)):
            return
        known = problem.known(self.part, by)
        before = list(zip(bounds.layers[:layer], known.layers, strict=False))
        if by not in bounds.methods and all((old.phase == new.phase).all() for old, new in before):
            return
        backward = Backward.on(problem.network, problem.domain.parts[self.part])
        for _, new in before:
            backward.push(new.lower[None, :], new.upper[None, :])
        rigorous = all(new.rigorous for _, new in before)
        found = crown_rows(backward, problem.network.layers[layer].affine, rows)
        problem.bounds[self.part] = bounds.tighten(by, layer, *found, rigorous=rigorous)
        problem.ledger.refute_by_bounds(self.part, problem.bounds[self.part])

    def start(self, model: SearchModel) -> Array:
        """A feasible point by forward pass, checked against the compiled rows."""
        part = self.problem.domain.parts[self.part]
        pull = self.problem.falsifier.pullers[self.part]
        x = pull((0.5 * part.lower + 0.5 * part.upper)[None, :])[0]
        point = model.point(x)
        violation = model.milp.violation(point)
        if not violation <= FEASIBLE:
            raise SolverError(
                f"a forward pass violates the compiled model by {violation:.3g}: formulation "
                f"{self.problem.formulation.name!r} does not encode the network"
            )
        return point

    def record(self, model: SearchModel, result: SolveResult, by: str, spent: Mapping[str, float]) -> None:
        """Enter a solve in the report.

        ``spent`` are the seconds that led to it: ``build_s`` (Pyomo model and its arrays), ``translate_s`` (loading
        them into the solver), ``cuts_s`` (cuts and relaxations at the root before the solve); each is reported once.
        """
        milp = model.milp
        self.problem.ledger.log.add_solve(
            {
                "by": by,
                "rows": milp.n_rows,
                "binaries": milp.n_binaries,
                "nodes": result.nodes,
                "root_bound": _finite(result.root_bound),
                "dual_bound": _finite(result.dual_bound),
                "objective": _finite(result.objective),
                "ended": result.status.value,
                **{name: round(spent.get(name, 0.0), 6) for name in ("build_s", "translate_s", "cuts_s")},
                "solver_s": round(result.seconds, 6),
                "status": result.solver_status,
            }
        )

    def refute(self, side: Side, neurons: Index, by: str) -> None:
        """Record what a solver's proof refutes, after checking it against forward passes at some points of the part.

        A proof over a model that has become `stale` refutes nothing. Raises `SearchStoppedError` if ``by`` is
        contradicted, now or before.
        """
        ledger, falsifier = self.problem.ledger, self.problem.falsifier
        ledger.refute(self.part, side, neurons, by, rigorous=False, since=self.since)
        probe = falsifier.probe(self.part)
        falsifier.witnesser.confront(probe.points, probe.signs, probe.inside, "check")
        if by in ledger.dead_sources:
            raise SearchStoppedError("solver")

    def failed(self, error: SolverError, by: str, *, left: int = 0) -> None:
        """Record an answer that is not used, and close what forward passes at our own points show.

        ``left`` counts the questions that stay without an answer for it.
        """
        if isinstance(error, SolverFailedError):
            if error.told:
                return
            failure = replace(error.failure, left=left)
        else:
            failure = SolverFailure(self.problem.backend.title, type(error).__name__, None, None, str(error), left)
        self.problem.ledger.log.add_solver_failure(failure.to_json(by))
        probe = self.problem.falsifier.probe(self.part)
        self.problem.falsifier.witnesser.offer(probe.points, "check")

    def outdone(self, first: Backend, second: Backend, n: int, by: str) -> None:
        """Record that a second solver's points show ``n`` questions that the first has just excluded."""
        words = f"{first.title}: its bound excludes {n} questions that a point of {second.title} shows"
        failure = SolverFailure(first.title, "refuted", None, None, f"{words}; the answer is not used")
        self.problem.ledger.log.add_solver_failure(failure.to_json(by))

    def show(self, x: Array, by: str) -> bool:
        """Close by forward pass what an input, (n_inputs,), shows; whether that is anything.

        On a face of a polytope it is moved inward first.
        """
        inside = self.problem.falsifier.pullers[self.part](x[None, :])
        return self.problem.falsifier.witnesser.offer(inside, by) > 0

    def push(self, x: Array, side: Side, index: int) -> None:
        """Gradient steps from an input towards a question that the solver claims and the forward pass does not show."""
        layer, neuron = self.problem.ledger.locate(index)
        self.problem.falsifier.climb(
            layer,
            self.part,
            x[None, :],
            neurons=np.array([neuron]),
            signs=np.array([1.0 if side == POSITIVE else -1.0]),
            steps=(0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
