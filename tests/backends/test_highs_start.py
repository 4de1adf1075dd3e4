"""HiGHS with a start where presolve solves the whole model: the optimum is returned, not the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from formulations.networks import crown, random_case
from stablenet.backends.base import Limits, Settings, Status, registry

from stablenet.domain.regions import Box
from stablenet.onnx_io.reader import load_onnx
from stablenet.pyomo_model.search_model import SearchModel, build_search_model

pytestmark = pytest.mark.backend("highs")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits_3x100.onnx"


def model_and_start(seed: int) -> tuple[SearchModel, np.ndarray]:
    network, domain, _ = random_case(seed)
    part = domain.parts[0]
    asked = [np.arange(layer.size) for layer in network.layers]
    model = build_search_model(
        network, part, crown(network, part), "bigm", positive=asked, negative=[], margin=1e-8, decide=False
    )
    return model, model.point((part.lower + part.upper) / 2)


def test_the_reported_value_is_that_of_the_point() -> None:
    better = 0
    for seed in range(22):
        model, start = model_and_start(seed)
        with registry.get("highs").open(model.milp) as session:
            result = session.solve(Limits(), start=start)
        assert result.status is Status.OPTIMAL
        assert result.x is not None
        assert model.milp.value(result.x) == pytest.approx(result.objective, abs=1e-6)
        assert result.objective == pytest.approx(result.dual_bound, abs=1e-6)
        better += result.objective > model.milp.value(start) + 0.5
    assert better >= 5


def test_a_start_that_reaches_the_target_ends_the_solve() -> None:
    model, start = model_and_start(18)
    assert model.milp.value(start) >= 1
    with registry.get("highs").open(model.milp) as session:
        result = session.solve(Limits(), start=start, target=0.5)
    assert result.status in {Status.TARGET, Status.OPTIMAL}
    assert result.objective is not None
    assert result.objective >= 0.5


def test_a_relaxation_solved_before_does_not_cut_off_the_optimum() -> None:
    """HiGHS 1.16 proved 0.2775 here where its own point has 0.2873, with the relaxation's solution as the start."""
    network = load_onnx(EXAMPLE)
    part = Box(np.full(64, 0.3), np.full(64, 0.7))
    model = build_search_model(
        network, part, crown(network, part), "bigm", positive=[[], [], [2]], negative=[], margin=1e-6, witness=False
    )
    objective, _ = model.question_objective(2, 2, 1)
    with registry.get("highs").open(model.milp, Settings(1e-7, 1e-7)) as session:
        session.change_objective(objective, maximize=True)
        relaxed = session.relax(Limits())
        result = session.solve(Limits())
    assert relaxed.objective == pytest.approx(0.45085, abs=1e-4)
    assert result.dual_bound >= 0.28727
    assert result.objective == pytest.approx(0.287276, abs=1e-5)
