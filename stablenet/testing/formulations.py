"""Conformance suite for formulations: what every encoding of a ReLU layer must do, and cannot do by luck.

For the author of a formulation, with pytest::

    import pytest
    from stablenet.testing import formulations as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyFormulation())

Each check takes a formulation (or its specification) and optionally a backend, and raises `ConformanceError`
with what went wrong and where. Without a backend it takes the first installed one that offers what the
formulation needs. The true answers come from `extremes`, which enumerates activation patterns and solves one
linear program each with SciPy: nothing in it knows a formulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from stablenet.backends.base import Backend, Capability, Limits, Session, Settings, Status
from stablenet.backends.base import registry as backends
from stablenet.bounds import run
from stablenet.core.bounds import Bounds
from stablenet.core.errors import UnsupportedError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.formulations.base import Formulation
from stablenet.milp.compiler import CompiledModel, compile_model
from stablenet.pyomo_model.network_model import build_model, resolve
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing.suite import ConformanceError

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-5
"""What an optimum may be off, relative to the size of the model's numbers (1 to 10)."""

PREFERRED = ("highs", "scip")
MARGINS = (0.0, 1e-6)
VARIANTS = (("interval", 0.0, True), ("crown", 0.0, False), ("crown", 1e-6, True), ("interval", 1e-6, False))
"""Bounds, margin and whether bounds decide."""


@dataclass(frozen=True)
class Instance:
    """A small network on a box, with points of the box that are worth a look."""

    label: str
    network: Network
    part: Box
    points: Array


@dataclass(frozen=True)
class Structure:
    """What a formulation adds for one neuron: own columns, rows, binaries, SOS1 sets, indicator rows."""

    columns: int
    rows: int
    binaries: int
    sets: int
    indicators: int


def _network(weights: Sequence[Array], offsets: Sequence[Array], *, skip: bool = False) -> Network:
    """A dense network; with ``skip`` the last hidden layer and the output read the input too."""
    n, rng = weights[0].shape[1], np.random.default_rng(1)
    maps = []
    for k, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        terms = [Term(k, weight)]
        if skip and 0 < k >= len(weights) - 2:
            terms.append(Term(0, rng.integers(-2, 3, size=(len(offset), n)).astype(float)))
        maps.append(AffineMap(offset, tuple(terms)))
    layers = tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps[:-1]))
    return Network(n, layers, maps[-1])


def random_instance(seed: int, sizes: tuple[int, ...], *, ties: bool, skip: bool) -> Instance:
    """A dense network; with ``ties`` of small integer weights without offsets, with ``skip`` residual."""
    rng = np.random.default_rng(seed)
    weights, offsets = [], []
    for n, m in itertools.pairwise(sizes):
        weights.append(rng.integers(-2, 3, size=(m, n)).astype(float) if ties else rng.normal(size=(m, n)))
        offsets.append(np.zeros(m) if ties else rng.normal(size=m) * 0.3)
    lower, upper = -np.ones(sizes[0]), np.ones(sizes[0]) * (1.0 if ties else 0.75)
    corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))))
    points = np.concatenate([np.zeros((1, sizes[0])), corners, rng.uniform(lower, upper, size=(4, sizes[0]))])
    label = f"{'integer' if ties else 'real'} weights {sizes}{' with skips' if skip else ''}, seed {seed}"
    return Instance(label, _network(weights, offsets, skip=skip), Box(lower, upper), points)


@cache
def instances() -> tuple[Instance, ...]:
    """Small networks: real weights, integer ones with exact ties at 0, residual, one input, one fixed input."""
    fixed = random_instance(5, (2, 3, 2, 1), ties=False, skip=False)
    box = Box(np.array([-1.0, 0.25]), np.array([0.75, 0.25]))
    return (
        random_instance(0, (2, 3, 3, 2), ties=False, skip=False),
        random_instance(1, (2, 3, 3, 2), ties=True, skip=False),
        random_instance(2, (3, 3, 2, 1), ties=False, skip=True),
        random_instance(3, (2, 4, 2, 1), ties=True, skip=True),
        random_instance(4, (1, 3, 3, 1), ties=False, skip=False),
        Instance(fixed.label + ", one input fixed", fixed.network, box, box.clip(fixed.points)),
    )


@cache
def extremes(network: Network, part: Box) -> tuple[tuple[Array, Array], ...]:
    """True least and greatest pre-activation of every neuron, per layer (n,), by enumeration of patterns.

    One linear program per activation pattern of the layers before, neuron and side: for a dozen neurons at most.
    """
    box = list(zip(part.lower.tolist(), part.upper.tolist(), strict=True))
    found = []
    for k, layer in enumerate(network.layers):
        low, high = np.full(layer.size, np.inf), np.full(layer.size, -np.inf)
        for maps, a, b in _cells(network, k):
            weight, offset = maps[k]
            for i, side in itertools.product(range(layer.size), (1.0, -1.0)):
                answer = linprog(-side * weight[i], A_ub=a, b_ub=b, bounds=box)
                if answer.status == 0 and answer.fun is not None:
                    value = offset[i] - side * float(answer.fun)
                    low[i], high[i] = min(low[i], value), max(high[i], value)
        found.append((low, high))
    return tuple(found)


def _cells(network: Network, depth: int) -> Iterator[tuple[list[tuple[Array, Array]], Array, Array]]:
    """For each activation pattern of the layers before ``depth``: all affine maps in x up to it, and the cell."""
    n = network.n_inputs
    sizes = [layer.size for layer in network.layers[:depth]]
    for pattern in itertools.product((False, True), repeat=sum(sizes)):
        posts = [(np.eye(n), np.zeros(n))]
        maps, rows, sides, at = [], [], [], 0
        for layer in network.layers[: depth + 1]:
            weight, offset = np.zeros((layer.size, n)), layer.affine.offset.copy()
            for term in layer.affine.terms:
                matrix = np.asarray(term.matrix)
                weight += matrix @ posts[term.source][0]
                offset += matrix @ posts[term.source][1]
            maps.append((weight, offset))
            if len(maps) <= depth:
                on = np.array(pattern[at : at + layer.size])
                at += layer.size
                sign = np.where(on, -1.0, 1.0)
                rows.append(sign[:, None] * weight)
                sides.append(-sign * offset)
                posts.append((weight * on[:, None], offset * on))
        yield maps, np.concatenate(rows) if rows else np.zeros((0, n)), np.concatenate(sides) if sides else np.zeros(0)


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
    # Two objectives that weigh every quantity differently leave no room for a single wrong one.
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
    """What it declares to need is what it builds: SOS1 sets, indicators, cuts in the tree."""
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
    layer, neuron, side = question
    asked: list[list[int]] = [[] for _ in range(layer)] + [[neuron]]
    model = build_search_model(
        instance.network, instance.part, bounds, formulation, positive=asked, negative=[], margin=0.0, witness=False
    )
    objective, scale = model.question_objective(layer, neuron, side)
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


def open_questions(bounds: Bounds) -> list[tuple[int, int, int]]:
    """Both questions of the undecided neurons of all layers but the first, whose bounds are exact."""
    return [
        (k, int(i), side)
        for k in range(1, len(bounds.layers))
        for i in np.flatnonzero(bounds.layers[k].phase == 0)
        for side in (1, -1)
    ]


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
    """Cuts hold for every forward pass, and cut off the point that they were asked for."""
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
