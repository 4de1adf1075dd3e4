"""Linear programs for leaves: their choices give the optimum, prove emptiness, and close what descent leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.exact import extrema
from oracle.networks import case
from scipy.optimize import linprog
from stablenet.backends.base import Limits
from stablenet.backends.base import registry as backends

from stablenet import Box, Network, Polytope, Union, find_stable, load_onnx
from stablenet.bounds.crown import Backward, crown_layers
from stablenet.check.claims import check
from stablenet.core.network import AffineMap, Layer, Term
from stablenet.search.base import Problem
from stablenet.search.leaf_programs import solve_leaf

N, FIRST, SECOND = 3, 6, 5


def random_network(rng: np.random.Generator) -> Network:
    first, second = rng.normal(size=(FIRST, N)), rng.normal(size=(SECOND, FIRST))
    layers = (
        Layer(AffineMap(0.3 * rng.normal(size=FIRST), (Term(0, first),)), "a", (FIRST,)),
        Layer(AffineMap(0.3 * rng.normal(size=SECOND), (Term(1, second),)), "b", (SECOND,)),
    )
    return Network(N, layers, AffineMap(np.zeros(1), (Term(2, np.ones((1, SECOND))),)))


@pytest.mark.parametrize("polytope", [False, True])
@pytest.mark.parametrize("seed", range(16))
def test_choices_give_the_optimum_of_a_leaf_or_show_that_it_is_empty(seed: int, polytope: bool) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng)
    rows = rng.normal(size=(2, N))
    part: Any = Polytope(-np.ones(N), np.ones(N), rows, np.full(2, 0.4)) if polytope else Box(-np.ones(N), np.ones(N))
    backward = Backward.on(network, part)
    polytope_rows = (part.a, part.b) if polytope else None
    backward.push(*crown_layers(network, part.lower[None], part.upper[None], polytope=polytope_rows)[0])
    stage, affine = backward.stages[0], network.layers[1].affine
    first = network.layers[0].affine
    weights, offset = first.terms[0].matrix, first.offset
    alive = np.arange(FIRST) if stage.alive is None else stage.alive
    open_ = stage.relaxation.open[0]
    g = weights @ (0.3 * rng.uniform(-1, 1, N)) + offset
    phases = np.where(open_, np.sign(g[alive]), 0).astype(np.int8)
    if seed % 3 == 2:
        phases[open_] = rng.choice([-1, 1], open_.sum())  # for the most part of no input
    sign = 1.0 if seed % 2 else -1.0
    found = solve_leaf(backward, affine, 1, sign, [phases], backend=backends.get("highs"), limits=Limits(time=10.0))
    assert found is not None
    bound = float(backward.upper_bounds(affine, np.array([1]), np.array([sign]), found.choices)[0][0, 0])
    # In x alone: every neuron has a phase.
    active = (phases > 0) | (~open_ & (stage.relaxation.upper[0] > 0))
    last = sign * np.asarray(affine.terms[0].matrix)[1, alive[active]]
    objective, constant = last @ weights[alive[active]], sign * affine.offset[1] + last @ offset[alive[active]]
    a = np.concatenate([-phases[open_, None] * weights[alive[open_]], rows if polytope else np.zeros((0, N))])
    b = np.concatenate([phases[open_] * offset[alive[open_]], np.full(2 if polytope else 0, 0.4)])
    exact = linprog(-objective, A_ub=a, b_ub=b, bounds=[(-1, 1)] * N)
    if exact.status == 2:
        assert bound < 0.0
    else:
        best = constant - exact.fun
        assert best - 1e-9 <= bound <= best + 1e-6 * (1 + abs(best))


def test_leaves_that_descent_leaves_are_closed_and_stand_the_checker(tmp_path: Path, monkeypatch: Any) -> None:
    """Without the last rounds of descent `branch` leaves questions open that the programs close."""
    monkeypatch.setattr("stablenet.search.branch.LAST_ROUNDS", 1)
    monkeypatch.setattr("stablenet.search.branch.LAST_STEPS", 0)
    unknown = {False: 0, True: 0}
    original = Problem.__post_init__
    for seed in range(24):
        made = case(seed)
        file, proof, written = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.proof", tmp_path / f"{seed}.json"
        file.write_bytes(made.onnx)
        network = load_onnx(file)
        domain = Union([Box(list(region.lower), list(region.upper)) for region in made.regions])
        exact = extrema(made.plain, made.regions)
        for on in (False, True):

            def init(self: Problem, found: Any, *, on: bool = on) -> None:
                original(self, found)
                self.leaf_solver = backends.get("highs") if on else None

            monkeypatch.setattr(Problem, "__post_init__", init)
            report = find_stable(
                network, domain, search="branch", bounds="interval", falsify=False, threads=1, proof=str(proof)
            )
            report.write(written)
            assert check(network, written, proof, domain=domain).problems == []
            unknown[on] += report.counts["unknown"]
            for neuron in report.data["neurons"]:
                high = exact.maximum[neuron["layer"]][neuron["neuron"]]
                low = exact.minimum[neuron["layer"]][neuron["neuron"]]
                assert neuron["positive"]["state"] != "refuted" or high <= 0
                assert neuron["negative"]["state"] != "refuted" or low >= 0
    assert unknown[True] < unknown[False]
