"""What building every formulation of a dense network costs: seconds, memory, sizes.

    python bench/formulation_cost.py                        # all, 3072-400-400-10, as a table
    python bench/formulation_cost.py hull 784-200-200-10    # one line of JSON

Every neuron is undecided, so that all of them are encoded. Each row is a process of its own; *MB* is the peak of
resident memory above what the process had before it began to build. Seconds are of the processor.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from stablenet.bounds import run
from stablenet.compare.run.machine import describe_machine
from stablenet.core.bounds import Bounds
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.milp.compiler import compile_model
from stablenet.pyomo_model.network_model import build_model

CIFAR = "3072-400-400-10"
SPECS = (
    "bigm", "bigm-loose", "indicator", "sos1", "ideal:root", "relaxed", "partition:2", "partition:4",
    "gdp:bigm", "gdp:hull", "gdp:mbigm", "hull",
)  # fmt: skip
LIMIT = 900.0
"""Seconds for one row."""


def undecided(sizes: str) -> tuple[Network, Box, Bounds]:
    """A dense network with Gaussian weights, a box around 0, and interval bounds, no neuron decided."""
    rng = np.random.default_rng(0)
    widths = [int(size) for size in sizes.split("-")]
    maps = [
        AffineMap(rng.normal(size=m) * 0.1, (Term(k, rng.normal(size=(m, n)) / np.sqrt(n)),))
        for k, (n, m) in enumerate(itertools.pairwise(widths))
    ]
    layers = tuple(Layer(affine, f"relu{k}", (affine.size,)) for k, affine in enumerate(maps[:-1]))
    network, box = Network(widths[0], layers, maps[-1]), Box(-np.ones(widths[0]), np.ones(widths[0]))
    bounds = run("interval", network, box)
    assert all((layer.phase == 0).all() for layer in bounds.layers)
    return network, box, bounds


def measure(spec: str, sizes: str) -> dict[str, Any]:
    """Build and compile in this process."""
    network, box, bounds = undecided("4-3-2")
    compile_model(build_model(network, box, bounds=bounds, formulation=spec))  # imports are not what is measured
    network, box, bounds = undecided(sizes)
    before = peak_mb()
    began = time.process_time()
    model = build_model(network, box, bounds=bounds, formulation=spec)
    built = time.process_time()
    milp = compile_model(model).milp
    done = time.process_time()
    return {
        "build_s": built - began,
        "compile_s": done - built,
        "peak_mb": peak_mb() - before,
        "columns": milp.n_columns,
        "binaries": milp.n_binaries,
        "rows": milp.n_rows,
        "nonzeros": milp.n_nonzeros,
    }


def peak_mb() -> float:
    """Megabytes resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(spec: str, sizes: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, spec, sizes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {LIMIT:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """The table, a row at a time."""
    machine = describe_machine()
    print(f"{CIFAR}, {machine['cpu']}, Python {machine['python']}, load {os.getloadavg()[0]:.1f} at the start.\n")
    heads = ("formulation", "build s", "compile s", "MB", "columns", "binaries", "rows", "nonzeros")
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for spec in SPECS:
        row = apart(spec, CIFAR)
        if "failed" in row:
            print(f"| {spec} | {row['failed']} |{' |' * (len(heads) - 2)}", flush=True)
            continue
        cells = [f"{row[name]:.2f}" for name in ("build_s", "compile_s")] + [f"{row['peak_mb']:.0f}"]
        cells += [f"{row[name]:,}".replace(",", " ") for name in ("columns", "binaries", "rows", "nonzeros")]
        print(f"| {spec} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
    elif len(sys.argv) == 1:
        main()
    else:
        raise SystemExit(__doc__)
