"""Models for users and for searches, with big-M."""

import numpy as np
import pyomo.environ as pyo
import pytest
from formulations.networks import crown, cube, dense, random_case
from optimum import optimum
from scipy import sparse

from stablenet.bounds import run
from stablenet.core.bounds import Bounds
from stablenet.core.errors import DomainError, InputError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Polytope, Union
from stablenet.milp.compiler import compile_model
from stablenet.pyomo_model.network_model import build_model, power_of_two
from stablenet.pyomo_model.search_model import SearchModel, build_search_model

SEEDS = range(22)  # twice round the oracle's families


def all_open(bounds: Bounds) -> list[np.ndarray]:
    return [np.flatnonzero(b.phase == 0) for b in bounds.layers]


def search(network, part, bounds, *, margin=1e-8, decide=True, formulation="bigm") -> SearchModel | None:
    """The model of all pending questions, or None where nothing is pending."""
    asked = all_open(bounds) if decide else [np.arange(layer.size) for layer in network.layers]
    if not any(len(a) for a in asked):
        return None
    return build_search_model(
        network, part, bounds, formulation, positive=asked, negative=asked, margin=margin, decide=decide
    )


def inside(part, rng, count: int) -> np.ndarray:
    """Points of a part: random ones and the corners of its box, as far as they lie in it."""
    points = rng.uniform(part.lower, part.upper, size=(count, part.n_inputs))
    corners = np.where(rng.random((count, part.n_inputs)) < 0.5, part.lower, part.upper)
    points = np.concatenate([points, corners])
    return points[part.holds(points)]


def test_names_and_aliases_of_a_model_for_users() -> None:
    network = Network(
        2,
        (Layer(AffineMap(np.array([0.0, 5.0, -5.0]), (Term(0, np.array([[1.0, 1], [1, 0], [0, 1]])),)), "r", (3,)),),
        AffineMap(np.zeros(1), (Term(1, np.ones((1, 3))),)),
    )
    part = cube(2)
    model = build_model(network, part, bounds=crown(network, part))
    layer = model.layer[0]
    assert list(model.x) == [0, 1]
    assert list(layer.pre) == list(layer.post) == [0, 1, 2]
    assert list(layer.is_active) == [0]
    assert layer.post[1] is layer.pre[1]
    assert layer.post[2].bounds == (0.0, 0.0)
    model.goal = pyo.Objective(expr=model.output[0], sense=pyo.maximize)
    pyo.SolverFactory("highs").solve(model)
    assert pyo.value(model.goal) == pytest.approx(8.0)
    clone = model.clone()
    assert clone.layer[0].post[1] is clone.layer[0].pre[1]
    assert optimum(compile_model(clone).milp) == pytest.approx(8.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_extremes_of_outputs_and_pre_activations_are_the_exact_ones(seed: int) -> None:
    network, domain, truth = random_case(seed)
    for sense, best, pick in ((pyo.maximize, truth.maximum, max), (pyo.minimize, truth.minimum, min)):
        models = [build_model(network, part, bounds=crown(network, part)) for part in domain.parts]
        for k, exact in enumerate(best):
            found = []
            for model in models:
                target = model.output[0] if k == len(network.layers) else model.layer[k].pre[0]
                model.goal = pyo.Objective(expr=target, sense=sense)
                found.append(optimum(compile_model(model).milp))
                model.del_component(model.goal)
            size = 1.0 + abs(float(exact[0]))
            assert pick(found) == pytest.approx(float(exact[0]), abs=2e-5 * size, rel=2e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fixed_input_gives_the_forward_pass(seed: int) -> None:
    network, domain, _ = random_case(seed)
    part = domain.parts[0]
    model = build_model(network, part, bounds=crown(network, part))
    rng = np.random.default_rng(seed)
    points = inside(part, rng, 20)
    if not len(points):
        pytest.fail("no point of the domain was found")
    x = points[-1]
    for i, value in enumerate(x):
        model.x[i].fix(value)
    model.goal = pyo.Objective(expr=model.output[0])
    expected = network.forward(x)[0]
    scale = 1.0 + np.abs(expected).max()
    assert optimum(compile_model(model).milp) == pytest.approx(expected[0], abs=1e-5 * scale)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("margin", [0.0, 1e-6])
@pytest.mark.parametrize("decide", [True, False])
def test_every_forward_pass_is_feasible_in_a_search_model(seed: int, margin: float, decide: bool) -> None:
    network, domain, _ = random_case(seed)
    rng = np.random.default_rng(seed)
    for part in domain.parts:
        model = search(network, part, crown(network, part), margin=margin, decide=decide)
        if model is None:
            continue
        points = inside(part, rng, 10)
        for x, vector in zip(points, model.points(points), strict=True):
            assert model.milp.violation(vector) <= 1e-9
            np.testing.assert_array_equal(model.inputs(vector), x)
            pre = network.pre_activations(x)
            shown = [
                pre[k][0, i] * side > 0
                for k, i, side in zip(model.questions.layer, model.questions.neuron, model.questions.side, strict=True)
            ]
            np.testing.assert_array_equal(model.claims(vector), shown)
            assert model.milp.value(vector) == sum(shown)


def test_the_margin_is_what_rows_allow() -> None:
    network, part = dense(1, (3, 4, 4, 2)), cube(3)
    bounds = crown(network, part)
    exact, wide = (search(network, part, bounds, margin=margin) for margin in (0.0, 1e-3))
    assert exact is not None
    assert wide is not None
    gap = wide.milp.rows.upper - wide.milp.rows.lower
    rows = [i for i, name in enumerate(wide.milp.row_names) if ".affine[" in name]
    np.testing.assert_allclose(gap[rows], 2e-3, rtol=1e-9)
    assert (exact.milp.rows.upper - exact.milp.rows.lower)[rows].max() == 0
    np.testing.assert_allclose(exact.milp.lower[wide.pre[0].columns] - wide.milp.lower[wide.pre[0].columns], 1e-3)
    vector = wide.point(np.zeros(3))
    vector[wide.pre[0].columns[0]] += 0.9e-3
    assert wide.milp.violation(vector) < 0.9e-3 < exact.milp.violation(vector) + 1e-9


@pytest.mark.parametrize("decide", [True, False])
def test_scaling_is_by_powers_of_two_to_a_range_below_one(decide: bool) -> None:
    network, part = dense(2, (3, 5, 4, 2)), Box(np.array([-3e-5, -100.0, 0.2]), np.array([1e-5, 260.0, 0.3]))
    bounds = crown(network, part)
    model = search(network, part, bounds, decide=decide, margin=0.0)
    assert model is not None
    for scales in (model.input_scale, *(p.scale for p in model.pre)):
        mantissa, _ = np.frexp(scales)
        assert (mantissa == 0.5).all()
    milp = model.milp
    for columns in (model.input_columns, *(p.columns for p in model.pre)):
        reach = np.maximum(np.abs(milp.lower), np.abs(milp.upper))[columns]
        assert ((reach >= 0.5) & (reach < 1.0)).all()
    if not decide:
        for k, kept in enumerate(model.pre):
            low, high = bounds.layers[k].lower[kept.neurons], bounds.layers[k].upper[kept.neurons]
            np.testing.assert_array_equal(milp.lower[kept.columns], np.minimum(low, -1) * kept.scale)
            np.testing.assert_array_equal(milp.upper[kept.columns], np.maximum(high, 1) * kept.scale)
    np.testing.assert_array_equal(power_of_two(np.array([0.0, 1.0, 0.75, 3.0, 2.0**-30])), [1, 0.5, 1, 0.25, 2.0**29])


def test_only_what_a_question_depends_on_is_modelled() -> None:
    """Two parallel chains: asking one leaves the other out, later layers too."""
    eye = np.eye(2)
    layers = tuple(Layer(AffineMap(np.zeros(2), (Term(k, eye),)), f"r{k}", (2,)) for k in range(3))
    network = Network(2, layers, AffineMap(np.zeros(2), (Term(3, eye),)))
    part = cube(2)
    bounds = Bounds.of("wide", [(np.full(2, -2.0), np.full(2, 2.0))] * 3, rigorous=False)
    model = build_search_model(network, part, bounds, "bigm", positive=[[], [1]], negative=[[], [1]], margin=0.0)
    assert [p.neurons.tolist() for p in model.pre] == [[1], [1]]
    assert model.milp.n_binaries == 2
    assert (model.questions.layer.tolist(), model.questions.side.tolist()) == ([1, 1], [1, -1])
    np.testing.assert_allclose(optimum(model.milp), 1.0)
    objective, scale = model.question_objective(1, 1, -1)
    from dataclasses import replace

    assert optimum(replace(model.milp, objective=objective)) / scale == pytest.approx(0.0, abs=1e-7)
    with pytest.raises(InputError, match="neuron 0 of layer 1"):
        model.question_objective(1, 0, 1)
    with pytest.raises(InputError, match="layers 0 to 1"):
        model.question_objective(2, 0, 1)


def test_decided_neurons_cost_nothing() -> None:
    weight = np.array([[1.0, 0], [0, 1], [1, 1]])
    first = Layer(AffineMap(np.array([3.0, -3.0, 0.0]), (Term(0, weight),)), "a", (3,))
    second = Layer(AffineMap(np.array([-3.0]), (Term(1, np.array([[1.0, 1.0, 1.0]])),)), "b", (1,))
    network = Network(2, (first, second), AffineMap(np.zeros(1), (Term(2, np.ones((1, 1))),)))
    part = cube(2)
    bounds = crown(network, part)
    model = build_search_model(network, part, bounds, "bigm", positive=[[2], [0]], negative=[[], [0]], margin=0.0)
    assert model.pre[0].neurons.tolist() == [0, 2]  # 1 is inactive
    assert list(model.milp.columns) == [
        *("x[0]", "x[1]", "layer[0].pre[0]", "layer[0].pre[2]", "layer[0].post[2]", "layer[0].is_active[2]"),
        *("layer[1].pre[0]", "layer[1].post[0]", "layer[1].is_active[0]"),
        *("positive[0,2]", "positive[1,0]", "negative[1,0]"),
    ]
    assert model.milp.n_rows == 3 + 6 + 3
    with pytest.raises(InputError, match="layer 0, neuron 1"):
        build_search_model(network, part, bounds, "bigm", positive=[[1]], negative=[], margin=0.0)


def test_phases_can_be_given() -> None:
    network, part = dense(3, (2, 3, 2, 1)), cube(2)
    bounds = Bounds.of(
        "wide", [(np.full(3, -9.0), np.full(3, 9.0)), (np.full(2, -9.0), np.full(2, 9.0))], rigorous=False
    )
    phases = [np.array([1, -1, 0], np.int8), np.zeros(2, np.int8)]
    model = build_search_model(
        network, part, bounds, "bigm", positive=[[], [0, 1]], negative=[[], [0]], margin=0.0, phases=phases
    )
    assert model.pre[0].neurons.tolist() == [0, 2]
    assert model.milp.n_binaries == 3


def test_convolutions_and_sources_side_by_side() -> None:
    """Sparse layers, two terms on one source, and a dense beside a sparse source."""
    rng = np.random.default_rng(5)
    band = sparse.csr_array(sparse.diags_array([rng.normal(size=6), rng.normal(size=5)], offsets=[0, 1], shape=(6, 6)))
    first = Layer(AffineMap(rng.normal(size=6), (Term(0, band), Term(0, band * 0.5))), "a", (6,))
    second = Layer(AffineMap(rng.normal(size=6), (Term(1, rng.normal(size=(6, 6))), Term(0, band))), "b", (6,))
    third = Layer(
        AffineMap(rng.normal(size=4), (Term(2, rng.normal(size=(4, 6))), Term(1, rng.normal(size=(4, 6))))), "c", (4,)
    )
    network = Network(6, (first, second, third), AffineMap(np.zeros(1), ()))
    part = cube(6)
    model = search(network, part, crown(network, part))
    assert model is not None
    points = rng.uniform(-1, 1, size=(20, 6))
    for vector in model.points(points):
        assert model.milp.violation(vector) <= 1e-9
    user = build_model(network, part, bounds=crown(network, part))
    user.goal = pyo.Objective(expr=user.output[0])
    assert optimum(compile_model(user).milp) == pytest.approx(0.0, abs=1e-9)


def test_weights_that_solvers_would_drop_do_not_change_the_answer() -> None:
    """400 weights of 1e-10 on inputs up to 1e9: HiGHS alone would answer 0."""
    rng = np.random.default_rng(0)
    layer = Layer(AffineMap(np.zeros(1), (Term(0, rng.normal(size=(1, 400)) * 1e-10),)), "a", (1,))
    network = Network(400, (layer,), AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)))
    part = cube(400, 1e9)
    bounds = crown(network, part)
    model = search(network, part, bounds, margin=0.0)
    assert model is not None
    from dataclasses import replace

    objective, scale = model.question_objective(0, 0, 1)
    top = optimum(replace(model.milp, objective=objective)) / scale
    assert top == pytest.approx(bounds.layers[0].upper[0], rel=1e-6)


@pytest.mark.parametrize("kind", ["union", "inputs", "layers", "size", "infinite", "margin", "none", "number"])
def test_what_does_not_fit_is_refused(kind: str) -> None:
    network, part = dense(0, (2, 3, 1)), cube(2)
    good = crown(network, part)
    ask = {"positive": [[0]], "negative": [[0]], "margin": 0.0}

    def bounds(lower, upper):
        return Bounds.of("m", [(lower, upper)], rigorous=False)

    attempts = {
        "union": lambda: build_model(network, Union([part, part]), bounds=good),
        "inputs": lambda: build_model(network, cube(3), bounds=good),
        "layers": lambda: build_search_model(network, part, Bounds((), ()), "bigm", **ask),
        "size": lambda: build_model(network, part, bounds=bounds(np.zeros(2), np.zeros(2))),
        "infinite": lambda: build_model(network, part, bounds=bounds(np.zeros(3), np.full(3, np.inf))),
        "margin": lambda: build_search_model(network, part, good, "bigm", **{**ask, "margin": float("nan")}),
        "none": lambda: build_search_model(network, part, good, "bigm", positive=[], negative=[[]], margin=0.0),
        "number": lambda: build_search_model(network, part, good, "bigm", **{**ask, "positive": [[3]]}),
    }
    with pytest.raises(DomainError if kind in ("union", "inputs") else InputError) as caught:
        attempts[kind]()
    assert "\n" not in str(caught.value)


def test_rows_of_a_polytope_are_kept() -> None:
    network = dense(4, (2, 3, 1))
    part = Polytope(np.full(2, -1.0), np.ones(2), np.array([[1000.0, 1000.0]]), np.array([-500.0]))
    model = build_model(network, part, bounds=crown(network, part))
    model.goal = pyo.Objective(expr=model.x[0] + model.x[1], sense=pyo.maximize)
    assert optimum(compile_model(model).milp) == pytest.approx(-0.5)
    relaxed = search(network, part, crown(network, part), margin=1e-3)
    if relaxed is not None:
        rows = [i for i, name in enumerate(relaxed.milp.row_names) if name.startswith("domain[")]
        assert relaxed.milp.rows.upper[rows].tolist() == [-500.0 / 2048 + 1e-3]


@pytest.mark.backend("highs")
def test_rounds_of_cuts_tighten_the_root() -> None:
    from stablenet.backends.base import Limits, Settings
    from stablenet.backends.base import registry as backends

    network, part = dense(12, (6, 5, 4, 1)), cube(6)
    bounds = run("interval", network, part)
    model = search(network, part, bounds, formulation="ideal", margin=1e-8)
    plain = search(network, part, bounds, formulation="bigm", margin=1e-8)
    assert model is not None
    assert plain is not None
    layer, neuron = 1, int(model.pre[1].neurons[0])
    objective, _ = model.question_objective(layer, neuron, 1)
    with backends.get("highs").open(model.milp, Settings(feasibility=1e-9)) as session:
        session.change_objective(objective, maximize=True)
        before = session.relax(Limits()).objective
        added = model.root_rounds(session, Limits(), progress=0.0, rounds=100)
        after = session.relax(Limits())
        solved = session.solve(Limits()).objective
        again = model.root_rounds(session, Limits(), progress=0.0)
    assert before is not None
    assert after.objective is not None
    assert solved is not None
    assert after.x is not None
    assert added > 0
    assert again == 0
    assert solved <= after.objective + 1e-7 < before - 1e-3
    assert plain.root_rounds(backends.get("highs").open(plain.milp), Limits()) == 0


def test_bounds_that_cross_by_a_tolerance_are_used_and_others_refused() -> None:
    layer = Layer(AffineMap(np.zeros(1), (Term(0, np.ones((1, 1))),)), "r", (1,))
    network = Network(
        1, (layer, Layer(AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)), "s", (1,))), AffineMap(np.zeros(1), ())
    )
    part = Box(np.full(1, 0.5), np.full(1, 0.5))

    def bounds(lower: float, upper: float) -> Bounds:
        one = np.ones(1)
        return Bounds.of("lp", [(lower * one, upper * one), (-one, one)], rigorous=False)

    model = build_model(network, part, bounds=bounds(0.5 + 1e-8, 0.5 - 1e-8))
    model.goal = pyo.Objective(expr=model.layer[1].post[0])
    assert optimum(compile_model(model).milp) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(InputError, match=r"layer 0, neuron 0: lower bound 0\.6 exceeds"):
        build_model(network, part, bounds=bounds(0.6, 0.5))
