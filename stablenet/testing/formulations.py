"""Conformance suite for formulations: the properties that every encoding of a ReLU layer must have.

For the author of a formulation, with pytest::

    import pytest
    from stablenet.testing import formulations as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyFormulation())

Each check takes a formulation (or its specification) and optionally a backend, and raises `ConformanceError`
with what went wrong and where. Without a backend it takes the first installed one that offers what the
formulation needs. The true answers come from `stablenet.testing.formulation_instances`, which uses no formulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stablenet.backends.base import Backend, Capability, Limits, Session, Settings, Status
from stablenet.backends.base import registry as backends
from stablenet.bounds import run
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import UnsupportedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.formulations.base import Formulation
from stablenet.milp.compiler import CompiledModel, compile_model
from stablenet.pyomo_model.network_model import build_model, resolve
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing.formulation_instances import Instance, extremes, instances
from stablenet.testing.single_questions import TOLERANCE, open_questions, own_models, question_model
from stablenet.testing.suite import ConformanceError

PREFERRED = ("highs", "scip")
MARGINS = (0.0, 1e-6)
VARIANTS = (("interval", 0.0, True), ("crown", 0.0, False), ("crown", 1e-6, True), ("interval", 1e-6, False))
"""Bounds, margin and whether bounds decide."""


@dataclass(frozen=True)
class Structure:
    """What a formulation adds for one neuron: own columns, rows, binaries, SOS1 sets, indicator rows."""

    columns: int
    rows: int
    binaries: int
    sets: int
    indicators: int


def pick_backend(formulation: Formulation, backend: str | Backend | None = None) -> Backend:
    """The backend given, or the first installed one that offers what the formulation needs."""
    if isinstance(backend, Backend):
        return backend
    for name in (backend,) if backend else (*PREFERRED, *backends.names()):
        candidate = backends.get(name)
        if candidate.supports(*formulation.requires) and candidate.available().installed:
            return candidate
    needs = ", ".join(c.value for c in formulation.requires)
    raise UnsupportedError(
        f"no installed solver{f' {backend!r}' if backend else ''} offers what {formulation.spec!r} needs: {needs}"
    )


def _best(session: Session, objective: Array, *, maximize: bool = True) -> float:
    session.change_objective(objective, maximize=maximize)
    result = session.solve(Limits())
    if result.status is not Status.OPTIMAL or result.objective is None:
        raise ConformanceError(f"a model that is feasible and bounded ends with {result.solver_status!r}")
    return result.objective


def _unit(n: int, column: int) -> Array:
    objective = np.zeros(n)
    objective[column] = 1.0
    return objective


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))


def all_questions(
    formulation: Formulation,
    instance: Instance,
    bounds: Bounds,
    *,
    margin: float = 0.0,
    decide: bool = True,
    witness: bool = True,
) -> SearchModel:
    """The model of all questions that the bounds leave open (with ``decide`` False, of all)."""
    asked = [np.flatnonzero((b.phase == 0) | (not decide)) for b in bounds.layers]
    return build_search_model(
        instance.network,
        instance.part,
        bounds,
        formulation,
        positive=asked,
        negative=asked,
        margin=margin,
        decide=decide,
        witness=witness and formulation.exact,
    )


def fixed_input(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """With the input fixed, every pre- and post-activation and output has one value: that of the forward pass.

    Also at vertices of the box and where pre-activations are exactly 0. A relaxation must contain that value.
    """
    formulation = resolve(formulation)
    for instance in instances():
        bounds = run("crown", instance.network, instance.part)
        model = build_model(instance.network, instance.part, bounds=bounds, formulation=formulation)
        compiled = compile_model(model)
        named = {f"output {j}": v for j, v in model.output.items()}
        for k in model.layer:
            named |= {f"layer {k} pre {i}": v for i, v in model.layer[k].pre.items()}
            named |= {f"layer {k} post {i}": v for i, v in model.layer[k].post.items()}
        with pick_backend(formulation, backend).open(compiled.milp, Settings()) as session:
            for x in instance.points:
                _fixed_at(session, compiled, model, named, (formulation, instance, x))


def _fixed_at(
    session: Session,
    compiled: CompiledModel,
    model: object,
    named: dict[str, object],
    at: tuple[Formulation, Instance, Array],
) -> None:
    formulation, instance, x = at
    network = instance.network
    inputs = compiled.columns(list(model.x.values()))  # type: ignore[attr-defined]
    session.change_bounds(inputs, x, x)
    pre = network.pre_activations(x)
    truth = {f"output {j}": v for j, v in enumerate(network.forward(x)[0])}
    for k, g in enumerate(pre):
        truth |= {f"layer {k} pre {i}": v for i, v in enumerate(g[0])}
        truth |= {f"layer {k} post {i}": max(v, 0.0) for i, v in enumerate(g[0])}
    # Two objectives that weigh every quantity differently: any single wrong one changes one of them.
    n = compiled.milp.n_columns
    weights = np.random.default_rng(len(named)).uniform(0.5, 1.0, size=len(named))
    signs = np.where(np.arange(len(named)) % 2 == 0, 1.0, -1.0)
    for pattern in (np.ones(len(named)), signs):
        objective = np.zeros(n)
        np.add.at(objective, compiled.columns(list(named.values())), weights * pattern)
        expected = float(np.array([truth[name] for name in named]) @ (weights * pattern))
        top, bottom = (_best(session, objective, maximize=up) for up in (True, False))
        right = _close(top, expected) and _close(bottom, expected)
        if not (right if formulation.exact else bottom - TOLERANCE <= expected <= top + TOLERANCE):
            raise ConformanceError(
                f"{formulation.spec}, {instance.label}: with input {x.tolist()} fixed a weighted sum of all "
                f"activations ranges over [{bottom}, {top}]; the forward pass gives {expected}"
            )


def forward_passes(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """`Formulation.assign` gives a feasible point for every input, and the handles allow every witness it shows."""
    del backend
    formulation = resolve(formulation)
    for instance, (method, margin, decide) in itertools.product(instances(), VARIANTS):
        model = all_questions(
            formulation, instance, run(method, instance.network, instance.part), margin=margin, decide=decide
        )
        for x, vector in zip(instance.points, model.points(instance.points), strict=True):
            where = f"{formulation.spec}, {instance.label}, margin {margin}, input {x.tolist()}"
            violation = model.milp.violation(vector)
            if not violation <= 1e-9:
                raise ConformanceError(f"{where}: the forward pass violates the model by {violation}")
            questions = model.questions
            pre = instance.network.pre_activations(x)
            for j, (k, i, side) in enumerate(zip(questions.layer, questions.neuron, questions.side, strict=True)):
                if (pre[k][0, i] * side > 0) != model.claims(vector)[j]:
                    raise ConformanceError(
                        f"{where}: the handle of layer {k}, neuron {i}, side {side} denies the witness"
                    )


def verdicts(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """Each single question has the true extremum as optimum, and each witness value is 1 exactly where it may be.

    For a relaxation the optimum must not be below the true extremum.
    """
    formulation = resolve(formulation)
    solver = pick_backend(formulation, backend)
    for instance, decide in [*((each, True) for each in instances()), (instances()[0], False)]:
        truth = extremes(instance.network, instance.part)
        model = all_questions(formulation, instance, run("crown", instance.network, instance.part), decide=decide)
        with solver.open(model.milp, Settings()) as session:
            for k, kept in enumerate(model.pre):
                for i, side in itertools.product(kept.neurons, (1, -1)):
                    objective, scale = model.question_objective(k, int(i), side)
                    best = _best(session, objective) / scale
                    exact = float(truth[k][1][i] if side > 0 else -truth[k][0][i])
                    if not (_close(best, exact) if formulation.exact else best >= exact - TOLERANCE):
                        raise ConformanceError(
                            f"{formulation.spec}, {instance.label}: the largest {'+-'[side < 0]}g of layer {k}, "
                            f"neuron {i} is {exact}; the model says {best}"
                        )
            _witness_values(session, model, truth, f"{formulation.spec}, {instance.label}")
        if formulation.directed and decide:
            own_models(formulation, instance, truth, solver)


def _witness_values(session: Session, model: SearchModel, truth: tuple[tuple[Array, Array], ...], where: str) -> None:
    questions = model.questions
    for j, (k, i, side) in enumerate(zip(questions.layer, questions.neuron, questions.side, strict=True)):
        exact = float(truth[k][1][i] if side > 0 else -truth[k][0][i])
        if abs(exact) <= 1e-3:
            continue
        best = _best(session, _unit(model.milp.n_columns, int(model.question_columns[j])))
        if not _close(best, float(exact > 0)):
            raise ConformanceError(
                f"{where}: the witness value of layer {k}, neuron {i}, side {side} reaches {best}; "
                f"the extremum {exact} asks for {int(exact > 0)}"
            )


def decided_neurons(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """Neurons whose phase the bounds decide get no column, row, set or indicator of the formulation's."""
    del backend
    formulation = resolve(formulation)
    found = structure(formulation, decided=True)
    if found != Structure(0, 0, 0, 0, 0):
        raise ConformanceError(f"{formulation.spec}: neurons with a decided phase get {found}")


def structure(formulation: str | Formulation, *, decided: bool = False) -> Structure:
    """What a formulation adds for one neuron over two inputs (beside its pre- and post-activation and their row)."""
    formulation = resolve(formulation)
    offset = np.array([5.0 if decided else 0.25])
    layer = Layer(AffineMap(offset, (Term(0, np.array([[1.0, -2.0]])),)), "relu", (1,))
    last = Layer(AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)), "last", (1,))
    network = Network(2, (layer, last), AffineMap(np.zeros(1), (Term(2, np.ones((1, 1))),)))
    part = Box(-np.ones(2), np.ones(2))
    bounds = run("interval", network, part)
    model = build_model(network, part, bounds=bounds, formulation=formulation)
    milp = compile_model(model).milp
    # x0, x1, pre of both layers, one output; the post-activation of the first if undecided; rows of both and the output
    columns = 5 + (not decided)
    return Structure(
        milp.n_columns - columns,
        milp.n_rows - 3,
        milp.n_binaries,
        len(milp.sos1),
        0 if milp.indicators is None else len(milp.indicators.binary),
    )


def requirements(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """The formulation builds only what it declares to need: SOS1 sets, indicators, cuts in the tree."""
    del backend
    formulation = resolve(formulation)
    found = structure(formulation)
    built = {Capability.SOS1: found.sets > 0, Capability.INDICATOR: found.indicators > 0}
    built[Capability.CUTS] = formulation.cuts == "tree"
    for capability in Capability:
        if (capability in formulation.requires) != built.get(capability, False):
            verb = "declares" if capability in formulation.requires else "does not declare"
            raise ConformanceError(f"{formulation.spec} {verb} {capability.value}, which does not fit what it builds")
    if not formulation.exact and (found.binaries or found.sets or found.indicators):
        raise ConformanceError(f"{formulation.spec} calls itself a relaxation but is not linear")
    overrides = type(formulation).separate is not Formulation.separate
    if overrides != (formulation.cuts != "none"):
        raise ConformanceError(f"{formulation.spec}: `cuts` is {formulation.cuts!r}, which does not fit its `separate`")


def root_bound(
    formulation: str | Formulation,
    instance: Instance,
    bounds: Bounds,
    question: tuple[int, int, int],
    *,
    backend: str | Backend | None = None,
    rounds: int = 200,
) -> float:
    """Bound of the linear relaxation on ``side * g`` for a question (layer, neuron, side), separation converged."""
    formulation = resolve(formulation)
    model = question_model(formulation, instance, bounds, question)
    objective, scale = model.question_objective(*question)
    with pick_backend(formulation, backend).open(model.milp, Settings()) as session:
        session.change_objective(objective, maximize=True)
        for _ in range(rounds):
            relaxed = session.relax(Limits())
            if relaxed.status is not Status.OPTIMAL or relaxed.x is None or relaxed.objective is None:
                raise ConformanceError(f"{formulation.spec}: the relaxation ends with {relaxed.solver_status!r}")
            cuts = model.separate(relaxed.x)
            if cuts is None:
                return relaxed.objective / scale
            session.add_rows(cuts)
    raise ConformanceError(f"{formulation.spec}: separation has not converged after {rounds} rounds")


def relaxation(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """The linear relaxation is never below the truth, and never looser for tighter bounds."""
    formulation = resolve(formulation)
    for instance in instances()[:4]:
        truth = extremes(instance.network, instance.part)
        tight, loose = (run(method, instance.network, instance.part) for method in ("crown", "interval"))
        for question in open_questions(tight):
            k, i, side = question
            exact = float(truth[k][1][i] if side > 0 else -truth[k][0][i])
            better, worse = (root_bound(formulation, instance, b, question, backend=backend) for b in (tight, loose))
            where = f"{formulation.spec}, {instance.label}, layer {k}, neuron {i}, side {side}"
            if better < exact - TOLERANCE:
                raise ConformanceError(f"{where}: the relaxation says at most {better}, the truth is {exact}")
            if better > worse + TOLERANCE:
                raise ConformanceError(f"{where}: bound {better} from tighter bounds, {worse} from looser ones")


def cuts(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """Cuts hold for every forward pass, and cut off the LP point that they were made for."""
    formulation = resolve(formulation)
    if formulation.cuts == "none":
        return
    solver = pick_backend(formulation, backend)
    found = 0
    for instance, margin in itertools.product(instances(), MARGINS):
        bounds = run("interval", instance.network, instance.part)
        model = all_questions(formulation, instance, bounds, margin=margin)
        passes = model.points(instance.points)
        where = f"{formulation.spec}, {instance.label}, margin {margin}"
        with solver.open(model.milp, Settings()) as session:
            for layer, neuron, side in open_questions(bounds):
                session.change_objective(model.question_objective(layer, neuron, side)[0], maximize=True)
                point = session.relax(Limits()).x
                rows = None if point is None else model.separate(point)
                if point is None or rows is None:
                    continue
                found += len(rows.lower)
                values = rows.matrix @ point
                if not ((values > rows.upper) | (values < rows.lower)).all():
                    raise ConformanceError(f"{where}: a cut does not cut off the point it was made for")
                values = rows.matrix @ passes.T
                bad = ((values > rows.upper[:, None] + 1e-9) | (values < rows.lower[:, None] - 1e-9)).any(axis=0)
                if bad.any():
                    x = instance.points[np.flatnonzero(bad)[0]]
                    raise ConformanceError(f"{where}: a cut removes the forward pass at {x.tolist()}")
    if not found:
        raise ConformanceError(f"{formulation.spec}: `separate` finds no cut on any instance")


CHECKS: tuple[Callable[[str | Formulation], None], ...] = (
    fixed_input,
    forward_passes,
    verdicts,
    decided_neurons,
    requirements,
    relaxation,
    cuts,
)
"""Every check, to be called with a formulation or its specification, and a backend if one is wanted."""


def run_all(formulation: str | Formulation, backend: str | Backend | None = None) -> None:
    """Run every check; raises `ConformanceError` at the first that fails."""
    for check in (fixed_input, forward_passes, verdicts, decided_neurons, requirements, relaxation, cuts):
        check(formulation, backend)
