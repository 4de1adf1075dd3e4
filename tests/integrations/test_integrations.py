"""Bounds supplied to OMLT, gurobi-machinelearning and PySCIPOpt-ML: same optimum, tighter models, refusals."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stablenet import Box, find_stable
from stablenet.core.errors import InputError, NotInstalledError, ReportError, UnsupportedError
from stablenet.integrations import gurobi_ml as for_gurobi
from stablenet.integrations import omlt as for_omlt
from stablenet.integrations import pyscipopt_ml as for_scip
from stablenet.integrations.dense_chain import Dense, chain, supply

RNG_SEED = 3
SIZES = (3, 8, 6, 2)


def weights(seed=RNG_SEED, sizes=SIZES):
    """Dense layers, with some neurons that are stable on the box [-1, 1]."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=pair) for pair in pairwise(sizes)]
    offsets = [rng.normal(size=size) for size in sizes[1:]]
    offsets[0][:3] = 9.0, -9.0, -9.0
    offsets[1][:2] = 40.0, -40.0
    return maps, offsets


def regressor(seed=RNG_SEED):
    """A fitted MLPRegressor of scikit-learn with those weights."""
    neural = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    maps, offsets = weights(seed)
    model = neural.MLPRegressor(hidden_layer_sizes=SIZES[1:-1], max_iter=1)
    x = np.random.default_rng(0).normal(size=(20, SIZES[0]))
    with pytest.warns(match="Maximum iterations"):
        model.fit(x, np.zeros((20, SIZES[-1])))
    model.coefs_, model.intercepts_ = maps, offsets
    return model


def ours(maps, offsets):
    last = len(maps) - 1
    return chain([Dense(m, o, relu=k < last) for k, (m, o) in enumerate(zip(maps, offsets, strict=True))], SIZES[0])


def true_maximum():
    """The largest first output on [-1, 1], by our own search of the model."""
    import pyomo.environ as pyo

    from stablenet import build_model

    model = build_model(ours(*weights()), "box:-1:1")
    model.goal = pyo.Objective(expr=model.output[0], sense=pyo.maximize)
    pyo.SolverFactory("highs").solve(model)
    return pyo.value(model.goal)


# OMLT


def definition(sizes=SIZES, activation="relu", bounds=True, seed=RNG_SEED):
    omlt = pytest.importorskip("omlt.neuralnet", reason="OMLT is not installed")
    layers = pytest.importorskip("omlt.neuralnet.layer")
    box = dict.fromkeys(range(sizes[0]), (-1.0, 1.0))
    net = omlt.NetworkDefinition(scaled_input_bounds=box if bounds else None)
    before = layers.InputLayer([sizes[0]])
    net.add_layer(before)
    maps, offsets = weights(seed, sizes)
    for k, (weight, offset) in enumerate(zip(maps, offsets, strict=True)):
        kind = "linear" if k == len(maps) - 1 else activation
        layer = layers.DenseLayer([weight.shape[0]], [weight.shape[1]], weight, offset, activation=kind)
        net.add_layer(layer)
        net.add_edge(before, layer)
        before = layer
    return net


def omlt_model(net, constraints=None):
    import pyomo.environ as pyo
    from omlt import OmltBlock
    from omlt.neuralnet import FullSpaceNNFormulation

    model = pyo.ConcreteModel()
    model.net = OmltBlock()
    model.net.build_formulation(FullSpaceNNFormulation(net, activation_constraints=constraints))
    model.goal = pyo.Objective(expr=model.net.outputs[0], sense=pyo.maximize)
    return model


def widths(model):
    import pyomo.environ as pyo

    return {
        str(v): v.ub - v.lb for v in model.component_data_objects(pyo.Var) if ".zhat" in str(v) and v.lb is not None
    }


@pytest.mark.parametrize("source", ["crown", "bounds", "report"])
def test_omlt_has_the_same_optimum_with_tighter_bounds(source):
    import pyomo.environ as pyo

    net = definition()
    network = for_omlt.network_of(net)
    box = Box(-np.ones(3), np.ones(3))
    given = {
        "crown": lambda: "crown",
        "bounds": lambda: supply(network, box.lower[None], box.upper[None], "crown").known[0].bounds,
        "report": lambda: find_stable(network, box, threads=1),
    }[source]()
    plain, tight = omlt_model(net), omlt_model(net, for_omlt.activation_constraints(net, given))
    fixed = [v for v in tight.component_data_objects(pyo.Var) if v.fixed and ".q_relu" in str(v)]
    assert len(fixed) >= 5
    before, after = widths(plain), widths(tight)
    assert before.keys() == after.keys()
    assert all(after[name] <= before[name] for name in before)
    assert sum(after.values()) < 0.99 * sum(before.values())
    for model in (plain, tight):
        pyo.SolverFactory("highs").solve(model)
        assert pyo.value(model.goal) == pytest.approx(true_maximum(), abs=1e-5)


def test_omlt_definitions_that_are_no_chain_of_bounded_dense_layers_are_refused():
    with pytest.raises(UnsupportedError, match="'tanh'"):
        for_omlt.network_of(definition(activation="tanh"))
    with pytest.raises(UnsupportedError, match="no ReLUs between"):
        for_omlt.network_of(definition(activation="linear"))
    with pytest.raises(InputError, match="scaled_input_bounds"):
        for_omlt.activation_constraints(definition(bounds=False))
    layers = sys.modules["omlt.neuralnet.layer"]
    net = definition()
    net.add_edge(list(net.layers)[1], list(net.layers)[3])
    with pytest.raises(UnsupportedError, match="a chain is expected"):
        for_omlt.network_of(net)
    conv = sys.modules["omlt.neuralnet"].NetworkDefinition()
    first, second = (
        layers.InputLayer([1, 2, 2]),
        layers.ConvLayer2D([1, 2, 2], [1, 1, 1], [1, 1], np.ones((1, 1, 2, 2))),
    )
    for layer in (first, second):
        conv.add_layer(layer)
    conv.add_edge(first, second)
    with pytest.raises(UnsupportedError, match="dense ones are expected"):
        for_omlt.network_of(conv)


# gurobi-machinelearning


def gurobi_model(predictor, lower=-1.0, samples=1):
    gurobipy = pytest.importorskip("gurobipy", reason="gurobipy is not installed")
    add = pytest.importorskip("gurobi_ml", reason="gurobi-machinelearning is not installed").add_predictor_constr
    env = gurobipy.Env(params={"OutputFlag": 0, "Threads": 1})
    model = gurobipy.Model(env=env)
    x = model.addMVar((samples, SIZES[0]), lb=lower, ub=1.0)
    y = model.addMVar((samples, SIZES[-1]), lb=-gurobipy.GRB.INFINITY)
    constraint = add(model, predictor, x, y)
    model.setObjective(y[0, 0], gurobipy.GRB.MAXIMIZE)
    return model, constraint


@pytest.mark.backend("gurobi")
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("source", ["crown", "report"])
def test_gurobi_machinelearning_has_the_same_optimum_with_bounds(source, samples):
    model, constraint = gurobi_model(regressor(), samples=samples)
    network = for_gurobi.network_of(constraint)
    given = find_stable(network, "box:-1:1", threads=1) if source == "report" else source
    supplied = for_gurobi.tighten(constraint, given)
    assert supplied.n_neurons == 14 * samples
    assert supplied.n_stable >= 5 * samples
    for layer, found in zip(list(constraint)[:-1], supplied.known[0].bounds.layers, strict=True):
        np.testing.assert_array_equal(layer.mixing.LB[0], found.lower)
        np.testing.assert_array_equal(layer.output.UB[0], np.maximum(found.upper, 0))
    model.optimize()
    assert model.ObjVal == pytest.approx(true_maximum(), abs=1e-5)
    assert constraint.get_error().max() < 1e-5


@pytest.mark.backend("gurobi")
def test_gurobi_constraints_without_finite_inputs_or_of_another_kind_are_refused():
    _, constraint = gurobi_model(regressor(), lower=-np.inf)
    with pytest.raises(InputError, match="input 0 of sample 0 has bounds"):
        for_gurobi.tighten(constraint)
    with pytest.raises(InputError, match="neural network is expected"):
        for_gurobi.tighten(object())
    _, constraint = gurobi_model(regressor())
    other = find_stable(ours(*weights(5)), "box:-1:1", search="off")
    with pytest.raises(ReportError, match="sha256"):
        for_gurobi.tighten(constraint, other)
    smaller = find_stable(for_gurobi.network_of(constraint), "box:-0.5:0.5", search="off")
    with pytest.raises(ReportError, match="not within"):
        for_gurobi.tighten(constraint, smaller)


@pytest.mark.backend("gurobi")
def test_inputs_that_are_widened_later_are_noticed():
    model, constraint = gurobi_model(regressor())
    supplied = for_gurobi.tighten(constraint)
    supplied.check_inputs(constraint.input.LB, constraint.input.UB)
    constraint.input.UB = np.full((1, 3), 2.0)
    model.update()
    with pytest.raises(InputError, match=r"now has bounds \[-1, 2\]"):
        supplied.check_inputs(constraint.input.LB, constraint.input.UB)


# PySCIPOpt-ML


def scip_model(predictor, formulation, lower=-1.0):
    pyscipopt = pytest.importorskip("pyscipopt")
    module = pytest.importorskip("pyscipopt_ml.add_predictor", reason="PySCIPOpt-ML is not installed")
    model = pyscipopt.Model()
    model.hideOutput()
    x = model.addMatrixVar((1, SIZES[0]), lb=lower, ub=1.0)
    y = model.addMatrixVar((1, SIZES[-1]), lb=None, ub=None)
    constraint = module.add_predictor_constr(
        model, predictor, x, y, unique_naming_prefix="net_", formulation=formulation
    )
    model.setObjective(y[0, 0], "maximize")
    return model, constraint


@pytest.mark.backend("scip")
@pytest.mark.parametrize("formulation", ["sos", "bigm"])
def test_pyscipopt_ml_has_the_same_optimum_with_bounds(formulation):
    model, constraint = scip_model(regressor(), formulation)
    supplied = for_scip.tighten(constraint)
    assert supplied.n_stable >= 5
    unstable = [np.flatnonzero(layer.phase == 0) for layer in supplied.known[0].bounds.layers]
    layer, found, i = list(constraint)[1], supplied.known[0].bounds.layers[1], unstable[1][0]
    assert layer.output[0][int(i)].getUbOriginal() == found.upper[i]
    if formulation == "bigm":
        row = model.getValsLinear(layer._created_cons[2][0][int(i)])
        assert -found.upper[i] in row.values()
    model.optimize()
    assert model.getObjVal() == pytest.approx(true_maximum(), abs=1e-4)
    assert constraint.get_error().max() < 1e-4


@pytest.mark.backend("scip")
def test_big_m_rows_of_pyscipopt_ml_hold_exactly_where_the_relu_does():
    """Every row with its new coefficients, at points of the network's graph and with a wrong post-activation."""
    _, constraint = scip_model(regressor(), "bigm")
    model = constraint.scip_model
    for_scip.tighten(constraint)
    network = for_scip.network_of(constraint)
    x = np.random.default_rng(1).uniform(-1, 1, (50, 3))
    pre = network.pre_activations(x)
    posts = [x, *(np.maximum(g, 0) for g in pre)]
    wrong = 0
    for k, layer in enumerate(list(constraint)[:-1]):
        names = {layer.input[0][i].name: posts[k][:, i] for i in range(posts[k].shape[1])}
        for i in range(pre[k].shape[1]):
            names[layer.output[0][i].name] = posts[k + 1][:, i]
            names[layer._created_vars[0][0][i].name] = (pre[k][:, i] > 0).astype(float)
            for rows in layer._created_cons:
                row = rows[0][i]
                values = sum(c * names[name] for name, c in model.getValsLinear(row).items())
                assert (values <= model.getRhs(row) + 1e-8).all()
                assert (values >= model.getLhs(row) - 1e-8).all()
                off = values + 1.0 * model.getValsLinear(row).get(layer.output[0][i].name, 0.0)
                wrong += int(((off > model.getRhs(row) + 1e-8) | (off < model.getLhs(row) - 1e-8)).sum())
    assert wrong > 0


@pytest.mark.backend("scip")
def test_scip_models_that_are_solved_or_unbounded_are_refused():
    model, constraint = scip_model(regressor(), "sos", lower=None)
    with pytest.raises(InputError, match="input 0 of sample 0 has bounds"):
        for_scip.tighten(constraint)
    model, constraint = scip_model(regressor(), "sos")
    model.optimize()
    with pytest.raises(InputError, match="freeTransform"):
        for_scip.tighten(constraint)
    with pytest.raises(InputError, match="neural network is expected"):
        for_scip.network_of(3)


# All of them


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        (for_omlt, "omlt.neuralnet.layer", "omlt"),
        (for_gurobi, "gurobi_ml.modeling.neuralnet", "gurobiml"),
        (for_scip, "pyscipopt_ml.modelling.neuralnet", "scipml"),
    ],
)
def test_a_missing_package_names_its_extra(module, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotInstalledError, match=rf"stablenet\[{extra}\]"):
        module.network_of(object())


def test_a_chain_computes_what_its_layers_do():
    maps, offsets = weights()
    x = np.random.default_rng(1).normal(size=(30, 3))
    expected = x
    for k, (weight, offset) in enumerate(zip(maps, offsets, strict=True)):
        expected = expected @ weight + offset
        expected = np.maximum(expected, 0) if k < len(maps) - 1 else expected
    np.testing.assert_allclose(ours(maps, offsets).forward(x), expected, atol=1e-12)
    rectified = chain([Dense(maps[0], offsets[0], relu=True)], 3)
    np.testing.assert_allclose(rectified.forward(x), np.maximum(x @ maps[0] + offsets[0], 0), atol=1e-12)


# The guide

GUIDE = Path(__file__).resolve().parents[2] / "docs/how-to/integrations.md"


def shown(package):
    """The block of the guide that imports from a package's adapter."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return next(block for block in blocks if f"stablenet.integrations.{package} " in block)


def test_the_guide_for_omlt_runs():
    import pyomo.environ as pyo

    names = {"definition": definition(), "model": pyo.ConcreteModel()}
    exec(shown("omlt"), names)  # noqa: S102 - our own guide
    assert len(names["model"].net.outputs) == 2


@pytest.mark.backend("gurobi")
def test_the_guide_for_gurobi_runs():
    model, constraint = gurobi_model(regressor())
    names = {"model": model, "predictor": constraint.predictor, "inputs": constraint.input, "outputs": None}
    exec(shown("gurobi_ml"), names)  # noqa: S102 - our own guide
    assert names["supplied"].n_stable


def test_the_guide_for_torch_runs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    nn = torch.nn
    names = {"module": nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))}
    exec(shown("torch"), names)  # noqa: S102 - our own guide
    assert names["masks"]["1"].active.shape == (5,)
    assert isinstance(names["smaller"], nn.Module)
