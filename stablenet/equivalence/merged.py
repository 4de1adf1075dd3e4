"""The MILP of two networks at once: neurons that agree occur once, related ones are tied by their difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stablenet.backends.base import Backend, Capability, Limits, Settings
from stablenet.backends.own_points import SAFER, CheckedSession, SolverFailedError, SolverFailure
from stablenet.bounds.interval import magnitude
from stablenet.bounds.linear import to_dense
from stablenet.core.arrays import Array, Index
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline
from stablenet.core.network import AffineMap, Layer, Matrix, Network, Term
from stablenet.core.rounding import UNIT
from stablenet.domain.regions import Part
from stablenet.equivalence.joint import Joint, Treated
from stablenet.equivalence.scaling import outward
from stablenet.formulations.base import Formulation
from stablenet.milp.arrays import MILP
from stablenet.milp.compiler import compile_model
from stablenet.milp.matrices import Variables
from stablenet.pyomo_model.network_model import LayerPlan, assemble, check_fit, power_of_two, resolve, usable

if TYPE_CHECKING:
    from stablenet.milp.affine_rows import AffineRows


@dataclass(frozen=True, eq=False)
class Tie:
    """Neurons of a merged layer whose pre-activations stay near ``scale`` times those of another: (rows,) each."""

    layer: int
    rows: Index
    base_layer: int
    base_rows: Index
    lower: Array
    upper: Array
    scale: Array


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
        self.shares: list[list[tuple[int, Index, Index, Array]]] = [[(0, n, n, np.ones(len(n)))]]

    def run(self) -> Merged:
        joint = self.joint
        for which, k in joint.order:
            if which == "a":
                self._push(self._of_a(joint.a.layers[k].affine), joint.a.layers[k].name, joint.known[k])
                self.place_a[k + 1] = len(self.layers)
            else:
                self._take(k, joint.treated[k])
        rows = np.arange(joint.a.n_outputs)
        # Terms of one source stay apart: adding them up here would round unseen.
        minus = tuple(Term(t.source, -t.matrix) for t in self._of_a(joint.a.output).terms)
        plus = tuple(Term(s, m) for s, m in sorted(self._of_b(joint.b.output, rows).items()))
        output = AffineMap(joint.b.output.offset - joint.a.output.offset, (*plus, *minus))
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
            for source, columns, places, scale in self.shares[term.source]:
                wide = terms.setdefault(source, np.zeros((len(rows), sizes[source])))
                assert isinstance(wide, np.ndarray)  # noqa: S101 - all are made here
                wide[:, places] += dense[:, columns] * scale  # rounds, far below the margin of the model
        return terms

    def _take(self, k: int, treated: Treated) -> None:
        """A layer of B: shared neurons stand already; the rest is a layer of its own."""
        affine, layer = self.joint.b.layers[k].affine, self.joint.b.layers[k]
        scale = self.joint.pairing.scale(k)
        shares: list[tuple[int, Index, Index, Array]] = []
        if len(treated.shared):
            shares.append((self.place_a[treated.partner + 1], treated.shared, treated.twins, scale[treated.shared]))
        rows = np.concatenate([treated.related, treated.alone])
        if len(rows):
            low, high = treated.difference
            if len(treated.related):
                known, twins = self.joint.known[treated.partner], treated.relatives
                base_low, base_high = outward(known[0][:, twins], known[1][:, twins], scale[treated.related])
                low, high = np.nextafter(base_low + low, -np.inf), np.nextafter(base_high + high, np.inf)
            own = treated.bounds
            bounds = (np.concatenate([low, own[0]], axis=1), np.concatenate([high, own[1]], axis=1))
            terms = tuple(Term(s, m) for s, m in sorted(self._of_b(affine, rows).items()))
            self._push(AffineMap(affine.offset[rows], terms), f"{layer.name}'", bounds)
            place = len(self.layers)
            shares.append((place, rows, np.arange(len(rows)), np.ones(len(rows))))
            if len(treated.related):
                partner = self.place_a[treated.partner + 1] - 1
                n = np.arange(len(treated.related))
                lower, upper = (side[0] for side in treated.difference)
                self.ties.append(Tie(place - 1, n, partner, treated.relatives, lower, upper, scale[treated.related]))
        self.shares.append(shares)


def merged(joint: Joint) -> Merged:
    """The merged network of a joint system that has run on one box."""
    return _Merger(joint).run()


class _Scaled:
    """The merged network's layers as arrays: columns and rows scaled by powers of two, every row relaxed by ``margin``.

    Every input of the part, with all that both networks compute from it, is a solution, within the margin even after
    rounding, so that a bound of the model is one of the difference.
    """

    def __init__(self, system: Merged, part: Part, formulation: str | Formulation, margin: float) -> None:
        bounds = Bounds.of("joint", system.bounds, rigorous=False)
        check_fit(system.network, part, bounds)
        plans = []
        for known in bounds.layers:
            keep = np.flatnonzero(known.phase >= 0)
            low, high = (side[keep] for side in usable(known))
            plans.append(LayerPlan(keep, known.phase[keep], low, high, power_of_two(magnitude(low, high))))
        self.built = assemble(
            system.network, part, plans, resolve(formulation), margin=margin, scaled=True, complete=False
        )
        self.output = system.network.output
        self._add_ties(system, margin)
        compiled = compile_model(self.built.model)
        self.milp = compiled.milp
        self.columns = [compiled.columns(source.variables) for source in self.built.sources]

    def _add_ties(self, system: Merged, margin: float) -> None:
        """Differences of related neurons, before and after the ReLU, as rows: implied, but not by the relaxation."""
        for number, tie in enumerate(system.ties):
            own, base = self.built.layers[tie.layer], self.built.layers[tie.base_layer]
            before = [(layer.plan.neurons, layer.pre, layer.plan.scale) for layer in (own, base)]
            after = [
                (source.neurons, source.variables, source.scale)
                for source in (self.built.sources[tie.layer + 1], self.built.sources[tie.base_layer + 1])
            ]
            sides = ((before, tie.lower, tie.upper), (after, np.minimum(tie.lower, 0.0), np.maximum(tie.upper, 0.0)))
            for name, (pair, lower, upper) in zip(("pre", "post"), sides, strict=True):
                rows = _tie_rows(pair, replace(tie, lower=lower, upper=upper), margin)
                if rows is not None:
                    self.built.model.add_component(f"ties_{name}_{number}", rows)

    def objective(self, output: int) -> tuple[Array, float, float]:
        """Coefficients (n_columns,) and constant of one output, and what rounding may make of its value."""
        objective = np.zeros(self.milp.n_columns)
        size = abs(float(self.output.offset[output]))
        for term in self.output.terms:
            source = self.built.sources[term.source]
            weights = to_dense(term.matrix[[output]])[0][source.neurons] / source.scale
            objective[self.columns[term.source]] += weights
            size += float(np.abs(weights) @ magnitude(source.lower, source.upper))
        factor = 4.0 * UNIT * (self.output.n_terms + len(self.output.terms) + 8)
        return objective, float(self.output.offset[output]), factor * size


def _tie_rows(pair: Sequence[tuple[Index, Variables, Array]], tie: Tie, margin: float) -> AffineRows | None:
    """``lower <= v[rows] - scale * w[base_rows] <= upper`` for the rows that have both columns; None if none has."""
    from stablenet.milp.affine_rows import AffineRows

    places = []
    for (neurons, _, _), wanted in zip(pair, (tie.rows, tie.base_rows), strict=True):
        place = np.searchsorted(neurons, wanted)
        there = place < len(neurons)
        there[there] = neurons[place[there]] == wanted[there]
        places.append((place, there))
    both = np.flatnonzero(places[0][1] & places[1][1] & np.isfinite(tie.lower) & np.isfinite(tie.upper))
    if not len(both):
        return None
    (_, own, own_scale), (_, base, base_scale) = pair
    i, j = places[0][0][both], places[1][0][both]
    first, second = 1.0 / own_scale[i], tie.scale[both] / base_scale[j]
    scale = power_of_two(np.maximum(first, second))
    n = np.arange(len(both))
    at = (np.concatenate([n, n]), np.concatenate([n, n + len(both)]))
    variables = [own[k] for k in i.tolist()] + [base[k] for k in j.tolist()]
    data = np.concatenate([scale * first, -scale * second])
    matrix = sparse.csr_array((data, at), shape=(len(both), 2 * len(both)))
    return AffineRows(matrix, variables, tie.lower[both] * scale - margin, tie.upper[both] * scale + margin)


def largest_difference(
    system: Merged,
    part: Part,
    outputs: Index,
    *,
    most: Array,
    formulation: str | Formulation,
    backend: Backend,
    tolerance: float,
    deadline: Deadline,
    threads: int,
    found: Callable[[Array], None],
    known: Callable[[int, float], float | None],
    failed: Callable[[SolverFailure], None],
) -> Array:
    """Bounds of |B(x) - A(x)| for the chosen outputs on a part, (outputs,), that rest on the solver: not rigorous.

    Rows of the model are relaxed by at least ten times the solver's tolerances, each column scaled to a range near 1,
    and the solver's slack and the rounding of the objective are added to its dual bound: what is returned bounds the
    difference itself, not that of the relaxed model alone. ``most`` (outputs,) are bounds known already, for scaling.
    Each solve stops as soon as its bound proves ``tolerance``, or a point exceeds it; ``found`` is given the inputs of
    solutions. ``known(output, sign)`` is the largest ``sign * (B - A)`` of an output seen on the part: answers that it
    disproves are not used, and ``failed`` hears of them. Infinite where time ran out, the solver failed twice, or no
    bound was found.
    """
    own = backend.tolerance
    margin = max(own.margin, 10.0 * SAFER)
    settings = Settings(feasibility=own.feasibility, integrality=own.integrality)
    model = _Scaled(system, part, formulation, margin)
    inputs, input_scale = model.columns[0], model.built.inputs.scale
    limit = np.full(len(outputs), np.inf)
    with CheckedSession(backend, model.milp, settings, own=lambda _: None, failed=failed) as session:
        for i, output in enumerate(outputs.tolist()):
            objective, constant, rounding = model.objective(output)
            size = most[i] if np.isfinite(most[i]) else float(np.abs(objective).sum())
            scale = float(power_of_two(np.array([size]))[0])
            worst = 0.0
            for sign in (1.0, -1.0):
                if deadline.over:
                    return limit
                session.change_objective(sign * scale * objective, sign * scale * constant, maximize=True)
                session.own = _seen(known(output, sign), scale)
                try:
                    result = session.solve(
                        Limits(time=deadline.left, threads=threads if backend.supports(Capability.THREADS) else 1),
                        **_stops(backend, (tolerance - rounding) * scale - margin, tolerance * scale),
                    )
                except SolverFailedError as error:
                    if not error.told:
                        failed(error.failure)
                    worst = np.inf
                    break
                if result.x is not None:
                    found(part.clip(result.x[inputs] / input_scale))
                worst = max(worst, (result.dual_bound + margin) / scale + rounding)
            limit[i] = worst if not np.isnan(worst) else np.inf
    return limit


def _seen(value: float | None, scale: float) -> Callable[[MILP], float | None]:
    """What `CheckedSession` holds answers against: the largest value seen, in the units of the objective."""
    return lambda _: None if value is None else value * scale


def _stops(backend: Backend, dual_stop: float, target: float) -> dict[str, Any]:
    stops: dict[str, Any] = {}
    if backend.supports(Capability.DUAL_STOP) and dual_stop > 0:
        stops["dual_stop"] = dual_stop
    if backend.supports(Capability.TARGET) and target > 0:
        stops["target"] = 2.0 * target
    return stops
