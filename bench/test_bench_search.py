"""Each search on steps of the ladder that it can climb, and the baseline against one written down plainly.

The ladder's networks are read if STABLENET_NETWORKS names their folder (`bench/ladder.py` climbs all of it);
a network trained here on the spot stands in.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from public import needs_networks, read
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from trained import Recipe, train

from stablenet.api import find_stable
from stablenet.bounds import run
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, Domain, LinfBall

SEARCHES = ("neuron", "layer", "network", "split", "auto")
LADDER = {
    "seed_mnist_100-100": "box:0:1",
    "mnistfc_256x2": "mnistfc_prop_0_0.03.vnnlib.gz",
    "acasxu_4_5": "acasxu_prop_3.vnnlib.gz",
}
LIMIT = 10.0
"""Seconds: enough for all on these steps but `split`, which many inputs keep from ending."""

SPLIT_LIMIT = 2.0


@cache
def trained_network() -> tuple[Network, np.ndarray]:
    """20 inputs, 3 x 12 ReLUs, trained with an L1 penalty on a rule that needs few of them; and an input."""
    rng = np.random.default_rng(0)
    images = rng.random((2000, 20))
    labels = (images[:, :3].sum(axis=1) > 1.5).astype(np.intp) + 2 * (images[:, 4] > images[:, 5]).astype(np.intp)
    parameters, _ = train(Recipe(3, 12, 2e-4, 0, 20), images, labels)
    maps = [
        AffineMap(offset.astype(np.float64), (Term(k, matrix.astype(np.float64)),))
        for k, (matrix, offset) in enumerate(zip(parameters[::2], parameters[1::2], strict=True))
    ]
    layers = tuple(Layer(affine, f"relu{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(20, layers, maps[-1]), images[0]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("mode", ["bare", "full"])
def test_trained_network(benchmark, search: str, mode: str) -> None:
    network, centre = trained_network()
    domain = LinfBall(centre, 0.15, 0.0, 1.0)
    options = {"search": search, "threads": 1, "time_limit": SPLIT_LIMIT if search == "split" else LIMIT}
    if mode == "bare":
        options |= {"bounds": "interval", "decide_by_bounds": False, "falsify": False}
    report = benchmark.pedantic(find_stable, (network, domain), options, rounds=1, warmup_rounds=1)
    benchmark.extra_info |= {"solves": len(report.data["solves"]), "unknown": report.counts["unknown"]}
    assert report.complete or search == "split"


@needs_networks
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", LADDER)
def test_ladder(benchmark, name: str, search: str) -> None:
    network, domain = read(name, LADDER[name])
    options = {"search": search, "time_limit": SPLIT_LIMIT if search == "split" else LIMIT}
    report = benchmark.pedantic(find_stable, (network, domain), options, rounds=1)
    benchmark.extra_info |= {"unknown": report.counts["unknown"]}
    assert report.complete or search == "split"


# The baseline, written down plainly


def plain(network: Network, domain: Domain) -> tuple[list[list[str]], float]:
    """Verdicts by two MILPs a neuron, each solved to the end by SciPy's HiGHS, and the seconds spent solving."""
    part = domain.parts[0]
    ranges = [(layer.lower, layer.upper) for layer in run("interval", network, part).layers]
    sizes = [network.n_inputs, *(layer.size for layer in network.layers)]
    verdicts, spent = [], 0.0
    for k, layer in enumerate(network.layers):
        n_h, n_z = sum(sizes[: k + 1]), sum(sizes[1 : k + 1])
        blocks, low, high = rows_before(network, ranges, k)
        rows = (
            LinearConstraint(sparse.csr_array(sparse.vstack(blocks)), np.concatenate(low), np.concatenate(high))
            if k
            else ()
        )
        lower = np.concatenate([part.lower, np.zeros(n_h - sizes[0] + n_z)])
        upper = np.concatenate([part.upper, *(np.maximum(top, 0.0) for _, top in ranges[:k]), np.ones(n_z)])
        whole = np.concatenate([np.zeros(n_h), np.ones(n_z)])
        row = []
        for weights, offset in zip(np.asarray(layer.affine.terms[0].matrix), layer.affine.offset, strict=True):
            ends = []
            for sign in (1.0, -1.0):
                cost = np.zeros(n_h + n_z)
                cost[n_h - sizes[k] : n_h] = -sign * weights
                began = time.perf_counter()
                answer = milp(cost, integrality=whole, bounds=Bounds(lower, upper), constraints=rows)
                spent += time.perf_counter() - began
                assert answer.status == 0
                ends.append(sign * (-answer.fun) + offset)
            row.append("stably_inactive" if ends[0] <= 0 else "stably_active" if ends[1] >= 0 else "unstable")
        verdicts.append(row)
    return verdicts, spent


def rows_before(
    network: Network, ranges: list[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[list[sparse.csr_array], list[np.ndarray], list[np.ndarray]]:
    """Big-M rows of the layers before layer k, over all h and z: h >= g, h <= g - L (1 - z), h <= U z."""
    sizes = [network.n_inputs, *(layer.size for layer in network.layers)]
    place = np.concatenate([[0], np.cumsum(sizes)])
    n_h = int(place[k + 1])
    width = n_h + n_h - sizes[0]
    blocks, low, high = [], [], []
    for j, (bottom, top) in enumerate(ranges[:k]):
        begin, end = int(place[j + 1]), int(place[j + 2])
        affine = network.layers[j].affine
        n = end - begin
        eye, free = sparse.eye_array(n), np.full(n, np.inf)
        grow = sparse.lil_array((n, width))
        grow[:, place[j] : place[j + 1]] = -np.asarray(affine.terms[0].matrix)
        grow[:, begin:end] = eye
        hold, cap = grow.copy(), sparse.lil_array((n, width))
        z = slice(n_h + begin - sizes[0], n_h + end - sizes[0])
        hold[:, z] = sparse.diags_array(-np.minimum(bottom, 0.0))
        cap[:, begin:end], cap[:, z] = eye, sparse.diags_array(-np.maximum(top, 0.0))
        blocks += [sparse.csr_array(block) for block in (grow, hold, cap)]
        low += [affine.offset, -free, -free]
        high += [free, affine.offset - np.minimum(bottom, 0.0), np.zeros(n)]
    return blocks, low, high


def test_the_baseline_is_not_slowed(benchmark) -> None:
    """`neuron`, bare and on one core, against two whole MILPs a neuron: the same verdicts in less time."""
    network, centre = trained_network()
    domain = Box(np.maximum(centre - 0.15, 0.0), np.minimum(centre + 0.15, 1.0))
    verdicts, seconds = plain(network, domain)
    options = {"search": "neuron", "threads": 1, "bounds": "interval", "decide_by_bounds": False, "falsify": False}
    report = benchmark.pedantic(find_stable, (network, domain), options, rounds=2, warmup_rounds=1)
    solves = len(report.data["solves"])
    benchmark.extra_info |= {"plain_s": seconds, "solves": solves, "plain_solves": 2 * network.n_neurons}
    assert report.verdicts() == verdicts
    assert solves < 2 * network.n_neurons
    assert report.data["seconds"]["search"] < seconds
