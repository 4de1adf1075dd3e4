"""Planted witnesses: a neuron that is barely positive, at a point that is known, is never refuted, whatever answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from stablenet.backends.base import registry

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import planted

PLANTED = [found for seed in range(3) if (found := planted.plant(np.random.default_rng(seed), 10.0 ** -(7 + seed)))]


def test_the_truth_is_certain() -> None:
    assert len(PLANTED) > 1
    for one in PLANTED:
        assert one.domain.parts[0].holds(one.witness[None, :]).all()
        assert one.network.evaluate(one.witness[None, :]).signs(2)[0, 0] > 0


SOLVERS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in registry.classes if name != "pyomo"]


@pytest.mark.parametrize("way", ["network", "neuron", "milp"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solver_refutes_it(solver: str, way: str) -> None:
    for seed, one in enumerate(PLANTED):
        state, _ = planted.ask(one, solver, way, "bigm", seed)
        assert state in {"right", "unknown"}, (one.share, state)
