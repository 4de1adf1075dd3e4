"""Campaign: verdicts, bounds and witnesses of random searches against exact arithmetic."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from oracle.auditor import contract

from hunt.campaign import Campaign, Job, Outcome, Random
from hunt.networks import Case, random_case
from hunt.product import Found, domain_of, find, flags, judge_run, judge_scratch, parts, run, write_vnnlib
from hunt.truth import Truth, complaints

WITHIN_TOLERANCE = Fraction(1, 10**5)
"""Share of a neuron's range that models without a margin may miss: their solvers' tolerances are up to 1e-6."""

ARGUMENTS = {"branch": (":8", ""), "milp": (":20", ":200"), "lp": ("", ":bigm", ":hull"), "crown-alpha": ("", ":5")}


def pick(rng: Random, values: Sequence[Any]) -> Any:
    """One of the values."""
    return values[rng.integers(len(values))]


def random_options(rng: Random) -> dict[str, Any]:
    """Options of a search, all parts that are installed among them."""
    solvers = [s for s in parts("solvers") if not s.startswith("pyomo")]
    outside = [s for s in parts("solvers") if s.startswith("pyomo")]
    bounds = pick(rng, parts("bounds"))
    options: dict[str, Any] = {
        "formulation": "bigm" if rng.random() < 0.3 else pick(rng, parts("formulations")),
        "bounds": bounds + pick(rng, ARGUMENTS.get(bounds, ("",))),
        "search": pick(rng, [*parts("searches"), "network", "neuron", "layer"]),
        "solver": pick(rng, outside if outside and rng.random() < 0.03 else solvers),
        "decide_by_bounds": rng.random() < 0.6,
        "falsify": rng.random() < 0.5,
        "start": rng.random() < 0.7,
        "tighten": rng.random() < 0.7,
        "inject": pick(rng, ["relaxation", "random", "off", "off"]),
        "removal": pick(rng, ["resolve", "resolve", "resolve", "callback"]),
        "threads": int(rng.integers(1, 3)),
        "seed": int(rng.integers(2**31)),
        "time_limit": 10.0,
    }
    if rng.random() < 0.3:
        options["margin"] = float(pick(rng, [0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4]))
    if rng.random() < 0.3:
        options["permute"] = int(rng.integers(1000))
    if rng.random() < 0.15:
        options["check_with"] = pick(rng, solvers)
    return options


def judge_report(report: dict[str, Any], onnx: Path, truth: Truth, outcome: Outcome) -> None:
    """Compare a report with the truth and with what every report promises; count what it says."""
    broken = contract(report, onnx)
    for complaint in broken:
        outcome.add("CONTRACT", complaint)
    if broken:
        return
    forgiven = WITHIN_TOLERANCE if report["config"].get("margin") == 0.0 else Fraction(0)
    for complaint in complaints(report, truth, forgiven=forgiven):
        outcome.add("WRONG", complaint)
    states = [neuron[side]["state"] for neuron in report["neurons"] for side in ("positive", "negative")]
    outcome.counts["questions"] += len(states)
    outcome.counts["verdicts"] += sum(neuron["verdict"] != "unknown" for neuron in report["neurons"])
    outcome.counts["unknown"] += report["counts"]["unknown"]
    outcome.counts["solver failures"] += len(report.get("solver_failures", []))


def judge_found(found: Found, onnx: Path, truth: Truth, outcome: Outcome) -> None:
    """The same of a search in Python, whatever came of it."""
    outcome.counts["refused"] += found.refused is not None
    outcome.counts["solver failures"] += bool(found.failures)
    if found.contradiction is not None:
        outcome.counts["contradictions"] += 1
        outcome.add("CONTRADICTION", found.contradiction)
        if found.report is not None and any(c.get("rigorous") for c in found.report.get("contradictions", [])):
            outcome.add("WRONG", f"a rigorous refutation was contradicted: {found.contradiction}")
    if found.report is not None:
        judge_report(found.report, onnx, truth, outcome)


class Verdicts(Campaign):
    """Any network, domain and options; some through the command line."""

    name = "verdicts"
    title = "random networks, domains and options against exact enumeration"
    share = 4.0
    command_line = 0.06

    def case(self, rng: Random) -> Case:
        """The network with its domain."""
        return random_case(rng)

    def options(self, rng: Random) -> dict[str, Any]:
        """Options of the search."""
        return random_options(rng)

    def make(self, rng: Random, folder: Path) -> Job:
        case, options = self.case(rng), self.options(rng)
        (folder / "network.onnx").write_bytes(case.onnx)
        write_vnnlib(folder / "domain.vnnlib", case.truth.regions)
        words = ["find", "network.onnx", "--domain", "domain.vnnlib", *flags(options), "--output", "report.json"]
        return {
            "family": case.family,
            "options": options,
            "command": words,
            "shell": f"stablenet {shlex.join(words)}",
            "through": "command line" if rng.random() < self.command_line else "python",
            "truth": case.truth.to_json(),
        }

    def check(self, job: Job, folder: Path, outcome: Outcome) -> None:
        truth = Truth.from_json(job["truth"])
        if job["through"] == "command line":
            self._command(job, folder, truth, outcome)
        else:
            judge_found(
                find(folder / "network.onnx", truth.regions, job["options"]), folder / "network.onnx", truth, outcome
            )

    def _command(self, job: Job, folder: Path, truth: Truth, outcome: Outcome) -> None:
        ended = run(job["command"], folder)
        judge_run(ended, outcome)
        judge_scratch(folder, outcome)
        outcome.counts["refused"] += ended.code == 2
        path = folder / "report.json"
        if not path.exists():
            if ended.code == 0:
                outcome.add("CONTRACT", "exit code 0 and no report")
            return
        report = json.loads(path.read_text())
        if ended.code not in (0, 3, 4) or (ended.code == 0) != (
            report["status"] == "complete" and not report.get("contradictions")
        ):
            outcome.add("CONTRACT", f"exit code {ended.code} with a report that is {report['status']}")
        read = list(dict.fromkeys(truth.regions))  # of equal branches of a file one is kept
        if report["domain"] != domain_of(read).to_json():
            outcome.add("CONTRACT", f"the domain was read as {report['domain']}")
        if ended.code == 4:
            outcome.counts["contradictions"] += 1
            outcome.add("CONTRADICTION", ended.errors.strip())
        judge_report(report, folder / "network.onnx", truth, outcome)
