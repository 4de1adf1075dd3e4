"""CBC never proves less than what is possible: its integer preprocessing, which did, stays off."""

from __future__ import annotations

import numpy as np
import pytest
from formulations.networks import crown, random_case
from stablenet.backends.base import Limits, Status, registry

from stablenet.pyomo_model.search_model import build_search_model

pytestmark = [pytest.mark.backend("cbc"), pytest.mark.backend("highs")]


@pytest.mark.parametrize("seed", [8, 15, 29, 31])
@pytest.mark.parametrize("formulation", ["bigm", "sos1"])
def test_the_optimum_is_at_least_what_an_input_shows(seed: int, formulation: str) -> None:
    network, domain, _ = random_case(seed)
    part = domain.parts[0]
    asked = [np.arange(layer.size) for layer in network.layers]
    bounds = crown(network, part)
    model, plain = (
        build_search_model(network, part, bounds, spec, positive=asked, negative=[], margin=1e-8, decide=False)
        for spec in (formulation, "bigm")
    )
    points = np.random.default_rng(0).uniform(part.lower, part.upper, size=(200, part.n_inputs))
    shown = max(model.milp.value(vector) for vector in model.points(points[part.holds(points)]))
    with registry.get("cbc").open(model.milp) as session:
        result = session.solve(Limits())
    with registry.get("highs").open(plain.milp) as session:
        other = session.solve(Limits())
    assert result.status is other.status is Status.OPTIMAL
    assert result.dual_bound >= shown - 1e-6
    assert other.objective is not None
    assert result.dual_bound >= other.objective - 1e-6
