"""Formulations x bounds x backends on a small network: every pair that is supported runs, and gives the same answer."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from stablenet.backends.base import Backend, Capability, Limits, Settings, Status
from stablenet.backends.base import registry as backends
from stablenet.formulations.base import registry

from formulations.test_conformance import SPECS
from stablenet.bounds import registry as methods
from stablenet.bounds import run
from stablenet.core.bounds import Bounds
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing import formulation_instances as small
from stablenet.testing import formulations as suite

SOLVERS = ["highs", "scip", "cbc", "gurobi"]
NEEDS = {
    "indicator": Capability.INDICATOR,
    "sos1": Capability.SOS1,
    "ideal:cuts": Capability.CUTS,
    "pairs:cuts": Capability.CUTS,
}
UNSUPPORTED = {("indicator", "highs"), ("sos1", "highs"), ("ideal:cuts", "highs"), ("ideal:cuts", "cbc")}
UNSUPPORTED |= {("pairs:cuts", "highs"), ("pairs:cuts", "cbc")}
PAIRS = [
    pytest.param(spec, solver, marks=pytest.mark.backend(solver), id=f"{spec}-{solver}")
    for spec, solver in itertools.product(SPECS, SOLVERS)
    if (spec, solver) not in UNSUPPORTED
]


@cache
def instance() -> small.Instance:
    return small.random_instance(21, (3, 3, 3, 2), ties=False, skip=True)


@cache
def bounds_of(method: str) -> Bounds:
    return run(method, instance().network, instance().part)


def everything(spec: str, method: str) -> SearchModel:
    formulation = registry.get(spec)
    return suite.all_questions(formulation, instance(), bounds_of(method), margin=1e-8, decide=False)


def single_questions(solver: Backend, model: SearchModel, *, exact: bool) -> None:
    """One question of each layer has the true extremum, or for a relaxation no less."""
    truth = small.extremes(instance().network, instance().part)
    with solver.open(model.milp, Settings()) as session:
        for k, side in itertools.product(range(len(model.pre)), (1, -1)):
            objective, scale = model.question_objective(k, 0, side)
            session.change_objective(objective, maximize=True)
            result = session.solve(Limits())
            assert result.status is Status.OPTIMAL
            assert result.objective is not None
            best = result.objective / scale
            true = truth[k][1][0] if side > 0 else -truth[k][0][0]
            assert best >= true - 1e-5
            assert best <= true + 1e-5 or not exact


@pytest.mark.parametrize(("spec", "solver"), PAIRS)
def test_answers(spec: str, solver: str) -> None:
    formulation, backend = registry.get(spec), backends.get(solver)
    assert backend.supports(*formulation.requires)
    for method in methods.names():
        model = everything(spec, method)
        if method == "crown" or not formulation.exact:
            single_questions(backend, model, exact=formulation.exact)
        if formulation.exact:
            with backend.open(model.milp, Settings()) as session:
                result = session.solve(Limits(), start=model.point(np.zeros(3)))
            assert result.status is Status.OPTIMAL
            assert result.x is not None
            # Every neuron shows one of its two questions wherever it is not exactly 0.
            assert result.objective == pytest.approx(6, abs=1e-5)
            assert model.milp.violation(result.x) <= 1e-5


def test_only_what_a_solver_lacks_is_left_out() -> None:
    lacking = {
        (spec, solver)
        for spec, solver in itertools.product(SPECS, SOLVERS)
        if not backends.get(solver).supports(*registry.get(spec).requires)
    }
    assert lacking == UNSUPPORTED
    assert all(NEEDS[spec] in registry.get(spec).requires for spec, _ in lacking)
    assert len(PAIRS) == len(SPECS) * len(SOLVERS) - 6 == 66


def test_a_solver_without_the_feature_is_refused_before_anything_is_built() -> None:
    from stablenet.core.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="SOS1 sets"):
        suite.pick_backend(registry.get("sos1"), "highs")
    model = build_search_model(
        instance().network,
        instance().part,
        bounds_of("crown"),
        "sos1",
        positive=[[0]],
        negative=[[0]],
        margin=0.0,
        decide=False,
    )
    with pytest.raises(UnsupportedError, match="SOS1"):
        backends.get("highs").open(model.milp)
