"""Building and compiling models of dense networks, against OMLT on the same network in the same run.

pytest bench/test_bench_model.py -s
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from stablenet.bounds import run
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.milp.compiler import compile_model
from stablenet.pyomo_model.network_model import build_model

CIFAR = (3072, 400, 400, 10)


def dense(sizes: tuple[int, ...]) -> Network:
    """Gaussian weights, one of 1/width variance per layer."""
    rng = np.random.default_rng(0)
    maps = [
        AffineMap(rng.normal(size=m) * 0.1, (Term(k, rng.normal(size=(m, n)) / np.sqrt(n)),))
        for k, (n, m) in enumerate(pairwise(sizes))
    ]
    return Network(sizes[0], tuple(Layer(a, f"relu{k}", (a.size,)) for k, a in enumerate(maps[:-1])), maps[-1])


def ours(network: Network, domain: Box, bounds) -> float:
    """Seconds to build and compile."""
    start = time.perf_counter()
    compiled = compile_model(build_model(network, domain, bounds=bounds))
    seconds = time.perf_counter() - start
    assert compiled.milp.n_nonzeros > sum(a * b for a, b in pairwise(network.source_sizes))
    return seconds


def omlt(network: Network, domain: Box) -> float:
    """Seconds to build the same network with OMLT's big-M and to put it in standard form."""
    import pyomo.environ as pyo
    from omlt import OmltBlock
    from omlt.neuralnet import NetworkDefinition, ReluBigMFormulation
    from omlt.neuralnet.layer import DenseLayer, InputLayer
    from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

    sides = {i: (float(lo), float(hi)) for i, (lo, hi) in enumerate(zip(domain.lower, domain.upper, strict=True))}
    definition = NetworkDefinition(scaled_input_bounds=sides)
    before = InputLayer([network.n_inputs])
    definition.add_layer(before)
    maps = [*(layer.affine for layer in network.layers), network.output]
    for k, affine in enumerate(maps):
        weight = np.asarray(affine.terms[0].matrix)
        kind = "relu" if k < len(network.layers) else "linear"
        layer = DenseLayer(
            [weight.shape[1]], [weight.shape[0]], activation=kind, weights=weight.T, biases=affine.offset
        )
        definition.add_layer(layer)
        definition.add_edge(before, layer)
        before = layer
    start = time.perf_counter()
    model = pyo.ConcreteModel()
    model.net = OmltBlock()
    model.net.build_formulation(ReluBigMFormulation(definition))
    model.goal = pyo.Objective(expr=model.net.outputs[0])
    LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=None)
    return time.perf_counter() - start


@pytest.mark.long
def test_cifar_sized_model_against_omlt(record_property) -> None:
    network = dense(CIFAR)
    domain = Box(-np.ones(CIFAR[0]), np.ones(CIFAR[0]))
    bounds = run("interval", network, domain)
    ours(
        dense((4, 3, 2)), Box(-np.ones(4), np.ones(4)), run("interval", dense((4, 3, 2)), Box(-np.ones(4), np.ones(4)))
    )
    mine = min(ours(network, domain, bounds) for _ in range(3))
    theirs = omlt(network, domain)
    record_property("stablenet_s", mine)
    record_property("omlt_s", theirs)
    print(f"\nbuild and compile {CIFAR}: stablenet {mine:.3f} s, OMLT {theirs:.1f} s, ratio {theirs / mine:.0f}")
    assert mine < 0.5
    assert theirs / mine >= 50


def test_build(benchmark) -> None:
    network, domain = dense(CIFAR), Box(-np.ones(CIFAR[0]), np.ones(CIFAR[0]))
    bounds = run("interval", network, domain)
    benchmark(build_model, network, domain, bounds=bounds)


def test_compile(benchmark) -> None:
    network, domain = dense(CIFAR), Box(-np.ones(CIFAR[0]), np.ones(CIFAR[0]))
    model = build_model(network, domain, bounds=run("interval", network, domain))
    benchmark(compile_model, model)
