"""Formulations on the same single questions: size, bound of the relaxation and nodes to the end.

    python bench/single_questions.py NETWORK DOMAIN [--questions 12] [--nodes 20000] [FORMULATION ...]

Each question is *how large can g (or -g) of a neuron be*, of neurons that CROWN leaves undecided, the last of the
layers that have some, every second one of either sign. Each gets a model of its own and is solved to its optimum by
HiGHS with one thread. Prints a table: columns, rows and binaries for each undecided neuron of the models, the gap
that the linear relaxation leaves at the root after the formulation's own cuts (between its bound and the optimum,
relative to that of big-M), nodes (geometric mean shifted by 1, and how many questions ended within the limit), and
processor seconds. All but the seconds repeat whatever the load.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from stablenet.backends.base import Limits, Session, Settings, SolveResult, Status
from stablenet.backends.base import registry as backends
from stablenet.formulations.base import registry as formulations

from stablenet.bounds import run
from stablenet.core.bounds import Bounds
from stablenet.core.errors import SolverError
from stablenet.core.network import Network
from stablenet.domain.regions import Part
from stablenet.domain.spec import parse_domain
from stablenet.onnx_io.reader import load_onnx
from stablenet.pyomo_model.search_model import SearchModel, build_search_model

NAMES = ("bigm", "complementarity", "sart", "pairs:root", "ideal:root")
MARGIN = 1e-6
"""As in searches with HiGHS."""


@dataclass(frozen=True)
class Found:
    """What one formulation makes of one question; the bound and the optimum are of the scaled pre-activation."""

    columns: int
    rows: int
    binaries: int
    undecided: int
    bound: float
    optimum: float
    nodes: int
    solved: bool
    seconds: float


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Formulations on the same single questions.")
    parser.add_argument("network")
    parser.add_argument("domain")
    parser.add_argument("formulations", nargs="*", default=NAMES)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--nodes", type=int, default=20_000)
    given = parser.parse_intermixed_args()
    network = load_onnx(given.network)
    part = parse_domain(given.domain, network.n_inputs).parts[0]
    bounds = run("crown", network, part)
    layer = max(k for k, known in enumerate(bounds.layers) if k > 0 and (known.phase == 0).any())
    neurons = np.flatnonzero(bounds.layers[layer].phase == 0)[: given.questions]
    print(f"layer {layer}, {len(neurons)} questions")
    print("| formulation | columns | rows | binaries | root gap | solved | nodes | CPU s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    reference: list[Found] = []
    for name in given.formulations:
        found = [
            ask(name, (network, part, bounds), (layer, int(i), 1 if q % 2 == 0 else -1), given.nodes)
            for q, i in enumerate(neurons)
        ]
        reference = reference or found
        print(line(name, found, reference), flush=True)


def line(name: str, found: list[Found], reference: list[Found]) -> str:
    """A row of the table; gaps over those questions that big-M solved."""
    undecided = sum(f.undecided for f in found)
    per = [sum(values) / undecided for values in zip(*((f.columns, f.rows, f.binaries) for f in found), strict=True)]
    known = [(f, r) for f, r in zip(found, reference, strict=True) if r.solved]
    gap = sum(f.bound - r.optimum for f, r in known) / max(1e-12, sum(r.bound - r.optimum for _, r in known))
    nodes = np.expm1(np.mean([np.log1p(f.nodes) for f in found]))
    sizes = " | ".join(f"{value:.2f}" for value in per)
    solved = sum(f.solved for f in found)
    seconds = sum(f.seconds for f in found)
    return f"| {name} | {sizes} | {gap:.3f} | {solved} of {len(found)} | {nodes:.0f} | {seconds:.1f} |"


def ask(name: str, problem: tuple[Network, Part, Bounds], question: tuple[int, int, int], nodes: int) -> Found:
    """Build, bound and solve one question."""
    layer, neuron, side = question
    formulation = formulations.get(name)
    began = time.process_time()
    asked: list[list[int]] = [[] for _ in range(layer)] + [[neuron]]
    positive, negative = (asked, []) if side > 0 else ([], asked)
    model: SearchModel = build_search_model(
        *problem, formulation, positive=positive, negative=negative, margin=MARGIN, witness=False
    )
    objective, _ = model.question_objective(*question)
    pre = sum(len(p.columns) for p in model.pre)
    with backends.get("highs").open(model.milp, Settings(1e-7, 1e-7)) as session:
        session.change_objective(objective, maximize=True)
        if formulation.cuts != "none":
            model.root_rounds(session, Limits())
        bound = session.relax(Limits()).objective
        result = solved(session, nodes)
    undecided = (
        sum(int((b.phase[p.neurons] == 0).sum()) for b, p in zip(problem[2].layers, model.pre, strict=False)) - 1
    )
    return Found(
        model.milp.n_columns - len(model.input_columns) - pre,
        model.milp.n_rows - pre,
        model.milp.n_binaries,
        undecided,
        float(bound if bound is not None else np.inf),
        float(result.objective if result is not None and result.objective is not None else -np.inf),
        nodes if result is None else int(result.nodes or 0),
        result is not None and result.status is Status.OPTIMAL,
        time.process_time() - began,
    )


def solved(session: Session, nodes: int) -> SolveResult | None:
    """The answer; None where HiGHS contradicts itself, which counts as not solved within the limit."""
    try:
        return session.solve(Limits(nodes=nodes))
    except SolverError as error:
        print(f"<!-- {error} -->")
        return None


if __name__ == "__main__":
    main()
