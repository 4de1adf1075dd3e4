"""The MILP of two networks at once: neurons that agree occur once, related ones are tied by their difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stablenet.backends.base import Backend, Limits, Settings, Status
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline
from stablenet.core.errors import SolverError
from stablenet.core.network import AffineMap, Layer, Matrix, Network, Term
from stablenet.domain.regions import Part
from stablenet.equivalence.joint import Joint, Treated
from stablenet.formulations.base import Formulation
from stablenet.milp.compiler import compile_model
from stablenet.onnx_io.exact_matrices import added
from stablenet.pyomo_model.network_model import build_model

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

FEASIBILITIES = (1e-9, 1e-7)
"""Feasibility and integrality asked of the solver, the second where it fails at the first; proofs hold within that."""


@dataclass(frozen=True, eq=False)
class Tie:
    """Neurons of a merged layer whose pre-activations stay near those of another: (rows,) each."""

    layer: int
    rows: Index
    base_layer: int
    base_rows: Index
    lower: Array
    upper: Array


@dataclass(frozen=True, eq=False)
class Merged:
    """One network with output ``B(x) - A(x)``, bounds of its layers on one box, and the ties between neurons."""

    network: Network
    bounds: list[tuple[Array, Array]]
    ties: list[Tie]


class _Merger:
    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.layers: list[Layer] = []
        self.bounds: list[tuple[Array, Array]] = []
        self.ties: list[Tie] = []
        self.place_a = {0: 0}
        n = np.arange(joint.a.n_inputs)
        self.shares: list[list[tuple[int, Index, Index]]] = [[(0, n, n)]]

    def run(self) -> Merged:
        joint = self.joint
        for which, k in joint.order:
            if which == "a":
                self._push(self._of_a(joint.a.layers[k].affine), joint.a.layers[k].name, joint.known[k])
                self.place_a[k + 1] = len(self.layers)
            else:
                self._take(k, joint.treated[k])
        rows = np.arange(joint.a.n_outputs)
        terms: dict[int, Matrix] = {t.source: -t.matrix for t in self._of_a(joint.a.output).terms}
        for source, matrix in self._of_b(joint.b.output, rows).items():
            terms[source] = added(terms[source], matrix)[0] if source in terms else matrix
        output = AffineMap(
            joint.b.output.offset - joint.a.output.offset, tuple(Term(s, m) for s, m in sorted(terms.items()))
        )
        network = replace(joint.a, layers=tuple(self.layers), output=output)
        return Merged(network, self.bounds, self.ties)

    def _push(self, affine: AffineMap, name: str, bounds: tuple[Array, Array]) -> None:
        self.layers.append(Layer(affine, name, (affine.size,)))
        self.bounds.append((bounds[0][0], bounds[1][0]))

    def _of_a(self, affine: AffineMap) -> AffineMap:
        return AffineMap(affine.offset, tuple(Term(self.place_a[t.source], t.matrix) for t in affine.terms))

    def _of_b(self, affine: AffineMap, rows: Index) -> dict[int, Matrix]:
        """Rows of a map of B over the merged sources."""
        sizes = (self.joint.a.n_inputs, *(layer.size for layer in self.layers))
        terms: dict[int, Matrix] = {}
        for term in affine.terms:
            chosen = term.matrix[rows]
            dense = chosen if isinstance(chosen, np.ndarray) else np.asarray(chosen.toarray())
            for source, columns, places in self.shares[term.source]:
                wide = terms.setdefault(source, np.zeros((len(rows), sizes[source])))
                assert isinstance(wide, np.ndarray)  # noqa: S101 - all are made here
                wide[:, places] += dense[:, columns]
        return terms

    def _take(self, k: int, treated: Treated) -> None:
        """A layer of B: shared neurons stand already; the rest is a layer of its own."""
        affine, layer = self.joint.b.layers[k].affine, self.joint.b.layers[k]
        shares: list[tuple[int, Index, Index]] = []
        if len(treated.shared):
            shares.append((self.place_a[treated.partner + 1], treated.shared, treated.twins))
        rows = np.concatenate([treated.related, treated.alone])
        if len(rows):
            base = self.joint.known[treated.partner] if len(treated.related) else treated.bounds
            low, high = treated.difference
            if len(treated.related):
                low = np.nextafter(base[0][:, treated.relatives] + low, -np.inf)
                high = np.nextafter(base[1][:, treated.relatives] + high, np.inf)
            own = treated.bounds
            bounds = (np.concatenate([low, own[0]], axis=1), np.concatenate([high, own[1]], axis=1))
            terms = tuple(Term(s, m) for s, m in sorted(self._of_b(affine, rows).items()))
            self._push(AffineMap(affine.offset[rows], terms), f"{layer.name}'", bounds)
            place = len(self.layers)
            shares.append((place, rows, np.arange(len(rows))))
            if len(treated.related):
                partner = self.place_a[treated.partner + 1] - 1
                n = np.arange(len(treated.related))
                difference = (side[0] for side in treated.difference)
                self.ties.append(Tie(place - 1, n, partner, treated.relatives, *difference))
        self.shares.append(shares)


def merged(joint: Joint) -> Merged:
    """The merged network of a joint system that has run on one box."""
    return _Merger(joint).run()


def largest_difference(
    system: Merged,
    part: Part,
    outputs: Index,
    *,
    formulation: str | Formulation,
    backend: Backend,
    feasibility: float,
    tolerance: float,
    deadline: Deadline,
    threads: int,
    found: Callable[[Array], None],
) -> Array:
    """Dual bounds of |B(x) - A(x)| for the chosen outputs on a part, (outputs,): valid within solver tolerance.

    Each solve stops as soon as its bound is at most ``tolerance``, or a point exceeds it; ``found`` is given the inputs
    of solutions. Infinite where time ran out before a bound was known. Raises `SolverError` where the solver fails.
    """
    import pyomo.environ as pyo

    model = build_model(
        system.network, part, bounds=Bounds.of("joint", system.bounds, rigorous=False), formulation=formulation
    )
    _add_ties(model, system)
    model.objective = pyo.Objective(expr=model.output[0], sense=pyo.maximize)
    compiled = compile_model(model)
    inputs = compiled.columns(list(model.x.values()))
    columns = compiled.columns(list(model.output.values()))
    limit = np.full(len(outputs), np.inf)
    with backend.open(compiled.milp, Settings(feasibility=feasibility, integrality=feasibility)) as session:
        for i, output in enumerate(outputs):
            worst = 0.0
            for sign in (1.0, -1.0):
                if deadline.over:
                    return limit
                objective = np.zeros(compiled.milp.n_columns)
                objective[columns[output]] = sign
                session.change_objective(objective, maximize=True)
                result = session.solve(
                    Limits(time=deadline.left, threads=threads),
                    **_stops(backend, tolerance),
                )
                if result.x is not None:
                    found(part.clip(result.x[inputs]))
                if result.status is Status.INFEASIBLE:  # every input is a solution
                    raise SolverError(f"{backend.name} calls the MILP of two networks infeasible, which it is not")
                worst = max(worst, result.dual_bound)
            limit[i] = worst
    return limit


def _stops(backend: Backend, tolerance: float) -> dict[str, Any]:
    from stablenet.backends.base import Capability

    stops: dict[str, Any] = {}
    if backend.supports(Capability.DUAL_STOP):
        stops["dual_stop"] = tolerance
    if backend.supports(Capability.TARGET) and tolerance > 0:
        stops["target"] = 2.0 * tolerance
    return stops


def _add_ties(model: Any, system: Merged) -> None:
    """Differences of related neurons, before and after the ReLU, as rows: implied, but not by the relaxation."""
    import pyomo.environ as pyo

    model.ties = pyo.ConstraintList()
    for tie in system.ties:
        own, base = model.layer[tie.layer], model.layer[tie.base_layer]
        for i, j, low, high in zip(
            tie.rows.tolist(), tie.base_rows.tolist(), tie.lower.tolist(), tie.upper.tolist(), strict=True
        ):
            model.ties.add((low, own.pre[i] - base.pre[j], high))
            model.ties.add((min(low, 0.0), own.post[i] - base.post[j], max(high, 0.0)))
