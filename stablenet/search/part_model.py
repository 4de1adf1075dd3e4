"""The model of one part of the domain, and what every search does with its solutions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stablenet.backends.base import Backend, SolveResult, Status
from stablenet.bounds.crown import Backward, crown_rows
from stablenet.core.errors import ContradictionError, SolverError
from stablenet.core.ledger import NEGATIVE, POSITIVE, Array, Index, Mask, Side
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.search.base import Problem, SearchStoppedError

FEASIBLE = 1e-6
"""Largest violation at which a forward pass counts as a point of the compiled model."""

PROOFS = frozenset({Status.OPTIMAL, Status.DUAL_STOP})
"""Statuses under which a dual bound closes questions. A limit closes nothing, whatever bound comes with it."""

STOPS = {Status.TIME: "time", Status.MEMORY: "memory", Status.INTERRUPTED: "interrupt", Status.NODES: "search"}
"""Stop reasons for solves that ended without proof."""


class PartModel:
    """Builds the search models of one part."""

    def __init__(self, problem: Problem, part: int) -> None:
        self.problem = problem
        self.part = part

    def build(self, mask: Mask, *, witness: bool = True) -> SearchModel:
        """The model that asks the questions of a mask, (2, n); without ``witness`` they are asked one at a time.

        Phases are fixed by what is refuted on the part, except for neurons that are asked. Raises
        `SearchStoppedError` if a witness has contradicted the bounds that the model would rest on.
        """
        problem, ledger = self.problem, self.problem.ledger
        if not ledger.dead_sources.isdisjoint(problem.bounds[self.part].methods):
            raise SearchStoppedError("solver")
        inside = [ledger.layer_slice(k) for k in range(len(ledger.sizes))]
        phase = np.zeros(ledger.n_neurons, dtype=np.int8)
        if problem.options.decide_by_bounds:
            phase = np.concatenate([layer.phase for layer in problem.bounds[self.part].layers])
            refuted = problem.refuted(self.part)
            phase[refuted[NEGATIVE]] = 1
            phase[refuted[POSITIVE]] = -1
            phase[mask.any(axis=0)] = 0
        model = build_search_model(
            problem.network,
            problem.domain.parts[self.part],
            problem.bounds[self.part],
            problem.formulation,
            positive=[np.flatnonzero(mask[POSITIVE, part]) for part in inside],
            negative=[np.flatnonzero(mask[NEGATIVE, part]) for part in inside],
            margin=problem.options.margin,
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
        them into the solver), ``cuts_s`` (cuts and relaxations at the root before the solve); each is told once.
        """
        milp = model.milp
        self.problem.ledger.add_solve(
            {
                "by": by,
                "rows": milp.n_rows,
                "binaries": milp.n_binaries,
                "nodes": result.nodes,
                "root_bound": _finite(result.root_bound),
                "dual_bound": _finite(result.dual_bound),
                **{name: round(spent.get(name, 0.0), 6) for name in ("build_s", "translate_s", "cuts_s")},
                "solver_s": round(result.seconds, 6),
                "status": result.solver_status,
            }
        )

    def refute(self, side: Side, neurons: Index, by: str) -> None:
        """Record what a solver's proof refutes, and hold it against forward passes at some points of the part.

        Raises `SearchStoppedError` if ``by`` is contradicted, now or before.
        """
        ledger, falsifier = self.problem.ledger, self.problem.falsifier
        ledger.refute(self.part, side, neurons, by, rigorous=False)
        probe = falsifier.probe(self.part)
        falsifier.witnesser.confront(probe.points, probe.signs, probe.inside, "check")
        if by in ledger.dead_sources:
            raise SearchStoppedError("solver")

    def impossible(self, backend: Backend, model: SearchModel, result: SolveResult, start: Array, by: str) -> None:
        """Raise where a model with a feasible point, by construction, is called infeasible or unbounded."""
        if result.status not in {Status.INFEASIBLE, Status.UNBOUNDED}:
            return
        message = (
            f"{backend.title} says {result.solver_status!r} of a model that is feasible and bounded by construction"
        )
        if result.status is Status.INFEASIBLE and model.milp.violation(start) <= self.problem.settings.feasibility:
            self.problem.ledger.distrust(by)
            raise ContradictionError(f"{message}: a forward pass is a solution; all that {by!r} refuted is revoked")
        raise SolverError(f"{message}; its answer proves nothing")

    def show(self, x: Array, by: str) -> bool:
        """Close by forward pass what an input, (n_inputs,), shows; whether that is anything.

        On a face of a polytope it is moved inward first.
        """
        inside = self.problem.falsifier.pullers[self.part](x[None, :])
        return self.problem.falsifier.witnesser.offer(inside, by) > 0

    def push(self, x: Array, side: Side, index: int) -> None:
        """Climb from an input towards a question that the solver claims and the forward pass does not show."""
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
