"""From arrays to a loaded solver, for a network of the shape 3072-400-400-10: under 0.5 s, or 1.5 s.

Run with ``pytest bench/test_bench_translate.py -s``. What is limited is processor time, which other work on the machine
does not change. Gurobi's loader takes models beyond its licence; only solving them it does not.
"""

import os
from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse
from stablenet.backends.base import Settings, registry

from stablenet.milp.arrays import MILP, Rows

SECONDS = {"highs": 0.5, "gurobi": 0.5, "scip": 1.5, "cbc": 1.5}
SIZES = (3072, 400, 400)


@pytest.fixture(scope="module")
def milp():
    """Big-M over columns x, g, h, z: some 1.4 million coefficients, weights in float32 as networks have them."""
    rng = np.random.default_rng(0)
    n, columns, at = SIZES[0] + 3 * sum(SIZES[1:]), np.arange(SIZES[0]), SIZES[0]
    blocks, lower, upper = [], [], []
    low, high, integer = np.zeros(n), np.ones(n), np.zeros(n, dtype=bool)
    for before, size in pairwise(SIZES):
        weight = rng.normal(size=(size, before)).astype(np.float32).astype(float) / 30
        g, h, z = (np.arange(at + i * size, at + (i + 1) * size) for i in range(3))
        one = np.eye(size)
        blocks += [
            _place(n, ((weight, columns), (-one, g))),
            _place(n, ((one, h), (-one, g))),
            _place(n, ((one, h), (-5 * one, z))),
            _place(n, ((one, h), (-one, g), (5 * one, z))),
        ]
        lower += [np.full(size, -1e-8), np.zeros(size), np.full(2 * size, -np.inf)]
        upper += [np.full(size, 1e-8), np.full(size, np.inf), np.zeros(size), np.full(size, 5.0)]
        low[g], high[g], high[h], integer[z] = -5.0, 5.0, 5.0, True
        columns, at = h, at + 3 * size
    rows = Rows(sparse.csr_array(sparse.vstack(blocks, format="csr")), np.concatenate(lower), np.concatenate(upper))
    return MILP(rows, low, high, integer, rng.normal(size=n), maximize=True)


def _place(n, parts):
    dense = np.zeros((len(parts[0][0]), n))
    for matrix, columns in parts:
        dense[:, columns] += matrix
    return sparse.csr_array(dense)


def processor_seconds():
    """Of this process and of the programs that it ran."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def load(name, milp, folder):
    """Until the solver has the model; for CBC until it has read the file."""
    backend = registry.get(name)
    if name == "gurobi":
        # `open` refuses what the licence does not allow to be solved.
        from stablenet.backends.gurobi import GurobiSession

        GurobiSession(backend, milp, Settings()).close()
    elif name == "cbc":
        import subprocess

        from stablenet.backends.cbc import program

        from stablenet.milp.mps import write_mps

        path = folder / "model.mps"
        write_mps(milp, path, numbered=True)
        run = [program(), str(path), "-quit"]
        done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        assert "Problem loaded" in done.stdout
    else:
        backend.open(milp).close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.backend(name)) for name in SECONDS])
def test_translation(name, milp, benchmark, tmp_path):
    assert milp.n_nonzeros > 1_300_000
    benchmark.extra_info["nonzeros"] = milp.n_nonzeros
    benchmark.pedantic(load, args=(name, milp, tmp_path), rounds=3, warmup_rounds=1)
    seconds = []
    for _ in range(3):
        began = processor_seconds()
        load(name, milp, tmp_path)
        seconds.append(processor_seconds() - began)
    print(f"\n{name}: {milp.n_nonzeros} coefficients, processor time {min(seconds):.2f} s (best of 3)")
    assert min(seconds) < SECONDS[name]
