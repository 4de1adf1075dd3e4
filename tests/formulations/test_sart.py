"""Binaries by the question's signs: half of a layer's at best, and a wrong sign is found by the suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import dense

from stablenet.api import find_stable
from stablenet.bounds import run
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.pyomo_model import search_model, search_plan
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing import formulations as suite
from stablenet.testing.formulations import ConformanceError


def two_layers(weights: np.ndarray) -> Network:
    first = Layer(AffineMap(np.zeros(4), (Term(0, np.eye(4)),)), "first", (4,))
    second = Layer(AffineMap(np.zeros(1), (Term(1, weights),)), "second", (1,))
    return Network(4, (first, second), AffineMap(np.zeros(1), (Term(2, np.ones((1, 1))),)))


def asked(network: Network, side: int, formulation: str = "sart") -> SearchModel:
    part = Box(-np.ones(network.n_inputs), np.ones(network.n_inputs))
    questions = {"positive": [[], [0]], "negative": []} if side > 0 else {"positive": [], "negative": [[], [0]]}
    bounds = run("interval", network, part)
    return build_search_model(network, part, bounds, formulation, margin=0.0, witness=False, **questions)


@pytest.mark.parametrize(("side", "binaries"), [(1, 1), (-1, 3)])
def test_a_binary_only_where_the_weight_pushes_up(side: int, binaries: int) -> None:
    network = two_layers(np.array([[1.0, -1.0, -2.0, -0.5]]))
    model = asked(network, side)
    assert model.milp.n_binaries == binaries
    assert asked(network, side, "bigm").milp.n_binaries == 4
    # Of a neuron that is pushed down the row from below alone is left.
    assert model.milp.n_rows == 4 + 1 + 3 * binaries + (4 - binaries)


def test_readers_that_differ_keep_the_binary() -> None:
    middle = Layer(AffineMap(np.zeros(2), (Term(1, np.array([[1.0, 1.0], [1.0, -1.0]])),)), "middle", (2,))
    first, last = two_layers(np.ones((1, 4))).layers
    first = replace(first, affine=AffineMap(np.zeros(2), (Term(0, np.eye(2)),)), shape=(2,))
    last = replace(last, affine=AffineMap(np.full(1, 0.5), (Term(2, np.array([[-1.0, -1.0]])),)))
    network = Network(2, (first, middle, last), AffineMap(np.zeros(1), (Term(3, np.ones((1, 1))),)))
    part = Box(-np.ones(2), np.ones(2))
    bounds = run("interval", network, part)
    model = build_search_model(
        network, part, bounds, "sart", positive=[[], [], [0]], negative=[], margin=0.0, witness=False
    )
    # The first of the middle layer is active, the second pushed down; the last neuron reads both with one sign.
    assert [built.relu.sense.tolist() for built in model._built.layers[:2]] == [[-1, 0], [-1]]
    assert model.milp.n_binaries == 1


def test_a_flipped_sense_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(*arguments):
        return [replace(plan, sense=-plan.sense) for plan in search_plan.with_senses(*arguments)]

    monkeypatch.setattr(search_model, "with_senses", flipped)
    with pytest.raises(ConformanceError, match="asked alone"):
        suite.verdicts("sart")


def test_a_search_gives_the_verdicts_of_big_m_with_fewer_binaries(tmp_path) -> None:
    path = dense(tmp_path, (3, 10, 10, 10, 2), seed=0)
    options = {"search": "neuron", "bounds": "interval", "falsify": False, "certify": False}
    reports = {
        name: find_stable(str(path), Box(-np.ones(3) / 2, np.ones(3) / 2), formulation=name, **options)
        for name in ("bigm", "sart")
    }
    verdicts = {name: report.verdicts() for name, report in reports.items()}
    assert verdicts["bigm"] == verdicts["sart"]
    assert reports["bigm"].counts["unknown"] == 0
    binaries = {
        name: sum(solve["binaries"] for solve in report.to_json()["solves"]) for name, report in reports.items()
    }
    assert 0 < binaries["sart"] < 0.8 * binaries["bigm"]
