"""Falsifying: what it takes to go through all pending questions, and what it closes.

The public networks are read if STABLENET_NETWORKS names their folder; random ones stand in.
"""

from __future__ import annotations

import numpy as np
import pytest
from public import needs_networks, read
from test_bench_bounds import random_network

from stablenet.bounds import run
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.domain.regions import Box, Domain, LinfBall
from stablenet.falsify.falsifier import Falsifier

CASES = {
    "seed_mnist_200-200": "box:0:1",
    "mnistfc_256x4": "mnistfc_prop_0_0.03.vnnlib.gz",
    "acasxu_1_1": "acasxu_prop_1.vnnlib.gz",
    "oval_cifar_base_kw": "oval_cifar_base_kw_img1697.vnnlib.gz",
}
DOMAINS: dict[str, Domain] = {
    "box": Box(np.zeros(784), np.ones(784)),
    "ball": LinfBall(np.random.default_rng(0).random(784), 0.005, 0.0, 1.0),
}


def after_bounds(network: Network, domain: Domain) -> Ledger:
    """A ledger in which CROWN has refuted what it can."""
    ledger = Ledger([layer.size for layer in network.layers], len(domain.parts))
    for number, part in enumerate(domain.parts):
        ledger.refute_by_bounds(number, run("crown", network, part))
    return ledger


def measure(benchmark, network: Network, domain: Domain) -> tuple[int, int]:
    """Questions pending before and after."""
    first = after_bounds(network, domain)

    def ready() -> tuple[tuple[Ledger], dict[str, object]]:
        return (after_bounds(network, domain),), {}

    def work(ledger: Ledger) -> int:
        Falsifier(network, domain, ledger, np.random.default_rng(0), lambda: False).run()
        return ledger.n_pending

    left = benchmark.pedantic(work, setup=ready, rounds=3)
    benchmark.extra_info |= {"pending": first.n_pending, "left": left}
    return first.n_pending, left


@pytest.mark.parametrize("kind", DOMAINS)
def test_random_network(benchmark, kind: str) -> None:
    network, _ = random_network((784, 256, 256, 10))
    before, left = measure(benchmark, network, DOMAINS[kind])
    assert left < 0.5 * before


@needs_networks
@pytest.mark.parametrize("name", CASES)
def test_public(benchmark, name: str) -> None:
    before, left = measure(benchmark, *read(name, CASES[name]))
    assert left < before
