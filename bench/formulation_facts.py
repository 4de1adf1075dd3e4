"""The model that a search starts with, in figures: its size, and the bound of its linear relaxation.

    python bench/formulation_facts.py NETWORK DOMAIN FORMULATION BOUNDS FROZEN.json

prints one line of JSON. A process of its own, so that its peak of memory is the model's.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stablenet.backends.base import Limits, Status
from stablenet.backends.base import registry as backends
from stablenet.formulations.base import registry as formulations

from stablenet.bounds import run as run_bounds
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.domain.regions import Domain
from stablenet.domain.spec import parse_domain
from stablenet.falsify.falsifier import Falsifier
from stablenet.onnx_io.reader import load_onnx
from stablenet.pyomo_model.search_model import SearchModel
from stablenet.report.report import Report, resume_into
from stablenet.search.base import Problem
from stablenet.search.part_model import PartModel
from stablenet.search.single_milp import PartSearch

Facts = dict[str, Any]

LP_LIMIT = 120.0
"""Seconds for the linear relaxation and its rounds of cuts."""


def facts(network_file: str, domain_spec: str, formulation: str, bounds: str, frozen: str) -> Facts:
    """Sizes, seconds and the relaxation's bound of the first model, all questions pending in the frozen set asked.

    ``lp_bound`` is an upper bound of how many of them one input can witness: before any cut or presolve of a
    solver's, after the formulation's own cuts. A formulation that asks no questions in an objective has none.
    """
    network = load_onnx(network_file)
    domain = parse_domain(domain_spec, network.n_inputs)
    problem, bounds_s = _problem(network, domain, formulation, bounds, Report.read(frozen))
    mask = PartSearch(problem, 0, "bench").open_questions()
    if not mask.any():
        return {"questions": 0, "bounds_s": bounds_s}
    encoded = problem.formulation.exact
    began = time.perf_counter()
    model = PartModel(problem, 0).build(mask, witness=encoded)
    built = time.perf_counter()
    milp = model.milp
    compiled = time.perf_counter()
    found: Facts = {
        "questions": int(np.count_nonzero(mask)),
        "columns": milp.n_columns,
        "binaries": milp.n_binaries,
        "rows": milp.n_rows,
        "nonzeros": milp.n_nonzeros,
        "sos1": len(milp.sos1),
        "indicators": 0 if milp.indicators is None else len(milp.indicators.binary),
        "bounds_s": bounds_s,
        "build_s": built - began,
        "compile_s": compiled - built,
    }
    if encoded:
        found |= _relaxation(model)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _problem(network: Network, domain: Domain, formulation: str, bounds: str, frozen: Report) -> tuple[Problem, float]:
    """What the search would be given, and the seconds of its bounds."""
    if len(domain.parts) != 1:
        raise SystemExit("the domain is a union; one part is expected")
    options = Options(bounds=bounds, formulation=formulation, search="network")
    ledger = Ledger([layer.size for layer in network.layers])
    rng = np.random.default_rng(options.seed)
    falsifier = Falsifier(network, domain, ledger, rng, lambda: False)
    resume_into(frozen, ledger, falsifier.witnesser)
    began = time.perf_counter()
    known: Bounds = run_bounds(bounds, network, domain.parts[0])
    seconds = time.perf_counter() - began
    ledger.set_bounds(0, known)
    ledger.refute_by_bounds(0, known)
    encoding, backend = formulations.get(formulation), backends.get("highs")
    return (
        Problem(network, domain, ledger, [known], encoding, backend, options, falsifier, rng, Deadline(None)),
        seconds,
    )


def _relaxation(model: SearchModel) -> Facts:
    """Bound of the linear relaxation and how many cuts it took; sets and indicators are left out of it."""
    milp = model.milp
    plain = replace(milp, integer=np.zeros_like(milp.integer), sos1=(), indicators=None)
    limits = Limits(time=LP_LIMIT)
    began = time.perf_counter()
    with backends.get("highs").open(plain) as session:
        n_cuts = model.root_rounds(session, limits) if model.formulation.cuts != "none" else 0
        answer = session.relax(limits)
    return {
        "lp_bound": answer.objective if answer.status is Status.OPTIMAL else None,
        "cuts": n_cuts,
        "lp_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    for path in (sys.argv[1], sys.argv[5]):
        if not Path(path).is_file():
            raise SystemExit(f"{path}: no such file")
    print(json.dumps(facts(*sys.argv[1:6])))
