"""Building and compiling every formulation, and the sizes that come out.

pytest bench/test_bench_formulations.py -s -m long
"""

from __future__ import annotations

import pytest
from formulation_cost import CIFAR, apart

QUICK = ["bigm", "bigm-loose", "indicator", "sos1", "ideal", "relaxed"]
COSTLY = ["partition:2", "partition:4", "gdp:bigm", "gdp:hull"]
PER_WEIGHT = ["hull", "gdp:mbigm"]  # one variable per weight, or one small optimisation per bound
MNIST = "784-200-200-10"


def seconds(spec: str, sizes: str) -> float:
    """Seconds to build and compile in a process of its own; prints the row."""
    row = apart(spec, sizes)
    print(f"\n{spec:14} {sizes:16}", ", ".join(f"{name} {value:.6g}" for name, value in row.items()), end="")
    return float(row["build_s"] + row["compile_s"])


@pytest.mark.long
@pytest.mark.parametrize("spec", QUICK)
def test_quick_ones_are_under_two_seconds(spec: str) -> None:
    assert seconds(spec, CIFAR) < 2.0


@pytest.mark.long
@pytest.mark.parametrize("spec", COSTLY)
def test_what_the_costly_ones_cost(spec: str) -> None:
    assert seconds(spec, CIFAR) < 60.0


@pytest.mark.long
@pytest.mark.parametrize("spec", PER_WEIGHT)
def test_what_a_variable_per_weight_costs(spec: str) -> None:
    assert seconds(spec, MNIST) < 60.0
