"""Networks between a user's own Pyomo variables: optima, links, clones, writers, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from formulations.networks import crown, random_case
from optimum import optimum

from stablenet import EmbeddedNetwork, add_network, embedded_networks
from stablenet.core.errors import InputError, SolverError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.milp.compiler import compile_model

BOXES = [seed for seed in range(30) if len(parts := random_case(seed)[1].parts) == 1 and parts[0].a is None][:8]


def dense(seed: int, *sizes: int) -> Network:
    """A random dense network with ReLUs between its affine maps."""
    rng = np.random.default_rng(seed)
    maps = [
        AffineMap(rng.normal(size=m), (Term(k, rng.normal(size=(m, n))),)) for k, (n, m) in enumerate(pairwise(sizes))
    ]
    layers = tuple(Layer(affine, f"r{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1])


def chained(first: Network, second: Network) -> Network:
    """``second(first(x))``, with the map from the last layer of one to the first of the other multiplied out."""
    n = len(first.layers)
    (out,) = first.output.terms

    def after(affine: AffineMap, k: int) -> AffineMap:
        (term,) = affine.terms
        if k > 0:
            return AffineMap(affine.offset, (Term(n + k, term.matrix),))
        return AffineMap(affine.offset + term.matrix @ first.output.offset, (Term(n, term.matrix @ out.matrix),))

    layers = [Layer(after(layer.affine, k), f"s{k}", layer.shape) for k, layer in enumerate(second.layers)]
    return Network(first.n_inputs, (*first.layers, *layers), after(second.output, len(second.layers)))


def box_model(n: int, lower: float = -1.0, upper: float = 1.0) -> Any:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(lower, upper))
    model.net = pyo.Block()
    return model


def small(formulation: str = "bigm") -> tuple[Any, EmbeddedNetwork]:
    model = box_model(2)
    embedded = add_network(model.net, dense(3, 2, 4, 1), list(model.x.values()), formulation=formulation)
    model.goal = pyo.Objective(expr=embedded.outputs[0], sense=pyo.maximize)
    return model, embedded


@pytest.mark.parametrize("formulation", ["bigm", "hull"])
@pytest.mark.parametrize("seed", BOXES)
def test_extremes_of_outputs_are_the_exact_ones(seed: int, formulation: str) -> None:
    network, domain, truth = random_case(seed)
    part = domain.parts[0]
    model = pyo.ConcreteModel()
    model.inner = pyo.Block(["a"])
    model.inner["a"].place = pyo.Block([7])
    lows, highs = part.lower.tolist(), part.upper.tolist()
    model.price = pyo.Var(range(part.n_inputs), bounds=lambda _, i: (lows[i], highs[i]))
    model.gain = pyo.Var(range(network.n_outputs))
    embedded = add_network(
        model.inner["a"].place[7],
        network,
        list(model.price.values()),
        list(model.gain.values()),
        formulation=formulation,
    )
    for sense, exact in ((pyo.maximize, truth.maximum), (pyo.minimize, truth.minimum)):
        model.goal = pyo.Objective(expr=model.gain[0], sense=sense)
        best = float(exact[len(network.layers)][0])
        assert optimum(compile_model(model).milp) == pytest.approx(best, abs=2e-5 * (1.0 + abs(best)))
        assert embedded.output_lower[0] <= best <= embedded.output_upper[0]
        model.del_component(model.goal)


def test_linked_networks_are_the_chained_one() -> None:
    first, second = dense(1, 2, 5, 3), dense(2, 3, 4, 1)
    model = box_model(2)
    model.other = pyo.Block()
    one = add_network(model.net, first, list(model.x.values()))
    two = add_network(model.other, second, one.outputs)
    model.goal = pyo.Objective(expr=two.outputs[0], sense=pyo.maximize)
    whole = box_model(2)
    add_network(whole.net, chained(first, second), list(whole.x.values()))
    whole.goal = pyo.Objective(expr=whole.net.output[0], sense=pyo.maximize)
    best = optimum(compile_model(model).milp)
    assert best == pytest.approx(optimum(compile_model(whole).milp), abs=1e-6)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), axis=-1).reshape(-1, 2)
    sampled = second.forward(first.forward(grid)).max()
    assert sampled <= best + 1e-6
    assert sampled >= best - 0.1 * (1.0 + abs(best))
    pyo.SolverFactory("appsi_highs").solve(model)
    for embedded in embedded_networks(model):
        embedded.check_solution()
    assert [e.block.name for e in embedded_networks(model)] == ["net", "other"]


def test_output_bounds_hold_whether_bounds_are_named_or_given() -> None:
    network = dense(5, 3, 6, 6, 2)
    points = np.random.default_rng(0).uniform(-1, 1, size=(2000, 3))
    outputs = network.forward(points)
    for bounds in ("interval", "crown", crown(network, Box(-np.ones(3), np.ones(3)).parts[0])):
        model = box_model(3)
        embedded = add_network(model.net, network, list(model.x.values()), bounds=bounds)
        assert (embedded.output_lower <= outputs.min(axis=0)).all()
        assert (embedded.output_upper >= outputs.max(axis=0)).all()
        assert model.net.output[0].bounds == (embedded.output_lower[0], embedded.output_upper[0])


def test_outputs_of_the_user_keep_their_bounds_until_asked() -> None:
    model = box_model(2)
    model.y = pyo.Var(bounds=(None, 0.25))
    embedded = add_network(model.net, dense(3, 2, 4, 1), list(model.x.values()), [model.y])
    assert model.y.bounds == (None, 0.25)
    embedded.tighten_outputs()
    assert model.y.bounds == (embedded.output_lower[0], min(0.25, embedded.output_upper[0]))


def _write(suffix: str):
    return lambda model, folder: model.write(
        str(folder / f"model.{suffix}"), io_options={"symbolic_solver_labels": True}
    )


ROADS = {
    "compiled": lambda model, _: compile_model(model),
    "lp": _write("lp"),
    "mps": _write("mps"),
    "nl": _write("nl"),
    "appsi_highs": lambda model, _: pyo.SolverFactory("appsi_highs").solve(model),
    "highs": lambda model, _: pyo.SolverFactory("highs").solve(model),
    "cloned": lambda model, _: compile_model(model.clone()),
}


@pytest.mark.parametrize("road", ROADS)
def test_wider_inputs_are_refused_on_every_road(road: str, tmp_path: Path) -> None:
    model, embedded = small()
    model.x[1].setub(0.5)
    embedded.check_inputs()
    ROADS[road](model, tmp_path)  # narrower is fine
    model.x[1].setub(1.5)
    for attempt in (embedded.check_inputs, lambda: ROADS[road](model, tmp_path)):
        with pytest.raises(InputError, match=r"'x\[1\]' now has bounds \[-1, 1.5\].*'net' was added for \[-1, 1\]"):
            attempt()


def test_a_value_outside_of_the_box_has_no_solution() -> None:
    model, _ = small()
    model.x[0].fix(3.0)
    found = pyo.SolverFactory("highs").solve(model, load_solutions=False, raise_exception_on_nonoptimal_result=False)
    assert found.solver.termination_condition == pyo.TerminationCondition.infeasible


def test_a_released_variable_was_never_taken_for_its_value() -> None:
    model = box_model(2)
    model.x[0].fix(0.5)
    embedded = add_network(model.net, dense(3, 2, 4, 1), list(model.x.values()))
    model.x[0].unfix()
    model.goal = pyo.Objective(expr=embedded.outputs[0], sense=pyo.maximize)
    other, _ = small()
    assert optimum(compile_model(model).milp) == pytest.approx(optimum(compile_model(other).milp), abs=1e-7)


@pytest.mark.parametrize("suffix", ["lp", "mps"])
def test_files_have_the_same_optimum(suffix: str, tmp_path: Path) -> None:
    highspy = pytest.importorskip("highspy")
    model, _ = small()
    ROADS[suffix](model, tmp_path)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(tmp_path / f"model.{suffix}")) == highspy.HighsStatus.kOk
    solver.run()
    best = optimum(compile_model(model).milp)
    assert abs(solver.getInfo().objective_function_value) == pytest.approx(abs(best), abs=1e-6)  # MPS has no "max"


def _solvers() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ("highs", "appsi_highs", "scip_direct", "cbc", "gurobi_direct")
        return [name for name in names if pyo.SolverFactory(name).available(exception_flag=False)]


@pytest.mark.parametrize("solver", _solvers())
def test_pyomo_solvers_agree(solver: str) -> None:
    model, embedded = small()
    pyo.SolverFactory(solver).solve(model)
    assert pyo.value(model.goal) == pytest.approx(optimum(compile_model(model).milp), abs=1e-5)
    embedded.check_solution()
    assert embedded.difference() < 1e-5


@pytest.mark.parametrize("how", ["clone", "pickle"])
def test_copies_have_variables_of_their_own(how: str) -> None:
    model, embedded = small()
    copy = model.clone() if how == "clone" else pickle.loads(pickle.dumps(model))  # noqa: S301
    (other,) = embedded_networks(copy)
    assert other is copy.net.embedded
    assert other.inputs[0] is copy.x[0]
    assert other.outputs[0] is copy.net.output[0]
    assert other.block is copy.net
    if how == "clone":
        assert other.network is embedded.network
    pyo.SolverFactory("appsi_highs").solve(copy)
    other.check_solution()
    with pytest.raises(InputError, match="no value"):
        embedded.check_solution()
    copy.x[0].setub(2.0)
    with pytest.raises(InputError, match="now has bounds"):
        other.check_inputs()
    embedded.check_inputs()


@pytest.mark.parametrize("formulation", ["hull", "ideal", "indicator", "partition:2", "relaxed", "sos1", "gdp:bigm"])
def test_every_formulation_can_be_cloned_and_pickled(formulation: str) -> None:
    model, _ = small(formulation)
    arrays = compile_model(model).milp
    for copy in (model.clone(), pickle.loads(pickle.dumps(model))):  # noqa: S301
        other = compile_model(copy).milp
        assert (other.rows.matrix != arrays.rows.matrix).nnz == 0
        assert (other.rows.lower == arrays.rows.lower).all()
        assert (other.upper == arrays.upper).all()
        assert len(other.sos1) == len(arrays.sos1)
        assert (other.indicators is None) == (arrays.indicators is None)


def test_a_solution_that_is_none_is_found_out() -> None:
    model, embedded = small()
    pyo.SolverFactory("appsi_highs").solve(model)
    model.net.output[0].set_value(model.net.output[0].value + 1e-3)
    with pytest.raises(SolverError, match=r"'net.output\[0\]' is .* by a forward pass"):
        embedded.check_solution()
    embedded.check_solution(tolerance=1e-2)
    model.x[0].set_value(1.1, skip_validation=True)
    with pytest.raises(SolverError, match="outside of"):
        embedded.check_solution()


def test_coefficients_that_solvers_would_drop_relax_their_row() -> None:
    """HiGHS deletes 1e-10 and says 0; the true maximum is 1."""
    tiny = Network(
        1,
        (Layer(AffineMap(np.zeros(1), (Term(0, np.array([[1e-10]])),)), "r", (1,)),),
        AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),)),
    )
    model = box_model(1, -1e10, 1e10)
    embedded = add_network(model.net, tiny, [model.x[0]])
    model.goal = pyo.Objective(expr=embedded.outputs[0], sense=pyo.maximize)
    pyo.SolverFactory("appsi_highs").solve(model)
    assert pyo.value(model.goal) == pytest.approx(1.0, abs=1e-6)
    assert pyo.value(model.goal) == pytest.approx(optimum(compile_model(model).milp), abs=1e-6)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: ([m.x[0]], None), "1 input variables, the network has 2 inputs"),
        (lambda m: ([m.x[0], m.free], None), r"'free' has bounds \[-inf, inf\]; finite ones"),
        (lambda m: ([m.x[0], 2 * m.x[1]], None), "input 1 is .*; a scalar Pyomo variable"),
        (lambda m: ([m.x[0], m.x], None), "input 1 is .*; a scalar Pyomo variable"),
        (lambda m: ([m.x[0], 1.0], None), "input 1 is 1.0; a scalar Pyomo variable"),
        (lambda m: ([m.x[0], m.x[1]], [m.free, m.free]), "2 output variables, the network has 1"),
        (lambda m: ([m.x[0], m.crossed], None), "lower bound 2 above upper bound 1"),
    ],
)
def test_variables_that_do_not_fit(spoil: Any, words: str) -> None:
    model = box_model(2)
    model.free = pyo.Var()
    model.crossed = pyo.Var(bounds=(2, 1))
    inputs, outputs = spoil(model)
    with pytest.raises(InputError, match=words):
        add_network(model.net, dense(3, 2, 4, 1), inputs, outputs)
    assert not list(model.net.component_objects()), "what is refused leaves nothing behind"


def test_blocks_that_do_not_fit() -> None:
    model, _ = small()
    inputs = list(model.x.values())
    with pytest.raises(InputError, match="block 'net' has a component 'inputs_in_box'"):
        add_network(model.net, dense(3, 2, 4, 1), inputs)
    with pytest.raises(InputError, match="not constructed"):
        add_network(pyo.Block(concrete=False), dense(3, 2, 4, 1), inputs)
    with pytest.raises(InputError, match="no Pyomo block"):
        add_network(model.x, dense(3, 2, 4, 1), inputs)
    model.several = pyo.Block([1, 2])
    with pytest.raises(InputError, match="of an indexed one"):
        add_network(model.several, dense(3, 2, 4, 1), inputs)
