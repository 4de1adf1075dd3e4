"""Building and compiling every formulation, and the sizes that come out.

pytest bench/test_bench_formulations.py -s -m long
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_bench_model import CIFAR, dense

from stablenet.compiler import compile_model
from stablenet.domain import Box
from stablenet.model import build_model
from stablenet.propagate import run

QUICK = ["bigm", "bigm-loose", "indicator", "sos1", "ideal", "relaxed"]
COSTLY = ["partition:2", "partition:4", "gdp:bigm", "gdp:hull"]
PER_WEIGHT = ["hull", "gdp:mbigm"]  # one variable per weight, or one small optimisation per bound
MNIST = (784, 200, 200, 10)


def measure(spec: str, sizes: tuple[int, ...]) -> float:
    """Seconds to build and compile; prints a row of the table."""
    network = dense(sizes)
    domain = Box(-np.ones(sizes[0]), np.ones(sizes[0]))
    bounds = run("interval", network, domain)
    start = time.perf_counter()
    model = build_model(network, domain, bounds=bounds, formulation=spec)
    built = time.perf_counter()
    milp = compile_model(model).milp
    done = time.perf_counter()
    print(
        f"\n{spec:14} {'-'.join(map(str, sizes)):16} build {built - start:6.2f} s, compile {done - built:6.2f} s, "
        f"{milp.n_columns:8} columns, {milp.n_binaries:5} binaries, {milp.n_rows:8} rows, {milp.n_nonzeros:9} nonzeros",
        end="",
    )
    return done - start


@pytest.mark.long
@pytest.mark.parametrize("spec", QUICK)
def test_quick_ones_are_under_two_seconds(spec: str) -> None:
    measure(spec, (4, 3, 2))
    assert measure(spec, CIFAR) < 2.0


@pytest.mark.long
@pytest.mark.parametrize("spec", COSTLY)
def test_what_the_costly_ones_cost(spec: str) -> None:
    assert measure(spec, CIFAR) < 60.0


@pytest.mark.long
@pytest.mark.parametrize("spec", PER_WEIGHT)
def test_what_a_variable_per_weight_costs(spec: str) -> None:
    assert measure(spec, MNIST) < 60.0
