"""What bounds supplied to other packages' models are worth: processor time and nodes of the same MILP with and without.

    python bench/integrations.py

A network is trained on random numbers, the same for all packages; the MILP maximises its output over a box. Prints the
table of docs/results/integrations.md. Times are processor time of this process, of one thread; both runs of a pair are
in one process, one after the other.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

LIMIT = 40.0
"""Processor seconds after which a solve stops: its ratio is then a bound."""


@dataclass
class Run:
    """One solve: its processor seconds, those of making the bounds, nodes, optimum, and whether it ended by proof."""

    bounds_s: float
    solve_s: float
    nodes: float
    value: float
    proved: bool


def network(n_inputs: int, hidden: tuple[int, ...], seed: int = 0) -> MLPRegressor:
    """A regressor trained on a smooth function of its inputs."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (2000, n_inputs))
    y = np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] - np.abs(x).sum(axis=1) / n_inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPRegressor(hidden_layer_sizes=hidden, max_iter=200, random_state=seed).fit(x, y)


def with_omlt(model: MLPRegressor, box: tuple[float, float], bounds: str | None) -> Run:
    """OMLT's full-space big-M formulation, by HiGHS through Pyomo."""
    import pyomo.environ as pyo
    from omlt import OmltBlock
    from omlt.neuralnet import FullSpaceNNFormulation, NetworkDefinition
    from omlt.neuralnet.layer import DenseLayer, InputLayer

    from stablenet.integrations.omlt import activation_constraints

    definition = NetworkDefinition(scaled_input_bounds=dict.fromkeys(range(len(model.coefs_[0])), box))
    before: Any = InputLayer([len(model.coefs_[0])])
    definition.add_layer(before)
    for k, (weight, offset) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        kind = "linear" if k == len(model.coefs_) - 1 else "relu"
        layer = DenseLayer([weight.shape[0]], [weight.shape[1]], weight, offset, activation=kind)
        definition.add_layer(layer)
        definition.add_edge(before, layer)
        before = layer
    began = time.process_time()
    constraints = activation_constraints(definition, bounds) if bounds else None
    bounds_s = time.process_time() - began
    made = pyo.ConcreteModel()
    made.net = OmltBlock()
    made.net.build_formulation(FullSpaceNNFormulation(definition, activation_constraints=constraints))
    made.goal = pyo.Objective(expr=made.net.outputs[0], sense=pyo.maximize)
    solver = pyo.SolverFactory("appsi_highs")
    solver.highs_options = {"threads": 1, "time_limit": LIMIT, "mip_rel_gap": 1e-4}
    began = time.process_time()
    result = solver.solve(made, load_solutions=False)
    solve_s = time.process_time() - began
    info = solver._solver_model.getInfo()  # noqa: SLF001 - Pyomo does not pass on the nodes
    proved = str(result.solver.termination_condition) == "optimal"
    return Run(bounds_s, solve_s, info.mip_node_count, info.objective_function_value, proved)


def with_gurobi(model: MLPRegressor, box: tuple[float, float], bounds: str | None) -> Run:
    """gurobi-machinelearning."""
    import gurobipy
    from gurobi_ml import add_predictor_constr

    from stablenet.integrations.gurobi_ml import tighten

    env = gurobipy.Env(params={"OutputFlag": 0, "Threads": 1, "TimeLimit": LIMIT})
    made = gurobipy.Model(env=env)
    x = made.addMVar((1, len(model.coefs_[0])), lb=box[0], ub=box[1])
    y = made.addMVar((1, 1), lb=-gurobipy.GRB.INFINITY)
    constraint = add_predictor_constr(made, model, x, y)
    began = time.process_time()
    if bounds:
        tighten(constraint, bounds)
    bounds_s = time.process_time() - began
    made.setObjective(y[0, 0], gurobipy.GRB.MAXIMIZE)
    began = time.process_time()
    made.optimize()
    solve_s = time.process_time() - began
    return Run(bounds_s, solve_s, made.NodeCount, made.ObjVal, made.Status == gurobipy.GRB.OPTIMAL)


def with_scip(formulation: str) -> Callable[[MLPRegressor, tuple[float, float], str | None], Run]:
    """PySCIPOpt-ML with SOS1 sets (its default) or with big-M rows."""

    def run(model: MLPRegressor, box: tuple[float, float], bounds: str | None) -> Run:
        from pyscipopt import Model
        from pyscipopt_ml.add_predictor import add_predictor_constr

        from stablenet.integrations.pyscipopt_ml import tighten

        made = Model()
        made.hideOutput()
        made.setParam("limits/time", LIMIT)
        x = made.addMatrixVar((1, len(model.coefs_[0])), lb=box[0], ub=box[1])
        y = made.addMatrixVar((1, 1), lb=None, ub=None)
        constraint = add_predictor_constr(made, model, x, y, formulation=formulation)
        began = time.process_time()
        if bounds:
            tighten(constraint, bounds)
        bounds_s = time.process_time() - began
        made.setObjective(y[0, 0], "maximize")
        began = time.process_time()
        made.optimize()
        solve_s = time.process_time() - began
        return Run(bounds_s, solve_s, made.getNTotalNodes(), made.getObjVal(), made.getStatus() == "optimal")

    return run


PEERS = {
    "OMLT, HiGHS": with_omlt,
    "gurobi-machinelearning": with_gurobi,
    "PySCIPOpt-ML, SOS1": with_scip("sos"),
    "PySCIPOpt-ML, big-M": with_scip("bigm"),
}

TASKS = (
    (3, (20, 20), (-1.0, 1.0)),
    (10, (25, 25), (-1.0, 1.0)),
    (10, (25, 25), (-0.3, 0.3)),
    (5, (20, 20, 20), (-1.0, 1.0)),
    (5, (20, 20, 20), (-0.3, 0.3)),
)
METHODS = ("crown", "lp")


def main() -> None:
    """Print the table."""
    print("| package | network, box | bounds | processor s: without, with (+ the bounds) | nodes | ratio of s |")
    print("|---|---|---|---|---|---|")
    for name, solve in PEERS.items():
        for n_inputs, hidden, box in TASKS:
            model = network(n_inputs, hidden)
            plain = solve(model, box, None)
            for method in METHODS:
                tight = solve(model, box, method)
                if plain.proved and tight.proved and abs(plain.value - tight.value) > 1e-3 * (1 + abs(plain.value)):
                    raise SystemExit(f"{name}: {plain.value} without bounds and {tight.value} with")
                ratio = plain.solve_s / (tight.solve_s + tight.bounds_s)
                sign = {(True, True): "", (False, True): ">= ", (True, False): "<= "}.get(
                    (plain.proved, tight.proved), "? "
                )
                shape = "-".join(map(str, (n_inputs, *hidden, 1)))
                print(
                    f"| {name} | {shape}, [{box[0]:g}, {box[1]:g}] | {method} | {plain.solve_s:.2f}, "
                    f"{tight.solve_s:.2f} (+ {tight.bounds_s:.2f}) | {plain.nodes:.0f}, {tight.nodes:.0f} | "
                    f"{sign}{ratio:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
