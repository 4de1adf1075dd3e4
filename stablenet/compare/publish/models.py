"""Every MILP of a grid as a file, for those who develop solvers and do not need this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stablenet.compare.plan import Plan, Run, frozen_arguments, frozen_key, input_files
from stablenet.compare.publish.tables import slug
from stablenet.compare.run.execute import Job, execute, frozen_report
from stablenet.core.files import make_folder, unique_name, write_text
from stablenet.find.choices import margin_of
from stablenet.find.first_models import first_models
from stablenet.report.report import Report

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
    make_folder(folder)
    writer = _Writer(plan, folder)
    entries = [entry for run in _distinct(plan) for entry in writer.models(run)]
    manifest = {"schema": MANIFEST, "name": plan.grid.name, "meaning": MEANING, "models": entries}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return sum("file" in entry for entry in entries)


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
                margin_of(options),
                options.decide_by_bounds,
            )
            found.setdefault(key, run)
    return list(found.values())


class _Writer:
    """Writes the models of runs; each frozen set is made once."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.taken: set[str] = set()
        self.frozen: dict[str, tuple[Report | None, str]] = {}

    def models(self, run: Run) -> Iterator[dict[str, Any]]:
        """Write a run's models; yields their entries in the manifest."""
        start, why = (None, "") if run.frozen is None else self._frozen(run)
        common = {
            "instance": run.instance.name, "formulation": run.formulation, "bounds": run.bounds, "step": run.step.name,
        }  # fmt: skip
        if why:
            yield {**common, "left_out": f"no frozen set: {why}"}
            return
        for found in first_models(str(run.instance.network), run.instance.domain, run.options, start):
            network, domain = found.digests
            entry = {
                **common, "network_sha256": network, "domain_digest": domain, "part": found.part,
                "margin": found.margin,
            }  # fmt: skip
            if found.milp is None:
                yield {**entry, "left_out": found.left_out}
                continue
            words = [*common.values(), *([str(found.part)] if found.n_parts > 1 else [])]
            name = unique_name("_".join(slug(word) for word in words), self.taken)
            self.taken.add(name)
            path = self.folder / f"{name}.mps"
            found.write(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield {**entry, "file": path.name, "sha256": digest, **found.sizes()}

    def _frozen(self, run: Run) -> tuple[Report | None, str]:
        """The frozen set of a run, made by the same command as in a sweep, or why there is none."""
        spec = self.plan.grid.frozen
        key = frozen_key(self.plan.instances[run.instance.name], spec)
        if key not in self.frozen:
            grid = self.plan.grid
            arguments = frozen_arguments(run.instance, spec, grid.threads)
            wall = spec.time_limit + grid.grace
            job = Job(arguments, input_files(run.instance), wall, grid.memory_limit, grid.threads)
            data, why = frozen_report(execute(job))
            self.frozen[key] = (None if data is None else Report(data)), why
        return self.frozen[key]
