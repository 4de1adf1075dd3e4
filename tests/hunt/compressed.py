"""Campaign: a compressed network equals its original on the domain within the bound that is stated."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from oracle.graph import Graph
from oracle.layout import NotAuditableError

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import random_case, spread
from hunt.product import find, flags, judge_run, judge_scratch, run, write_vnnlib
from hunt.truth import Truth, complaints
from hunt.verdicts import pick

Values = np.ndarray[Any, np.dtype[np.longdouble]]


ROUGHLY = 1e-5
"""Relative slack where the compressed file is evaluated in its own precision."""


def reference(file: bytes, batch: np.ndarray[Any, np.dtype[np.float64]]) -> Values:
    """Outputs by the evaluator that comes with ONNX, (points, outputs)."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(file))
    kind = evaluator.input_types_[0].tensor_type
    shape = [d.dim_value or 1 for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    name = evaluator.input_names[0]
    rows = [np.ravel(evaluator.run(None, {name: x.reshape(shape).astype(dtype)})[0]) for x in batch]
    return np.array(rows, dtype=np.longdouble)


def excess(original: bytes, compressed: bytes, points: list[list[float]]) -> tuple[Values, Values]:
    """The difference of both files' outputs that is certain at each point, and its value: (points, outputs), in the
    longest float format with its rounding errors taken off."""
    batch = np.array(points, dtype=np.float64)
    _, first = Graph(original, np.longdouble).run(batch)
    try:
        _, second = Graph(compressed, np.longdouble).run(batch)
    except NotAuditableError:  # a constant output is written with operators that only this evaluator knows
        value = reference(compressed, batch)
        gap = np.abs(first.value - value)
        return gap - first.error - ROUGHLY * (np.abs(first.value) + np.abs(value) + 1.0), gap
    gap = np.abs(first.value - second.value)
    return gap - first.error - second.error, gap


def judge_compressed(
    original: bytes, compressed: bytes, points: list[list[float]], bounds: Any, outcome: Outcome
) -> None:
    """Compare both files at points of the domain; ``bounds`` are those stated for each output, or one for all."""
    if not points:
        outcome.counts["no points"] += 1
        return
    try:
        with np.errstate(all="ignore"):
            certain, _ = excess(original, compressed, points)
    except NotAuditableError:
        outcome.counts["not evaluated"] += 1
        return
    outcome.counts["questions"] += certain.shape[1]
    outcome.counts["points"] += certain.shape[0]
    beyond = certain > np.asarray(bounds, dtype=np.longdouble)
    outcome.counts["verdicts"] += int((~beyond.any(axis=0)).sum())
    for row, column in np.argwhere(beyond)[:3]:
        outcome.add(
            "WRONG", f"output {column} differs by {certain[row, column]!r} at x = {points[row]}; stated: {bounds}"
        )


class Compressed(Campaign):
    """``compress`` from a report that is true."""

    name = "compressed"
    title = "compress: the result against the original at vertices, extreme and random points"
    share = 1.5

    def make(self, rng: Random, folder: Path) -> Job:
        case = random_case(rng)
        (folder / "network.onnx").write_bytes(case.onnx)
        write_vnnlib(folder / "domain.vnnlib", case.truth.regions)
        extremes = [v.at for side in (case.truth.low, case.truth.high) for layer in side for v in layer]
        rounded = [[float(v) for v in point] for point in extremes]
        points = [p for p in rounded if case.truth.contains(p)] + spread(rng, case.truth.regions, 200)
        search = {"search": pick(rng, ["auto", "branch", "split", "neuron"]), "time_limit": 8.0, "threads": 1}
        options: dict[str, Any] = {"merge": rng.random() < 0.75, "dense": rng.random() < 0.3, "check": 50}
        if rng.random() < 0.3:
            options["dtype"] = pick(rng, ["float32", "float64"])
        if rng.random() < 0.3:
            options["tolerance"] = float(pick(rng, [0.0, 1e-9, 1e-3, 1.0]))
        switches = ["--merge" if options["merge"] else "--no-merge", *(["--dense"] if options["dense"] else [])]
        words = ["compress", "network.onnx", "--report", "report.json", "--output", "small.onnx", *switches]
        words += flags({k: v for k, v in options.items() if k not in ("merge", "dense")})
        return {
            "family": case.family,
            "search": search,
            "options": options,
            "shell": f"stablenet find network.onnx --domain domain.vnnlib {shlex.join(flags(search))} "
            f"--output report.json; stablenet {shlex.join(words)}",
            "command": words,
            "through": "command line" if rng.random() < 0.05 else "python",
            "points": points,
            "truth": case.truth.to_json(),
        }

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        truth = Truth.from_json(job["truth"])
        found = find(folder / "network.onnx", truth.regions, job["search"])
        if found.report is None or found.contradiction is not None or any(complaints(found.report, truth)):
            outcome.counts["no true report"] += 1  # the business of other campaigns
            return
        from stablenet import Report

        Report(found.report).write(folder / "report.json")
        if job["through"] == "command line":
            self._command(job, folder, outcome)
        else:
            self._call(job, folder, outcome)

    def _command(self, job: Job, folder: Path, outcome: Outcome) -> None:
        ended = run(job["command"], folder)
        judge_run(ended, outcome, codes=(0, 2, 3))
        judge_scratch(folder, outcome)
        outcome.counts["refused"] += ended.code == 2
        small = folder / "small.onnx"
        if ended.code == 0:
            (bound,) = (float(e.value) for e in onnx.load(small).metadata_props if e.key == "stablenet.bound")
            judge_compressed((folder / "network.onnx").read_bytes(), small.read_bytes(), job["points"], bound, outcome)

    def _call(self, job: Job, folder: Path, outcome: Outcome) -> None:
        from stablenet import compress
        from stablenet.core.errors import StablenetError

        try:
            result = compress(folder / "network.onnx", folder / "report.json", **job["options"])
        except StablenetError as error:
            if error.exit_code == 2:
                outcome.counts["refused"] += 1
            else:
                outcome.add("WRONG", f"a true report is not believed: {type(error).__name__}: {error}")
            return
        original = (folder / "network.onnx").read_bytes()
        for bounds in (result.bound, result.rigorous_bound):
            judge_compressed(original, result.data, job["points"], bounds.tolist(), outcome)
