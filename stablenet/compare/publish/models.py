"""Every MILP of a grid as a file, for those who develop solvers and do not need this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.api import find_stable
from stablenet.backends.base import registry as backends
from stablenet.bounds import run as run_bounds
from stablenet.compare.plan import Plan, Run
from stablenet.compare.publish.tables import slug
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.core.files import write_text
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.domain.regions import Domain
from stablenet.domain.spec import parse_domain
from stablenet.falsify.falsifier import Falsifier
from stablenet.formulations.base import registry as formulations
from stablenet.onnx_io.reader import load_onnx
from stablenet.pyomo_model.export import write_milp
from stablenet.report.report import Report, resume_into
from stablenet.search.base import Deadline, Problem, tolerances_used
from stablenet.search.part_model import PartModel
from stablenet.search.single_milp import PartSearch

MANIFEST = "stablenet.models/1"
MEANING = (
    "Maximise the number of pending questions that one input witnesses. An optimum below 1 refutes all of them "
    "together; any solution of value 1 or more claims a witness. All rows hold within their own margins."
)


def export_models(plan: Plan, folder: Path) -> int:
    """Write the first MILP of each combination of instance, part, formulation, bounds and step as MPS.

    It is the one that the search `network` starts with: all questions pending in the frozen set. ``manifest.json`` says
    what each file is, with digest and sizes, and lists combinations that have no such model with the reason.
    Returns the number of models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [entry for run in _distinct(plan) for entry in _models(run, folder)]
    manifest = {"schema": MANIFEST, "name": plan.grid.name, "meaning": MEANING, "models": entries}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return sum("file" in entry for entry in entries)


def _margin(options: Options) -> float:
    return max(float(row["margin"]) for row in tolerances_used(options))


def _distinct(plan: Plan) -> list[Run]:
    """One run for each model: solvers, searches and seeds share it."""
    found: dict[tuple[Any, ...], Run] = {}
    for run in sorted(plan.runs, key=lambda run: (run.instance.name, *run.axes.values(), run.seed)):
        if run.formulation != "-":
            options = run.options
            key = (
                run.instance.name,
                run.formulation,
                run.bounds,
                run.frozen,
                _margin(options),
                options.decide_by_bounds,
            )
            found.setdefault(key, run)
    return list(found.values())


def _models(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    network = load_onnx(str(run.instance.network))
    domain = parse_domain(run.instance.domain, network.n_inputs)
    problem = _problem(run, network, domain)
    for part in range(len(domain.parts)):
        entry = {
            "instance": run.instance.name, "network_sha256": network.sha256,
            "domain_digest": domain.digest, "part": part, "formulation": run.formulation,
            "bounds": run.bounds, "step": run.step.name, "margin": problem.margin,
        }  # fmt: skip
        mask = PartSearch(problem, part, "export").open_questions()
        if not mask.any():
            yield {**entry, "left_out": "no question is pending"}
            continue
        try:
            milp = PartModel(problem, part).build(mask).milp
        except UnsupportedError as error:
            yield {**entry, "left_out": str(error)}
            continue
        parts = [run.instance.name, run.formulation, run.bounds, run.step.name]
        name = "_".join(slug(text) for text in (*parts, *([str(part)] if len(domain.parts) > 1 else [])))
        path = folder / f"{name}.mps"
        write_milp(milp, path)
        yield {
            **entry, "file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "questions": int(np.count_nonzero(mask)), "rows": milp.n_rows, "columns": milp.n_columns,
            "binaries": milp.n_binaries, "nonzeros": milp.n_nonzeros, "sos1": len(milp.sos1),
            "indicators": 0 if milp.indicators is None else len(milp.indicators.binary),
        }  # fmt: skip


def _problem(run: Run, network: Network, domain: Domain) -> Problem:
    """What the search would be given: the frozen set, then what the run's own bounds refute."""
    options = run.options
    ledger = Ledger([layer.size for layer in network.layers], len(domain.parts))
    rng = np.random.default_rng(options.seed)
    falsifier = Falsifier(network, domain, ledger, rng, lambda: False)
    if run.frozen is not None:
        resume_into(_frozen(run, network, domain), ledger, falsifier.witnesser)
    bounds: list[Bounds] = []
    for number, part in enumerate(domain.parts):
        bounds.append(run_bounds(run.bounds, network, part))
        ledger.set_bounds(number, bounds[-1])
        if options.decide_by_bounds:
            ledger.refute_by_bounds(number, bounds[-1])
    return Problem(
        network, domain, ledger, bounds, formulations.get(run.formulation), backends.get(run.solver), options,
        falsifier, rng, Deadline(None),
    )  # fmt: skip


def _frozen(run: Run, network: Network, domain: Domain) -> Report:
    spec = run.frozen
    if spec is None:
        raise InputError(f"step {run.step.name!r} has no frozen set")
    samples = None if run.instance.samples is None else str(run.instance.samples)
    return find_stable(
        network, domain, search="off", bounds=spec.bounds, falsify=spec.falsify, seed=spec.seed, samples=samples,
        time_limit=spec.time_limit, threads=run.options.threads,
    )  # fmt: skip
