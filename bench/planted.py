"""Planted witnesses: does a solver prove that a question has no answer where an input answers it?

Each network has two layers with rows of very different sizes, and a neuron whose bias is set so that its largest
value on the box, over its vertices and random points, is a chosen small share of its range. The input where it
is reached is known, and its forward pass is exact enough to be certain; so the truth is known by construction. Nothing
is sampled in the search, bounds are intervals, and the solver has to answer. Counted per solver, tolerance and
planted share: questions right (witnessed), unknown, and WRONG (refuted).

    python bench/planted.py --solvers highs scip cbc gurobi --minutes 2 --output planted.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stablenet.backends.base import Tolerance
from stablenet.backends.base import registry as backends

from stablenet import Box, find_stable
from stablenet.core.errors import ContradictionError, StablenetError
from stablenet.core.network import AffineMap, Layer, Network, Term

SHARES = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
FORMULATIONS = ("bigm", "bigm-loose", "hull", "partition:2", "ideal:root", "indicator", "sos1")
WAYS = ("network", "layer", "neuron", "milp", "rolling", "progressive")
LIMIT = 5.0
"""Seconds for one run; what is not decided by then is unknown."""


@dataclass(frozen=True)
class Planted:
    """A network whose last neuron is positive at ``witness``, by ``share`` of its range, and hardly elsewhere."""

    network: Network
    domain: Box
    witness: np.ndarray
    share: float


def plant(rng: np.random.Generator, share: float) -> Planted | None:
    """A network with a planted witness, or None where rounding leaves the planted value uncertain."""
    n, sizes = int(rng.integers(2, 11)), rng.integers(3, 8, size=2)
    scale = 10.0 ** rng.uniform(-6, 6)
    spread = float(rng.choice([0.0, 1.0, 3.0]))
    weights, biases = [], []
    for rows, columns in zip(sizes, (n, sizes[0]), strict=True):
        row_scale = 10.0 ** rng.uniform(-spread, spread, size=(rows, 1))
        weights.append(rng.normal(size=(rows, columns)) * row_scale)
        biases.append(0.5 * rng.normal(size=rows) * row_scale[:, 0])
    last = scale * rng.normal(size=(1, sizes[1]))
    lower, upper = -np.ones(n), np.ones(n)
    vertices = np.array(list(itertools.product([-1.0, 1.0], repeat=n)))
    points = np.concatenate([vertices, rng.uniform(-1, 1, (4000, n))])
    hidden = points
    for matrix, offset in zip(weights, biases, strict=True):
        hidden = np.maximum(hidden @ matrix.T + offset, 0.0)
    values = (hidden @ last.T)[:, 0]
    best, width = int(values.argmax()), float(np.ptp(values))
    if width == 0.0:
        return None
    maps = [
        *(AffineMap(b, (Term(k, w),)) for k, (w, b) in enumerate(zip(weights, biases, strict=True))),
        AffineMap(np.array([share * width - values[best]]), (Term(2, last),)),
    ]
    layers = tuple(Layer(each, f"relu{k}", (each.size,)) for k, each in enumerate(maps))
    network = Network(n, layers, AffineMap(np.zeros(1), (Term(3, np.ones((1, 1))),)))
    if not network.evaluate(points[best][None, :]).signs(2)[0, 0] > 0:
        return None
    return Planted(network, Box(lower, upper), points[best], share)


def ask(planted: Planted, solver: str, way: str, formulation: str, seed: int) -> tuple[str, int]:
    """What becomes of the planted question: right, unknown or WRONG; and the number of answers that were disproved."""
    bounds = way if way in {"milp", "rolling", "progressive"} else "interval"
    options: dict[str, Any] = {
        "solver": solver, "bounds": bounds, "search": "off" if bounds == way else way, "formulation": formulation,
        "falsify": False, "threads": 1, "seed": seed, "time_limit": LIMIT, "inject": "off", "start": bool(seed % 2),
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = find_stable(planted.network, planted.domain, **options)
    except ContradictionError as error:
        return f"contradiction: {error}"[:160], 0
    except StablenetError as error:
        return f"error: {error}"[:160], 0
    question = next(entry for entry in report.data["neurons"] if entry["layer"] == 2)["positive"]
    state = {"witnessed": "right", "open": "unknown", "refuted": "WRONG"}[question["state"]]
    return state, len(report.data.get("solver_failures", ()))


def runs(rng: np.random.Generator) -> Iterator[tuple[Planted, str, str, int]]:
    """Without end: a planted network, a way, a formulation, a seed."""
    while True:
        planted = plant(rng, float(rng.choice(SHARES)))
        if planted is not None:
            yield planted, str(rng.choice(WAYS)), str(rng.choice(FORMULATIONS)), int(rng.integers(1 << 30))


def campaign(solver: str, tolerance: float | None, seed: int, seconds: float) -> dict[str, Any]:
    """Counts of one solver with one tolerance; every campaign of a seed meets the same networks in the same order."""
    cls = backends.classes[solver]
    known = cls.tolerance
    if tolerance is not None:
        cls.tolerance = Tolerance(tolerance, tolerance, 10.0 * tolerance)
    counts: dict[float, Counter[str]] = {share: Counter() for share in SHARES}
    failures, trouble, wrong = 0, Counter[str](), []
    until = time.monotonic() + seconds
    try:
        capable = backends.get(solver).capabilities
        names = {capability.name for capability in capable}
        for planted, way, formulation, number in runs(np.random.default_rng(seed)):
            if time.monotonic() > until:
                break
            if (formulation == "sos1" and "SOS1" not in names) or (
                formulation == "indicator" and "INDICATOR" not in names
            ):
                continue
            state, failed = ask(planted, solver, way, formulation, number)
            failures += failed
            if state not in {"right", "unknown", "WRONG"}:
                trouble[state] += 1
                state = "trouble"
            if state == "WRONG":
                wrong.append([planted.share, way, formulation, number])
            counts[planted.share][state] += 1
    finally:
        cls.tolerance = known
    chosen = known if tolerance is None else Tolerance(tolerance, tolerance, 10.0 * tolerance)
    return {
        "solver": solver, "feasibility": chosen.feasibility, "margin": chosen.margin, "failures": failures,
        "counts": {f"{share:g}": dict(count) for share, count in counts.items()}, "wrong": wrong,
        "trouble": dict(trouble),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The counts as Markdown: right / unknown / WRONG for each planted share."""
    head = ["solver", "tolerance", "margin", *(f"{share:g}" for share in SHARES), "disproved", "other"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["solver"], f"{row['feasibility']:g}", f"{row['margin']:g}"]
        for share in SHARES:
            count = row["counts"][f"{share:g}"]
            cells.append(" / ".join(str(count.get(state, 0)) for state in ("right", "unknown", "WRONG")))
        other = sum(count.get("trouble", 0) for count in row["counts"].values())
        lines.append("| " + " | ".join([*cells, str(row["failures"]), str(other)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the campaign; exit code 1 if anything is WRONG under the solvers' own tolerances."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--solvers", nargs="+", default=["highs", "scip", "cbc", "gurobi"])
    parser.add_argument("--tolerances", nargs="*", type=float, default=[], help="tried beside each solver's own")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each solver and tolerance")
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    parser.add_argument("--output", type=Path, default=None, help="counts and troubles as JSON")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(np.random.SeedSequence().entropy) % 2**31  # type: ignore[arg-type]
    print(f"seed {seed}", flush=True)
    rows = []
    for solver in arguments.solvers:
        for tolerance in (None, *arguments.tolerances):
            rows.append(campaign(solver, tolerance, seed, 60.0 * arguments.minutes))
            print(table(rows[-1:]).splitlines()[-1], rows[-1]["trouble"] or "", flush=True)
    print(table(rows))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"seed": seed, "rows": rows}, indent=1) + "\n")
    own = [row for row in rows if row["feasibility"] == backends.get(row["solver"]).tolerance.feasibility]
    if any(row["wrong"] for row in own):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
